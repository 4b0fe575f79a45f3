//! Blocks that are sorted by the hash of names: nodes, which lead to others, and leaves. Folders
//! and attributes share them.
//!
//! The kernel's `fs/xfs/libxfs/xfs_da_format.h`, "Directory/Attribute Btree" and "Leaf block".

use super::Xfs;
use super::entries::{Entry, ForkBlock};
use super::hash::{fold, hash_name};
use super::inode::Inode;
use super::map::Map;
use super::stamp::INDEX;
use super::units::{FileBlock, InodeNumber, bytes, index};
use crate::base::fields::{be16, be32};
use crate::base::{Error, ErrorKind, Result};

/// Where the index of a folder starts, in bytes.
const INDEX_OFFSET: u64 = 32 << 30;
/// Levels above the leaves at most.
const MAX_LEVELS: u16 = 5;
/// Bytes of an entry, whatever the block.
const ENTRY_SIZE: usize = 8;
/// Entries of one hash that one lookup follows at most; beyond them, reading all is no slower.
const MAX_SAME_HASH: usize = 1024;

/// Magic numbers, in versions 4 and 5.
pub(super) const NODE: [u16; 2] = [0xfebe, 0x3ebe];
/// Of the one leaf of a small folder, and of one of many.
const LEAF_1: [u16; 2] = [0xd2f1, 0x3df1];
const LEAF_N: [u16; 2] = [0xd2ff, 0x3dff];

/// A node or leaf, verified.
pub(super) struct IndexBlock {
    pub bytes: Vec<u8>,
    pub magic: u16,
    /// The next block of the same level; zero if there is none.
    pub forw: u32,
    pub count: usize,
    /// Levels above the leaves.
    pub level: u16,
    /// Where the entries start, if it is a node or a folder's leaf.
    start: usize,
}

impl IndexBlock {
    pub(super) fn is_node(&self) -> bool {
        NODE.contains(&self.magic)
    }

    fn is_of_folder(&self) -> bool {
        [LEAF_1, LEAF_N].iter().any(|magics| magics.contains(&self.magic))
    }

    fn field(&self, place: usize, at: usize) -> Option<u32> {
        let entry = place.checked_mul(ENTRY_SIZE)?.checked_add(self.start)?;
        be32(&self.bytes, entry.checked_add(at)?).filter(|_| place < self.count)
    }

    fn hash(&self, place: usize) -> Option<u32> {
        self.field(place, 0)
    }

    /// What an entry leads to: a block, or eight bytes of a folder.
    pub(super) fn target(&self, place: usize) -> Option<u32> {
        self.field(place, 4)
    }

    /// Checks what the search for a hash takes for granted: that the hashes of a node or a folder's
    /// leaf ascend.
    fn check_order(&self) -> Result<()> {
        let descends = |place: &usize| self.hash(*place) < self.hash(place.saturating_sub(1));
        match (1..self.count).find(descends) {
            None => Ok(()),
            Some(place) => {
                let found = format!("{:#010x} as number {place}", self.hash(place).unwrap_or(0));
                Err(Error::corrupt("index", "ascending hashes", found))
            }
        }
    }

    /// Checks that the block below entry `place` has no hash beyond that of the entry, nor any
    /// below that of the one before.
    fn check_below(&self, place: usize, below: &Self) -> Result<()> {
        let least = place.checked_sub(1).and_then(|before| self.hash(before)).unwrap_or(0);
        let most = self.hash(place).unwrap_or(u32::MAX);
        let (first, last) = (below.hash(0), below.hash(below.count.saturating_sub(1)));
        if first.is_none_or(|first| first >= least) && last.is_none_or(|last| last <= most) {
            return Ok(());
        }
        let found = format!("{first:#x?} to {last:#x?}");
        Err(Error::corrupt("index", format!("hashes from {least:#x} to {most:#x}"), found))
    }

    /// The first entry whose hash is `hash` or more.
    fn find(&self, hash: u32) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.hash(middle) {
                Some(found) if found < hash => low = middle.saturating_add(1),
                _ => high = middle,
            }
        }
        low
    }
}

impl Xfs {
    /// Reads and verifies the node or leaf at `place`, of `count` blocks.
    ///
    /// # Errors
    /// `Corrupt` where there is none of the `leaves`, nor a node.
    pub(super) fn index_block(
        &self,
        inode: &Inode,
        map: &mut Map,
        (place, count): (FileBlock, u32),
        leaves: &[[u16; 2]],
    ) -> Result<IndexBlock> {
        let ForkBlock { bytes, block } = self.fork_block(map, place, count)?;
        let is_v5 = self.superblock.is_v5();
        let magic = be16(&bytes, 8).unwrap_or_default();
        let of_version = |[v4, v5]: &[u16; 2]| if is_v5 { *v5 } else { *v4 };
        let is_node = magic == of_version(&NODE);
        let at = self.header_size(12, 56);
        let field = |at: usize| be16(&bytes, at).unwrap_or_default();
        let found = IndexBlock {
            magic,
            forw: be32(&bytes, 0).unwrap_or_default(),
            count: field(at).into(),
            level: if is_node { field(at.saturating_add(2)) } else { 0 },
            start: self.header_size(16, 64),
            bytes,
        };
        let is_known = is_node || leaves.iter().any(|magics| magic == of_version(magics));
        let room = found.bytes.len().saturating_sub(found.start) / ENTRY_SIZE;
        let result = if !is_known {
            Err(Error::corrupt("magic", "an index", format!("{magic:#06x}")))
        } else if found.count > room || (is_node && found.count == 0) {
            Err(Error::corrupt("index", format!("1 to {room} entries"), found.count))
        } else {
            let is_sorted = is_node || [LEAF_1, LEAF_N].iter().any(|one| of_version(one) == magic);
            let ordered = if is_sorted { found.check_order() } else { Ok(()) };
            // A wrong checksum says more than what it leads to.
            self.check_stamp(&found.bytes, &INDEX, block, inode.number.0).and(ordered)
        };
        result.map_err(|error| error.within(block).within(inode.number))?;
        Ok(found)
    }

    /// Goes down from the index's root to the leaf that `choose` leads to.
    ///
    /// # Errors
    /// `Corrupt` where the index is damaged.
    pub(super) fn leaf_below(
        &self,
        inode: &Inode,
        map: &mut Map,
        (root, count): (FileBlock, u32),
        leaves: &[[u16; 2]],
        choose: impl Fn(&IndexBlock) -> usize,
    ) -> Result<IndexBlock> {
        let mut node = self.index_block(inode, map, (root, count), leaves)?;
        if node.level > MAX_LEVELS {
            return Err(inode.corrupt(format!("{MAX_LEVELS} levels at most"), node.level));
        }
        // Each round is a level lower.
        while node.is_node() {
            let place = choose(&node).min(node.count.saturating_sub(1));
            let below = FileBlock(node.target(place).unwrap_or_default().into());
            let level = node.level.saturating_sub(1);
            let next = self.index_block(inode, map, (below, count), leaves)?;
            if node.level == 0 || next.level != level || next.is_node() != (level > 0) {
                let found = format!("level {}", next.level);
                return Err(inode.corrupt(format!("level {level} of an index"), found));
            }
            // The entries of attributes' leaves are looked at one by one.
            if next.is_node() || next.is_of_folder() {
                node.check_below(place, &next).map_err(|error| error.within(inode.number))?;
            }
            node = next;
        }
        Ok(node)
    }

    /// The entry called `name`, by the index.
    ///
    /// # Errors
    /// `Corrupt` where the index or a block it leads to is damaged; `Limit` for too many names of
    /// one hash. The entries themselves may be sound.
    pub(super) fn find_by_index(
        &self,
        folder: &Inode,
        map: &mut Map,
        name: &[u8],
    ) -> Result<Option<InodeNumber>> {
        let count = self.geometry().folder_blocks;
        let hash = match self.superblock.ignores_case() {
            true => hash_name(&fold(name)),
            false => hash_name(name),
        };
        let mut found = Found::new(name);
        let first = self.fork_block(map, FileBlock(0), count)?;
        if first.bytes.starts_with(b"XD2B") || first.bytes.starts_with(b"XDB3") {
            let block = self.entry_block(folder, first)?;
            let leaf = IndexBlock {
                magic: 0,
                forw: 0,
                count: block.indexed,
                level: 0,
                start: block.end,
                bytes: block.bytes,
            };
            leaf.check_order().map_err(|error| error.within(folder.number))?;
            self.find_in_leaf(folder, map, hash, &leaf, &mut found)?;
            return Ok(found.inode());
        }
        let start = FileBlock(self.geometry().blocks_of(INDEX_OFFSET));
        let leaves = [LEAF_1, LEAF_N];
        let choose = |node: &IndexBlock| node.find(hash);
        let mut leaf = self.leaf_below(folder, map, (start, count), &leaves, choose)?;
        // Names of one hash may go on in the next leaf. Each leaf is either the last, or counts.
        while self.find_in_leaf(folder, map, hash, &leaf, &mut found)? && leaf.forw != 0 {
            let next = FileBlock(leaf.forw.into());
            leaf = self.index_block(folder, map, (next, count), &leaves)?;
            found.count()?;
        }
        Ok(found.inode())
    }

    /// Looks at the entries of `leaf` with `hash`; says whether there may be more in the next.
    fn find_in_leaf(
        &self,
        folder: &Inode,
        map: &mut Map,
        hash: u32,
        leaf: &IndexBlock,
        found: &mut Found<'_>,
    ) -> Result<bool> {
        let mut place = leaf.find(hash);
        while leaf.hash(place) == Some(hash) {
            let address = leaf.target(place).unwrap_or_default();
            // Zero is what is left of an entry that was removed.
            if address != 0 {
                found.count()?;
                self.look_at(folder, map, address, found)?;
                if found.exact.is_some() {
                    return Ok(false);
                }
            }
            place = place.saturating_add(1);
        }
        Ok(place == leaf.count)
    }

    /// Looks at the entry at `address`, counted in eight bytes.
    fn look_at(
        &self,
        folder: &Inode,
        map: &mut Map,
        address: u32,
        found: &mut Found<'_>,
    ) -> Result<()> {
        let size = bytes(self.geometry().folder_bytes()).max(1);
        let offset = u64::from(address).saturating_mul(8);
        let number = offset.checked_div(size).unwrap_or(0);
        let count = self.geometry().folder_blocks;
        let first = FileBlock(number.saturating_mul(count.into()));
        let block = self.fork_block(map, first, count)?;
        let block = self.entry_block(folder, block)?;
        let at = index(offset.checked_rem(size).unwrap_or(0));
        let entry = self.entry_at(&block, at).map_err(|error| error.within(folder.number))?;
        found.look_at(&entry, self.superblock.ignores_case());
        Ok(())
    }
}

/// What was found of a name.
pub(super) struct Found<'a> {
    name: &'a [u8],
    pub exact: Option<InodeNumber>,
    /// One whose name is the same but for case.
    folded: Option<InodeNumber>,
    /// Entries that were looked at.
    seen: usize,
}

impl<'a> Found<'a> {
    pub(super) fn new(name: &'a [u8]) -> Self {
        Self { name, exact: None, folded: None, seen: 0 }
    }

    /// The file of that name: exactly so, or at least but for case.
    pub(super) fn inode(&self) -> Option<InodeNumber> {
        self.exact.or(self.folded)
    }

    /// Notes `entry` if it is the one that is looked for.
    pub(super) fn look_at(&mut self, entry: &Entry<'_>, ignores_case: bool) {
        if entry.name == self.name {
            self.exact = Some(entry.inode);
        } else if ignores_case && fold(entry.name) == fold(self.name) {
            self.folded = self.folded.or(Some(entry.inode));
        }
    }

    fn count(&mut self) -> Result<()> {
        self.seen = self.seen.saturating_add(1);
        if self.seen <= MAX_SAME_HASH {
            return Ok(());
        }
        let context = format!("more than {MAX_SAME_HASH} names of one hash");
        Err(Error::new(ErrorKind::Limit, context))
    }
}
