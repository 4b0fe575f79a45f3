//! What was made, by an open descriptor. Whoever may rename things in a folder can put another
//! file under any name there, so nothing that has been made is ever looked up by its name again.

use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, fstat, futimens, utimensat,
};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, fchownat, linkat};
use xattr::FileExt;

/// An open file or folder.
#[derive(Debug, Clone, Copy)]
pub(super) enum Handle<'a> {
    /// Open for reading or writing.
    Open(&'a File),
    /// Only its place (`O_PATH`): links, devices, pipes and sockets are never opened.
    Place(&'a OwnedFd),
}

impl Handle<'_> {
    fn descriptor(&self) -> BorrowedFd<'_> {
        match self {
            Self::Open(file) => file.as_fd(),
            Self::Place(place) => place.as_fd(),
        }
    }

    /// A path that leads to just this file, whatever is renamed: the kernel goes by the
    /// descriptor. Of a symbolic link it is the link itself, which is not followed any further.
    fn path(&self) -> String {
        format!("/proc/self/fd/{}", self.descriptor().as_raw_fd())
    }

    pub(super) fn stat(&self) -> nix::Result<FileStat> {
        fstat(self.descriptor())
    }

    pub(super) fn set_owner(&self, uid: Option<Uid>, gid: Option<Gid>) -> nix::Result<()> {
        fchownat(self.descriptor(), "", uid, gid, AtFlags::AT_EMPTY_PATH)
    }

    pub(super) fn set_mode(&self, mode: Mode) -> nix::Result<()> {
        match self {
            Self::Open(file) => fchmod(file, mode),
            Self::Place(_) => {
                fchmodat(AT_FDCWD, self.path().as_str(), mode, FchmodatFlags::FollowSymlink)
            }
        }
    }

    pub(super) fn set_times(&self, accessed: &TimeSpec, modified: &TimeSpec) -> nix::Result<()> {
        match self {
            Self::Open(file) => futimens(file.as_fd(), accessed, modified),
            Self::Place(_) => {
                let (path, follow) = (self.path(), UtimensatFlags::FollowSymlink);
                utimensat(AT_FDCWD, path.as_str(), accessed, modified, follow)
            }
        }
    }

    pub(super) fn set_attribute(&self, name: &[u8], value: &[u8]) -> nix::Result<()> {
        let name = OsStr::from_bytes(name);
        let set = match self {
            Self::Open(file) => file.set_xattr(name, value),
            Self::Place(_) => xattr::set_deref(self.path(), name, value),
        };
        set.map_err(|error| number_of(&error))
    }

    /// Removes an attribute, if it is there.
    pub(super) fn remove_attribute(&self, name: &str) -> nix::Result<()> {
        let removed = match self {
            Self::Open(file) => file.remove_xattr(name),
            Self::Place(_) => xattr::remove_deref(self.path(), name),
        };
        match removed.map_err(|error| number_of(&error)) {
            Err(Errno::ENODATA | Errno::EOPNOTSUPP) => Ok(()),
            other => other,
        }
    }

    /// Whether it has an attribute of this name.
    pub(super) fn has_attribute(&self, name: &str) -> bool {
        let found = match self {
            Self::Open(file) => file.get_xattr(name),
            Self::Place(_) => xattr::get_deref(self.path(), name),
        };
        found.is_ok_and(|value| value.is_some())
    }

    /// Gives it the further name `name` in `folder`.
    pub(super) fn link(&self, folder: &OwnedFd, name: &OsStr) -> nix::Result<()> {
        match linkat(self.descriptor(), "", folder, name, AtFlags::AT_EMPTY_PATH) {
            // Only root may do it that way, or whoever opened it, as of Linux 6.10.
            Err(Errno::ENOENT | Errno::EPERM | Errno::EINVAL) => {
                let follow = AtFlags::AT_SYMLINK_FOLLOW;
                linkat(AT_FDCWD, self.path().as_str(), folder, name, follow)
            }
            linked => linked,
        }
    }
}

fn number_of(error: &std::io::Error) -> Errno {
    // A name with a NUL within has no number: no filesystem has such attributes.
    error.raw_os_error().map_or(Errno::EINVAL, Errno::from_raw)
}
