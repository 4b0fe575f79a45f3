//! Where a fork's blocks are: extents in the inode, or a tree of them.
//!
//! The kernel's `fs/xfs/libxfs/xfs_bmap_btree.h` and `xfs_format.h` (`struct xfs_bmbt_rec`).

use std::collections::HashSet;
use std::sync::Arc;

use super::Xfs;
use super::btree::{self, Node};
use super::inode::{Fork, Form, Inode};
use super::units::{BlockNumber, FileBlock, InodeNumber, index};
use crate::base::fields::{be16, be64, slice};
use crate::base::{Error, Result};

/// Parts that are joined to one run at most, so that no map makes one read take for ever.
const MAX_PARTS: u32 = 1024;
/// Bytes of an extent.
const EXTENT_SIZE: usize = 16;
/// File blocks that can be counted: `br_startoff` has 54 bits.
pub(super) const END: u64 = 1 << 54;
/// Levels of a tree below the inode at most: more than 2^54 blocks of any size need.
const MAX_LEVELS: u16 = 12;
/// Bytes before the keys of a tree's root.
const ROOT_HEADER: usize = 4;

/// Where a run of blocks is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RunPlace {
    /// From this block on.
    At(BlockNumber),
    /// Reserved from this block on, never written.
    Unwritten(BlockNumber),
    /// Nowhere.
    Hole,
}

/// Blocks of a file that follow one another in one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub first: FileBlock,
    /// Never zero.
    pub count: u64,
    pub place: RunPlace,
}

impl Run {
    /// The file block after the last.
    pub(super) fn end(&self) -> u64 {
        self.first.0.saturating_add(self.count)
    }

    /// What of it is at `block`, which it holds, and after it.
    pub(super) fn from(&self, block: FileBlock) -> Self {
        let before = block.0.saturating_sub(self.first.0);
        let place = match self.place {
            RunPlace::At(first) => RunPlace::At(first.after(before)),
            RunPlace::Unwritten(first) => RunPlace::Unwritten(first.after(before)),
            RunPlace::Hole => RunPlace::Hole,
        };
        Self { first: block, count: self.count.saturating_sub(before), place }
    }

    /// Whether `next`, which comes after it in the file, comes after it in place too.
    fn continues_in(&self, next: &Run) -> bool {
        match (self.place, next.place) {
            (RunPlace::At(first), RunPlace::At(second))
            | (RunPlace::Unwritten(first), RunPlace::Unwritten(second)) => {
                first.0.checked_add(self.count) == Some(second.0)
            }
            (one, other) => one == other,
        }
    }
}

/// The map of a fork, with the leaf that was used last.
pub(super) struct Map {
    owner: InodeNumber,
    /// Levels of the tree; zero where the inode has the extents themselves.
    levels: u16,
    /// The fork's bytes, if there is a tree.
    root: Vec<u8>,
    leaf: Option<Leaf>,
}

/// Extents of one block, or of the inode.
struct Leaf {
    bytes: Arc<[u8]>,
    /// Where the first is.
    start: usize,
    count: usize,
    /// The file blocks that it tells of.
    low: u64,
    end: u64,
}

impl Leaf {
    /// The two words of extent `place`.
    fn words(&self, place: usize) -> Option<(u64, u64)> {
        let at = place.checked_mul(EXTENT_SIZE)?.checked_add(self.start)?;
        let extent = slice(&self.bytes, at, EXTENT_SIZE).filter(|_| place < self.count)?;
        Some((be64(extent, 0)?, be64(extent, 8)?))
    }

    /// The file blocks of extent `place`: `br_startoff`, 54 bits after the first, and
    /// `br_blockcount`, the last 21.
    fn span(&self, place: usize) -> Option<(u64, u64)> {
        let (high, low) = self.words(place)?;
        let first = (high & !(1 << 63)) >> 9;
        Some((first, first.saturating_add(low & 0x1f_ffff)))
    }

    /// Checks what the search for a block takes for granted: that extents ascend, do not overlap,
    /// and lie where the tree above says.
    fn check_order(&self) -> Result<()> {
        let mut next = self.low;
        for place in 0..self.count {
            let (first, end) = self.span(place).unwrap_or_default();
            if first < next || end <= first || end > self.end {
                let expected = format!("file blocks from {next} up to {}", self.end);
                let found = format!("{first} to {end}");
                return Err(Error::corrupt(format!("extent {place}"), expected, found));
            }
            next = end;
        }
        Ok(())
    }
}

impl Map {
    /// The map that `fork` of `inode` holds.
    ///
    /// # Errors
    /// `Corrupt` if it holds none.
    pub(super) fn new(inode: &Inode, fork: &Fork<'_>) -> Result<Self> {
        let mut map =
            Self { owner: inode.number, levels: 0, root: fork.bytes.to_vec(), leaf: None };
        match fork.form {
            Form::Extents => {
                let count = index(fork.extents);
                let extents = slice(fork.bytes, 0, count.saturating_mul(EXTENT_SIZE));
                let Some(extents) = extents else {
                    let found = format!("{count} extents");
                    return Err(inode.corrupt("no more extents than there is room for", found));
                };
                let leaf = Leaf { bytes: extents.into(), start: 0, count, low: 0, end: END };
                leaf.check_order().map_err(|error| error.within(inode.number))?;
                map.leaf = Some(leaf);
            }
            Form::Btree => {
                map.levels = be16(fork.bytes, 0).unwrap_or_default();
                if map.levels == 0 || map.levels > MAX_LEVELS {
                    return Err(inode.corrupt("a tree of extents", format!("level {}", map.levels)));
                }
            }
            form => return Err(inode.corrupt("a map of blocks", format!("{form:?}"))),
        }
        Ok(map)
    }
}

impl Xfs {
    /// The run that `block` of the fork starts, up to the file block `end` at the most, however
    /// many extents tell of it.
    ///
    /// # Errors
    /// `Corrupt` where the map is damaged.
    pub(super) fn run(&self, map: &mut Map, block: FileBlock, end: u64) -> Result<Run> {
        let mut run = self.part_of_run(map, block)?;
        for _ in 0..MAX_PARTS {
            if run.end() >= end {
                break;
            }
            // Damage further on is for whoever gets there.
            let Ok(part) = self.part_of_run(map, FileBlock(run.end())) else { break };
            if !run.continues_in(&part) {
                break;
            }
            run.count = run.count.saturating_add(part.count);
        }
        Ok(run)
    }

    /// Calls `visit` for each run of blocks that hold something, up to the file block `end`.
    ///
    /// # Errors
    /// `Corrupt` where the map is damaged; those of `visit`.
    pub(super) fn each_run(
        &self,
        map: &mut Map,
        end: u64,
        visit: &mut dyn FnMut(BlockNumber, u64) -> Result<()>,
    ) -> Result<()> {
        let mut next = FileBlock(0);
        while next.0 < end {
            let run = self.run(map, next, end)?;
            if let RunPlace::At(first) = run.place {
                visit(first, run.count.min(end.saturating_sub(next.0)))?;
            }
            next = FileBlock(run.end());
        }
        Ok(())
    }

    /// The blocks of the tree below the inode, if there is one.
    ///
    /// # Errors
    /// `Corrupt` where the tree is damaged or leads to one of them twice: a walk of the map comes
    /// to each then.
    pub(super) fn map_blocks(&self, map: &Map) -> Result<Vec<BlockNumber>> {
        let mut seen = HashSet::new();
        let mut add = |node: &Node| -> Result<Vec<BlockNumber>> {
            let broken = || Error::corrupt("tree of extents", "another block below", "no other");
            let child = |place| {
                let child = self.geometry().block(node.child(place).ok_or_else(broken)?, 1)?;
                if seen.insert(child) { Ok(child) } else { Err(broken()) }
            };
            (0..node.count()).map(child).collect()
        };
        let Some(mut below) = map.levels.checked_sub(1) else { return Ok(Vec::new()) };
        let mut row = add(&Node::root(&map.root, ROOT_HEADER, 8)?)?;
        let mut blocks = Vec::new();
        // Each round is a level lower. Of the leaves it is enough to know where they are.
        while below > 0 {
            let mut next = Vec::new();
            for block in &row {
                let bytes = self.blocks.read(*block)?;
                let node = self
                    .long_node(&bytes, *block, below, map.owner)
                    .map_err(|error| error.within(block))?;
                next.extend(add(&node)?);
            }
            blocks.append(&mut row);
            (row, below) = (next, below.saturating_sub(1));
        }
        blocks.append(&mut row);
        Ok(blocks)
    }

    /// Checks that the tree has as many extents as the inode says, as the kernel's
    /// `xfs_iread_extents` does: what is lost would read as zeros.
    ///
    /// # Errors
    /// `Corrupt` where it has not, or is damaged.
    pub(super) fn check_extent_count(&self, map: &Map, extents: u64) -> Result<()> {
        if map.levels == 0 {
            return Ok(());
        }
        let mut found = 0_u64;
        let mut next = 0;
        while next < END {
            let leaf = self.leaf(map, FileBlock(next))?;
            found = found.saturating_add(super::units::bytes(leaf.count));
            // Each leaf ends behind where it begins, so that this ends.
            next = leaf.end.max(next.saturating_add(1));
        }
        if found == extents {
            return Ok(());
        }
        Err(Error::corrupt("tree of extents", format!("{extents} of them"), found))
    }

    /// What one extent tells of `block` and what follows it.
    pub(super) fn part_of_run(&self, map: &mut Map, block: FileBlock) -> Result<Run> {
        if block.0 >= END {
            let count = u64::MAX.saturating_sub(block.0).max(1);
            return Ok(Run { first: block, count, place: RunPlace::Hole });
        }
        let known = map.leaf.take().filter(|leaf| leaf.low <= block.0 && block.0 < leaf.end);
        let leaf = match known {
            Some(leaf) => leaf,
            None => self.leaf(map, block).map_err(|error| error.within(map.owner))?,
        };
        let run = self.run_in(map.leaf.insert(leaf), block);
        run.map_err(|error| error.within(map.owner))
    }

    /// Goes down the tree to the leaf that tells of `block`.
    fn leaf(&self, map: &Map, block: FileBlock) -> Result<Leaf> {
        let (mut low, mut end) = (0, END);
        let mut node = Node::root(&map.root, ROOT_HEADER, 8)?;
        // Each round is a level lower.
        for level in (0..map.levels).rev() {
            // Blocks before the first key are a hole, which the first leaf tells of.
            let place = node.find(block.0).unwrap_or(0);
            let key = node.key(place).unwrap_or(low);
            low = Some(key).filter(|key| *key <= block.0).unwrap_or(low).max(low);
            end = node.key(place.saturating_add(1)).unwrap_or(end).min(end);
            let child = node.child(place).ok_or_else(|| {
                Error::corrupt("tree of extents", "a block below", format!("none at {place}"))
            })?;
            let child = self.geometry().block(child, 1)?;
            let bytes = self.blocks.read(child)?;
            node = self
                .long_node(&bytes, child, level, map.owner)
                .map_err(|error| error.within(child))?;
            if level > 0 {
                node.check_within(key, end).map_err(|error| error.within(child))?;
            } else {
                let (start, count) = (node.start(), node.count());
                let leaf = Leaf { bytes: node.into_bytes(), start, count, low: key, end };
                leaf.check_order().map_err(|error| error.within(child))?;
                return Ok(Leaf { low, ..leaf });
            }
        }
        Err(Error::corrupt("tree of extents", "a level", "none"))
    }

    /// A block of a tree of extents, verified.
    fn long_node(
        &self,
        bytes: &Arc<[u8]>,
        block: BlockNumber,
        level: u16,
        owner: InodeNumber,
    ) -> Result<Node> {
        let shape = btree::long(self.superblock.is_v5());
        let node = Node::parse(bytes, &shape, level)?;
        self.check_stamp(bytes, &super::stamp::LONG_BTREE, block, owner.0)?;
        Ok(node)
    }

    /// The run of `leaf` that holds `block`, from there on.
    fn run_in(&self, leaf: &Leaf, block: FileBlock) -> Result<Run> {
        let start_of = |place: usize| leaf.span(place).map(|(first, _)| first);
        let (mut from, mut to) = (0, leaf.count);
        while from < to {
            let middle = from.midpoint(to);
            match start_of(middle) {
                Some(start) if start <= block.0 => from = middle.saturating_add(1),
                _ => to = middle,
            }
        }
        let after = start_of(from).unwrap_or(leaf.end).min(leaf.end);
        let hole =
            || Run { first: block, count: after.saturating_sub(block.0), place: RunPlace::Hole };
        let place = from.checked_sub(1);
        let extent = place.and_then(|place| leaf.words(place).zip(leaf.span(place)));
        let Some(((high, low), (first, end))) = extent else {
            return Ok(hole());
        };
        // `br_startblock`: 52 bits.
        let startblock = (high & 0x1ff) << 43 | low >> 21;
        let count = end.saturating_sub(first);
        if block.0 >= end {
            return Ok(hole());
        }
        let is_unwritten = high >> 63 == 1;
        if is_unwritten && !self.superblock.has_unwritten() {
            let place = format!("extent of file block {first}");
            return Err(Error::corrupt(place, "no flag", "one of an unwritten extent"));
        }
        let start = self.geometry().block(startblock, count)?;
        let place = if is_unwritten { RunPlace::Unwritten(start) } else { RunPlace::At(start) };
        Ok(Run { first: FileBlock(first), count, place }.from(block))
    }
}
