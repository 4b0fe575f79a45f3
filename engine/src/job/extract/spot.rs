//! Making one thing in the target folder.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::sync::Arc;

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, RenameFlags, openat, renameat, renameat2};
use nix::sys::stat::{Mode, SFlag, fstatat, makedev, mkdirat, mknodat};
use nix::unistd::{UnlinkatFlags, linkat, symlinkat, unlinkat};

use super::handle::Handle;
use super::names;
use super::run::lock;
use super::tree::{FOLDER, Folder, Moment, Standing, Tree, standing};
use super::trouble::{Made, Trouble};
use super::workshop::{Workshop, random_name};
use crate::base::{Error, ErrorKind};

/// For the owner alone, until a file is whole and gets its own mode.
const PRIVATE_FILE: Mode = Mode::S_IRUSR.union(Mode::S_IWUSR);
const PRIVATE_FOLDER: Mode = Mode::S_IRWXU;
const NEW_FILE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);
const PLACE: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
const OPEN_FOLDER: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// A place in the target: an open folder, and a name there.
pub(super) struct Spot<'a> {
    pub(super) tree: &'a Tree,
    /// The item that is made, and that of its folder; none for the target folder.
    pub(super) item: usize,
    pub(super) parent: Option<u32>,
    pub(super) folder: Folder,
    pub(super) name: &'a OsStr,
    pub(super) shown: PathBuf,
    /// It lends its owner's or group's rights: others must not even see it before it is whole,
    /// because its owner could change what it does meanwhile.
    pub(super) is_lending: bool,
}

/// Something new that may not have its name yet. What is dropped unsettled is removed.
pub(super) struct Draft<'s> {
    spot: &'s Spot<'s>,
    workshop: Option<Arc<Workshop>>,
    /// Its name where it is now.
    name: OsString,
    is_folder: bool,
    /// It has its own name already.
    is_placed: bool,
    is_settled: bool,
}

/// A folder that was made or found.
pub(super) struct MadeFolder {
    pub(super) standing: Standing,
    /// The folder itself, where its name says too little.
    pub(super) handle: Option<OwnedFd>,
}

impl Spot<'_> {
    /// Makes an empty file.
    pub(super) fn make_file(&self) -> Made<(File, Draft<'_>)> {
        let make = |folder: &OwnedFd, name: &OsStr| openat(folder, name, NEW_FILE, PRIVATE_FILE);
        let (file, draft) = self.make(&make)?;
        self.tree.at(Moment::Made);
        Ok((File::from(file), draft))
    }

    /// Makes a symbolic link that says `target`.
    pub(super) fn make_link(&self, target: &[u8]) -> Made<(OwnedFd, Draft<'_>)> {
        self.make_unopened(&|folder, name| symlinkat(OsStr::from_bytes(target), folder, name))
    }

    /// Makes a device, pipe or socket.
    pub(super) fn make_node(&self, kind: SFlag, device: (u32, u32)) -> Made<(OwnedFd, Draft<'_>)> {
        let number = makedev(device.0.into(), device.1.into());
        self.make_unopened(&|folder, name| mknodat(folder, name, kind, PRIVATE_FILE, number))
    }

    /// Gives `file` a further name here.
    pub(super) fn make_name_of(&self, file: Handle<'_>) -> Made<()> {
        self.tree.at(Moment::Linking);
        let made = self.make(&|folder, name| file.link(folder, name));
        let ((), draft) = made.map_err(Trouble::or_kind)?;
        draft.settle()
    }

    fn make_unopened(
        &self,
        make: &dyn Fn(&OwnedFd, &OsStr) -> nix::Result<()>,
    ) -> Made<(OwnedFd, Draft<'_>)> {
        let ((), draft) = self.make(make).map_err(Trouble::or_kind)?;
        self.tree.at(Moment::Made);
        let place = openat(draft.folder(), draft.name.as_os_str(), PLACE, Mode::empty());
        let place = place.map_err(|errno| Trouble::target(self.failed("open", errno)))?;
        Ok((place, draft))
    }

    /// Makes something new: here, where that is closed to others and nothing is there, else in
    /// the workshop.
    fn make<T>(&self, make: &dyn Fn(&OwnedFd, &OsStr) -> nix::Result<T>) -> Made<(T, Draft<'_>)> {
        self.tree.at(Moment::Making);
        self.claim()?;
        if self.folder.standing.is_closed && !self.is_lending {
            match self.make_here(make)? {
                Some(made) => return Ok((made, self.draft(None))),
                None => self.may_replace()?,
            }
        } else {
            match fstatat(&*self.folder.handle, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                Ok(_) => self.may_replace()?,
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(self.refused(errno)),
            }
        }
        if let Some(workshop) = self.tree.workshop(&self.folder)? {
            let draft = self.draft(Some(workshop));
            return Ok((self.made(make(draft.folder(), &draft.name))?, draft));
        }
        // Nobody's rights are kept here, so that there is nothing to protect.
        if let Some(made) = self.make_here(make)? {
            return Ok((made, self.draft(None)));
        }
        self.may_replace()?;
        let name = random_name().map_err(|errno| Trouble::target(self.failed("make", errno)))?;
        let mut draft = self.draft(None);
        (draft.name, draft.is_placed) = (name, false);
        Ok((self.made(make(draft.folder(), &draft.name))?, draft))
    }

    /// Makes something new under its own name; `None` if something is there.
    fn make_here<T>(&self, make: &dyn Fn(&OwnedFd, &OsStr) -> nix::Result<T>) -> Made<Option<T>> {
        // Nobody is to replace what is made before it is noted that it was.
        let _alone = (!self.folder.standing.is_new).then(|| lock(&self.tree.replacing));
        match make(&self.folder.handle, self.name) {
            Err(Errno::EEXIST) => Ok(None),
            made => {
                let made = self.made(made)?;
                self.note_made(&self.folder.handle, self.name)?;
                Ok(Some(made))
            }
        }
    }

    /// Takes the name for this item, unless another has it, or one that is the same to the target.
    fn claim(&self) -> Made<()> {
        if self.folder.standing.is_new || self.tree.claim(self) {
            Ok(())
        } else {
            Err(self.same_name())
        }
    }

    fn made<T>(&self, made: nix::Result<T>) -> Made<T> {
        made.map_err(|errno| self.refused(errno))
    }

    fn draft(&self, workshop: Option<Arc<Workshop>>) -> Draft<'_> {
        let name = workshop.as_ref().map_or_else(|| self.name.to_owned(), |work| work.name());
        let is_placed = workshop.is_none();
        Draft { spot: self, workshop, name, is_folder: false, is_placed, is_settled: false }
    }

    /// Makes a folder, or uses the one that is there.
    pub(super) fn make_folder(&self) -> Made<MadeFolder> {
        self.tree.at(Moment::Making);
        self.claim()?;
        let within = &*self.folder.handle;
        if self.folder.standing.is_closed {
            match mkdirat(within, self.name, PRIVATE_FOLDER) {
                Err(Errno::EEXIST) => return self.use_folder(),
                made => self.made(made)?,
            }
            self.note_made(within, self.name)?;
            return Ok(MadeFolder { standing: Standing::NEW, handle: None });
        }
        match fstatat(within, self.name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => return self.use_folder(),
            Err(Errno::ENOENT) => {}
            Err(errno) => return Err(self.refused(errno)),
        }
        let Some(workshop) = self.tree.workshop(&self.folder)? else {
            self.made(mkdirat(within, self.name, PRIVATE_FOLDER))?;
            self.note_made(within, self.name)?;
            let handle = Some(self.open_folder(within, self.name)?);
            let standing = Standing { is_closed: false, ..Standing::NEW };
            return Ok(MadeFolder { standing, handle });
        };
        let mut draft = self.draft(Some(workshop));
        self.made(mkdirat(draft.folder(), draft.name.as_os_str(), PRIVATE_FOLDER))?;
        draft.is_folder = true;
        let handle = Some(self.open_folder(draft.folder(), &draft.name)?);
        self.tree.at(Moment::Made);
        draft.settle()?;
        Ok(MadeFolder { standing: Standing::NEW, handle })
    }

    fn open_folder(&self, within: &OwnedFd, name: &OsStr) -> Made<OwnedFd> {
        let opened = openat(within, name, OPEN_FOLDER, Mode::empty());
        opened.map_err(|errno| Trouble::target(self.failed("open", errno)))
    }

    fn use_folder(&self) -> Made<MadeFolder> {
        if self.tree.is_made(self) {
            return Err(self.same_name());
        }
        match openat(&*self.folder.handle, self.name, FOLDER, Mode::empty()) {
            Ok(handle) => {
                let facts = self.tree.note_used(&handle);
                let facts =
                    facts.and_then(|is_first| Ok((is_first, standing(&handle, &self.folder)?)));
                match facts {
                    Ok((true, standing)) => Ok(MadeFolder { standing, handle: Some(handle) }),
                    Ok((false, _)) => Err(self.same_name()),
                    Err(errno) => Err(Trouble::target(self.failed("look at", errno))),
                }
            }
            Err(Errno::ENOTDIR | Errno::ELOOP) => Err(self.exists()),
            Err(errno) => Err(Trouble::target(self.failed("open", errno))),
        }
    }

    /// Notes what was made as `name` in `folder`, which nobody else can have exchanged.
    fn note_made(&self, folder: &OwnedFd, name: &OsStr) -> Made<()> {
        if self.folder.standing.is_new {
            return Ok(());
        }
        let stat = fstatat(folder, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        let stat = stat.map_err(|errno| Trouble::target(self.failed("look at", errno)))?;
        self.tree.note_made(&stat);
        Ok(())
    }

    /// Whether anything is here.
    pub(super) fn is_taken(&self) -> bool {
        fstatat(&*self.folder.handle, self.name, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// Whether what is here may be replaced.
    fn may_replace(&self) -> Made<()> {
        if self.tree.is_made(self) {
            Err(self.same_name())
        } else if self.tree.overwrite {
            Ok(())
        } else {
            Err(self.exists())
        }
    }

    pub(super) fn exists(&self) -> Trouble {
        let context = format!("{}: it exists already", self.shown.display());
        Trouble::Target(Error::new(ErrorKind::Conflict, context))
    }

    fn same_name(&self) -> Trouble {
        let shown = self.shown.display();
        let context = format!("{shown}: to the target that is the name of another one of these");
        Trouble::Name(Error::new(ErrorKind::Conflict, context))
    }

    /// Why something cannot be made here under its name.
    fn refused(&self, errno: Errno) -> Trouble {
        let error = self.failed("make", errno);
        let odd = [Errno::ENOENT, Errno::EPERM, Errno::EACCES, Errno::EIO];
        let is_name = match errno {
            Errno::ENAMETOOLONG | Errno::EILSEQ | Errno::EINVAL => true,
            // Drivers say many things of names that Windows' filesystems cannot have.
            errno => odd.contains(&errno) && names::is_odd(self.name.as_bytes()),
        };
        if is_name { Trouble::Name(error) } else { Trouble::target(error) }
    }

    /// A failure of the target's filesystem.
    fn failed(&self, what: &str, errno: Errno) -> Error {
        Error::io(format!("{what} {}", self.shown.display()), errno.into())
    }
}

impl Draft<'_> {
    /// The folder that it is in now.
    fn folder(&self) -> &OwnedFd {
        self.workshop.as_ref().map_or(&*self.spot.folder.handle, |workshop| workshop.folder())
    }

    /// Gives it its name: it is whole.
    pub(super) fn settle(mut self) -> Made<()> {
        let spot = self.spot;
        if self.is_placed {
            self.is_settled = true;
            return Ok(());
        }
        spot.tree.at(Moment::Settling);
        let moved = {
            let _alone = lock(&spot.tree.replacing);
            let stat = fstatat(self.folder(), self.name.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW);
            let stat = stat.map_err(|errno| Trouble::target(spot.failed("look at", errno)))?;
            let moved = self.move_to_name();
            if moved.is_ok() {
                spot.tree.note_made(&stat);
            }
            moved
        };
        match moved {
            Ok(()) => {
                self.is_settled = true;
                spot.tree.at(Moment::Settled);
                Ok(())
            }
            Err(Errno::EXDEV) => {
                spot.tree.work_within(&spot.folder)?;
                Err(Trouble::Elsewhere)
            }
            Err(Errno::EEXIST | Errno::EISDIR | Errno::ENOTEMPTY) => {
                Err(spot.may_replace().err().unwrap_or_else(|| spot.exists()))
            }
            Err(errno) => Err(spot.refused(errno)),
        }
    }

    fn move_to_name(&self) -> nix::Result<()> {
        if !self.spot.tree.overwrite || self.is_folder {
            return self.move_to_free_name();
        }
        if self.spot.tree.is_made(self.spot) {
            return Err(Errno::EEXIST);
        }
        let to = &*self.spot.folder.handle;
        renameat(self.folder(), self.name.as_os_str(), to, self.spot.name)?;
        // Renaming to another name of the same file leaves both.
        self.remove();
        Ok(())
    }

    fn move_to_free_name(&self) -> nix::Result<()> {
        let (from, name) = (self.folder(), self.name.as_os_str());
        let (to, new) = (&*self.spot.folder.handle, self.spot.name);
        match renameat2(from, name, to, new, RenameFlags::RENAME_NOREPLACE) {
            // Not every filesystem can do that.
            Err(Errno::EINVAL | Errno::ENOSYS | Errno::EOPNOTSUPP | Errno::EPERM) => {}
            moved => return moved,
        }
        if !self.is_folder {
            match linkat(from, name, to, new, AtFlags::empty()) {
                Ok(()) => {
                    self.remove();
                    return Ok(());
                }
                Err(Errno::EPERM | Errno::EOPNOTSUPP | Errno::ENOSYS | Errno::EMLINK) => {}
                Err(errno) => return Err(errno),
            }
        }
        match fstatat(to, new, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(_) => Err(Errno::EEXIST),
            Err(Errno::ENOENT) => renameat(from, name, to, new),
            Err(errno) => Err(errno),
        }
    }

    fn remove(&self) {
        let flags =
            if self.is_folder { UnlinkatFlags::RemoveDir } else { UnlinkatFlags::NoRemoveDir };
        let _ = unlinkat(self.folder(), self.name.as_os_str(), flags);
    }
}

impl Drop for Draft<'_> {
    fn drop(&mut self) {
        if !self.is_settled {
            if self.is_placed {
                self.spot.tree.forget(self.spot);
            }
            // Half a file must not be taken for the whole one.
            self.remove();
        }
    }
}
