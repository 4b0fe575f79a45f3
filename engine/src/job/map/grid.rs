//! The cells of a map, and how ranges of a disk are entered into them.

use std::ops::AddAssign;

use serde::Serialize;

use crate::base::{ByteCount, ByteRange};

/// What a stretch of a disk holds. All counts are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Holding {
    /// Content that is stored.
    pub stored: u64,
    /// Zero, or holes.
    pub zero: u64,
    /// Not used by its filesystem.
    pub unallocated: u64,
    /// Could not be read when the image was captured.
    pub unreadable: u64,
    /// Different in the earlier image, whatever it holds now: the others count it too.
    pub changed: u64,
}

impl Holding {
    /// Bytes of the stretch.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.stored + self.zero + self.unallocated + self.unreadable
    }

    pub(super) fn add(&mut self, state: State, bytes: u64) {
        let count = match state {
            State::Stored => &mut self.stored,
            State::Zero => &mut self.zero,
            State::Unallocated => &mut self.unallocated,
            State::Unreadable => &mut self.unreadable,
            State::Changed => &mut self.changed,
        };
        *count += bytes;
    }
}

impl AddAssign for Holding {
    fn add_assign(&mut self, other: Self) {
        self.stored += other.stored;
        self.zero += other.zero;
        self.unallocated += other.unallocated;
        self.unreadable += other.unreadable;
        self.changed += other.changed;
    }
}

/// What can be said of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Stored,
    Zero,
    Unallocated,
    Unreadable,
    Changed,
}

/// A stretch of the disk in cells of its own: a volume, a part of one, or what lies between them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MapSection {
    /// Its bytes.
    pub range: ByteRange,
    /// The volume that it belongs to, counted as the layout lists them.
    pub volume: Option<usize>,
    /// What it holds.
    pub total: Holding,
    /// What its cells hold, in the disk's order.
    pub cells: Vec<Holding>,
}

impl MapSection {
    fn new(range: ByteRange, volume: Option<usize>, cell_length: u64) -> Self {
        let cells = usize::try_from(range.len().div_ceil(cell_length)).unwrap_or(usize::MAX);
        let empty = Holding::default();
        Self { range, volume, total: empty, cells: vec![empty; cells] }
    }

    fn add(&mut self, part: ByteRange, state: State, cell_length: u64) {
        self.total.add(state, part.len());
        let mut at = part.start - self.range.start;
        let end = part.end - self.range.start;
        while at < end {
            let number = at / cell_length;
            let next = (number + 1).saturating_mul(cell_length).min(end);
            let cell = usize::try_from(number).ok().and_then(|number| self.cells.get_mut(number));
            cell.expect("a section's cells cover it").add(state, next - at);
            at = next;
        }
    }
}

/// A disk's sections, side by side.
#[derive(Debug)]
pub(super) struct Grid {
    cell_length: u64,
    sections: Vec<MapSection>,
}

impl Grid {
    /// An empty grid over `regions`, which cover the disk in its order.
    pub(super) fn new(cell_length: ByteCount, regions: Vec<(ByteRange, Option<usize>)>) -> Self {
        let section = |(range, volume)| MapSection::new(range, volume, cell_length.0);
        let sections = regions.into_iter().map(section).collect();
        Self { cell_length: cell_length.0, sections }
    }

    /// Enters that `range` is of `state`; what lies beyond the disk is left out.
    pub(super) fn add(&mut self, range: ByteRange, state: State) {
        let first = self.sections.partition_point(|section| section.range.end <= range.start);
        for section in self.sections.iter_mut().skip(first) {
            let Some(part) = section.range.intersection(&range) else { break };
            section.add(part, state, self.cell_length);
        }
    }

    /// Enters what is held `within` one cell; false where that lies in several.
    pub(super) fn add_part(&mut self, within: ByteRange, holding: Holding) -> bool {
        let first = self.sections.partition_point(|section| section.range.end <= within.start);
        let Some(section) = self.sections.get_mut(first) else { return false };
        if within.start < section.range.start || within.end > section.range.end {
            return false;
        }
        let start = (within.start - section.range.start) / self.cell_length;
        let last = (within.end - 1 - section.range.start) / self.cell_length;
        let cell = usize::try_from(start).ok().and_then(|number| section.cells.get_mut(number));
        let Some(cell) = cell.filter(|_| start == last) else { return false };
        *cell += holding;
        section.total += holding;
        true
    }

    pub(super) fn into_sections(self) -> Vec<MapSection> {
        self.sections
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(start: u64, end: u64) -> ByteRange {
        ByteRange { start, end }
    }

    /// A disk of 100 bytes in cells of 16: a gap of 5, a volume of 40, the rest.
    fn grid() -> Grid {
        let regions = vec![(range(0, 5), None), (range(5, 45), Some(0)), (range(45, 100), None)];
        Grid::new(ByteCount(16), regions)
    }

    fn stored(sections: &[MapSection]) -> Vec<Vec<u64>> {
        let cells = |section: &MapSection| section.cells.iter().map(|cell| cell.stored).collect();
        sections.iter().map(cells).collect()
    }

    #[test]
    fn a_range_is_shared_out_among_all_cells_that_it_touches() {
        let mut all = grid();
        all.add(range(0, 100), State::Stored);
        let whole = [vec![5], vec![16, 16, 8], vec![16, 16, 16, 7]];
        assert_eq!(stored(&all.into_sections()), whole);
        let mut some = grid();
        some.add(range(4, 6), State::Stored);
        some.add(range(20, 22), State::Stored);
        some.add(range(44, 200), State::Stored);
        let sections = some.into_sections();
        assert_eq!(stored(&sections), [vec![1], vec![2, 1, 1], vec![16, 16, 16, 7]]);
        let totals: Vec<u64> = sections.iter().map(|section| section.total.stored).collect();
        assert_eq!(totals, [1, 4, 55]);
    }

    #[test]
    fn states_add_up_to_the_length_whatever_changed() {
        let mut grid = grid();
        let states = [State::Stored, State::Zero, State::Unallocated, State::Unreadable];
        for (number, state) in states.into_iter().enumerate() {
            let start = number as u64 * 25;
            grid.add(range(start, start + 25), state);
        }
        grid.add(range(10, 90), State::Changed);
        let sections = grid.into_sections();
        for section in &sections {
            assert_eq!(section.total.length(), section.range.len());
            let cells = section.cells.iter().map(Holding::length);
            assert_eq!(cells.sum::<u64>(), section.range.len());
            assert!(section.cells.iter().all(|cell| cell.changed <= cell.length()));
        }
        assert_eq!(sections.iter().map(|section| section.total.changed).sum::<u64>(), 80);
    }

    #[test]
    fn an_empty_disk_has_no_cells_and_takes_nothing() {
        let mut grid = Grid::new(ByteCount(16), Vec::new());
        grid.add(range(0, 0), State::Zero);
        grid.add(range(0, 10), State::Changed);
        assert!(grid.into_sections().is_empty());
    }
}
