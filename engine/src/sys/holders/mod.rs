//! What holds a disk: the one answer that restore, capture and track go by.
//!
//! [`Holders::of`] takes a block device, a partition, a loop device or a regular file, and finds
//! everything that uses any of the same bytes, however it comes by them: filesystems mounted in any
//! mount namespace, swap, loop devices over it or over what it lies on, device mapper, RAID and
//! bcache, the further devices, journals and logs of a mounted filesystem, who has it open to
//! write, and, where none of these explains it, a claim that the kernel does not explain.
//!
//! Two devices hold one another where they show the same bytes. So both are followed down to what
//! they lie on (a partition to its disk; a loop device to its file or device, at its offset and
//! up to its limit), and compared there by device number or by the file's `st_dev` and `st_ino`:
//! a loop device is held by what is mounted from its backing disk, and a disk by what is mounted
//! from a loop device over it. Stretches that do not overlap do not hold one another. How device
//! mapper and RAID distribute what they store is not known here, so what lies below them counts as
//! held whole, but not by their neighbours, whom those drivers keep apart.
//!
//! What could not be looked at is said ([`Holders::unseen`]): in a container the processes outside
//! it are not visible. A filesystem that they mounted from a device is noticed nonetheless, since
//! the kernel refuses exclusive access then; a process outside that writes without a claim is not.

mod filesystems;
mod paths;
mod processes;
mod storage;
mod system;

use std::fmt;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::libc;

use self::storage::{Extent, Overlap, Place, Storage};
use self::system::{System, User};
use super::mounts::{Mount, open_patiently};
use crate::base::{ByteRange, Error, ErrorContext, ErrorKind, Result};

/// Holders that are named in one line at most.
const MOST_SHOWN: usize = 4;

/// Everything that holds a disk or file, found at one moment.
#[derive(Debug, Clone, Default)]
pub struct Holders {
    found: Vec<Holder>,
    unseen: Vec<String>,
}

/// Something that uses a disk's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The device or file that it uses: the one that was asked about, a partition of it, or another
    /// that shows the same bytes.
    pub on: PathBuf,
    /// How it uses it.
    pub kind: Holding,
    /// Which of the asked disk's bytes are concerned; none where that is not known.
    pub range: Option<ByteRange>,
    /// Whether what it may write reaches the disk past the device that was asked about, so that
    /// the kernel does not count it there and no tracker of that device sees it.
    pub is_past: bool,
}

/// How a disk is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holding {
    /// A filesystem is mounted from it.
    Mount(Mount),
    /// It belongs to a mounted filesystem whose main device is another.
    Part {
        /// What part of it.
        part: Part,
        /// The filesystem, where a mount of it was found.
        of: Option<Mount>,
    },
    /// It is swapped to.
    Swap,
    /// The loop device shows it.
    Loop(PathBuf),
    /// The device of device mapper, RAID, bcache or another driver is made of it.
    Stacked(PathBuf),
    /// The kernel refuses exclusive access, and nothing that was found explains it.
    Claim,
    /// A process has it open to write.
    Writer {
        /// Its id.
        process: u32,
        /// Its name, as it says itself.
        name: String,
    },
}

/// What a further device of a filesystem is to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// One of several devices with its data (btrfs, bcachefs).
    Device,
    /// The journal or log.
    Journal,
    /// XFS's real-time device.
    RealTime,
}

impl Holders {
    /// What holds the block device or regular file `path`, other than what it lies on itself, and
    /// but for what this process has open to write.
    ///
    /// # Errors
    /// `Invalid` if it is neither; `Io` if it cannot be looked at.
    pub fn of(path: &Path) -> Result<Self> {
        let shown = path.display();
        let metadata = fs::metadata(path).context(|| format!("stat {shown}"))?;
        let place = if metadata.file_type().is_block_device() {
            Place::Device(metadata.rdev())
        } else if metadata.is_file() {
            Place::File { device: metadata.dev(), inode: metadata.ino() }
        } else {
            let context = format!("{shown} is neither a block device nor a regular file");
            return Err(Error::new(ErrorKind::Invalid, context));
        };
        let mut asked = Asked { path, place, names: Vec::new() };
        asked.names.extend(path.file_name().map(|name| name.as_bytes().to_vec()));
        asked.names.extend(fs::canonicalize(path).ok().as_deref().and_then(name_of));
        let storage = Storage::read();
        asked.names.extend(storage.backing_names());
        let system = System::read(&storage, &asked.names);
        let mut this = Self::among(&storage, &system.users, &asked);
        this.unseen = system.unseen;
        this.add_claims(&storage, place);
        let (writers, unseen) = processes::writers(&storage, &asked);
        this.found.extend(writers);
        this.unseen.extend(unseen);
        Ok(this)
    }

    /// Those of `users` that use the bytes of what is asked about.
    fn among(storage: &Storage, users: &[User], asked: &Asked<'_>) -> Self {
        let extents = storage.extents(asked.place);
        let chain = storage.chain(asked.place);
        let is_itself = |user: &User| user.device.is_some_and(|number| chain.contains(&number));
        let mut found = Vec::new();
        for user in users.iter().filter(|user| !is_itself(user)) {
            if let Some(overlap) = Extent::overlap(&extents, &user.extents) {
                found.push(asked.holder(storage, user, overlap));
            }
        }
        Self { found, unseen: Vec::new() }
    }

    /// Adds what the kernel alone knows of: claims that nothing found so far explains.
    fn add_claims(&mut self, storage: &Storage, place: Place) {
        for below in storage.devices_below(place) {
            let node = storage.node(below);
            if self.is_claimed(&node) || !refuses_exclusive_access(&node) {
                continue;
            }
            // A claim on a partition is one on its disk too, whether it concerns us or not.
            let claimed = storage.partitions(below).into_iter().map(|number| {
                let node = storage.node(number);
                let is_known = self.is_claimed(&node);
                (number, is_known, is_known || refuses_exclusive_access(&node))
            });
            let mut claimed: Vec<_> = claimed.filter(|(_, _, is_claimed)| *is_claimed).collect();
            if claimed.is_empty() {
                claimed.push((below, false, true));
            }
            for (number, ..) in claimed.into_iter().filter(|(_, is_known, _)| !is_known) {
                let claimed = Place::Device(number);
                let overlap = Extent::overlap(&storage.extents(place), &storage.extents(claimed));
                self.found.extend(overlap.map(|overlap| Holder {
                    on: storage.node(number),
                    kind: Holding::Claim,
                    range: overlap.range,
                    is_past: storage.writes_past(place, claimed),
                }));
            }
        }
    }

    /// Whether something that was found explains a claim on the device `node`.
    fn is_claimed(&self, node: &Path) -> bool {
        let number = storage::place_of(node);
        let is_it = |holder: &&Holder| holder.kind.is_claim();
        let mut claims = self.found.iter().filter(is_it);
        claims.any(|holder| holder.on == *node || storage::place_of(&holder.on) == number)
    }

    /// All of them in one line, for people; only the first few where there are many.
    #[must_use]
    pub fn summary(&self) -> String {
        let shown: Vec<String> = self.iter().take(MOST_SHOWN).map(ToString::to_string).collect();
        match self.found.len().saturating_sub(MOST_SHOWN) {
            0 => shown.join("; "),
            more => format!("{}; and {more} more", shown.join("; ")),
        }
    }

    /// Whether nothing was found.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// All of them: mounts in the order in which they were mounted, then the others.
    pub fn iter(&self) -> impl Iterator<Item = &Holder> {
        self.found.iter()
    }

    /// The mounted filesystems that use the disk, each once, in the order in which they were
    /// mounted: those of which it is the main device, or another. A mount of this process's own
    /// namespace is preferred; that of another is reached by [`Mount::path`].
    #[must_use]
    pub fn mounts(&self) -> Vec<Mount> {
        let mut mounts: Vec<Mount> = Vec::new();
        for mount in self.found.iter().filter_map(|holder| holder.kind.mount()) {
            if mounts.iter().all(|other| other.number != mount.number) {
                mounts.push(mount.clone());
            }
        }
        mounts
    }

    /// The filesystem that the file or folder `path` lies in, if what is written there changes the
    /// disk: it is mounted from it, or from a file within a filesystem that is.
    ///
    /// # Errors
    /// `Io` if `path` cannot be looked at.
    pub fn filesystem_of(&self, path: &Path) -> Result<Option<Mount>> {
        let mounted = self.mounts();
        if mounted.is_empty() {
            return Ok(None);
        }
        let below = paths::filesystems_of(path)?;
        let is_on_disk = |mount: &Mount| mounted.iter().any(|on| on.number == mount.number);
        let is_on_disk = below.iter().any(is_on_disk);
        Ok(below.into_iter().next().filter(|_| is_on_disk))
    }

    /// What could not be looked at, in words: what uses the disk there is not known.
    #[must_use]
    pub fn unseen(&self) -> &[String] {
        &self.unseen
    }
}

impl Holding {
    /// The mounted filesystem, if it is one and its mount was found.
    #[must_use]
    pub fn mount(&self) -> Option<&Mount> {
        match self {
            Self::Mount(mount) | Self::Part { of: Some(mount), .. } => Some(mount),
            _ => None,
        }
    }

    /// Whether it claims the device exclusively, which the kernel tells to whoever tries the same.
    fn is_claim(&self) -> bool {
        !matches!(self, Self::Loop(_) | Self::Writer { .. })
    }
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = self.on.display();
        match &self.kind {
            Holding::Mount(mount) => write!(f, "{on} is mounted on {}", Shown(mount)),
            Holding::Part { part, of } => {
                let part = match part {
                    Part::Device => "a device",
                    Part::Journal => "the journal",
                    Part::RealTime => "the real-time device",
                };
                match of {
                    Some(mount) => {
                        write!(f, "{on} is {part} of what is mounted on {}", Shown(mount))
                    }
                    None => write!(f, "{on} is {part} of a mounted filesystem"),
                }
            }
            Holding::Swap => write!(f, "{on} is swap"),
            Holding::Loop(device) => write!(f, "{on} is attached as {}", device.display()),
            Holding::Stacked(device) => {
                let name = device.strip_prefix("/dev").unwrap_or(device);
                write!(f, "{on} is held by {}", name.display())
            }
            Holding::Claim => {
                write!(f, "{on} is in use (the kernel refuses exclusive access)")
            }
            Holding::Writer { process, name } => {
                write!(f, "{on} is open to be written by process {process} ({name})")
            }
        }
    }
}

/// A mount point, and through which process it is reached.
struct Shown<'a>(&'a Mount);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.point.display())?;
        match self.0.process {
            Some(process) => write!(f, " in the mount namespace of process {process}"),
            None => Ok(()),
        }
    }
}

/// The files that the block device or regular file `path` is, or lies on by way of loop devices:
/// `st_dev` and `st_ino` of each.
///
/// # Errors
/// `Io` if it cannot be looked at.
pub fn files_of(path: &Path) -> Result<Vec<(u64, u64)>> {
    let found = fs::metadata(path).context(|| format!("stat {}", path.display()))?;
    if !found.file_type().is_block_device() {
        return Ok(vec![(found.dev(), found.ino())]);
    }
    let storage = Storage::read();
    let extents = storage.extents(Place::Device(found.rdev()));
    Ok(extents.iter().filter_map(Extent::file).collect())
}

/// What is asked about.
struct Asked<'a> {
    path: &'a Path,
    place: Place,
    /// Names that it, and files behind loop devices, are known by.
    names: Vec<Vec<u8>>,
}

impl Asked<'_> {
    fn holder(&self, storage: &Storage, user: &User, overlap: Overlap) -> Holder {
        let on = if user.on == self.place {
            self.path.to_owned()
        } else {
            user.shown.clone().unwrap_or_else(|| match user.on {
                Place::Device(number) => storage.node(number),
                Place::File { .. } => self.path.to_owned(),
            })
        };
        let user_place = user.device.map_or(user.on, Place::Device);
        let is_past = storage.writes_past(self.place, user_place);
        Holder { on, kind: user.kind.clone(), range: overlap.range, is_past }
    }
}

fn name_of(path: &Path) -> Option<Vec<u8>> {
    path.file_name().map(|name| name.as_bytes().to_vec())
}

fn refuses_exclusive_access(node: &Path) -> bool {
    let mut options = fs::OpenOptions::new();
    options.read(true).custom_flags(libc::O_EXCL);
    open_patiently(&options, node).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY))
}
