//! A folder of our own at the target, closed to everybody else, in which things are made that go
//! where others may change names: there nobody can put another file under a name between the call
//! that makes it and the one that opens it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FileStat, Mode, fstatat, mkdirat};
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};

use super::acl;
use super::handle::Handle;
use super::tree::{Folder, Moment, Tree};

const FLAGS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const NEW_FILE: OFlag =
    OFlag::O_WRONLY.union(OFlag::O_CREAT).union(OFlag::O_EXCL).union(OFlag::O_CLOEXEC);
/// Times that it is tried, where somebody else puts other folders in its place.
const ATTEMPTS: usize = 16;
/// The name of the folder within the folder.
const INNER: &str = "new";

#[derive(Debug)]
pub(super) struct Workshop {
    within: Arc<OwnedFd>,
    name: OsString,
    outer: OwnedFd,
    inner: OwnedFd,
    next: AtomicU64,
}

impl Workshop {
    /// Makes one in `within`; `None` where the filesystem keeps no owners or permissions.
    ///
    /// Only the outer of two folders can be exchanged for another by somebody else. That one is
    /// used for nothing but the inner one, and only if it is closed, whichever it is; the inner
    /// one cannot be any other than ours.
    pub(super) fn open(within: &Folder, tree: &Tree) -> nix::Result<Option<Self>> {
        for _ in 0..ATTEMPTS {
            let name = random_name()?;
            match mkdirat(&*within.handle, name.as_os_str(), Mode::S_IRWXU) {
                Ok(()) => {}
                Err(Errno::EEXIST) => continue,
                Err(errno) => return Err(errno),
            }
            tree.at(Moment::Opening);
            let outer = match openat(&*within.handle, name.as_os_str(), FLAGS, Mode::empty()) {
                Ok(outer) => outer,
                Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP | Errno::EACCES) => continue,
                Err(errno) => return Err(errno),
            };
            if !is_closed(&Handle::Place(&outer).stat()?) {
                remove_folder(&within.handle, &name, &outer);
                if keeps_owners(within)? {
                    continue;
                }
                return Ok(None);
            }
            let (within, next) = (Arc::clone(&within.handle), AtomicU64::new(0));
            let inner = open_inner(&outer);
            return match inner {
                Ok(inner) => Ok(Some(Self { within, name, outer, inner, next })),
                Err(errno) => {
                    remove_folder(&within, &name, &outer);
                    Err(errno)
                }
            };
        }
        Err(Errno::EBUSY)
    }

    /// The folder.
    pub(super) fn folder(&self) -> &OwnedFd {
        &self.inner
    }

    /// A name in it that was never used.
    pub(super) fn name(&self) -> OsString {
        self.next.fetch_add(1, Ordering::Relaxed).to_string().into()
    }
}

fn open_inner(outer: &OwnedFd) -> nix::Result<OwnedFd> {
    mkdirat(outer, INNER, Mode::S_IRWXU)?;
    let inner = File::from(openat(outer, INNER, FLAGS, Mode::empty())?);
    // Lists that it inherited would give others rights to what is made in it.
    let handle = Handle::Open(&inner);
    handle.remove_attribute(acl::DEFAULT)?;
    handle.remove_attribute(acl::ACCESS)?;
    Ok(inner.into())
}

/// Whether nobody else can reach what is in a folder. Its group's bits are all that an access
/// control list can give to anybody.
fn is_closed(folder: &FileStat) -> bool {
    folder.st_uid == geteuid().as_raw() && folder.st_mode & 0o077 == 0
}

/// Whether new files are whose they should be and closed to others; the descriptor of a new file
/// cannot be that of any other.
fn keeps_owners(within: &Folder) -> nix::Result<bool> {
    let name = random_name()?;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = File::from(openat(&*within.handle, name.as_os_str(), NEW_FILE, mode)?);
    let _ = unlinkat(&*within.handle, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    Ok(is_closed(&Handle::Open(&file).stat()?))
}

/// Whether a folder takes names for the same that differ by case. A new file that is also there
/// under another name says so.
pub(super) fn ignores_case(folder: &OwnedFd) -> bool {
    let Ok(name) = random_name() else { return false };
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let Ok(_file) = openat(folder, name.as_os_str(), NEW_FILE, mode) else { return false };
    let large = name.to_ascii_uppercase();
    let found = fstatat(folder, large.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW).is_ok();
    let _ = unlinkat(folder, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
    found
}

/// A name that nobody else has.
pub(super) fn random_name() -> nix::Result<OsString> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|_| Errno::EIO)?;
    Ok(format!(".imgx-{:016x}", u64::from_le_bytes(random)).into())
}

/// Removes the empty folder that is open as `folder`, if it still has that name.
fn remove_folder(within: &OwnedFd, name: &OsStr, folder: &OwnedFd) {
    let named = fstatat(within, name, AtFlags::AT_SYMLINK_NOFOLLOW);
    let is_it = match (named, Handle::Place(folder).stat()) {
        (Ok(named), Ok(open)) => (named.st_dev, named.st_ino) == (open.st_dev, open.st_ino),
        _ => false,
    };
    if is_it {
        let _ = unlinkat(within, name, UnlinkatFlags::RemoveDir);
    }
}

impl Drop for Workshop {
    fn drop(&mut self) {
        remove_folder(&self.outer, OsStr::new(INNER), &self.inner);
        // If somebody else renamed it, it stays, empty.
        remove_folder(&self.within, &self.name, &self.outer);
    }
}
