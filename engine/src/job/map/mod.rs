//! Map: a disk as a grid of cells, each of which says how much of its stretch is stored, zero,
//! unallocated, unreadable and, compared with an earlier image, changed.
//!
//! Only the trees are read, no block's content, and zero subtrees count as one run, so that the
//! size of the disk costs nothing. What every section's cells say adds up to the disk's size.

mod grid;
mod regions;

use self::grid::{Grid, State};
use crate::base::{BlockIndex, ReadAt, limits};
use crate::base::{BlockSize, ByteCount, ByteRange, Error, Observer, Result};
use crate::store::difference::Differences;
use crate::store::memo::Sums;
use crate::store::node::{BadSectors, SECTOR};
use crate::store::tree::{Below, Subtree, TreeVisitor};
use crate::store::{Entry, ImageReader, TreeRun, difference};
use crate::volume::DiskLayout;

pub use grid::{Holding, MapSection};

/// What a disk holds, and where.
#[derive(Debug, Clone)]
pub struct DiskMap {
    /// The disk's size.
    pub size: ByteCount,
    /// Bytes that a cell stands for: a power of two, a block at least. The last cell of a section
    /// may stand for less.
    pub cell_length: ByteCount,
    /// What the disk holds; `None` if another version described it.
    pub layout: Option<DiskLayout>,
    /// The disk in its order, cut where volumes begin and end.
    pub sections: Vec<MapSection>,
    /// What the whole disk holds.
    pub total: Holding,
    /// Bytes behind the disk's end that only the larger earlier disk had.
    pub gone: ByteCount,
}

impl DiskMap {
    /// The map of `image`, compared with an earlier image if there is one, in `cells` cells at
    /// most ([`limits::MAX_MAP_CELLS`] in any case) and one more for each section.
    ///
    /// # Errors
    /// `Corrupt` or `Io` for a tree that cannot be read; `Invalid` for images of different block
    /// sizes; `Cancelled`.
    pub fn read(
        (before, image): (Option<&ImageReader>, &ImageReader),
        cells: u64,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let layout = serde_json::from_value(image.manifest().layout.clone()).ok();
        Self::read_as(layout, (before, image), cells, observer)
    }

    /// The same with the disk cut as `layout` says.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn read_as(
        layout: Option<DiskLayout>,
        (before, image): (Option<&ImageReader>, &ImageReader),
        cells: u64,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let manifest = image.manifest();
        let size = manifest.size;
        let cell_length = cell_length(size, manifest.block_size, cells);
        let volumes = layout.as_ref().map(|layout| layout.volumes.as_slice()).unwrap_or_default();
        let mut grid = Grid::new(cell_length, regions::regions(size, volumes));
        let sums = Sums::new();
        let mut painter = Painter { image, observer, open: None, grid: &mut grid, sums };
        image.walk(None, &mut painter)?;
        painter.flush();
        let mut gone = ByteCount(0);
        if let Some(before) = before {
            gone.0 = before.size().0.saturating_sub(size.0);
            difference([before, image], observer, &mut Changes(&mut grid))?;
        }
        let sections = grid.into_sections();
        let mut total = Holding::default();
        sections.iter().for_each(|section| total += section.total);
        Ok(Self { size, cell_length, layout, sections, total, gone })
    }

    /// The bytes of the disk that cell `number` of `section` stands for.
    #[must_use]
    pub fn range(&self, section: &MapSection, number: usize) -> ByteRange {
        let offset = (number as u64).saturating_mul(self.cell_length.0);
        let start = section.range.start.saturating_add(offset).min(section.range.end);
        ByteRange { start, end: start.saturating_add(self.cell_length.0).min(section.range.end) }
    }
}

/// The smallest power of two of which `cells` cover the disk, but a block at least.
fn cell_length(size: ByteCount, block: BlockSize, cells: u64) -> ByteCount {
    let cells = cells.clamp(1, limits::MAX_MAP_CELLS);
    ByteCount(size.0.div_ceil(cells).max(block.bytes()).next_power_of_two())
}

/// Enters what differs into a grid.
struct Changes<'a>(&'a mut Grid);

impl Differences for Changes<'_> {
    fn range(&mut self, range: ByteRange) -> Result<()> {
        self.0.add(range, State::Changed);
        Ok(())
    }

    fn part(&mut self, within: ByteRange, bytes: u64) -> Result<bool> {
        let holding = Holding { changed: bytes, ..Holding::default() };
        Ok(self.0.add_part(within, holding))
    }
}

/// Enters what a walk shows into a grid, neighbours of one state together. A subtree that was met
/// before and lies within one cell is added to that at once.
struct Painter<'a> {
    image: &'a ImageReader,
    observer: &'a dyn Observer,
    open: Option<(ByteRange, State)>,
    grid: &'a mut Grid,
    sums: Sums<Holding>,
}

impl Painter<'_> {
    fn add(&mut self, range: ByteRange, state: State) {
        let mut holding = Holding::default();
        holding.add(state, range.len());
        self.sums.add(holding);
        match &mut self.open {
            Some((open, same)) if *same == state && open.end == range.start => open.end = range.end,
            _ => {
                self.flush();
                self.open = Some((range, state));
            }
        }
    }

    fn flush(&mut self) {
        if let Some((range, state)) = self.open.take() {
            self.grid.add(range, state);
        }
    }

    /// Enters a block of which some sectors could not be read.
    fn add_partial(&mut self, block: ByteRange, bad: &[BadSectors]) {
        let mut at = block.start;
        for sectors in bad {
            let start = block.start + u64::from(sectors.first) * SECTOR;
            let end = (start + u64::from(sectors.count) * SECTOR).min(block.end);
            let start = start.clamp(at, block.end);
            if end > start {
                self.add(ByteRange { start: at, end: start }, State::Stored);
                self.add(ByteRange { start, end }, State::Unreadable);
                at = end;
            }
        }
        self.add(ByteRange { start: at, end: block.end }, State::Stored);
    }
}

impl TreeVisitor for Painter<'_> {
    fn enter(&mut self, node: &Subtree<'_>) -> Result<Below> {
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        if let Some((holding, whole)) = self.sums.known(node) {
            let within = self.image.manifest().bytes_of(node.first, node.count);
            if self.grid.add_part(within, holding) {
                self.sums.add(holding);
                return Ok(Below::Known(whole));
            }
        }
        self.sums.enter();
        Ok(Below::Shown)
    }

    fn leave(&mut self, node: &Subtree<'_>, whole: bool) {
        self.sums.leave(node, whole);
    }

    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        let manifest = self.image.manifest();
        let range = manifest.bytes_of(run.first, run.count);
        match run.entry {
            Entry::Stored(_) => self.add(range, State::Stored),
            Entry::Zero => self.add(range, State::Zero),
            Entry::Unallocated => self.add(range, State::Unallocated),
            Entry::Unreadable => self.add(range, State::Unreadable),
            Entry::Partial(_, bad) => {
                for index in run.first.0..run.first.0 + run.count {
                    self.add_partial(manifest.bytes_of(BlockIndex(index), 1), bad);
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_powers_of_two_that_cover_the_disk_and_hold_a_block_at_least() {
        let block = BlockSize::DEFAULT;
        let length = |size, cells| cell_length(ByteCount(size), block, cells).0;
        assert_eq!(length(0, 100), block.bytes());
        assert_eq!(length(1, 100), block.bytes());
        assert_eq!(length(100 * block.bytes(), 100), block.bytes());
        assert_eq!(length(100 * block.bytes() + 1, 100), 2 * block.bytes());
        assert_eq!(length(1 << 60, 1), 1 << 60);
        assert_eq!(length((1 << 60) - 1, 0), 1 << 60);
        assert_eq!(length(1 << 60, u64::MAX), (1 << 60) / limits::MAX_MAP_CELLS);
    }
}
