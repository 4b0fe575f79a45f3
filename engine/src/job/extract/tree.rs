//! The folder that files are extracted into. Nothing is made outside of it and no symbolic link
//! on the way is followed, whether the image or somebody else put it there.
//!
//! A folder is *closed* if nobody else can change the names in it: names made there stay what
//! they are. Where others may, everything is made in a folder of our own (see
//! [`workshop`](super::workshop)), gets its attributes there, and is moved to its name when it is
//! whole. Folders that lie where others may rename them are held open, so that what goes into
//! them goes into the ones that were made.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, OpenHow, ResolveFlag, openat, openat2};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::unistd::{Uid, geteuid};

use super::acl;
use super::handle::Handle;
use super::run::lock;
use super::spot::Spot;
use super::target::Opened;
use super::trouble::{Made, Trouble};
use super::workshop::{Workshop, ignores_case};
use crate::base::{ErrorContext, Result};

/// A folder's place, which is all that is needed to make things in it.
pub(super) const FOLDER: OFlag =
    OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
/// Bytes of a path that the kernel takes at once (`PATH_MAX`), with room to spare.
const LONGEST_PATH: usize = 4000;
/// What others may do to a folder that changes the names in it.
const OTHERS_WRITE: u32 = 0o022;

/// The target folder.
pub(super) struct Tree {
    pub(super) root: Folder,
    path: PathBuf,
    pub(super) overwrite: bool,
    /// Whether the kernel resolves whole paths without following links (`openat2`, Linux 5.6).
    has_openat2: AtomicBool,
    workshops: Mutex<HashMap<WorkshopKey, Option<Arc<Workshop>>>>,
    /// What was made in folders that were there before, by device and inode: names that the
    /// target takes for the same must not replace one another.
    made: Mutex<HashSet<Identity>>,
    /// The folders that were there before and are used.
    used: Mutex<HashSet<Identity>>,
    /// The names that items have in such folders, by the folder's item and the name in small
    /// letters: not every filesystem gives one file one inode number.
    claims: Mutex<HashMap<SmallName, Vec<Claim>>>,
    /// Held while something in such a folder gets its name.
    pub(super) replacing: Mutex<()>,
    /// Whether folders take names for the same that differ by case.
    ignoring_case: Mutex<HashMap<Identity, bool>>,
    #[cfg(test)]
    pub(super) witness: Option<Witness>,
}

/// The item of a folder, and a name in it in small letters.
type SmallName = (Option<u32>, String);

/// An item, and the name that it has.
type Claim = (usize, OsString);

/// Device and inode.
pub(super) type Identity = (u64, u64);

/// One workshop serves a whole filesystem, but for folders that it cannot move into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum WorkshopKey {
    Filesystem(u64),
    Folder(Identity),
}

/// Moments of an extraction at which somebody else may do something; only tests listen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Moment {
    /// Something is about to be made.
    Making,
    /// It is there and has no attributes yet.
    Made,
    /// It is whole and about to get its name.
    Settling,
    /// It has its name.
    Settled,
    /// A further name of a file is about to be made.
    Linking,
    /// A folder is about to be opened to make something in it.
    Opening,
    /// A folder is about to get its attributes.
    Giving,
}

#[cfg(test)]
pub(super) type Witness = Box<dyn Fn(Moment) + Send + Sync>;

/// An open folder of the target.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    pub(super) handle: Arc<OwnedFd>,
    pub(super) standing: Standing,
}

/// What is known of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Standing {
    /// Nobody else can change the names in it.
    pub(super) is_closed: bool,
    /// It was made by this extraction: all names in it were, too.
    pub(super) is_new: bool,
    /// Another user may have put it where it is, though it is not that user's own.
    pub(super) is_doubtful: bool,
}

impl Standing {
    /// That of a folder that was made just now.
    pub(super) const NEW: Self = Self { is_closed: true, is_new: true, is_doubtful: false };
}

impl Folder {
    fn identity(&self) -> Made<Identity> {
        let stat = Handle::Place(&self.handle).stat().context(|| "look at the target folder");
        stat.map(|stat| identity(&stat)).map_err(Trouble::target)
    }
}

pub(super) fn identity(stat: &FileStat) -> Identity {
    (stat.st_dev, stat.st_ino)
}

/// Whether nobody else can change the names in a folder that was there before.
fn is_closed(folder: &OwnedFd) -> nix::Result<bool> {
    let handle = Handle::Place(folder);
    let stat = handle.stat()?;
    let is_ours = Uid::from_raw(stat.st_uid) == geteuid() && stat.st_mode & OTHERS_WRITE == 0;
    // What is made in a folder with such a list would get rights from it.
    Ok(is_ours && !handle.has_attribute(acl::DEFAULT))
}

/// What is to be thought of `folder`, which was there before in `within`.
pub(super) fn standing(folder: &OwnedFd, within: &Folder) -> nix::Result<Standing> {
    let owner = |folder: &OwnedFd| Handle::Place(folder).stat().map(|stat| stat.st_uid);
    let (own, outer) = (owner(folder)?, owner(&within.handle)?);
    // A user can have any folder of root's there, or none, and it is root who is asked to change
    // it. Without root's rights there is nothing to gain.
    let is_anothers = geteuid().is_root() && outer != 0 && own != outer;
    let is_doubtful = within.standing.is_doubtful || is_anothers;
    Ok(Standing { is_closed: is_closed(folder)?, is_new: false, is_doubtful })
}

impl Tree {
    /// The tree below the open folder `root`, which messages call `path`.
    pub(super) fn new(target: Opened, path: &Path, overwrite: bool) -> Result<Self> {
        let shown = || format!("look at {}", path.display());
        let is_closed = is_closed(&target.folder).context(shown)?;
        // Where others may put things into it, not all that is in it was made by us.
        let is_new = target.is_new && is_closed;
        let standing = Standing { is_closed, is_new, is_doubtful: false };
        let root = Folder { handle: Arc::new(target.folder), standing };
        Ok(Self {
            root,
            path: path.to_owned(),
            overwrite,
            has_openat2: AtomicBool::new(true),
            workshops: Mutex::default(),
            made: Mutex::default(),
            used: Mutex::default(),
            claims: Mutex::default(),
            replacing: Mutex::default(),
            ignoring_case: Mutex::default(),
            #[cfg(test)]
            witness: None,
        })
    }

    /// What messages call the thing at `path` below the target folder.
    pub(super) fn shown(&self, path: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(path))
    }

    #[cfg_attr(not(test), allow(clippy::unused_self))]
    pub(super) fn at(&self, moment: Moment) {
        #[cfg(test)]
        if let Some(witness) = &self.witness {
            witness(moment);
        }
        let _ = moment;
    }

    #[cfg(test)]
    pub(super) fn set_openat2(&mut self, has_it: bool) {
        self.has_openat2 = AtomicBool::new(has_it);
    }

    /// Opens the folder that `names` lead to from `base`, following no link.
    pub(super) fn open_below(&self, base: &OwnedFd, names: &[&[u8]]) -> nix::Result<OwnedFd> {
        let path = names.join(&b'/');
        if self.has_openat2.load(Ordering::Relaxed) && path.len() < LONGEST_PATH {
            let resolve = ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS;
            let how = OpenHow::new().flags(FOLDER).resolve(resolve);
            match openat2(base, OsStr::from_bytes(&path), how) {
                // Old kernels, and filters of system calls that do not know it: go on as below.
                Err(Errno::ENOSYS | Errno::EPERM) => {
                    self.has_openat2.store(false, Ordering::Relaxed);
                }
                Err(Errno::EAGAIN) => {}
                opened => return opened,
            }
        }
        let mut folder = base
            .try_clone()
            .map_err(|error| error.raw_os_error().map_or(Errno::EMFILE, Errno::from_raw))?;
        for name in names {
            folder = openat(&folder, OsStr::from_bytes(name), FOLDER, Mode::empty())?;
        }
        Ok(folder)
    }

    /// The workshop for what is to go into `folder`; `None` where there can be none that is
    /// closed, because the filesystem keeps no owners: then there is nothing to protect either.
    pub(super) fn workshop(&self, folder: &Folder) -> Made<Option<Arc<Workshop>>> {
        let identity = folder.identity()?;
        let mut workshops = lock(&self.workshops);
        if let Some(own) = workshops.get(&WorkshopKey::Folder(identity)) {
            return Ok(own.clone());
        }
        let key = WorkshopKey::Filesystem(identity.0);
        if let Some(shared) = workshops.get(&key) {
            return Ok(shared.clone());
        }
        let first = if self.root.identity()?.0 == identity.0 { &self.root } else { folder };
        let opened = match Workshop::open(first, self) {
            // Perhaps one may write to that folder, though not to the target folder itself.
            Err(Errno::EACCES | Errno::EROFS) => Workshop::open(folder, self),
            opened => opened,
        };
        let opened = opened.context(|| "make a folder of one's own at the target");
        let opened = opened.map_err(Trouble::target)?.map(Arc::new);
        workshops.insert(key, opened.clone());
        Ok(opened)
    }

    /// Has what goes into `folder` made within it from now on.
    pub(super) fn work_within(&self, folder: &Folder) -> Made<()> {
        let key = WorkshopKey::Folder(folder.identity()?);
        let opened =
            Workshop::open(folder, self).context(|| "make a folder of one's own at the target");
        let opened = opened.map_err(Trouble::target)?;
        lock(&self.workshops).insert(key, opened.map(Arc::new));
        Ok(())
    }

    /// Takes the name at `spot` for its item; returns false if another item has it, or one that
    /// is the same to the target.
    pub(super) fn claim(&self, spot: &Spot<'_>) -> bool {
        let key = (spot.parent, spot.name.to_string_lossy().to_lowercase());
        let mut claims = lock(&self.claims);
        let claims = claims.entry(key).or_default();
        let others = || claims.iter().filter(|(item, _)| *item != spot.item);
        let is_free = others().all(|(_, name)| name != spot.name)
            && (others().next().is_none() || !self.ignores_case(&spot.folder));
        if is_free {
            claims.push((spot.item, spot.name.to_owned()));
        }
        is_free
    }

    /// Notes what was made in a folder that was there before.
    pub(super) fn note_made(&self, stat: &FileStat) {
        lock(&self.made).insert(identity(stat));
    }

    /// Forgets what was made at `spot`: it is about to be removed, and its inode may be another's.
    pub(super) fn forget(&self, spot: &Spot<'_>) {
        let found = fstatat(&*spot.folder.handle, spot.name, AtFlags::AT_SYMLINK_NOFOLLOW);
        if let Ok(stat) = found {
            lock(&self.made).remove(&identity(&stat));
        }
    }

    /// Notes that the open `folder`, which was there before, is used for an item; returns false
    /// if it is for another one already.
    pub(super) fn note_used(&self, folder: &OwnedFd) -> nix::Result<bool> {
        let stat = Handle::Place(folder).stat()?;
        Ok(lock(&self.used).insert(identity(&stat)))
    }

    /// Whether what is at `spot` was made by this extraction, under this name or another that the
    /// target takes for the same.
    pub(super) fn is_made(&self, spot: &Spot<'_>) -> bool {
        let found = fstatat(&*spot.folder.handle, spot.name, AtFlags::AT_SYMLINK_NOFOLLOW);
        spot.folder.standing.is_new
            || found.is_ok_and(|stat| lock(&self.made).contains(&identity(&stat)))
    }

    fn ignores_case(&self, folder: &Folder) -> bool {
        let Ok(identity) = folder.identity() else { return false };
        let mut known = lock(&self.ignoring_case);
        *known.entry(identity).or_insert_with(|| ignores_case(&folder.handle))
    }

    /// Whether an open folder was made by this extraction, whatever its name is now.
    pub(super) fn is_made_itself(&self, folder: &Folder) -> Made<bool> {
        let identity = folder.identity()?;
        Ok(lock(&self.made).contains(&identity))
    }
}
