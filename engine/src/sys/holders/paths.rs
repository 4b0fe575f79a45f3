//! The filesystems that a file or folder lies in, from its own down.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::libc;
use nix::sys::stat::{major, minor};

use super::filesystems::Filesystems;
use super::processes;
use super::storage::{Backing, Place, Storage};
use crate::base::{ErrorContext, Result};
use crate::sys::mounts::Mount;

/// The filesystems that change when something is written to the file or folder `path`: first its
/// own, then those with the files behind loop devices that this one lies on, and with what an
/// overlay writes to.
///
/// # Errors
/// `Io` if it cannot be looked at.
pub fn filesystems_of(path: &Path) -> Result<Vec<Mount>> {
    let opened = look_at(path).context(|| format!("look at {}", path.display()))?;
    let storage = Storage::read();
    let mounts = processes::mounts().mounts;
    let names: Vec<_> = storage.backing_names().collect();
    let uses = Filesystems { storage: &storage, names: &names, mounts: &mounts }.uses();
    let mut found: Vec<Mount> = Vec::new();
    let mut left: Vec<Mount> = mount_of(&opened, &mounts).into_iter().collect();
    while let Some(mount) = left.pop() {
        if found.iter().any(|known| known.number == mount.number) {
            continue;
        }
        let is_its_own = |of: &Mount| of.number == mount.number;
        let own = uses.iter().filter(|part| part.kind.mount().is_some_and(is_its_own));
        let backings = own.flat_map(|part| storage.backings(part.place));
        left.extend(backings.filter_map(|backing| mount_of_backing(backing, &mounts)));
        left.extend(upper_of_overlay(&mount, &mounts));
        found.push(mount);
    }
    Ok(found)
}

/// Opens `path` without touching what is there: a pipe would wait.
fn look_at(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(path)
}

/// The mount by which an open file was reached (proc_pid_fdinfo(5)). A device number alone would
/// not do: each subvolume of a btrfs has one of its own.
fn mount_of(file: &File, mounts: &[Mount]) -> Option<Mount> {
    let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let info = info.unwrap_or_default();
    let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim);
    let by_id = mounts.iter().find(|mount| Some(mount.id.as_str()) == id);
    let by_number = || mount_with(file.metadata().ok()?.dev(), mounts);
    by_id.cloned().or_else(by_number)
}

/// A mount of the filesystem with that device number.
fn mount_with(device: u64, mounts: &[Mount]) -> Option<Mount> {
    let number = format!("{}:{}", major(device), minor(device));
    mounts.iter().find(|mount| mount.number == number).cloned()
}

/// The mount of the filesystem with the file behind a loop device; none of what is no file.
fn mount_of_backing(backing: &Backing, mounts: &[Mount]) -> Option<Mount> {
    let Place::File { device, inode } = backing.place else { return None };
    // Its path may lead elsewhere by now, or be another namespace's.
    let is_it = |file: &File| {
        file.metadata().is_ok_and(|found| (found.dev(), found.ino()) == (device, inode))
    };
    match look_at(&backing.path).ok().filter(is_it) {
        Some(file) => mount_of(&file, mounts),
        None => mount_with(device, mounts),
    }
}

/// The mount of the filesystem that an overlay writes to.
fn upper_of_overlay(mount: &Mount, mounts: &[Mount]) -> Option<Mount> {
    if mount.kind != "overlay" {
        return None;
    }
    let upper = mount.within(&mount.option("upperdir")?);
    mount_of(&look_at(&upper).ok()?, mounts)
}
