//! Block maps: direct, indirect, double and triple indirect blocks.
//!
//! Kernel documentation, `filesystems/ext4/ifork.rst`, "Direct/Indirect Block Addressing".

use super::Ext;
use super::extents::too_many_blocks;
use super::inode::Inode;
use super::map::{Run, RunPlace};
use super::units::{BlockNumber, FileBlock, bytes, index};
use crate::base::fields::le32;
use crate::base::{Error, ErrorKind, Result, limits};

/// Blocks that `i_block` names itself.
const DIRECT: u64 = 12;

impl Ext {
    /// The run of a block map that `block` is in.
    ///
    /// # Errors
    /// `Limit` beyond what a map can hold; `Corrupt` where it is damaged.
    pub(super) fn run_of_block_map(&self, inode: &Inode, block: FileBlock) -> Result<Run> {
        if block.0 < DIRECT {
            let table = inode.i_block.get(..48).unwrap_or_default();
            return Ok(run_in(table, block.0, block));
        }
        let per_block = u64::from(self.geometry().block_size / 4);
        let mut place = block.0.saturating_sub(DIRECT);
        let mut span = per_block;
        for level in 0..3_usize {
            if place < span {
                let at = 48_usize.saturating_add(level.saturating_mul(4));
                let root = le32(&inode.i_block, at).unwrap_or_default();
                return self.descend(root, Spot { place, span, per_block }, block);
            }
            place = place.saturating_sub(span);
            span = span.saturating_mul(per_block);
        }
        Err(Error::new(ErrorKind::Limit, format!("{block} is beyond what a block map can hold")))
    }

    /// The blocks of a file's map, parents first.
    ///
    /// # Errors
    /// `Corrupt` where it is damaged; `Limit`.
    pub(super) fn indirect_blocks(&self, inode: &Inode) -> Result<Vec<BlockNumber>> {
        let mut blocks = Vec::new();
        let roots = (0..3_usize).rev().map(|level| {
            let at = 48_usize.saturating_add(level.saturating_mul(4));
            (le32(&inode.i_block, at).unwrap_or_default(), level)
        });
        let mut waiting: Vec<(u32, usize)> = roots.filter(|(block, _)| *block != 0).collect();
        while let Some((block, level)) = waiting.pop() {
            let block = BlockNumber(u64::from(block));
            blocks.push(block);
            if blocks.len() > limits::MAX_MAP_BLOCKS {
                return Err(too_many_blocks(inode));
            }
            if let Some(below) = level.checked_sub(1) {
                let held = self.blocks.read(block)?;
                let entries = held.as_chunks::<4>().0.iter().rev();
                let entries = entries.map(|entry| u32::from_le_bytes(*entry));
                waiting.extend(entries.filter(|entry| *entry != 0).map(|entry| (entry, below)));
            }
        }
        Ok(blocks)
    }

    /// Follows the indirect block `table`, which `spot` is in, down to the run.
    fn descend(&self, mut table: u32, mut spot: Spot, block: FileBlock) -> Result<Run> {
        // Each round divides the span, so there are three at the most.
        loop {
            if table == 0 {
                let count = spot.span.saturating_sub(spot.place).max(1);
                return Ok(Run { first: block, count, place: RunPlace::Hole });
            }
            let held = self.blocks.read(BlockNumber(u64::from(table)))?;
            if spot.span <= spot.per_block {
                return Ok(run_in(&held, spot.place, block));
            }
            let below = spot.span.checked_div(spot.per_block).unwrap_or(1).max(1);
            let entry = index(spot.place.checked_div(below).unwrap_or(0));
            table = le32(&held, entry.saturating_mul(4)).unwrap_or_default();
            spot.place = spot.place.checked_rem(below).unwrap_or(0);
            spot.span = below;
        }
    }
}

/// A place within what an indirect block maps.
struct Spot {
    place: u64,
    /// Blocks that the indirect block maps.
    span: u64,
    /// Entries of one block.
    per_block: u64,
}

/// The run of a table of block numbers that starts with its entry `place`.
fn run_in(table: &[u8], place: u64, block: FileBlock) -> Run {
    let entries = table.as_chunks::<4>().0.get(index(place)..).unwrap_or_default();
    let mut entries = entries.iter().map(|entry| u32::from_le_bytes(*entry));
    let first = entries.next().unwrap_or_default();
    let follows = entries.zip(1_u32..).take_while(|(entry, distance)| match first {
        0 => *entry == 0,
        _ => first.checked_add(*distance) == Some(*entry),
    });
    let count = bytes(follows.count()).saturating_add(1);
    let place = match first {
        0 => RunPlace::Hole,
        _ => RunPlace::At(BlockNumber(u64::from(first))),
    };
    Run { first: block, count, place }
}
