//! Who uses a device or file, so that nothing is written under a mounted filesystem.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::libc;

use super::device::{self, DeviceFacts};
use super::loops;
use crate::base::{ErrorContext, Result};

/// Everything that uses `path` now: a line each, for people; empty if nothing does.
///
/// For a block device this covers its partitions, mounts, swap, what is stacked on it (LVM, RAID,
/// encryption) and loop devices; when none of these explains it, the kernel itself is asked for
/// exclusive access. For a file: loop devices, swap, filesystems mounted straight from it.
///
/// # Errors
/// `Io` if `path` cannot be looked at or the kernel's tables cannot be read.
pub fn uses_of(path: &Path) -> Result<Vec<String>> {
    let metadata = fs::metadata(path).context(|| format!("stat {}", path.display()))?;
    let mounts = fs::read("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    // Kernels without swap have no such file.
    let swaps = fs::read("/proc/swaps").unwrap_or_default();
    let tables = Tables { mounts: parse_mounts(&mounts), swaps: parse_swaps(&swaps) };
    if !metadata.file_type().is_block_device() {
        return Ok(uses_of_file(path, &metadata, &tables));
    }
    let file = File::open(path).context(|| format!("open {}", path.display()))?;
    let facts = DeviceFacts::of(&file)?;
    let mut uses = Vec::new();
    for name in std::iter::once(facts.name.clone()).chain(facts.partitions()) {
        uses_of_device(&name, &tables, &mut uses);
    }
    if uses.is_empty() && refuses_exclusive_access(path) {
        let path = path.display();
        uses.push(format!("{path} is in use (the kernel refuses exclusive access)"));
    }
    Ok(uses)
}

/// The filesystems mounted from the disk `path`, its partitions, and what is stacked on those
/// (logical volumes, arrays), each once, in the order in which they were mounted.
///
/// # Errors
/// `Io` if `path` cannot be looked at or the kernel's table cannot be read.
pub fn mounted_from(path: &Path) -> Result<Vec<Mount>> {
    let file = File::open(path).context(|| format!("open {}", path.display()))?;
    let facts = DeviceFacts::of(&file)?;
    let mut names = vec![facts.name.clone()];
    names.extend(facts.partitions());
    let mut next = 0;
    while let Some(name) = names.get(next).cloned() {
        let holders = fs::read_dir(device::sysfs(&name).join("holders"));
        for holder in holders.into_iter().flatten().flatten() {
            let holder = holder.file_name().to_string_lossy().into_owned();
            if !names.contains(&holder) {
                names.push(holder);
            }
        }
        next += 1;
    }
    let number = |name: &String| device::text(&device::sysfs(name).join("dev"));
    let numbers: Vec<String> = names.iter().filter_map(number).collect();
    let table = fs::read("/proc/self/mountinfo").context(|| "read /proc/self/mountinfo")?;
    let mut found: Vec<Mount> = Vec::new();
    for mount in parse_mounts(&table) {
        let is_on = |number: &String| mount.number == *number || is_node_of(&mount.source, number);
        let is_new = found.iter().all(|other| other.number != mount.number);
        if is_new && numbers.iter().any(is_on) {
            found.push(mount);
        }
    }
    Ok(found)
}

struct Tables {
    mounts: Vec<Mount>,
    swaps: Vec<PathBuf>,
}

/// A line of `/proc/self/mountinfo`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    /// The mount's own number.
    pub id: String,
    /// `major:minor` of the filesystem; not a real device's for btrfs.
    pub number: String,
    /// Where it is mounted.
    pub point: PathBuf,
    /// The filesystem's type.
    pub kind: String,
    /// What is mounted: a device node, a file, or some text.
    pub source: PathBuf,
}

/// Parses `/proc/self/mountinfo` (proc_pid_mountinfo(5)); lines that make no sense are skipped.
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
    Some(Mount { id, number, point, kind, source: unescape(rest.next()?) })
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

fn uses_of_file(path: &Path, metadata: &fs::Metadata, tables: &Tables) -> Vec<String> {
    let shown = path.display();
    let is_it = |other: &Path| {
        fs::metadata(other)
            .is_ok_and(|other| (other.dev(), other.ino()) == (metadata.dev(), metadata.ino()))
    };
    let mut uses: Vec<String> = loops::attached_to(path)
        .iter()
        .map(|name| format!("{shown} is attached as {}", device::node(name).display()))
        .collect();
    if tables.swaps.iter().any(|swap| is_it(swap)) {
        uses.push(format!("{shown} is swap"));
    }
    // Only the name is compared: to stat every mount's source could hang on a dead server.
    if let Ok(real) = fs::canonicalize(path) {
        let mounts = tables.mounts.iter().filter(|mount| mount.source == real);
        uses.extend(mounts.map(|mount| format!("{shown} is mounted on {}", mount.point.display())));
    }
    uses
}

fn uses_of_device(name: &str, tables: &Tables, uses: &mut Vec<String>) {
    let Some(number) = device::text(&device::sysfs(name).join("dev")) else { return };
    let node = device::node(name);
    let shown = node.display();
    for mount in &tables.mounts {
        if mount.number == number || is_node_of(&mount.source, &number) {
            uses.push(format!("{shown} is mounted on {}", mount.point.display()));
        }
    }
    if tables.swaps.iter().any(|swap| is_node_of(swap, &number)) {
        uses.push(format!("{shown} is swap"));
    }
    if let Ok(holders) = fs::read_dir(device::sysfs(name).join("holders")) {
        for holder in holders.flatten() {
            uses.push(format!("{shown} is held by {}", holder.file_name().display()));
        }
    }
    for name in loops::attached_to(&node) {
        uses.push(format!("{shown} is attached as {}", device::node(&name).display()));
    }
}

fn is_node_of(path: &Path, number: &str) -> bool {
    path.as_os_str().as_bytes().starts_with(b"/dev/")
        && fs::metadata(path).is_ok_and(|found| {
            let rdev = found.rdev();
            let found_number =
                format!("{}:{}", nix::sys::stat::major(rdev), nix::sys::stat::minor(rdev));
            found.file_type().is_block_device() && found_number == number
        })
}

fn refuses_exclusive_access(path: &Path) -> bool {
    let opened = open_patiently(OpenOptions::new().read(true).custom_flags(libc::O_EXCL), path);
    opened.is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
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
            }
        );
        assert_eq!(mounts[1].source, Path::new("/dev/sda2"));
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
