//! What a restore has to do, in pieces that one thread can do by itself.

use super::only_damage;
use crate::base::limits::MAX_IO_SIZE;
use crate::base::{BlockIndex, ByteRange, Error, Result};
use crate::store::tree::TreeVisitor;
use crate::store::{Entry, ImageReader, StoredEntry, TreeRun};

/// A piece of work.
#[derive(Debug)]
pub enum Piece {
    /// Write these blocks, which follow one another from the range's start.
    Blocks(ByteRange, Vec<StoredEntry>),
    /// Make this read as zero: it was so, or could not be read.
    Zero(ByteRange),
    /// Make this read as zero, because the repository is damaged.
    Lost(ByteRange, Error),
}

/// Cuts what a walk shows into pieces of at most 1 MiB, which end where capture's chunks ended,
/// so that a piece mostly needs one frame.
pub struct Cutter<'a> {
    image: &'a ImageReader,
    gathered: Option<(ByteRange, Vec<StoredEntry>)>,
    take: &'a mut dyn FnMut(Piece) -> Result<()>,
}

impl<'a> Cutter<'a> {
    /// Cuts `count` blocks of `image` from `first`, and hands the pieces to `take`.
    ///
    /// # Errors
    /// Those of `take`.
    pub fn cut(
        image: &'a ImageReader,
        (first, count): (u64, u64),
        take: &'a mut dyn FnMut(Piece) -> Result<()>,
    ) -> Result<()> {
        let mut cutter = Self { image, gathered: None, take };
        image.walk(Some((BlockIndex(first), count)), &mut cutter)?;
        cutter.flush()
    }

    fn flush(&mut self) -> Result<()> {
        match self.gathered.take() {
            Some((range, blocks)) => (self.take)(Piece::Blocks(range, blocks)),
            None => Ok(()),
        }
    }

    fn add(&mut self, range: ByteRange, stored: StoredEntry) -> Result<()> {
        let chunk = MAX_IO_SIZE as u64;
        let fits = |gathered: &(ByteRange, Vec<StoredEntry>)| {
            gathered.0.end == range.start && gathered.0.start / chunk == range.start / chunk
        };
        if !self.gathered.as_ref().is_some_and(fits) {
            self.flush()?;
        }
        let start = ByteRange { start: range.start, end: range.start };
        let (gathered, blocks) = self.gathered.get_or_insert((start, Vec::new()));
        gathered.end = range.end;
        blocks.push(stored);
        Ok(())
    }
}

impl TreeVisitor for Cutter<'_> {
    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        let range = self.image.manifest().bytes_of(run.first, run.count);
        match run.entry {
            Entry::Zero | Entry::Unallocated | Entry::Unreadable => (self.take)(Piece::Zero(range)),
            Entry::Stored(stored) | Entry::Partial(stored, _) => {
                let manifest = self.image.manifest();
                (run.first.0..run.first.0 + run.count).try_for_each(|index| {
                    let block = manifest.block_size.range(BlockIndex(index), manifest.size);
                    self.add(block, *stored)
                })
            }
        }
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        let range = self.image.manifest().bytes_of(first, count);
        (self.take)(Piece::Lost(range, only_damage(error)?))
    }
}
