//! What other processes do: the mount namespaces that they are in, and the devices and files that
//! they have open to write.

use std::collections::HashSet;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::libc;

use super::storage::{Extent, Place, Storage};
use super::{Asked, Holder, Holding};
use crate::sys::device::text;
use crate::sys::mounts::{Mount, parse_mounts};

/// The inode of the machine's first namespace of processes (`PROC_PID_INIT_INO`).
const FIRST_PID_NAMESPACE: &str = "pid:[4026531836]";

/// How often, and after what time each, it is looked again whether a file is still open.
const LOOKS: usize = 50;
const NAP: Duration = Duration::from_millis(20);

/// Everything that is mounted anywhere.
#[derive(Debug, Default)]
pub struct Tables {
    /// This process's own first.
    pub mounts: Vec<Mount>,
    /// What could not be looked at.
    pub unseen: Vec<String>,
}

/// The mounts of all mount namespaces, and of all roots within them, that a process or thread is
/// in: a process that has another root sees what is below that alone.
pub fn mounts() -> Tables {
    const OWN: &str = "/proc/self/mountinfo";
    let mut tables = Tables::default();
    match fs::read(OWN) {
        Ok(table) => tables.mounts = parse_mounts(&table),
        Err(error) => tables.unseen.push(format!("what is mounted ({OWN}: {error})")),
    }
    let mut views = HashSet::new();
    views.extend(view(Path::new("/proc/self")));
    let mut hidden = 0;
    for process in processes() {
        let folder = PathBuf::from(format!("/proc/{process}"));
        for thread in threads(&folder) {
            let Some(view) = view(&thread) else {
                hidden += u32::from(thread.exists());
                continue;
            };
            if !views.insert(view) {
                continue;
            }
            let Ok(table) = fs::read(thread.join("mountinfo")) else { continue };
            // A thread's root is reached by its own number as well.
            let number = thread.file_name().and_then(|name| name.to_str()?.parse().ok());
            let of = |mount| Mount { process: number, ..mount };
            tables.mounts.extend(parse_mounts(&table).into_iter().map(of));
        }
    }
    if hidden > 0 {
        tables.unseen.push(format!("what {hidden} threads of others have mounted"));
    }
    if !is_first_namespace() {
        tables.unseen.push("processes outside this container".to_owned());
    }
    tables
}

/// The folders of a process's threads; its own where it has but one.
fn threads(folder: &Path) -> Vec<PathBuf> {
    let tasks = folder.join("task");
    // Two links of the folder itself, and one for each thread.
    if fs::metadata(&tasks).is_ok_and(|found| found.nlink() == 3) {
        return vec![folder.to_owned()];
    }
    let entries = fs::read_dir(tasks).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).collect()
}

/// The mount namespace of a process or thread, and its root within it.
fn view(folder: &Path) -> Option<(PathBuf, PathBuf)> {
    let link = |name: &str| fs::read_link(folder.join(name)).ok();
    Some((link("ns/mnt")?, link("root")?))
}

fn is_first_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link == Path::new(FIRST_PID_NAMESPACE))
}

/// The ids of all processes that are visible here.
fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Other processes that have something open to write that shows the same bytes as what is asked
/// about; and what could not be looked at.
///
/// Some open a device only for a moment, as losetup does when it searches a free one: only who
/// still has it open a second later counts.
pub fn writers(storage: &Storage, asked: &Asked<'_>) -> (Vec<Holder>, Vec<String>) {
    let (mut found, unseen) = writers_among(storage, asked, processes());
    for _ in 0..LOOKS {
        if found.is_empty() {
            break;
        }
        thread::sleep(NAP);
        let process = |holder: &Holder| match holder.kind {
            Holding::Writer { process, .. } => Some(process),
            _ => None,
        };
        let (still, _) = writers_among(storage, asked, found.iter().filter_map(process).collect());
        found.retain(|holder| still.contains(holder));
    }
    (found, unseen)
}

/// The same among `processes`, as it is now.
fn writers_among(
    storage: &Storage,
    asked: &Asked<'_>,
    processes: Vec<u32>,
) -> (Vec<Holder>, Vec<String>) {
    let extents = storage.extents(asked.place);
    let own = std::process::id();
    let (mut found, mut hidden) = (Vec::new(), 0);
    for process in processes.into_iter().filter(|process| *process != own) {
        let folder = PathBuf::from(format!("/proc/{process}"));
        let Ok(entries) = fs::read_dir(folder.join("fd")) else {
            hidden += u32::from(folder.exists());
            continue;
        };
        let mut places = HashSet::new();
        for entry in entries.flatten() {
            let Some((place, path)) = written(&folder, &entry.path(), &extents) else { continue };
            if !places.insert(place) {
                continue;
            }
            let Some(overlap) = Extent::overlap(&extents, &storage.extents(place)) else {
                continue;
            };
            let name = text(&folder.join("comm")).unwrap_or_default();
            let is_past = storage.writes_past(asked.place, place);
            let kind = Holding::Writer { process, name };
            let on = if place == asked.place { asked.path.to_owned() } else { path };
            found.push(Holder { on, kind, range: overlap.range, is_past });
        }
    }
    let hidden = (hidden > 0).then(|| format!("what {hidden} processes of others have open"));
    (found, hidden.into_iter().collect())
}

/// What the descriptor is open to write, if it is a block device, or one of the files that
/// `extents` lie at.
fn written(folder: &Path, descriptor: &Path, extents: &[Extent]) -> Option<(Place, PathBuf)> {
    let path = fs::read_link(descriptor).ok()?;
    // Sockets, pipes and such have no path.
    let is_device = path.as_os_str().as_bytes().starts_with(b"/dev/");
    if !path.is_absolute() || !is_device && !extents.iter().any(Extent::is_file) {
        return None;
    }
    // proc_pid_fdinfo(5).
    let number = descriptor.file_name()?;
    let info = fs::read_to_string(folder.join("fdinfo").join(number)).ok()?;
    let field = |name: &str| {
        let mut lines = info.lines().filter_map(|line| line.strip_prefix(name));
        lines.next().map(str::trim)
    };
    let flags = libc::c_int::from_str_radix(field("flags:")?, 8).ok()?;
    if flags & libc::O_ACCMODE == libc::O_RDONLY || flags & libc::O_PATH != 0 {
        return None;
    }
    // Asking for a file may take its server's answer: only for what has the right number.
    let inode = field("ino:").and_then(|inode| inode.parse::<u64>().ok());
    if !is_device && inode.is_some_and(|inode| !extents.iter().any(|extent| extent.is_inode(inode)))
    {
        return None;
    }
    let found = fs::metadata(descriptor).ok()?;
    if found.file_type().is_block_device() {
        return Some((Place::Device(found.rdev()), path));
    }
    let place = Place::File { device: found.dev(), inode: found.ino() };
    (found.is_file() && extents.iter().any(|extent| extent.is_at(place))).then_some((place, path))
}
