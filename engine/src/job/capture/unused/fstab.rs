//! The swap files that an `/etc/fstab` names.
//!
//! fstab(5); swap files and mount points are told apart by their type alone, as swapon(8) does.

/// Whose fstab is read.
pub struct Root<'a> {
    /// The folder that is mounted as `/`: empty for the filesystem's own root.
    pub prefix: &'a [u8],
    /// The filesystem's UUID.
    pub uuid: Option<&'a str>,
}

/// A line.
struct Entry {
    spec: Vec<u8>,
    file: Vec<u8>,
    kind: Vec<u8>,
    options: Vec<u8>,
}

impl Entry {
    fn parse(line: &[u8]) -> Option<Self> {
        let fields = line.split(|byte| byte.is_ascii_whitespace());
        let mut fields = fields.filter(|field| !field.is_empty()).map(unescaped);
        let (spec, file, kind) = (fields.next()?, fields.next()?, fields.next()?);
        let options = fields.next().unwrap_or_default();
        (spec.first() != Some(&b'#')).then_some(Self { spec, file, kind, options })
    }

    fn is_swap(&self) -> bool {
        self.kind == b"swap"
    }

    /// Whether `path` is at or below where this is mounted.
    fn covers(&self, path: &[u8]) -> bool {
        let rest = path.strip_prefix(self.file.as_slice());
        !self.is_swap() && rest.is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
    }

    /// The subvolume that is mounted, if this is one of the filesystem with `spec` or `uuid`.
    fn subvolume(&self, spec: Option<&[u8]>, uuid: Option<&str>) -> Option<&[u8]> {
        let own = uuid.map(|uuid| format!("UUID={uuid}").into_bytes());
        let is_same = Some(self.spec.as_slice()) == spec
            || own.is_some_and(|own| self.spec.eq_ignore_ascii_case(&own));
        let mut options = self.options.split(|byte| *byte == b',');
        let named = options.find_map(|option| option.strip_prefix(b"subvol=".as_slice()));
        named.filter(|_| is_same && self.kind == b"btrfs")
    }
}

/// Spaces and the like stand as a backslash and three octal digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *first == b'\\');
        let number = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match number.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                plain.push(byte);
                rest = &after[3..];
            }
            None => {
                plain.push(*first);
                rest = after;
            }
        }
    }
    plain
}

/// The paths of the swap files that `text` names, as far as they are on the filesystem that it
/// calls `/`, from that filesystem's own root.
#[must_use]
pub fn swap_files(text: &[u8], root: &Root<'_>) -> Vec<Vec<u8>> {
    let entries: Vec<Entry> = text.split(|byte| *byte == b'\n').filter_map(Entry::parse).collect();
    let spec = entries.iter().find(|entry| entry.file == b"/").map(|entry| entry.spec.as_slice());
    let path = |swap: &Entry| {
        let path = swap.spec.as_slice();
        let covering = entries.iter().filter(|entry| entry.file != b"/" && entry.covers(path));
        let Some(mount) = covering.max_by_key(|entry| entry.file.len()) else {
            return Some([root.prefix, path].concat());
        };
        let subvolume = mount.subvolume(spec, root.uuid)?;
        let slash = if subvolume.first() == Some(&b'/') { b"".as_slice() } else { b"/" };
        Some([slash, subvolume, &path[mount.file.len()..]].concat())
    };
    let is_file = |entry: &&Entry| {
        entry.is_swap() && entry.spec.first() == Some(&b'/') && !entry.spec.starts_with(b"/dev/")
    };
    entries.iter().filter(is_file).filter_map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str, prefix: &str) -> Vec<String> {
        let root = Root { prefix: prefix.as_bytes(), uuid: Some("aa-bb") };
        let paths = swap_files(text.as_bytes(), &root);
        paths.into_iter().map(|path| String::from_utf8(path).expect("plain")).collect()
    }

    #[test]
    fn swap_files_are_named_and_partitions_and_comments_are_not() {
        let text = "# /commented none swap sw 0 0\nUUID=1 / ext4 defaults 0 1\n\
            \t/swapfile  none\tswap sw 0 0\n/a\\040b none swap\n/dev/sda2 none swap sw 0 0\n\
            UUID=2 none swap sw 0 0\n/half\n/not/swap /mnt ext4 loop 0 0\n";
        assert_eq!(found(text, ""), ["/swapfile", "/a b"]);
        assert_eq!(found(text, "/@"), ["/@/swapfile", "/@/a b"]);
    }

    #[test]
    fn what_another_filesystem_is_mounted_over_is_not_here() {
        let text = "UUID=1 / ext4 defaults\nUUID=2 /var ext4 defaults\n\
            /var/swap none swap sw\n/various none swap sw\n";
        assert_eq!(found(text, ""), ["/various"]);
    }

    #[test]
    fn subvolumes_of_the_same_filesystem_are_followed() {
        for (spec, subvolume) in [("LABEL=x", "@swap"), ("uuid=AA-BB", "/@swap")] {
            let text = format!(
                "LABEL=x / btrfs subvol=@ 0 0\n{spec} /swap btrfs noatime,subvol={subvolume}\n\
                 LABEL=y /other btrfs subvol=@swap\n/swap/file none swap sw\n\
                 /other/file none swap sw\n"
            );
            assert_eq!(found(&text, "/@"), ["/@swap/file"]);
        }
    }
}
