//! A folder in bpffs, where maps, programs and links outlive the process that made them.
//!
//! What is pinned there is believed, so nobody but root may have been able to put it there: the
//! folder is root's, closed to all others, in a bpffs in which nobody else can rename it.

use std::ffi::CString;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, fstatfs, statfs};

use super::call::{Command, Pin, bpf, bpf_descriptor, number};
use crate::base::{Error, ErrorContext, ErrorKind, Result};

/// Where bpffs belongs.
const MOUNT_POINT: &str = "/sys/fs/bpf";
/// Nobody but its owner.
const CLOSED: u32 = 0o700;
/// What others may write to.
const WRITABLE: u32 = 0o022;
/// Of a folder: others may only remove what is their own.
const STICKY: u32 = 0o1000;
/// How long to sleep before a lock is tried again.
const NAP: Duration = Duration::from_millis(5);

/// An existing folder in bpffs, closed to all but root.
#[derive(Debug, Clone)]
pub struct BpfFolder {
    path: PathBuf,
}

/// What is found where a folder should be.
#[derive(Debug)]
pub enum FoundFolder {
    /// Nothing.
    Missing,
    /// A folder that only root could write to.
    Closed(BpfFolder),
    /// Something that others could write to: none of it is to be believed.
    Open(ForeignFolder),
}

/// What others could write to, where a folder of root's should be.
#[derive(Debug)]
pub struct ForeignFolder {
    path: PathBuf,
    why: String,
}

impl BpfFolder {
    /// The folder `name` in bpffs, which is mounted and made where it is missing.
    ///
    /// # Errors
    /// `Unsupported` where bpffs cannot be had; as [`FoundFolder::closed`] for a folder that
    /// others could write to.
    pub fn create(name: &str) -> Result<Self> {
        let point = Path::new(MOUNT_POINT);
        if !is_bpffs(point) {
            mount(Some("bpf"), point, Some("bpf"), MsFlags::empty(), Some("mode=0700")).map_err(
                |errno| {
                    let why = errno.desc();
                    let context = format!("bpffs cannot be mounted on {MOUNT_POINT}: {why}");
                    Error::new(ErrorKind::Unsupported, context)
                },
            )?;
        }
        let path = point.join(name);
        match DirBuilder::new().mode(CLOSED).create(&path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Error::io(format!("make {}", path.display()), error));
            }
            _ => {}
        }
        let missing = || Error::new(ErrorKind::Conflict, format!("{} vanished", path.display()));
        Self::existing(name)?.closed()?.ok_or_else(missing)
    }

    /// What is there as the folder `name`.
    ///
    /// # Errors
    /// `Io`.
    pub fn existing(name: &str) -> Result<FoundFolder> {
        let point = Path::new(MOUNT_POINT);
        let path = point.join(name);
        let context = || format!("look at {}", path.display());
        if !is_bpffs(point) {
            return Ok(FoundFolder::Missing);
        }
        let facts = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(FoundFolder::Missing);
            }
            facts => facts.context(context)?,
        };
        let around = fs::metadata(point).context(|| format!("look at {MOUNT_POINT}"))?;
        if let Some(why) = distrust(&facts, &around) {
            return Ok(FoundFolder::Open(ForeignFolder { path, why }));
        }
        let folder = open(&path)?;
        // Another filesystem may be mounted on it.
        if !fstatfs(&folder).is_ok_and(|facts| facts.filesystem_type() == BPF_FS_MAGIC) {
            let why = "it is not in bpffs".to_owned();
            return Ok(FoundFolder::Open(ForeignFolder { path, why }));
        }
        if facts.mode() & 0o7777 != CLOSED {
            folder.set_permissions(Permissions::from_mode(CLOSED)).context(context)?;
        }
        Ok(FoundFolder::Closed(Self { path }))
    }

    /// Holds the folder while the answer lives, once no other process does.
    ///
    /// # Errors
    /// `Conflict` if another one still does after `wait`; `Io`.
    pub fn lock(&self, wait: Duration) -> Result<Flock<File>> {
        let shown = self.path.display();
        let mut folder = open(&self.path)?;
        let start = Instant::now();
        loop {
            folder = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(locked) => return Ok(locked),
                Err((folder, Errno::EWOULDBLOCK | Errno::EINTR)) => folder,
                Err((_, errno)) => return Err(Error::io(format!("lock {shown}"), errno.into())),
            };
            if start.elapsed() >= wait {
                let waited = wait.as_millis();
                let context =
                    format!("another process holds {shown}; waited for {waited} ms in vain");
                return Err(Error::new(ErrorKind::Conflict, context));
            }
            thread::sleep(NAP);
        }
    }

    /// Pins what `descriptor` is as `name`.
    ///
    /// # Errors
    /// The kernel's: `EEXIST` if there is one of that name.
    pub fn pin(&self, name: &str, descriptor: &OwnedFd) -> Result<()> {
        let path = self.c_path(name)?;
        let mut argument =
            Pin { path: path.as_ptr() as u64, descriptor: number(descriptor), flags: 0 };
        bpf(Command::ObjectPin, &mut argument)
            .context(|| format!("pin {}", self.path.join(name).display()))
            .map(drop)
    }

    /// What is pinned as `name`.
    ///
    /// # Errors
    /// `NotFound` if nothing is, the kernel's otherwise.
    pub fn get(&self, name: &str) -> Result<OwnedFd> {
        let path = self.c_path(name)?;
        let mut argument = Pin { path: path.as_ptr() as u64, descriptor: 0, flags: 0 };
        let shown = self.path.join(name);
        match bpf_descriptor(Command::ObjectGet, &mut argument) {
            Ok(descriptor) => Ok(descriptor),
            Err(Errno::ENOENT) => {
                Err(Error::new(ErrorKind::NotFound, format!("{}: not pinned", shown.display())))
            }
            Err(errno) => Err(Error::io(format!("get {}", shown.display()), errno.into())),
        }
    }

    /// Takes the pin `name` away, if there is one.
    ///
    /// # Errors
    /// `Io`.
    pub fn unpin(&self, name: &str) -> Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("unpin {}", self.path.join(name).display()), error))
            }
            _ => Ok(()),
        }
    }

    /// The names of all pins.
    ///
    /// # Errors
    /// `Io`.
    pub fn names(&self) -> Result<Vec<String>> {
        let entries =
            fs::read_dir(&self.path).context(|| format!("list {}", self.path.display()))?;
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.collect())
    }

    fn c_path(&self, name: &str) -> Result<CString> {
        CString::new(self.path.join(name).as_os_str().as_bytes())
            .map_err(|_| Error::new(ErrorKind::Invalid, "a pin's name with a zero byte"))
    }
}

impl FoundFolder {
    /// The folder, if there is one.
    ///
    /// # Errors
    /// `Unsupported` if others could write to it.
    pub fn closed(self) -> Result<Option<BpfFolder>> {
        match self {
            Self::Missing => Ok(None),
            Self::Closed(folder) => Ok(Some(folder)),
            Self::Open(ForeignFolder { path, why }) => {
                let context = format!(
                    "{}: what it says is not believed: {why}; stop tracking and start it again",
                    path.display()
                );
                Err(Error::new(ErrorKind::Unsupported, context))
            }
        }
    }
}

impl ForeignFolder {
    /// Removes it with all that is in it.
    ///
    /// # Errors
    /// `Io`.
    pub fn remove(self) -> Result<()> {
        let removed = match fs::symlink_metadata(&self.path) {
            Ok(facts) if facts.is_dir() => fs::remove_dir_all(&self.path),
            Ok(_) => fs::remove_file(&self.path),
            Err(error) => Err(error),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Error::io(format!("remove {}", self.path.display()), error))
            }
            _ => Ok(()),
        }
    }
}

/// Why somebody but root may have written to what has these facts, in a folder with those
/// `around` it.
fn distrust(facts: &Metadata, around: &Metadata) -> Option<String> {
    if !facts.is_dir() {
        return Some("it is no folder".to_owned());
    }
    if facts.uid() != 0 {
        return Some(format!("it is of user {}, not of root", facts.uid()));
    }
    if facts.mode() & WRITABLE != 0 {
        return Some(format!("others may write to it (mode {:o})", facts.mode() & 0o7777));
    }
    if around.uid() != 0 {
        return Some(format!("{MOUNT_POINT} is of user {}, not of root", around.uid()));
    }
    let is_open = around.mode() & WRITABLE != 0 && around.mode() & STICKY == 0;
    is_open.then(|| format!("others may rename what is in {MOUNT_POINT}"))
}

fn open(path: &Path) -> Result<File> {
    let flags = (OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW).bits();
    let folder = OpenOptions::new().read(true).custom_flags(flags).open(path);
    folder.context(|| format!("open {}", path.display()))
}

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|facts| facts.filesystem_type() == BPF_FS_MAGIC)
}
