//! The folders of an extraction, as they are at the target.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError, RwLock};

use nix::errno::Errno;

use super::handle::Handle;
use super::plan::Extract;
use super::spot::MadeFolder;
use super::tree::{Folder, Identity, Moment, Standing, Tree, identity};
use super::trouble::{Made, Trouble};
use crate::base::limits::MAX_HELD_FOLDERS;
use crate::base::{Error, ErrorContext, ErrorKind};

/// Where each folder of a plan is.
pub(super) struct Folders<'a> {
    plan: &'a Extract<'a>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    folders: HashMap<u32, Entry>,
    /// Names that were given in the place of others.
    given: HashMap<u32, Box<[u8]>>,
    held: usize,
}

/// A folder that was made or found.
#[derive(Clone)]
struct Entry {
    standing: Standing,
    /// The folder itself, where others can put another in its place.
    handle: Option<Arc<OwnedFd>>,
    /// What it must be where that can happen.
    identity: Option<Identity>,
}

/// The nearest folder that is certain, and the names from there on, with what must be there.
struct Route {
    start: Option<Arc<OwnedFd>>,
    names: Vec<(Box<[u8]>, Option<Identity>)>,
    standing: Standing,
}

impl<'a> Folders<'a> {
    pub(super) fn new(plan: &'a Extract<'a>) -> Self {
        Self { plan, known: RwLock::default() }
    }

    fn read<T>(&self, read: impl FnOnce(&Known) -> T) -> T {
        read(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, write: impl FnOnce(&mut Known) -> T) -> T {
        write(&mut self.known.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes that item `index` was made under another name.
    pub(super) fn note_name(&self, index: usize, name: &[u8]) {
        if let Ok(index) = u32::try_from(index) {
            self.write(|known| known.given.insert(index, name.into()));
        }
    }

    /// The items that were made under other names, in the order of the plan.
    pub(super) fn renamed(&self) -> Vec<usize> {
        let mut renamed: Vec<usize> =
            self.read(|known| known.given.keys().map(|index| *index as usize).collect());
        renamed.sort_unstable();
        renamed
    }

    /// The name of item `index` at the target.
    fn name(known: &Known, index: u32, planned: &[u8]) -> Box<[u8]> {
        known.given.get(&index).cloned().unwrap_or_else(|| planned.into())
    }

    /// The path of item `index` below the target folder, as it is there.
    pub(super) fn path(&self, index: usize) -> Vec<u8> {
        let mut parts = Vec::new();
        let mut next = u32::try_from(index).ok();
        self.read(|known| {
            while let Some(index) = next {
                let Some(item) = self.plan.items.get(index as usize) else { break };
                parts.push(Self::name(known, index, &item.name));
                next = item.parent;
            }
        });
        parts.reverse();
        parts.join(&b'/')
    }

    /// Notes a folder that was made or found in `within`.
    pub(super) fn note(&self, index: usize, made: MadeFolder, within: &Folder) -> Made<()> {
        let Ok(index) = u32::try_from(index) else { return Ok(()) };
        let MadeFolder { standing, handle } = made;
        let mut entry = Entry { standing, handle: None, identity: None };
        if let Some(handle) = handle.filter(|_| !within.standing.is_closed) {
            let stat = Handle::Place(&handle).stat().context(|| "look at a folder");
            entry.identity = Some(identity(&stat.map_err(Trouble::target)?));
            entry.handle = Some(Arc::new(handle));
        }
        self.write(|known| {
            // Descriptors are scarce. What a folder is that is not held is compared each time.
            if !standing.is_new || known.held >= MAX_HELD_FOLDERS {
                entry.handle = None;
            }
            known.held += usize::from(entry.handle.is_some());
            known.folders.insert(index, entry);
        });
        Ok(())
    }

    /// What is known of folder `index`; `None` if it is not there.
    pub(super) fn standing(&self, index: usize) -> Option<Standing> {
        let index = u32::try_from(index).ok()?;
        self.read(|known| known.folders.get(&index).map(|entry| entry.standing))
    }

    /// Opens the folder of item `index`, or the target folder.
    pub(super) fn open(&self, index: Option<u32>, tree: &Tree) -> Made<Folder> {
        let Some(index) = index else { return Ok(tree.root.clone()) };
        let route = self.route(index);
        tree.at(Moment::Opening);
        let standing = route.standing;
        let start = route.start.unwrap_or_else(|| Arc::clone(&tree.root.handle));
        if route.names.is_empty() {
            return Ok(Folder { handle: start, standing });
        }
        let opened = open_along(&start, &route.names, tree);
        let opened = opened.map_err(|errno| {
            let shown = tree.shown(&self.path(index as usize));
            match errno {
                Errno::ENOTDIR | Errno::ELOOP | Errno::ESTALE => Trouble::Target(Error::new(
                    ErrorKind::Conflict,
                    format!("{}: somebody else put something in its place", shown.display()),
                )),
                _ => Trouble::target(Error::io(format!("open {}", shown.display()), errno.into())),
            }
        })?;
        Ok(Folder { handle: Arc::new(opened), standing })
    }

    fn route(&self, index: u32) -> Route {
        let unknown = Standing { is_closed: false, is_new: false, is_doubtful: true };
        let mut route = Route { start: None, names: Vec::new(), standing: unknown };
        self.read(|known| {
            if let Some(entry) = known.folders.get(&index) {
                route.standing = entry.standing;
            }
            let mut next = Some(index);
            while let Some(index) = next {
                let entry = known.folders.get(&index);
                if let Some(handle) = entry.and_then(|entry| entry.handle.clone()) {
                    route.start = Some(handle);
                    break;
                }
                let Some(item) = self.plan.items.get(index as usize) else { break };
                let name = Self::name(known, index, &item.name);
                route.names.push((name, entry.and_then(|entry| entry.identity)));
                next = item.parent;
            }
        });
        route.names.reverse();
        route
    }
}

/// Opens what `names` lead to, each folder of them that must be a certain one by itself.
fn open_along(
    start: &OwnedFd,
    names: &[(Box<[u8]>, Option<Identity>)],
    tree: &Tree,
) -> nix::Result<OwnedFd> {
    let mut opened: Option<OwnedFd> = None;
    for part in names.split_inclusive(|(_, identity)| identity.is_some()) {
        let path: Vec<&[u8]> = part.iter().map(|(name, _)| &**name).collect();
        let folder = tree.open_below(opened.as_ref().unwrap_or(start), &path)?;
        let expected = part.last().and_then(|(_, identity)| *identity);
        if expected.is_some_and(|expected| is_other(&folder, expected)) {
            return Err(Errno::ESTALE);
        }
        opened = Some(folder);
    }
    opened.ok_or(Errno::ENOENT)
}

fn is_other(folder: &OwnedFd, expected: Identity) -> bool {
    Handle::Place(folder).stat().map_or(true, |stat| identity(&stat) != expected)
}
