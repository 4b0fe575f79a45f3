//! The kernel's tables of what is mounted and swapped to.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

/// A mounted filesystem: a line of a process's `mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's own number.
    pub id: String,
    /// `major:minor` of the filesystem; not a real device's for btrfs.
    pub number: String,
    /// Where it is mounted, as seen by who is in its mount namespace.
    pub point: PathBuf,
    /// The filesystem's type.
    pub kind: String,
    /// What is mounted: a device node, a file, or some text.
    pub source: PathBuf,
    /// The filesystem's own options, separated by commas.
    pub options: String,
    /// The process through whose mount namespace it is reached, where that is not this one's.
    pub process: Option<u32>,
}

impl Mount {
    /// The path by which this process reaches the mount point, whatever namespace it is in.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        self.within(&self.point)
    }

    /// The path that the filesystem's option `name` gives, as it is called where this is mounted.
    #[must_use]
    pub fn option(&self, name: &str) -> Option<PathBuf> {
        let mut options = self.options.split(',');
        let value = options.find_map(|option| option.strip_prefix(name)?.strip_prefix('='))?;
        Some(unescape(value.as_bytes()))
    }

    /// The path by which this process reaches what is called `path` where this is mounted.
    #[must_use]
    pub fn within(&self, path: &Path) -> PathBuf {
        match self.process {
            None => path.to_owned(),
            Some(process) => {
                let root = PathBuf::from(format!("/proc/{process}/root"));
                root.join(path.strip_prefix("/").unwrap_or(path))
            }
        }
    }
}

/// Parses `/proc/PID/mountinfo` (proc_pid_mountinfo(5)); lines that make no sense are skipped.
#[must_use]
pub fn parse_mounts(table: &[u8]) -> Vec<Mount> {
    table.split(|byte| *byte == b'\n').filter_map(parse_mount).collect()
}

fn parse_mount(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|byte| *byte == b' ');
    let id = String::from_utf8(fields.next()?.to_vec()).ok()?;
    let number = String::from_utf8(fields.nth(1)?.to_vec()).ok()?;
    let point = unescape(fields.nth(1)?);
    // Optional fields end with a dash.
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let kind = String::from_utf8_lossy(rest.next()?).into_owned();
    let source = unescape(rest.next()?);
    let options = String::from_utf8_lossy(rest.next().unwrap_or_default()).into_owned();
    Some(Mount { id, number, point, kind, source, options, process: None })
}

/// Parses `/proc/swaps`: the paths of what is swapped to.
#[must_use]
pub fn parse_swaps(table: &[u8]) -> Vec<PathBuf> {
    let lines = table.split(|byte| *byte == b'\n').skip(1);
    let paths = lines.filter_map(|line| line.split(|byte| matches!(byte, b' ' | b'\t')).next());
    paths.filter(|path| !path.is_empty()).map(unescape).collect()
}

/// Undoes the kernel's octal escapes (`\040` for a space).
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits = after.get(..3).filter(|_| byte == b'\\');
        let code = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(code) => {
                bytes.push(code);
                rest = after.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

/// Opens `path`, again for a fifth of a second while it is busy: others claim devices for a
/// moment only to look at them (losetup when it searches a free one, for example).
///
/// # Errors
/// The system's error.
pub fn open_patiently(options: &OpenOptions, path: &Path) -> io::Result<File> {
    for _ in 0..10 {
        match options.open(path) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(20));
            }
            other => return other,
        }
    }
    options.open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mountinfo_lines_are_read_with_escapes_and_optional_fields() {
        let table =
            b"36 35 98:0 /a /mnt\\0402\\134x rw,noatime master:1 shared:2 - ext3 /dev/r\\040t rw\n\
            37 35 0:32 / / rw - btrfs /dev/sda2 rw\nnonsense\n\n";
        let mounts = parse_mounts(table);
        assert_eq!(mounts.len(), 2);
        assert_eq!(
            mounts[0],
            Mount {
                id: "36".into(),
                number: "98:0".into(),
                point: "/mnt 2\\x".into(),
                kind: "ext3".into(),
                source: "/dev/r t".into(),
                options: "rw".into(),
                process: None,
            }
        );
        assert_eq!(mounts[1].source, Path::new("/dev/sda2"));
        let options = "rw,lowerdir=/l,upperdir=/a\\040b\\054c,workdir=/w".to_owned();
        let overlay = Mount { options, ..mounts[1].clone() };
        assert_eq!(overlay.option("upperdir"), Some("/a b,c".into()));
        assert_eq!(overlay.option("upper"), None);
    }

    #[test]
    fn swaps_are_read_without_their_heading() {
        let table =
            b"Filename\tType\tSize\n/dev/sda3   partition\t1\t0\t-2\n/swap\\040file file 1\n";
        assert_eq!(parse_swaps(table), [Path::new("/dev/sda3"), Path::new("/swap file")]);
    }

    #[test]
    fn a_backslash_that_starts_no_escape_stays() {
        assert_eq!(unescape(b"a\\9b\\04"), Path::new("a\\9b\\04"));
    }
}
