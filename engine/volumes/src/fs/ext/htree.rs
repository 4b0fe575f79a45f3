//! The index of large folders: a tree of name hashes over blocks of entries.
//!
//! Kernel documentation, `filesystems/ext4/directory.rst`, "Hash Tree Directories".

use std::ops::ControlFlow;
use std::sync::Arc;

use super::Ext;
use super::dirent::each_entry;
use super::hash::{Hash, hash_name};
use super::inode::Inode;
use super::map::RunPlace;
use super::units::{FileBlock, InodeNumber, index};
use crate::base::fields::{le16, le32, u8_at};
use crate::base::{Error, Result};

/// Where the root's information is: after the entries of `.` and `..`.
const ROOT_INFO: usize = 0x18;
/// Where `dx_countlimit` is in a node below the root: after one empty entry.
const NODE_COUNT: usize = 0x8;
/// Bytes of a `dx_entry`.
const ENTRY_SIZE: usize = 8;
/// Levels below the root at most, with `large_dir`.
const MAX_LEVELS: u8 = 2;
/// Bits of a `dx_entry`'s block that are its number.
const BLOCK_MASK: u32 = 0x0fff_ffff;

/// A node of the index, root or not.
struct Node {
    bytes: Arc<[u8]>,
    /// Where its `dx_countlimit` is, which takes the place of the first entry's hash.
    at: usize,
    count: usize,
}

impl Node {
    fn new(bytes: Arc<[u8]>, at: usize) -> Result<Self> {
        let limit = usize::from(le16(&bytes, at).unwrap_or_default());
        let count = usize::from(le16(&bytes, at.saturating_add(2)).unwrap_or_default());
        let room = bytes.len().saturating_sub(at) / ENTRY_SIZE;
        if count == 0 || count > limit || limit > room {
            let found = format!("{count} of {limit}");
            return Err(Error::corrupt("folder index", "a count of entries", found));
        }
        let node = Self { bytes, at, count };
        // What the search for a hash takes for granted.
        match (1..count).find(|place| node.hash(*place) < node.hash(place.saturating_sub(1))) {
            None => Ok(node),
            Some(place) => {
                let found = format!("{:#010x} as number {place}", node.hash(place));
                Err(Error::corrupt("folder index", "ascending hashes", found))
            }
        }
    }

    /// Checks that the node below entry `place` keeps to what that says of it.
    fn check_below(&self, place: usize, below: &Self) -> Result<()> {
        let next = place.saturating_add(1);
        let (start, end) = (self.hash(place), (next < self.count).then(|| self.hash(next)));
        let mut hashes = (1..below.count).map(|place| below.hash(place));
        match hashes.find(|hash| *hash < start || end.is_some_and(|end| *hash > end)) {
            None => Ok(()),
            Some(hash) => {
                let expected = format!("hashes from {start:#010x}");
                Err(Error::corrupt("folder index", expected, format!("{hash:#010x}")))
            }
        }
    }

    fn field(&self, place: usize, offset: usize) -> u32 {
        let at = place.saturating_mul(ENTRY_SIZE).saturating_add(self.at).saturating_add(offset);
        le32(&self.bytes, at).unwrap_or_default()
    }

    /// The hash that entry `place` starts at; the first has none and starts at zero.
    fn hash(&self, place: usize) -> u32 {
        if place == 0 { 0 } else { self.field(place, 0) }
    }

    fn block(&self, place: usize) -> FileBlock {
        FileBlock(u64::from(self.field(place, 4) & BLOCK_MASK))
    }

    /// The last entry that starts at or before `hash`.
    fn find(&self, hash: u32) -> usize {
        let (mut low, mut high) = (1, self.count);
        while low < high {
            let middle = low.midpoint(high);
            if self.hash(middle) <= hash {
                low = middle.saturating_add(1);
            } else {
                high = middle;
            }
        }
        low.saturating_sub(1)
    }
}

impl Ext {
    /// The entry called `name`, by the index.
    ///
    /// # Errors
    /// `Corrupt` where the index or a block it leads to is damaged; `Unsupported` for a hash that
    /// is not known. The entries themselves may be sound.
    pub(super) fn find_by_index(&self, folder: &Inode, name: &[u8]) -> Result<Option<InodeNumber>> {
        if name == b"." || name == b".." {
            let block = self.index_block(folder, FileBlock(0))?;
            return Ok(self.find_in(&block, name));
        }
        let root = self.index_block(folder, FileBlock(0))?;
        let info = |at: usize| u8_at(&root, ROOT_INFO.saturating_add(at)).unwrap_or_default();
        let (version, length, levels) = (info(4), info(5), info(6));
        if levels > MAX_LEVELS {
            return Err(folder.corrupt("a folder index of 3 levels at most", levels));
        }
        let hash = self.hash(version, name)?;
        let start = ROOT_INFO.saturating_add(usize::from(length));
        let mut path = Vec::new();
        let mut node = Node::new(root, start)?;
        for _ in 0..levels {
            let place = node.find(hash.0);
            let below = Node::new(self.index_block(folder, node.block(place))?, NODE_COUNT)?;
            node.check_below(place, &below)?;
            path.push((node, place));
            node = below;
        }
        let place = node.find(hash.0);
        path.push((node, place));
        self.find_in_leaves(folder, name, hash, path)
    }

    /// Searches the leaf that `path` leads to, and those after it for as long as they go on with
    /// names of the same hash.
    fn find_in_leaves(
        &self,
        folder: &Inode,
        name: &[u8],
        hash: Hash,
        mut path: Vec<(Node, usize)>,
    ) -> Result<Option<InodeNumber>> {
        let blocks = self.geometry().blocks_of(folder.i_size);
        // Each round is another leaf, and there are no more of them than blocks.
        for _ in 0..blocks {
            let Some(leaf) = path.last().map(|(node, place)| node.block(*place)) else { break };
            let block = self.index_block(folder, leaf)?;
            if let Some(found) = self.find_in(&block, name) {
                return Ok(Some(found));
            }
            if !self.next_leaf(folder, hash, &mut path)? {
                break;
            }
        }
        Ok(None)
    }

    /// Moves `path` to the next leaf if that goes on with names of `hash`: the lowest bit of the
    /// hash that it starts at says so.
    fn next_leaf(&self, folder: &Inode, hash: Hash, path: &mut Vec<(Node, usize)>) -> Result<bool> {
        let depth = path.len();
        while let Some((node, place)) = path.pop() {
            let next = place.saturating_add(1);
            if next >= node.count {
                continue;
            }
            let start = node.hash(next);
            if start & 1 == 0 || start & !1 != hash.0 {
                return Ok(false);
            }
            let mut below = node.block(next);
            path.push((node, next));
            while path.len() < depth {
                let node = Node::new(self.index_block(folder, below)?, NODE_COUNT)?;
                below = node.block(0);
                path.push((node, 0));
            }
            return Ok(true);
        }
        Ok(false)
    }

    fn find_in(&self, block: &[u8], name: &[u8]) -> Option<InodeNumber> {
        let mut found = None;
        let _ = each_entry(block, self.layout(), &mut |entry| match entry {
            Ok(entry) if entry.name == name => {
                found = Some(entry.inode);
                ControlFlow::Break(())
            }
            _ => ControlFlow::Continue(()),
        });
        found
    }

    fn index_block(&self, folder: &Inode, place: FileBlock) -> Result<Arc<[u8]>> {
        let run = self.run(folder, place, 0)?;
        match run.place {
            RunPlace::At(block) => self.folder_block(folder, place, block),
            _ => Err(folder.corrupt(format!("entries in {place}"), "no block")),
        }
    }

    fn hash(&self, version: u8, name: &[u8]) -> Result<Hash> {
        // The first three versions leave the signedness of characters to the superblock.
        let unsigned = version <= 2 && self.superblock.hashes_unsigned();
        let version = if unsigned { version.saturating_add(3) } else { version };
        hash_name(version, &self.superblock.s_hash_seed, name).ok_or_else(|| {
            let context = format!("folder index with hash version {version}");
            Error::newer(context)
        })
    }
}

/// The expected and the found checksum of an index block, if they differ.
pub(super) fn wrong_checksum(
    folder: &Inode,
    place: FileBlock,
    bytes: &[u8],
) -> Option<(String, u32)> {
    let length = usize::from(u8_at(bytes, ROOT_INFO.saturating_add(5)).unwrap_or_default());
    let at = if place.0 == 0 { ROOT_INFO.saturating_add(length) } else { NODE_COUNT };
    let limit = usize::from(le16(bytes, at).unwrap_or_default());
    let count = usize::from(le16(bytes, at.saturating_add(2)).unwrap_or_default());
    let end_of = |entries: usize| index(entries).saturating_mul(ENTRY_SIZE).saturating_add(at);
    let covered = bytes.get(..end_of(count)).unwrap_or_default();
    let tail = bytes.get(end_of(limit)..).unwrap_or_default();
    let sum = folder.seed.add(covered).add(tail.get(..4).unwrap_or_default()).add_zeros(4);
    let found = le32(tail, 4).unwrap_or_default();
    (sum.value() != found).then(|| (format!("{:#010x}", sum.value()), found))
}
