//! Extent trees.
//!
//! Kernel documentation, `filesystems/ext4/ifork.rst`, "Extent Tree".

use std::sync::Arc;

use super::Ext;
use super::inode::Inode;
use super::map::{Run, RunPlace};
use super::units::{BlockNumber, FileBlock, join};
use crate::base::fields::{le16, le32, slice};
use crate::base::{Error, ErrorKind, Result, limits};

const MAGIC: u16 = 0xf30a;
/// Bytes of a header, an index entry and an extent alike.
const ENTRY_SIZE: usize = 12;
/// Levels below the inode at most: five hold 2^32 blocks.
const MAX_DEPTH: u16 = 5;
/// File blocks that can be counted: `ee_block` has 32 bits.
const END: u64 = 1 << 32;
/// An `ee_len` above this many blocks is that much more than an unwritten extent's.
const MAX_WRITTEN: u16 = 32768;

/// A node of the tree, its header checked.
struct Node<'a> {
    bytes: &'a [u8],
    eh_entries: u16,
    eh_max: u16,
    eh_depth: u16,
}

impl<'a> Node<'a> {
    fn parse(bytes: &'a [u8], depth: Option<u16>) -> Result<Self> {
        let field = |at| le16(bytes, at).unwrap_or_default();
        let node = Self { bytes, eh_entries: field(2), eh_max: field(4), eh_depth: field(6) };
        let room = bytes.len().saturating_sub(ENTRY_SIZE) / ENTRY_SIZE;
        let is_sound = field(0) == MAGIC
            && node.eh_entries <= node.eh_max
            && usize::from(node.eh_max) <= room
            && depth.map_or(node.eh_depth <= MAX_DEPTH, |depth| node.eh_depth == depth);
        if is_sound {
            return Ok(node);
        }
        let (magic, entries, depth) = (field(0), node.eh_entries, node.eh_depth);
        let found = format!("magic {magic:#06x}, {entries} entries, depth {depth}");
        Err(Error::corrupt("extent tree", "a sound header", found))
    }

    fn entry(&self, place: u16) -> Option<&'a [u8]> {
        let at = usize::from(place).checked_add(1)?.checked_mul(ENTRY_SIZE)?;
        slice(self.bytes, at, ENTRY_SIZE).filter(|_| place < self.eh_entries)
    }

    /// The first file block of an entry: `ee_block` or `ei_block`.
    fn start(&self, place: u16) -> Option<u64> {
        le32(self.entry(place)?, 0x0).map(u64::from)
    }

    /// The block of the node below an entry of an index: `ei_leaf`.
    fn child(&self, place: u16) -> BlockNumber {
        let entry = self.entry(place).unwrap_or_default();
        let (low, high) = (le32(entry, 0x4), le16(entry, 0x8));
        BlockNumber(join(low.unwrap_or_default(), u32::from(high.unwrap_or_default())))
    }

    /// The last entry that starts at or before `block`.
    fn find(&self, block: u64) -> Option<u16> {
        let (mut low, mut high) = (0, self.eh_entries);
        while low < high {
            let middle = low.midpoint(high);
            match self.start(middle) {
                Some(start) if start <= block => low = middle.saturating_add(1),
                _ => high = middle,
            }
        }
        low.checked_sub(1)
    }
}

impl Ext {
    /// The run of an extent tree that `block` is in.
    ///
    /// # Errors
    /// `Corrupt` where the tree is damaged.
    pub(super) fn run_of_extents(&self, inode: &Inode, block: FileBlock) -> Result<Run> {
        let mut held: Arc<[u8]>;
        let mut node = Node::parse(&inode.i_block, None)?;
        // Where the next thing in the tree starts: a hole ends there.
        let mut next = END;
        // Each round is a level lower, so the depth of the root bounds the rounds.
        while node.eh_depth > 0 {
            // Before the first entry of an index there is a hole; the kernel goes down the first.
            let Some(place) = node.find(block.0) else {
                return hole(block, node.start(0).unwrap_or(next).min(next));
            };
            next = node.start(place.saturating_add(1)).unwrap_or(next).min(next);
            let child = node.child(place);
            let depth = node.eh_depth.checked_sub(1);
            held = self.blocks.read(child)?;
            node = Node::parse(&held, depth)
                .and_then(|node| self.check_node(inode, node))
                .map_err(|error| error.within(child))?;
        }
        leaf_run(&node, block, next)
    }

    /// The blocks of a file's extent tree below the inode, parents first.
    ///
    /// # Errors
    /// `Corrupt` where the tree is damaged; `Limit`.
    pub(super) fn extent_nodes(&self, inode: &Inode) -> Result<Vec<BlockNumber>> {
        let mut nodes = Vec::new();
        let mut waiting = children(&Node::parse(&inode.i_block, None)?);
        while let Some((block, depth)) = waiting.pop() {
            nodes.push(block);
            if nodes.len() > limits::MAX_MAP_BLOCKS {
                return Err(too_many_blocks(inode));
            }
            if depth > 0 {
                let held = self.blocks.read(block)?;
                let node = Node::parse(&held, Some(depth))
                    .and_then(|node| self.check_node(inode, node))
                    .map_err(|error| error.within(block))?;
                waiting.extend(children(&node));
            }
        }
        Ok(nodes)
    }

    /// Verifies the checksum that follows the last entry there is room for.
    fn check_node<'a>(&self, inode: &Inode, node: Node<'a>) -> Result<Node<'a>> {
        if !self.superblock.has_checksums() {
            return Ok(node);
        }
        let at = usize::from(node.eh_max).saturating_add(1).saturating_mul(ENTRY_SIZE);
        let expected = inode.seed.add(node.bytes.get(..at).unwrap_or_default()).value();
        match le32(node.bytes, at) {
            Some(found) if found == expected => Ok(node),
            found => {
                let found = format!("{:#010x}", found.unwrap_or_default());
                let expected = format!("checksum {expected:#010x}");
                Err(Error::corrupt("extent tree", expected, found))
            }
        }
    }
}

/// A map that has more blocks than are looked at.
pub(super) fn too_many_blocks(inode: &Inode) -> Error {
    let most = limits::MAX_MAP_BLOCKS;
    Error::new(ErrorKind::Limit, format!("{}: a map of more than {most} blocks", inode.number))
}

/// The nodes below one, each with its depth.
fn children(node: &Node<'_>) -> Vec<(BlockNumber, u16)> {
    let depth = node.eh_depth.checked_sub(1);
    let places = 0..depth.map_or(0, |_| node.eh_entries);
    places.map(|place| (node.child(place), depth.unwrap_or_default())).collect()
}

/// The run of a leaf that `block` is in; a hole reaches up to `next` at the most.
fn leaf_run(leaf: &Node<'_>, block: FileBlock, next: u64) -> Result<Run> {
    let Some(place) = leaf.find(block.0) else {
        return hole(block, leaf.start(0).unwrap_or(next).min(next));
    };
    let entry = leaf.entry(place).unwrap_or_default();
    let first = leaf.start(place).unwrap_or_default();
    let ee_len = le16(entry, 0x4).unwrap_or_default();
    let is_unwritten = ee_len > MAX_WRITTEN;
    let count = u64::from(if is_unwritten { ee_len.wrapping_sub(MAX_WRITTEN) } else { ee_len });
    let end = first.saturating_add(count);
    let after = leaf.start(place.saturating_add(1)).unwrap_or(next).min(next);
    if count == 0 || end > after {
        let expected = format!("an extent that ends at or before file block {after}");
        let found = format!("{count} blocks");
        return Err(Error::corrupt(format!("extent of file block {first}"), expected, found));
    }
    if block.0 >= end {
        return hole(block, after);
    }
    let (high, low) = (le16(entry, 0x6), le32(entry, 0x8));
    let start = BlockNumber(join(low.unwrap_or_default(), u32::from(high.unwrap_or_default())));
    let place = if is_unwritten { RunPlace::Unwritten(start) } else { RunPlace::At(start) };
    Ok(Run { first: FileBlock(first), count, place })
}

/// A hole from `block` up to `end`; beyond what the tree can count, there is nothing else.
fn hole(block: FileBlock, end: u64) -> Result<Run> {
    let end = if block.0 >= END { u64::MAX } else { end };
    let count = end.checked_sub(block.0);
    match count.filter(|count| *count > 0) {
        Some(count) => Ok(Run { first: block, count, place: RunPlace::Hole }),
        None => Err(Error::corrupt("extent tree", "entries in order", format!("{end} next"))),
    }
}
