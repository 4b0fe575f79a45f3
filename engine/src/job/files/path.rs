//! `VOLUME:/path`, as it is typed.

use std::fmt;

/// A file of a volume. Paths are bytes: names on disks need not be UTF-8.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilePath {
    /// The volume's name, `LABEL=...` or `UUID=...`; `None` for the only filesystem there is.
    pub volume: Option<String>,
    /// The path within it, from its root, whether or not it begins with a slash.
    pub path: Vec<u8>,
}

impl FilePath {
    /// Takes `typed` apart at its first `:/`, or at a colon at its end (the volume's root).
    /// Without either, or when it begins with a slash, it names no volume.
    #[must_use]
    pub fn parse(typed: &[u8]) -> Self {
        let whole = || Self { volume: None, path: typed.to_vec() };
        if typed.first() == Some(&b'/') {
            return whole();
        }
        let colon = typed.windows(2).position(|pair| pair == b":/");
        let colon =
            colon.or_else(|| typed.len().checked_sub(1).filter(|last| typed[*last] == b':'));
        match colon.map(|colon| (std::str::from_utf8(&typed[..colon]), &typed[colon + 1..])) {
            Some((Ok(volume), path)) if !volume.is_empty() => {
                Self { volume: Some(volume.to_owned()), path: path.to_vec() }
            }
            _ => whole(),
        }
    }
}

impl fmt::Display for FilePath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(volume) = &self.volume {
            write!(f, "{volume}:")?;
        }
        f.write_str(&String::from_utf8_lossy(&self.path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_is_what_stands_before_the_first_colon_and_slash() {
        let cases: [(&str, Option<&str>, &str); 8] = [
            ("p1:/etc/fstab", Some("p1"), "/etc/fstab"),
            ("vg0/root:/etc", Some("vg0/root"), "/etc"),
            ("LABEL=a b:/x:/y", Some("LABEL=a b"), "/x:/y"),
            ("p2:", Some("p2"), ""),
            ("/a:/b", None, "/a:/b"),
            ("etc/fstab", None, "etc/fstab"),
            ("a:b", None, "a:b"),
            (":/x", None, ":/x"),
        ];
        for (typed, volume, path) in cases {
            let parsed = FilePath::parse(typed.as_bytes());
            assert_eq!(parsed.volume.as_deref(), volume, "{typed}");
            assert_eq!(parsed.path, path.as_bytes(), "{typed}");
        }
    }
}
