//! The folder that files are extracted into. Every path is gone down from its handle, a folder at
//! a time, and no symbolic link is followed: what is made lies below it, whoever plants links
//! there.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, SFlag, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use crate::base::{Error, ErrorContext, ErrorKind, Result};

/// For the owner alone, until a file is whole and gets its own mode.
const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
const PRIVATE_FOLDER: Mode = Mode::S_IRWXU;
const FOLDER: OFlag = OFlag::O_DIRECTORY.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// The target folder.
pub(super) struct Tree {
    root: OwnedFd,
    path: PathBuf,
    overwrite: bool,
}

/// A place in it: an open folder, and a name there.
pub(super) struct Spot<'a> {
    tree: &'a Tree,
    pub folder: OwnedFd,
    pub name: &'a OsStr,
    shown: String,
}

impl Tree {
    /// Opens `path`, making it if need be.
    pub(super) fn open(path: &Path, overwrite: bool) -> Result<Self> {
        std::fs::create_dir_all(path).context(|| format!("create {}", path.display()))?;
        let flags = OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = nix::fcntl::open(path, flags, Mode::empty());
        let root = root.context(|| format!("open {}", path.display()))?;
        Ok(Self { root, path: path.to_owned(), overwrite })
    }

    /// The place that `parts` lead to, through folders that are there.
    pub(super) fn spot<'a>(&'a self, parts: &[&'a [u8]]) -> Result<Spot<'a>> {
        let shown = self.path.join(OsStr::from_bytes(&parts.join(&b'/'))).display().to_string();
        let Some((name, folders)) = parts.split_last() else {
            return Err(Error::new(ErrorKind::Invalid, format!("{shown}: an empty path")));
        };
        for part in parts {
            let is_special = matches!(*part, b"" | b"." | b"..");
            if is_special || part.iter().any(|byte| matches!(byte, b'/' | 0)) {
                return Err(Error::corrupt(&shown, "a file's name", "one that leads elsewhere"));
            }
        }
        let open = || format!("open the folder of {shown}");
        let mut folder = self.root.try_clone().context(open)?;
        for part in folders {
            let next = openat(&folder, OsStr::from_bytes(part), FOLDER, Mode::empty());
            folder = next.map_err(|errno| match errno {
                Errno::ENOTDIR | Errno::ELOOP => Error::new(
                    ErrorKind::Conflict,
                    format!("{shown}: '{}' is no folder there", String::from_utf8_lossy(part)),
                ),
                _ => Error::io(open(), errno.into()),
            })?;
        }
        Ok(Spot { tree: self, folder, name: OsStr::from_bytes(name), shown })
    }
}

impl Spot<'_> {
    /// Makes a folder; returns whether it is new. One that is there is used.
    pub(super) fn make_folder(&self) -> Result<bool> {
        match mkdirat(&self.folder, self.name, PRIVATE_FOLDER) {
            Ok(()) => Ok(true),
            Err(Errno::EEXIST) if self.open_folder().is_ok() => Ok(false),
            Err(Errno::EEXIST) => Err(self.exists()),
            Err(errno) => Err(self.failed("make", errno)),
        }
    }

    /// Opens the folder that is there.
    pub(super) fn open_folder(&self) -> Result<OwnedFd> {
        let opened = openat(&self.folder, self.name, FOLDER, Mode::empty());
        opened.map_err(|errno| self.failed("open", errno))
    }

    /// Makes an empty file.
    pub(super) fn make_file(&self) -> Result<File> {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY;
        let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        self.make(|| openat(&self.folder, self.name, flags, PRIVATE_FILE)).map(File::from)
    }

    /// Makes a symbolic link that says `target`.
    pub(super) fn make_link(&self, target: &[u8]) -> Result<()> {
        self.make(|| symlinkat(OsStr::from_bytes(target), &self.folder, self.name))
    }

    /// Makes another name of the file at `first`.
    pub(super) fn make_name_of(&self, first: &Spot<'_>) -> Result<()> {
        let flags = AtFlags::empty();
        self.make(|| linkat(&first.folder, first.name, &self.folder, self.name, flags))
    }

    /// Makes a device, pipe or socket.
    pub(super) fn make_node(&self, kind: SFlag, device: (u32, u32)) -> Result<()> {
        let number = makedev(device.0.into(), device.1.into());
        self.make(|| mknodat(&self.folder, self.name, kind, PRIVATE_FILE, number))
    }

    /// Removes what is there, unless it is a folder.
    pub(super) fn remove(&self) -> Result<()> {
        let removed = unlinkat(&self.folder, self.name, UnlinkatFlags::NoRemoveDir);
        removed.map_err(|errno| match errno {
            Errno::EISDIR | Errno::EPERM => self.exists(),
            _ => self.failed("replace", errno),
        })
    }

    /// Makes something new, in the place of what is there where that may be replaced.
    fn make<T>(&self, make: impl Fn() -> nix::Result<T>) -> Result<T> {
        match make() {
            Err(Errno::EEXIST) if self.tree.overwrite => {
                self.remove()?;
                make().map_err(|errno| self.failed("make", errno))
            }
            Err(Errno::EEXIST) => Err(self.exists()),
            made => made.map_err(|errno| self.failed("make", errno)),
        }
    }

    fn exists(&self) -> Error {
        let hint = if self.tree.overwrite { "" } else { " (see --overwrite)" };
        Error::new(ErrorKind::Conflict, format!("{}: it exists already{hint}", self.shown))
    }

    /// What messages call it.
    pub(super) fn shown(&self) -> &Path {
        Path::new(&self.shown)
    }

    /// A failure of the target's filesystem.
    pub(super) fn failed(&self, what: &str, errno: Errno) -> Error {
        Error::io(format!("{what} {}", self.shown), errno.into())
    }
}
