//! RAID4, 5 and 6: which member holds which data and which parity of a row.
//!
//! Source: Linux, `raid5_compute_sector` and `raid6_idx_to_slot` in `drivers/md/raid5.c`, the
//! layouts' numbers in `drivers/md/raid5.h`.

use super::geometry::Piece;
use super::superblock::{Level, Superblock};
use crate::base::{Error, Result};

/// Where the first parity of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum First {
    /// From the last member to the first.
    Left,
    /// From the first to the last.
    Right,
    /// From the last but one to the first, then on the last.
    LeftNext,
    /// On the first of all.
    Lowest,
    /// Behind the data.
    BehindData,
}

/// Where the second parity of a row is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Second {
    /// There is none.
    None,
    /// On the member after the first parity's.
    After,
    /// On the one before it.
    Before,
    /// On the last of all, which is not part of the turns.
    Last,
}

/// A layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    first: First,
    second: Second,
    /// Data begin behind the parity ("symmetric") and not with the first member.
    is_symmetric: bool,
    /// The second parity counts all members of a row from the first one, as DDF does.
    counts_all: bool,
}

impl Layout {
    /// The layout `number` of `level`.
    fn of(level: Level, number: u32) -> Option<Self> {
        let usual = |first, is_symmetric, second| {
            Some(Self { first, second, is_symmetric, counts_all: false })
        };
        let ddf = |first, is_symmetric, second| {
            Some(Self { first, second, is_symmetric, counts_all: true })
        };
        let second = if level == Level::Raid6 { Second::After } else { Second::None };
        match (level, number) {
            (Level::Raid4, _) => usual(First::BehindData, false, Second::None),
            (_, 0) => usual(First::Left, false, second),
            (_, 1) => usual(First::Right, false, second),
            (_, 2) => usual(First::Left, true, second),
            (_, 3) => usual(First::Right, true, second),
            (_, 4) => usual(First::Lowest, false, second),
            (_, 5) => usual(First::BehindData, false, second),
            (Level::Raid6, 8) => ddf(First::Right, false, Second::After),
            (Level::Raid6, 9) => ddf(First::LeftNext, false, Second::After),
            (Level::Raid6, 10) => ddf(First::Left, true, Second::Before),
            (Level::Raid6, 16) => usual(First::Left, false, Second::Last),
            (Level::Raid6, 17) => usual(First::Right, false, Second::Last),
            (Level::Raid6, 18) => usual(First::Left, true, Second::Last),
            (Level::Raid6, 19) => usual(First::Right, true, Second::Last),
            (Level::Raid6, 20) => usual(First::Lowest, false, Second::Last),
            _ => None,
        }
    }
}

/// What a member holds of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Column {
    /// Data; by its number in the second parity's sum.
    Data(usize),
    /// The first parity.
    First,
    /// The second.
    Second,
}

/// The roles that hold a row's parities.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Parities {
    first: usize,
    second: Option<usize>,
}

/// The rows of an array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Rows {
    layout: Layout,
    /// Members, and those of each row that hold data.
    disks: usize,
    data: usize,
    chunk: u64,
    size: u64,
}

impl Rows {
    /// The rows of the array that `superblock` describes.
    ///
    /// # Errors
    /// `Unsupported` for layouts that are not known, `Corrupt` where it makes no sense.
    pub(super) fn new(superblock: &Superblock, disks: usize) -> Result<Self> {
        let Superblock { level, layout: number, chunk, used, .. } = superblock;
        let layout = Layout::of(*level, *number);
        let layout = layout.ok_or_else(|| Error::newer(format!("{level} of layout {number}")))?;
        let (parities, least) = if *level == Level::Raid6 { (2, 4) } else { (1, 2) };
        if disks < least {
            return Err(Error::corrupt(level, format!("{least} members or more"), disks));
        }
        let data = disks.saturating_sub(parities).max(1);
        if !chunk.is_power_of_two() || *chunk < 4096 {
            return Err(Error::corrupt(level, "chunks of a power of two from 4 KiB", chunk));
        }
        let used = used & !chunk.saturating_sub(1);
        let size = u64::try_from(data).ok().and_then(|data| used.checked_mul(data));
        let size = size.ok_or_else(|| Error::corrupt(level, "a size within 64 bits", used))?;
        Ok(Self { layout, disks, data, chunk: *chunk, size })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn disks(&self) -> usize {
        self.disks
    }

    /// Bytes of a row's data, and of all its columns.
    pub(super) fn row_sizes(&self) -> (usize, usize) {
        let bytes = |columns: usize| self.column_length().saturating_mul(columns);
        (bytes(self.data), bytes(self.disks))
    }

    /// Bytes that each member has of a row.
    pub(super) fn column_length(&self) -> usize {
        usize::try_from(self.chunk).unwrap_or(usize::MAX)
    }

    /// The row that is at byte `at` of each member.
    pub(super) fn number(&self, at: u64) -> Option<u64> {
        at.checked_div(self.chunk)
    }

    /// First byte of row `number` on each member.
    pub(super) fn start(&self, number: u64) -> u64 {
        number.saturating_mul(self.chunk)
    }

    /// Whether the member of `role` holds data of row `number`.
    pub(super) fn is_data(&self, number: u64, role: usize) -> bool {
        let is_parity =
            |parities: Parities| role == parities.first || Some(role) == parities.second;
        self.parities(number).is_some_and(|parities| !is_parity(parities))
    }

    /// Columns that the second parity counts.
    pub(super) fn counted(&self) -> usize {
        if self.layout.counts_all { self.disks } else { self.data }
    }

    /// The member that holds byte `at`, and how many bytes lie together there.
    pub(super) fn locate(&self, at: u64) -> Option<Piece> {
        let (number, within) = (at.checked_div(self.chunk)?, at.checked_rem(self.chunk)?);
        let data = u64::try_from(self.data).ok()?;
        let (row, index) = (number.checked_div(data)?, number.checked_rem(data)?);
        let role = self.data_role(self.parities(row)?, usize::try_from(index).ok()?)?;
        let at = row.checked_mul(self.chunk)?.checked_add(within)?;
        Some(Piece { role, at, length: self.chunk.checked_sub(within)? })
    }

    /// Which members hold the parities of the row that is at byte `at` of each.
    pub(super) fn parities_at(&self, at: u64) -> Option<Parities> {
        self.parities(at.checked_div(self.chunk)?)
    }

    /// Bytes from byte `at` of a member to the end of the row.
    pub(super) fn left_of_row(&self, at: u64) -> u64 {
        let within = at.checked_rem(self.chunk).unwrap_or(0);
        self.chunk.saturating_sub(within)
    }

    fn parities(&self, row: u64) -> Option<Parities> {
        let fixed = usize::from(self.layout.second == Second::Last);
        let ring = self.disks.checked_sub(fixed)?;
        let turn = |row: u64| usize::try_from(row.checked_rem(u64::try_from(ring).ok()?)?).ok();
        let last = ring.checked_sub(1)?;
        let first = match self.layout.first {
            First::Left => last.checked_sub(turn(row)?)?,
            First::Right => turn(row)?,
            First::LeftNext => last.checked_sub(turn(row.checked_add(1)?)?)?,
            First::Lowest => 0,
            First::BehindData => self.data,
        };
        let second = match self.layout.second {
            Second::None => None,
            Second::After => Some(self.wrapped(first.checked_add(1)?)?),
            Second::Before => Some(self.wrapped(first.checked_add(self.disks)?.checked_sub(1)?)?),
            Second::Last => Some(self.disks.checked_sub(1)?),
        };
        Some(Parities { first, second })
    }

    fn wrapped(&self, role: usize) -> Option<usize> {
        role.checked_rem(self.disks)
    }

    /// The member that holds data number `index` of a row.
    fn data_role(&self, parities: Parities, index: usize) -> Option<usize> {
        if !self.layout.is_symmetric {
            let is_data = |role: &usize| *role != parities.first && Some(*role) != parities.second;
            return (0..self.disks).filter(is_data).nth(index);
        }
        let follows = if self.layout.second == Second::After { 2_usize } else { 1 };
        let ring = match self.layout.second {
            Second::Last => self.disks.checked_sub(1)?,
            _ => self.disks,
        };
        parities.first.checked_add(follows)?.checked_add(index)?.checked_rem(ring)
    }

    /// What the member of `role` holds of a row.
    pub(super) fn column(&self, parities: Parities, role: usize) -> Option<Column> {
        if role == parities.first {
            return Some(Column::First);
        }
        let Some(second) = parities.second else { return Some(Column::Data(role)) };
        if role == second {
            return Some(Column::Second);
        }
        if self.layout.counts_all {
            return Some(Column::Data(role));
        }
        // Data are counted from behind the second parity, round all members.
        let start = self.wrapped(second.checked_add(1)?)?;
        let way = |role: usize| self.wrapped(role.checked_add(self.disks)?.checked_sub(start)?);
        let own = way(role)?;
        let passed = [parities.first, second]
            .into_iter()
            .filter(|parity| way(*parity).is_some_and(|distance| distance < own));
        Some(Column::Data(own.checked_sub(passed.count())?))
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects,
        reason = "a test may panic"
    )]

    use super::*;

    /// The first rows as the comments in the kernel's `raid5.c` draw them: `P`, `Q`, and data by
    /// their order in the array.
    fn drawn(level: Level, number: u32, disks: usize) -> Vec<String> {
        let layout = Layout::of(level, number).expect("known");
        let parities = if level == Level::Raid6 { 2 } else { 1 };
        let data = disks - parities;
        let rows = Rows { layout, disks, data, chunk: 4096, size: 1 << 30 };
        let row = |row: u64| {
            let parities = rows.parities(row).expect("there");
            let mut line = vec!['?'; disks];
            line[parities.first] = 'P';
            if let Some(second) = parities.second {
                line[second] = 'Q';
            }
            for index in 0..data {
                let role = rows.data_role(parities, index).expect("there");
                assert_eq!(line[role], '?', "{level} {number}: twice");
                line[role] = char::from(b'0' + u8::try_from(index).expect("small"));
            }
            line.into_iter().collect()
        };
        (0..u64::try_from(disks).expect("small")).map(row).collect()
    }

    #[test]
    fn data_and_parity_take_turns_as_in_the_kernel() {
        let five = |number| drawn(Level::Raid5, number, 4);
        assert_eq!(five(0), ["012P", "01P2", "0P12", "P012"]);
        assert_eq!(five(1), ["P012", "0P12", "01P2", "012P"]);
        assert_eq!(five(2), ["012P", "12P0", "2P01", "P012"]);
        assert_eq!(five(3), ["P012", "2P01", "12P0", "012P"]);
        assert_eq!(five(4), ["P012"; 4]);
        assert_eq!(five(5), ["012P"; 4]);
        assert_eq!(drawn(Level::Raid4, 2, 4), ["012P"; 4]);
        let six = |number| drawn(Level::Raid6, number, 5);
        assert_eq!(six(0), ["Q012P", "012PQ", "01PQ2", "0PQ12", "PQ012"]);
        assert_eq!(six(1), ["PQ012", "0PQ12", "01PQ2", "012PQ", "Q012P"]);
        assert_eq!(six(2), ["Q012P", "012PQ", "12PQ0", "2PQ01", "PQ012"]);
        assert_eq!(six(3), ["PQ012", "2PQ01", "12PQ0", "012PQ", "Q012P"]);
        assert_eq!(six(4), ["PQ012"; 5]);
        assert_eq!(six(5), ["012PQ"; 5]);
        assert_eq!(six(8), ["PQ012", "0PQ12", "01PQ2", "012PQ", "Q012P"]);
        assert_eq!(six(9), ["012PQ", "01PQ2", "0PQ12", "PQ012", "Q012P"]);
        assert_eq!(six(10), ["012QP", "12QP0", "2QP01", "QP012", "P012Q"]);
        assert_eq!(six(16), ["012PQ", "01P2Q", "0P12Q", "P012Q", "012PQ"]);
        assert_eq!(six(19), ["P012Q", "2P01Q", "12P0Q", "012PQ", "P012Q"]);
        assert_eq!(six(20), ["P012Q"; 5]);
        assert_eq!(Layout::of(Level::Raid5, 6), None);
        assert_eq!(Layout::of(Level::Raid5, 8), None);
        assert_eq!(Layout::of(Level::Raid6, 7), None);
    }

    #[test]
    fn the_second_parity_counts_from_behind_itself() {
        let layout = Layout::of(Level::Raid6, 2).expect("known");
        let mut rows = Rows { layout, disks: 5, data: 3, chunk: 4096, size: 1 << 30 };
        let columns = |rows: &Rows, row| -> Vec<Option<Column>> {
            let parities = rows.parities(row).expect("there");
            (0..5).map(|role| rows.column(parities, role)).collect()
        };
        let data = |number| Some(Column::Data(number));
        let (first, second) = (Some(Column::First), Some(Column::Second));
        assert_eq!(columns(&rows, 0), [second, data(0), data(1), data(2), first]);
        // Asymmetric data begin with member 0, but are counted from member 4.
        rows.layout = Layout::of(Level::Raid6, 0).expect("known");
        assert_eq!(columns(&rows, 2), [data(1), data(2), first, second, data(0)]);
        // As DDF has it, every member counts.
        rows.layout = Layout::of(Level::Raid6, 8).expect("known");
        assert_eq!(columns(&rows, 2), [data(0), data(1), first, second, data(4)]);
    }
}
