//! The tree log: what was synced since the last commit, replayed into memory.
//!
//! Each subvolume with synced files has a tree of its own in the log, with their inodes, names,
//! attributes and extents. [`Replay`] is what a mount would make of it: extents and attributes
//! are looked up in the log's tree when they are needed; inodes and names, which depend on one
//! another, are worked out at once. All of it fits memory, as a log lasts one commit only.
//!
//! The kernel's `fs/btrfs/tree-log.c`.

mod links;
mod names;
mod replay;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::dir::DirItem;
use super::inode::Inode;
use super::node::Pointer;
use super::pool::Pool;
use super::root::RootItem;
use super::superblock::Superblock;
use super::tree::Tree;
use super::units::{Key, kinds, objects};
use crate::base::{Error, ErrorKind, Result, limits};

use links::RefName;

/// What the log changes in one subvolume.
pub(super) struct Replay {
    /// The log's tree of this subvolume.
    pub log: Tree,
    /// Inodes that are other than the subvolume's tree says.
    inodes: BTreeMap<u64, Inode>,
    /// Inodes that were logged, and the byte from which on the tree's extents are lost.
    logged: BTreeMap<u64, u64>,
    /// Entries by folder and index; `None` where one is gone.
    entries: BTreeMap<(u64, u64), Option<DirItem>>,
    /// Entries by folder and name.
    names: HashMap<(u64, Vec<u8>), Option<DirItem>>,
    /// The names of inodes, by the item that they are in.
    refs: BTreeMap<Key, Vec<RefName>>,
}

impl Replay {
    /// The inode, if it is other than in the tree.
    pub(super) fn inode(&self, number: u64) -> Option<&Inode> {
        self.inodes.get(&number)
    }

    /// Whether the entry of `folder` at `index` is other than in the tree.
    pub(super) fn has_changed(&self, folder: u64, index: u64) -> bool {
        self.entries.contains_key(&(folder, index))
    }

    /// The entries of `folder` that are not, or other, in the tree.
    pub(super) fn added(&self, folder: u64) -> impl Iterator<Item = &DirItem> {
        self.entries.range((folder, 0)..=(folder, u64::MAX)).filter_map(|(_, entry)| entry.as_ref())
    }

    /// The entry called `name`, or that there is none; `None` if the tree knows.
    pub(super) fn named(&self, folder: u64, name: &[u8]) -> Option<Option<&DirItem>> {
        // A map's key of two parts cannot be borrowed in parts.
        self.names.get(&(folder, name.to_vec())).map(Option::as_ref)
    }

    /// Whether an inode's attributes are those of the log, all of them.
    pub(super) fn has_attributes(&self, number: u64) -> bool {
        self.logged.contains_key(&number)
    }

    /// From which byte on the extents in the tree are lost, if the log has extents of the inode.
    pub(super) fn cut(&self, number: u64) -> Option<u64> {
        self.logged.get(&number).copied()
    }

    /// Checks that memory is enough for what was worked out.
    fn check_size(&self) -> Result<()> {
        let parts = [self.inodes.len(), self.entries.len(), self.names.len(), self.refs.len()];
        let size = parts.iter().fold(0_usize, |sum, part| sum.saturating_add(*part));
        if size > limits::MAX_REPLAYED {
            let context = format!("a tree log of more than {} changes", limits::MAX_REPLAYED);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        Ok(())
    }
}

/// What is to be known besides: from where everything is read.
struct Source<'a> {
    pool: &'a Pool,
    /// The subvolume's tree as it was committed.
    tree: Tree,
    sectorsize: u32,
}

/// Replays the log of each subvolume that has one.
///
/// # Errors
/// `Corrupt` where the log is damaged or does not fit what was committed; `Limit` for one that is
/// too large.
pub(super) fn replay(
    pool: &Pool,
    superblock: &Superblock,
    root_tree: Tree,
) -> Result<BTreeMap<u64, Arc<Replay>>> {
    let generation = superblock.generation.saturating_add(1);
    let root = Pointer { at: superblock.log_root, level: superblock.log_root_level, generation };
    let mut replays = BTreeMap::new();
    let first = Key::new(objects::TREE_LOG, kinds::ROOT_ITEM, 0);
    let mut cursor = Tree { root }.from(pool, first);
    while let Some(item) = cursor.next()? {
        if !item.key.is_of(first.objectid, first.kind) {
            break;
        }
        if replays.len() >= limits::MAX_LOGS {
            let context = format!("tree logs of more than {} subvolumes", limits::MAX_LOGS);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let (id, log) = (item.key.offset, RootItem::parse(&item)?.tree);
        // What was deleted since needs no log.
        let Some(root) = RootItem::find(pool, root_tree, id)? else { continue };
        let source = Source { pool, tree: root.tree, sectorsize: superblock.sectorsize };
        let replay = replay::replay(&source, log);
        let replay = replay.map_err(|error| error.within(format!("log of subvolume {id}")))?;
        replays.insert(id, Arc::new(replay));
    }
    Ok(replays)
}
