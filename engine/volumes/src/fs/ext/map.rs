//! Where a file's blocks are, whichever way the inode says it.

use super::Ext;
use super::inode::{Inode, flags};
use super::units::{BlockNumber, FileBlock};
use crate::base::{Error, ErrorKind, Result};

/// Parts that are joined to one run at most, so that no map makes one read take for ever.
const MAX_PARTS: u32 = 1024;

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

    /// Where `block`, which the run holds, is.
    pub(super) fn place_of(&self, block: FileBlock) -> RunPlace {
        let within = block.0.saturating_sub(self.first.0);
        match self.place {
            RunPlace::At(first) => RunPlace::At(first.after(within)),
            RunPlace::Unwritten(first) => RunPlace::Unwritten(first.after(within)),
            RunPlace::Hole => RunPlace::Hole,
        }
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

impl Ext {
    /// The run that `block` of the file is in, as far as one structure tells.
    fn part_of_run(&self, inode: &Inode, block: FileBlock) -> Result<Run> {
        let run = match self.changes.run(inode.number, block) {
            Ok(run) => run,
            Err(next) => {
                let mut run = self.stored_run(inode, block)?;
                // It may start before a changed run that `block` is behind.
                run = Run { first: block, count: run.end(), place: run.place_of(block) };
                run.count = run.count.min(next).saturating_sub(block.0);
                run
            }
        };
        if let RunPlace::At(first) = run.place {
            let checked = self.blocks.check(first, run.count).and_then(|()| {
                match self.superblock.is_own(inode.number) {
                    true => Ok(()),
                    false => self.check_not_own(first, run.count),
                }
            });
            checked.map_err(|error| error.within(inode.number))?;
        }
        Ok(run)
    }

    fn stored_run(&self, inode: &Inode, block: FileBlock) -> Result<Run> {
        let run = match inode.has(flags::EXTENTS) {
            true => self.run_of_extents(inode, block),
            // A map's indirect blocks are not in the log.
            false if self.changes.inode(inode.number).is_some() => {
                let context = "fast commits of a file with a block map";
                Err(Error::new(ErrorKind::Unsupported, context))
            }
            false => self.run_of_block_map(inode, block),
        };
        run.map_err(|error| error.within(inode.number))
    }

    /// The run that `block` of the file starts, up to the file block `end` at the most, however
    /// many structures tell of it.
    ///
    /// # Errors
    /// `Corrupt` where the map is damaged.
    pub(super) fn run(&self, inode: &Inode, block: FileBlock, end: u64) -> Result<Run> {
        let part = self.part_of_run(inode, block)?;
        let place = part.place_of(block);
        let mut run = Run { first: block, count: part.end().saturating_sub(block.0), place };
        for _ in 0..MAX_PARTS {
            if run.end() >= end {
                break;
            }
            let next = FileBlock(run.end());
            // Damage further on is for whoever gets there.
            let Ok(part) = self.part_of_run(inode, next) else { break };
            let count = part.end().saturating_sub(next.0);
            let part = Run { first: next, count, place: part.place_of(next) };
            if !run.continues_in(&part) {
                break;
            }
            run.count = run.count.saturating_add(part.count);
        }
        Ok(run)
    }
}
