//! What a disk is made of, beyond its number, sequence number and size: those stay the same when a
//! loop device shows another part of its file, or device mapper another table.
//!
//! Certain is what is looked at: the file or device behind a loop device and the part of it that
//! is shown, device mapper's table, an array's shape, and the devices below. What was changed and
//! changed back between two looks is not seen here; of the file behind a loop device, its own
//! times tell that it was, but writes by way of the loop device change those too.

use std::fs;
use std::os::unix::fs::MetadataExt;

use serde::{Deserialize, Serialize};

use super::device::{self, sysfs, text};
use super::dm;
use super::loops::LoopBacking;

/// What a disk is made of, in words that are the same as long as that is.
#[must_use]
pub fn identity(name: &str) -> String {
    let folder = sysfs(name);
    let mut parts = Vec::new();
    if let Some(LoopBacking { device, inode, raw_device, offset, size_limit, .. }) = backing(name) {
        parts.push(match raw_device {
            0 => format!("file {device}:{inode}"),
            number => format!("device {number}"),
        });
        parts.push(format!("from {offset} for {size_limit}"));
    }
    for file in ["dm/uuid", "dm/name", "wwid", "device/wwid", "md/uuid", "md/level", "md/layout"] {
        parts.extend(text(&folder.join(file)).map(|said| format!("{file} {said}")));
    }
    for file in ["md/chunk_size", "md/raid_disks", "md/component_size", "md/reshape_position"] {
        parts.extend(text(&folder.join(file)).map(|said| format!("{file} {said}")));
    }
    if folder.join("dm").is_dir() {
        let table = text(&folder.join("dev")).and_then(|number| dm::table(&number));
        parts.extend(table.map(|table| format!("table {}", blake3::hash(&table).to_hex())));
    }
    let slaves = fs::read_dir(folder.join("slaves")).into_iter().flatten().flatten();
    let sequence = |name: String| {
        let disk = fs::canonicalize(sysfs(&name)).ok();
        let disk = disk
            .filter(|disk| disk.join("partition").exists())
            .and_then(|disk| Some(disk.parent()?.to_owned()));
        let at = |file| text(&disk.clone().unwrap_or_else(|| sysfs(&name)).join(file));
        let number = text(&sysfs(&name).join("dev")).unwrap_or_default();
        format!("on {number} {}", at("diskseq").unwrap_or_default())
    };
    let slaves = slaves.filter_map(|entry| entry.file_name().into_string().ok());
    let mut slaves: Vec<String> = slaves.map(sequence).collect();
    slaves.sort();
    parts.extend(slaves);
    parts.join("; ")
}

/// The size and times of a file: whatever is done to it changes one of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileState {
    /// Its size, in bytes.
    pub size: u64,
    /// When its bytes were last changed, in nanoseconds since 1970.
    pub modified: i64,
    /// When anything of it was.
    pub changed: i64,
}

/// That of the file behind the loop device `name`, while its path leads to it.
#[must_use]
pub fn backing_state(name: &str) -> Option<FileState> {
    let backing = backing(name)?;
    let found = fs::metadata(&backing.path).ok()?;
    let is_it = found.is_file() && (found.dev(), found.ino()) == (backing.device, backing.inode);
    let nanoseconds = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000) + rest;
    is_it.then(|| FileState {
        size: found.len(),
        modified: nanoseconds(found.mtime(), found.mtime_nsec()),
        changed: nanoseconds(found.ctime(), found.ctime_nsec()),
    })
}

fn backing(name: &str) -> Option<LoopBacking> {
    let is_loop = device::sysfs(name).join("loop").is_dir();
    if is_loop { LoopBacking::of_name(name) } else { None }
}
