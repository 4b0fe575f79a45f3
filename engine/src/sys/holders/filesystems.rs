//! Which devices and files each mounted filesystem consists of.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use nix::sys::stat::major;

use super::storage::{Place, Storage, parse_number};
use super::{Holding, Part, name_of};
use crate::sys::device::text;
use crate::sys::mounts::Mount;

/// A device or file that a filesystem consists of.
#[derive(Debug, Clone)]
pub struct Use {
    pub place: Place,
    pub kind: Holding,
}

/// The mounted filesystems.
pub struct Filesystems<'a> {
    pub storage: &'a Storage,
    /// Last parts of the paths of files that matter.
    pub names: &'a [Vec<u8>],
    pub mounts: &'a [Mount],
}

impl Filesystems<'_> {
    /// What all of them consist of.
    pub fn uses(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        let mut further = Vec::new();
        let btrfs = btrfs_devices(self.storage);
        let mut is_found = vec![false; btrfs.len()];
        for mount in self.mounts {
            let places = self.sources(mount);
            let own = |place: &Place| Use { place: *place, kind: Holding::Mount(mount.clone()) };
            uses.extend(places.iter().map(own));
            let of = Some(mount.clone());
            let part = |part, place| Use { place, kind: Holding::Part { part, of: of.clone() } };
            for (devices, is_found) in btrfs.iter().zip(&mut is_found) {
                if mount.kind == "btrfs" && places.iter().any(|place| devices.contains(place)) {
                    *is_found = true;
                    let others = devices.iter().filter(|place| !places.contains(place));
                    further.extend(others.map(|place| part(Part::Device, *place)));
                }
            }
            // xfs(5): an external log, and a real-time section.
            for (option, kind) in [("logdev", Part::Journal), ("rtdev", Part::RealTime)] {
                let path = mount.option(option).filter(|_| mount.kind == "xfs");
                let place = path.and_then(|path| self.device(mount, &path));
                further.extend(place.map(|place| part(kind, place)));
            }
        }
        // Mounted where nobody looked: its devices are in use all the same.
        for (devices, _) in btrfs.iter().zip(is_found).filter(|(_, is_found)| !is_found) {
            let part = Holding::Part { part: Part::Device, of: None };
            further.extend(devices.iter().map(|place| Use { place: *place, kind: part.clone() }));
        }
        further.extend(self.journals());
        uses.extend(further);
        uses
    }

    /// The devices or files that the mount's own line names.
    fn sources(&self, mount: &Mount) -> Vec<Place> {
        if let Some(number) = parse_number(&mount.number).filter(|number| major(*number) != 0) {
            return vec![Place::Device(number)];
        }
        let source = mount.source.as_os_str().as_bytes();
        // bcachefs names all its devices, with colons between.
        let paths = match mount.kind.as_str() {
            "bcachefs" => source.split(|byte| *byte == b':').collect(),
            _ => vec![source],
        };
        let paths = paths.into_iter().map(|path| Path::new(OsStr::from_bytes(path)));
        paths
            .filter_map(|path| self.device(mount, path).or_else(|| self.file(mount, path)))
            .collect()
    }

    /// The block device that is called `path` where `mount` is.
    fn device(&self, mount: &Mount, path: &Path) -> Option<Place> {
        let name = path.strip_prefix("/dev").ok()?;
        let numbers = [path.to_owned(), mount.within(path)].into_iter().filter_map(|path| {
            let found = fs::metadata(path).ok()?;
            found.file_type().is_block_device().then(|| found.rdev())
        });
        // The node may be gone; the kernel writes slashes of names as exclamation marks in sysfs.
        let by_name = || self.storage.number(&name.to_str()?.replace('/', "!"));
        numbers.into_iter().next().or_else(by_name).map(Place::Device)
    }

    /// The regular file that is called `path` where `mount` is, if it matters.
    fn file(&self, mount: &Mount, path: &Path) -> Option<Place> {
        let name = name_of(path).filter(|_| path.is_absolute())?;
        // Two slashes begin the name of a server.
        if !self.names.contains(&name) || path.as_os_str().as_bytes().starts_with(b"//") {
            return None;
        }
        let found = fs::metadata(mount.within(path)).ok().filter(fs::Metadata::is_file)?;
        Some(Place::File { device: found.dev(), inode: found.ino() })
    }

    /// Devices that hold the journal of an ext3 or ext4 filesystem, and nothing else. Each journal
    /// has a folder, named for its device, and for its inode where it is a file of that.
    fn journals(&self) -> Vec<Use> {
        let mut uses = Vec::new();
        for entry in fs::read_dir("/proc/fs/jbd2").into_iter().flatten().flatten() {
            let Ok(name) = entry.file_name().into_string() else { continue };
            let Some(number) = self.storage.number(&name) else { continue };
            let of = self.mount_of_journal(&name);
            let kind = Holding::Part { part: Part::Journal, of };
            uses.push(Use { place: Place::Device(number), kind });
        }
        uses
    }

    /// The mount of the filesystem whose journal's thread is named for the device `journal`.
    fn mount_of_journal(&self, journal: &str) -> Option<Mount> {
        let thread = format!("jbd2/{journal}");
        let is_it = |folder: &PathBuf| {
            let task = text(&folder.join("journal_task"));
            let name = task.and_then(|task| text(&Path::new("/proc").join(task).join("comm")));
            name.is_some_and(|name| name == thread)
        };
        let folders = fs::read_dir("/sys/fs/ext4").into_iter().flatten().flatten();
        let folder = folders.map(|entry| entry.path()).find(is_it)?;
        let number = self.storage.number(folder.file_name()?.to_str()?)?;
        let is_of = |mount: &&Mount| parse_number(&mount.number) == Some(number);
        self.mounts.iter().find(is_of).cloned()
    }
}

/// The devices of each mounted btrfs.
fn btrfs_devices(storage: &Storage) -> Vec<HashSet<Place>> {
    let folders = fs::read_dir("/sys/fs/btrfs").into_iter().flatten().flatten();
    let devices = |folder: PathBuf| -> HashSet<Place> {
        let entries = fs::read_dir(folder.join("devices")).into_iter().flatten().flatten();
        let number = |entry: fs::DirEntry| storage.number(entry.file_name().to_str()?);
        entries.filter_map(number).map(Place::Device).collect()
    };
    folders.map(|folder| devices(folder.path())).filter(|devices| !devices.is_empty()).collect()
}
