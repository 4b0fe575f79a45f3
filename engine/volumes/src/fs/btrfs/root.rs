//! Roots: the trees that the root tree names, subvolumes among them.
//!
//! The kernel's `struct btrfs_root_item` and `btrfs_root_ref` in `include/uapi/linux/btrfs_tree.h`.

use std::sync::{Arc, PoisonError};

use super::Btrfs;
use super::log::Replay;
use super::node::{Item, Pointer};
use super::pool::Pool;
use super::superblock::MAX_LEVEL;
use super::tree::Tree;
use super::units::{Key, Logical, kinds, objects};
use crate::base::fields::{le16, le32, le64, slice, u8_at};
use crate::base::{Error, ErrorKind, Result, limits};

/// Bytes of an inode item, with which a root item starts.
const INODE: usize = 160;

/// A root item's fields that a reader needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RootItem {
    pub root_dirid: u64,
    pub refs: u32,
    pub tree: Tree,
    /// The generation of the last snapshot of it.
    pub last_snapshot: u64,
}

impl RootItem {
    /// The root that `item` describes.
    ///
    /// # Errors
    /// `Corrupt` when it makes no sense.
    pub(super) fn parse(item: &Item) -> Result<Self> {
        let fields = item.data().get(INODE..).unwrap_or_default();
        let parse = || {
            let root = Pointer {
                generation: le64(fields, 0x0)?,
                at: Logical(le64(fields, 0x10)?),
                level: u8_at(fields, 0x4e)?,
            };
            let (root_dirid, refs) = (le64(fields, 0x8)?, le32(fields, 0x38)?);
            let (tree, last_snapshot) = (Tree { root }, le64(fields, 0x28)?);
            Some(Self { root_dirid, refs, tree, last_snapshot })
        };
        let found = || format!("{} bytes", item.data().len());
        let root = parse().ok_or_else(|| item.corrupt("a root item", found()))?;
        let level = root.tree.root.level;
        if level >= MAX_LEVEL {
            return Err(item.corrupt("a level below 8", level));
        }
        Ok(root)
    }

    /// The root of tree `id`, of which there may be none.
    ///
    /// # Errors
    /// `Corrupt` where the root tree is damaged; the devices' own.
    pub(super) fn find(pool: &Pool, root_tree: Tree, id: u64) -> Result<Option<Self>> {
        let last = Key::new(id, kinds::ROOT_ITEM, u64::MAX);
        let found = root_tree.at_or_below(pool, last)?;
        match found.filter(|item| item.key.is_of(id, kinds::ROOT_ITEM)) {
            Some(item) => Ok(Some(Self::parse(&item)?)),
            None => Ok(None),
        }
    }
}

/// A tree of files, with what the log says of it.
pub(super) struct Subvolume {
    pub id: u64,
    pub root_dirid: u64,
    pub tree: Tree,
    pub replay: Option<Arc<Replay>>,
}

impl Btrfs {
    /// Subvolume `id`.
    ///
    /// # Errors
    /// `Invalid` for what is none; `NotFound` if it does not exist; `Corrupt`.
    pub(super) fn subvolume(&self, id: u64) -> Result<Arc<Subvolume>> {
        let is_subvolume =
            id == objects::FS_TREE || (objects::FIRST_FREE..=objects::LAST_FREE).contains(&id);
        if !is_subvolume {
            return Err(Error::new(ErrorKind::Invalid, format!("tree {id} is no subvolume")));
        }
        let known =
            self.subvolumes.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let root = RootItem::find(&self.pool, self.root_tree, id)?;
        let none = || Error::new(ErrorKind::NotFound, format!("subvolume {id} does not exist"));
        let root = root.filter(|root| root.refs > 0 || id == objects::FS_TREE).ok_or_else(none)?;
        let replay = self.replays.get(&id).map(Arc::clone);
        let (root_dirid, tree) = (root.root_dirid, root.tree);
        let subvolume = Arc::new(Subvolume { id, root_dirid, tree, replay });
        let mut subvolumes = self.subvolumes.lock().unwrap_or_else(PoisonError::into_inner);
        if subvolumes.len() >= limits::CACHED_FS_BLOCKS {
            subvolumes.clear();
        }
        subvolumes.insert(id, Arc::clone(&subvolume));
        Ok(subvolume)
    }

    /// Whether subvolume `child` is linked in `folder` of subvolume `parent` as `name`. Entries of
    /// subvolumes that a snapshot took over are not; they read as empty folders.
    ///
    /// # Errors
    /// `Corrupt` where the root tree is damaged.
    pub(super) fn is_linked(
        &self,
        parent: u64,
        folder: u64,
        child: u64,
        name: &[u8],
    ) -> Result<bool> {
        let key = Key::new(parent, kinds::ROOT_REF, child);
        let Some(item) = self.root_tree.find(&self.pool, key)? else { return Ok(false) };
        let reference = RootRef::parse(&item)?;
        Ok(reference.dirid == folder && reference.name == name)
    }

    /// The path of subvolume `id` from the top, as far as it is known.
    pub(super) fn subvolume_path(&self, id: u64) -> Option<String> {
        let mut parts = Vec::new();
        let mut at = id;
        // Subvolumes within one another, which may be in a circle on a hostile disk.
        for _ in 0..limits::MAX_LINKS_FOLLOWED {
            if at == objects::FS_TREE {
                parts.reverse();
                return Some(parts.join("/"));
            }
            let last = Key::new(at, kinds::ROOT_BACKREF, u64::MAX);
            let item = self.root_tree.at_or_below(&self.pool, last).ok()??;
            let item = Some(item).filter(|item| item.key.is_of(at, kinds::ROOT_BACKREF))?;
            let reference = RootRef::parse(&item).ok()?;
            parts.push(String::from_utf8_lossy(reference.name).into_owned());
            at = item.key.offset;
            let parent = self.subvolume(at).ok()?;
            parts.extend(self.path_of_folder(&parent, reference.dirid)?);
        }
        None
    }
}

/// Where a subvolume is linked.
struct RootRef<'a> {
    dirid: u64,
    name: &'a [u8],
}

impl<'a> RootRef<'a> {
    fn parse(item: &'a Item) -> Result<Self> {
        let bytes = item.data();
        let parse = || {
            let length = usize::from(le16(bytes, 0x10)?);
            Some(Self { dirid: le64(bytes, 0x0)?, name: slice(bytes, 0x12, length)? })
        };
        parse()
            .ok_or_else(|| item.corrupt("a link of a subvolume", format!("{} bytes", bytes.len())))
    }
}
