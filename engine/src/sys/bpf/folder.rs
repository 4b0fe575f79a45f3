//! A folder in bpffs, where maps, programs and links outlive the process that made them.

use std::ffi::CString;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MsFlags, mount};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

use super::call::{Command, Pin, bpf, bpf_descriptor, number};
use crate::base::{Error, ErrorContext, ErrorKind, Result};

/// Where bpffs belongs.
const MOUNT_POINT: &str = "/sys/fs/bpf";

/// An existing folder in bpffs.
#[derive(Debug, Clone)]
pub struct BpfFolder {
    path: PathBuf,
}

impl BpfFolder {
    /// The folder `name` in bpffs, which is mounted and made where it is missing.
    ///
    /// # Errors
    /// `Unsupported` where bpffs cannot be had.
    pub fn create(name: &str) -> Result<Self> {
        let point = Path::new(MOUNT_POINT);
        if !is_bpffs(point) {
            let none: Option<&str> = None;
            mount(Some("bpf"), point, Some("bpf"), MsFlags::empty(), none).map_err(|errno| {
                let context = format!("bpffs cannot be mounted on {MOUNT_POINT}: {}", errno.desc());
                Error::new(ErrorKind::Unsupported, context)
            })?;
        }
        let folder = Self { path: point.join(name) };
        match fs::create_dir(&folder.path) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                Err(Error::io(format!("make {}", folder.path.display()), error))
            }
            _ => Ok(folder),
        }
    }

    /// The folder `name`, if bpffs is mounted and holds it.
    #[must_use]
    pub fn existing(name: &str) -> Option<Self> {
        let path = Path::new(MOUNT_POINT).join(name);
        (is_bpffs(Path::new(MOUNT_POINT)) && path.is_dir()).then_some(Self { path })
    }

    /// Waits until no other process holds the folder, and holds it while the answer lives.
    ///
    /// # Errors
    /// `Io`.
    pub fn lock(&self) -> Result<Flock<File>> {
        let folder = File::open(&self.path).context(|| format!("open {}", self.path.display()))?;
        Flock::lock(folder, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::io(format!("lock {}", self.path.display()), errno.into()))
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
            Err(nix::errno::Errno::ENOENT) => {
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
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
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

fn is_bpffs(path: &Path) -> bool {
    statfs(path).is_ok_and(|facts| facts.filesystem_type() == BPF_FS_MAGIC)
}
