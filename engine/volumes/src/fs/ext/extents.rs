//! Extent trees.
//!
//! Kernel documentation, `filesystems/ext4/ifork.rst`, "Extent Tree".

use std::sync::Arc;

use super::Ext;
use super::geometry::Geometry;
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
/// Blocks that a file has at most (`EXT_MAX_BLOCKS`): an extent ends before.
const MAX_BLOCKS: u64 = END - 1;
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
            && node.eh_max > 0
            && node.eh_entries <= node.eh_max
            && (node.eh_entries > 0 || node.eh_depth == 0)
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

    /// The file blocks of an entry: of an index's, the first, as it may lead to as little.
    fn span(&self, place: u16) -> Option<(u64, u64)> {
        let start = self.start(place)?;
        let length = if self.eh_depth > 0 { 1 } else { self.length(place)?.0 };
        Some((start, start.checked_add(length)?))
    }

    /// The blocks of an extent, `ee_len`, and whether they were never written.
    fn length(&self, place: u16) -> Option<(u64, bool)> {
        let ee_len = le16(self.entry(place)?, 0x4)?;
        let is_unwritten = ee_len > MAX_WRITTEN;
        let count = if is_unwritten { ee_len.wrapping_sub(MAX_WRITTEN) } else { ee_len };
        Some((count.into(), is_unwritten))
    }

    /// The first block of an extent, `ee_start`.
    fn block(&self, place: u16) -> BlockNumber {
        let entry = self.entry(place).unwrap_or_default();
        let (high, low) = (le16(entry, 0x6), le32(entry, 0x8));
        BlockNumber(join(low.unwrap_or_default(), u32::from(high.unwrap_or_default())))
    }

    /// Checks what the search for an entry takes for granted, as the kernel's
    /// `ext4_valid_extent_entries` does: entries ascend and do not overlap, the first one starts
    /// where the index above says, and none reaches beyond what comes next there.
    fn check_order(&self, above: Above, geometry: &Geometry) -> Result<()> {
        let mut next = 0;
        for place in 0..self.eh_entries {
            let span = self.span(place).unwrap_or_default();
            let wrong = |expected: String| {
                let found = format!("blocks {} to {}", span.0, span.1);
                Err(Error::corrupt(format!("extent tree, entry {place}"), expected, found))
            };
            match above.first {
                Some(first) if place == 0 && span.0 != first => {
                    return wrong(format!("file block {first}, as the index says"));
                }
                _ if span.0 < next || span.1 <= span.0 || span.1 > above.end => {
                    return wrong(format!("file blocks from {next} to {} at most", above.end));
                }
                _ => next = span.1,
            }
            let (start, count) = match self.eh_depth {
                0 => (self.block(place), span.1.saturating_sub(span.0)),
                _ => (self.child(place), 1),
            };
            if !geometry.holds(start, count) || start.0 < u64::from(geometry.first_block) {
                return Err(Error::corrupt(
                    format!("extent tree, entry {place}"),
                    format!("{count} blocks of the filesystem"),
                    format!("some from {start}"),
                ));
            }
        }
        Ok(())
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

/// What the index above says of a node.
#[derive(Debug, Clone, Copy)]
struct Above {
    /// The file block that the node starts with; nothing says it of the root.
    first: Option<u64>,
    /// The file block that the node ends before.
    end: u64,
}

impl Above {
    const ROOT: Self = Self { first: None, end: MAX_BLOCKS };

    /// What `node`, of which this is said, says of the node below its entry `place`.
    fn below(self, node: &Node<'_>, place: u16) -> Self {
        let end = node.start(place.saturating_add(1)).unwrap_or(self.end).min(self.end);
        Self { first: node.start(place), end }
    }
}

impl Ext {
    /// The run of an extent tree that `block` is in.
    ///
    /// # Errors
    /// `Corrupt` where the tree is damaged.
    pub(super) fn run_of_extents(&self, inode: &Inode, block: FileBlock) -> Result<Run> {
        let mut held: Arc<[u8]>;
        let mut node = self.root(inode)?;
        let mut above = Above::ROOT;
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
            above = above.below(&node, place);
            held = self.blocks.read(child)?;
            node = Node::parse(&held, depth)
                .and_then(|node| self.check_node(inode, node, above))
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
        let mut waiting = children(&self.root(inode)?, Above::ROOT);
        while let Some((block, depth, above)) = waiting.pop() {
            nodes.push(block);
            if nodes.len() > limits::MAX_MAP_BLOCKS {
                return Err(too_many_blocks(inode));
            }
            if depth > 0 {
                let held = self.blocks.read(block)?;
                let node = Node::parse(&held, Some(depth))
                    .and_then(|node| self.check_node(inode, node, above))
                    .map_err(|error| error.within(block))?;
                waiting.extend(children(&node, above));
            }
        }
        Ok(nodes)
    }

    /// The root of a file's tree, which is in the inode.
    fn root<'a>(&self, inode: &'a Inode) -> Result<Node<'a>> {
        let root = Node::parse(&inode.i_block, None)?;
        root.check_order(Above::ROOT, self.geometry())?;
        Ok(root)
    }

    /// Verifies the checksum that follows the last entry there is room for, and the order of all.
    fn check_node<'a>(&self, inode: &Inode, node: Node<'a>, above: Above) -> Result<Node<'a>> {
        self.check_node_sum(inode, &node)?;
        node.check_order(above, self.geometry())?;
        Ok(node)
    }

    fn check_node_sum(&self, inode: &Inode, node: &Node<'_>) -> Result<()> {
        if !self.superblock.has_checksums() {
            return Ok(());
        }
        let at = usize::from(node.eh_max).saturating_add(1).saturating_mul(ENTRY_SIZE);
        let expected = inode.seed.add(node.bytes.get(..at).unwrap_or_default()).value();
        match le32(node.bytes, at) {
            Some(found) if found == expected => Ok(()),
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

/// The nodes below one, each with its depth and what is said of it.
fn children(node: &Node<'_>, above: Above) -> Vec<(BlockNumber, u16, Above)> {
    let Some(depth) = node.eh_depth.checked_sub(1) else { return Vec::new() };
    let child = |place| (node.child(place), depth, above.below(node, place));
    (0..node.eh_entries).map(child).collect()
}

/// The run of a leaf that `block` is in; a hole reaches up to `next` at the most.
fn leaf_run(leaf: &Node<'_>, block: FileBlock, next: u64) -> Result<Run> {
    let Some(place) = leaf.find(block.0) else {
        return hole(block, leaf.start(0).unwrap_or(next).min(next));
    };
    let first = leaf.start(place).unwrap_or_default();
    let (count, is_unwritten) = leaf.length(place).unwrap_or_default();
    if block.0 >= first.saturating_add(count) {
        return hole(block, leaf.start(place.saturating_add(1)).unwrap_or(next).min(next));
    }
    let start = leaf.block(place);
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
