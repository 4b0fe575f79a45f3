//! All that files consist of: every leaf of every subvolume, each once, however many snapshots have
//! it in common; and where the nodes of all trees are.
//!
//! Nodes above the leaves are read first, so that what is left are leaves, in any order. What their
//! parents say of them is checked as on every way down.

use std::collections::HashMap;
use std::sync::Arc;

use super::Btrfs;
use super::extent::{Content, Stretch};
use super::node::{Item, Node, Pointer};
use super::root::RootItem;
use super::tree::{Below, Tree};
use super::units::{Key, Logical, kinds, objects};
use crate::base::{ByteRange, Error, ErrorKind, Result, limits};
use crate::fs::{FileId, Part, Show, Survey};

/// Nodes of a share.
const SHARE: usize = 32;

/// Whose a node is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Owner {
    /// A tree of the filesystem's own, of which it is enough to know where it is.
    Filesystem,
    /// One subvolume's.
    One(u64),
    /// That of several subvolumes.
    Several,
}

/// All nodes, each once.
pub(super) struct Nodes<'a> {
    btrfs: &'a Btrfs,
    nodes: Vec<(Below, Owner)>,
}

impl Btrfs {
    /// All nodes of all trees, leaves of subvolumes unread.
    ///
    /// # Errors
    /// `Corrupt` where what is above the leaves is damaged; `Limit` where there are too many.
    pub(super) fn all_leaves(&self) -> Result<Nodes<'_>> {
        let mut found = Search { btrfs: self, nodes: HashMap::new() };
        let chunk_root = Pointer {
            at: self.superblock.chunk_root,
            level: self.superblock.chunk_root_level,
            generation: self.superblock.chunk_root_generation,
        };
        found.add(Tree { root: chunk_root }, Owner::Filesystem)?;
        found.add(self.root_tree, Owner::Filesystem)?;
        for (tree, root) in self.all_roots()? {
            let owner = if is_subvolume(tree) { Owner::One(tree) } else { Owner::Filesystem };
            found.add(root, owner)?;
        }
        let mut nodes: Vec<_> = found.nodes.into_iter().collect();
        // So that they are read one behind the other.
        nodes.sort_unstable_by_key(|(below, _)| below.pointer.at);
        Ok(Nodes { btrfs: self, nodes })
    }

    /// The trees that the root tree has, but what was deleted or is being moved.
    fn all_roots(&self) -> Result<Vec<(u64, Tree)>> {
        let mut roots: Vec<(u64, Tree)> = Vec::new();
        let mut cursor = self.root_tree.from(&self.pool, Key::FIRST);
        while let Some(item) = cursor.next()? {
            let tree = item.key.objectid;
            let is_wanted = is_subvolume(tree) || tree < objects::FIRST_FREE;
            if item.key.kind != kinds::ROOT_ITEM || !is_wanted {
                continue;
            }
            // Of several with one number, the last counts.
            roots.pop_if(|(last, _)| *last == tree);
            let root = RootItem::parse(&item)?;
            if root.refs > 0 || !is_subvolume(tree) || tree == objects::FS_TREE {
                roots.push((tree, root.tree));
            }
        }
        Ok(roots)
    }
}

fn is_subvolume(tree: u64) -> bool {
    tree == objects::FS_TREE || (objects::FIRST_FREE..=objects::LAST_FREE).contains(&tree)
}

/// A search for nodes.
struct Search<'a> {
    btrfs: &'a Btrfs,
    nodes: HashMap<Below, Owner>,
}

impl Search<'_> {
    /// Adds all nodes of a tree. Where another one has them as well, whose they are is corrected:
    /// for that, no node is gone through more than twice.
    fn add(&mut self, tree: Tree, owner: Owner) -> Result<()> {
        let mut waiting = vec![Below::root(tree)];
        while let Some(below) = waiting.pop() {
            let known = self.nodes.get(&below).copied();
            let owner = match known {
                None => owner,
                Some(Owner::Several) => continue,
                Some(Owner::One(one)) if Owner::One(one) != owner => Owner::Several,
                Some(_) => {
                    let place = format!("tree node at {}", below.pointer.at);
                    return Err(Error::corrupt(place, "one way to it", "another one"));
                }
            };
            self.nodes.insert(below, owner);
            if self.nodes.len() > limits::MAX_SURVEYED {
                let context = format!("more than {} nodes", limits::MAX_SURVEYED);
                return Err(Error::new(ErrorKind::Limit, context));
            }
            if below.pointer.level > 0 {
                let node = below.read(&self.btrfs.pool)?;
                let children = (0..node.count()).map(|number| below.child(&node, number));
                let lost = || Error::corrupt("tree node", "a pointer", "none");
                for child in children {
                    waiting.push(child.ok_or_else(lost)?);
                }
            }
        }
        Ok(())
    }
}

impl Survey for Nodes<'_> {
    fn shares(&self) -> usize {
        self.nodes.len().div_ceil(SHARE)
    }

    fn each_part(&self, share: usize, show: Show<'_>) -> Result<()> {
        let size = u64::from(self.btrfs.superblock.nodesize);
        for (below, owner) in self.nodes.chunks(SHARE).nth(share).unwrap_or_default() {
            self.show_copies(below.pointer.at, size, &mut |place| {
                show(None, Part::Structure(place));
            })?;
            if below.pointer.level == 0 && *owner != Owner::Filesystem {
                let leaf = below.read(&self.btrfs.pool)?;
                self.show_contents(&leaf, *owner, &mut *show)?;
            }
        }
        Ok(())
    }
}

impl Nodes<'_> {
    /// Shows what the file extents of a leaf lead to.
    fn show_contents(&self, leaf: &Arc<Node>, owner: Owner, show: Show<'_>) -> Result<()> {
        let sectorsize = u64::from(self.btrfs.superblock.sectorsize);
        for number in 0..leaf.count() {
            let is_extent = |key: &Key| key.kind == kinds::EXTENT_DATA;
            if leaf.key(number).filter(is_extent).is_none() {
                continue;
            }
            let Some(item) = Item::of(leaf, number) else { continue };
            let stretch = Stretch::parse(&item, sectorsize)?;
            let (at, length) = match stretch.content {
                Content::Plain(at) => (at, stretch.range.end.saturating_sub(stretch.range.start)),
                Content::Packed(packed) => (packed.at, packed.length),
                // What was never written is of no use to anybody.
                Content::Hole | Content::Unwritten(_) | Content::Inline(_) => continue,
            };
            let file = match owner {
                Owner::One(tree) => Some(FileId { tree, number: item.key.objectid }),
                Owner::Several | Owner::Filesystem => None,
            };
            self.show_copies(at, length, &mut |place| show(file, Part::Content(place)))?;
        }
        Ok(())
    }

    /// Shows where all copies of `length` bytes from `at` on are.
    fn show_copies(&self, at: Logical, length: u64, show: &mut dyn FnMut(ByteRange)) -> Result<()> {
        let pool = &self.btrfs.pool;
        let end = at.after(length);
        let mut at = at;
        while at < end {
            let chunk = pool.chunks.find(at)?;
            let left = end.0.saturating_sub(at.0);
            let mut shown = left;
            for mirror in 0..chunk.mirrors() {
                let Some(piece) = chunk.piece(at, mirror) else { continue };
                let there = left.min(piece.length);
                shown = shown.min(there);
                if let Some((piece, place)) = pool.devices.at_hand(piece) {
                    show(ByteRange::new(place, there.min(piece.length)));
                }
            }
            at = at.after(shown.max(1));
        }
        Ok(())
    }
}
