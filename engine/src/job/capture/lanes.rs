//! The order in which a disk is read: two lanes, taken in turn.
//!
//! Disks hold their data in front and their free space behind, so that reading in order first
//! has the processors limit, and then the disk alone. Taken in turn, both are busy all the time.

use crate::base::ByteRange;

/// Bytes of one lane that are read before the other's turn: enough that a disk with heads loses
/// little by moving them, little enough that what is read ahead covers both kinds.
const TURN: u64 = 64 << 20;
/// Bytes below which one lane will do.
const WORTHWHILE: u64 = 4 * TURN;

/// Where a disk is divided, and in which order its data is read.
#[derive(Debug, PartialEq, Eq)]
pub struct Lanes {
    /// The first byte of the second lane; the disk's size if there is only one.
    pub split: u64,
    /// What to read: within each lane, in the disk's order.
    pub ranges: Vec<ByteRange>,
}

impl Lanes {
    /// Divides `ranges` of a disk of `size` bytes into halves, at a multiple of `unit`.
    #[must_use]
    pub fn divide(ranges: Vec<ByteRange>, size: u64, unit: u64) -> Self {
        let total: u64 = ranges.iter().map(ByteRange::len).sum();
        let split = middle(&ranges, total / 2) / unit * unit;
        if total < WORTHWHILE || split == 0 {
            return Self { split: size, ranges };
        }
        let part = |lane: ByteRange| {
            ranges.iter().filter_map(move |range| range.intersection(&lane)).collect::<Vec<_>>()
        };
        let front = part(ByteRange { start: 0, end: split });
        let back = part(ByteRange { start: split, end: size });
        let mut lanes = [turns(&front), turns(&back)].map(Vec::into_iter);
        let mut ranges = Vec::new();
        loop {
            let [front, back] = lanes.each_mut().map(Iterator::next);
            if front.is_none() && back.is_none() {
                return Self { split, ranges };
            }
            ranges.extend(front.into_iter().chain(back).flatten());
        }
    }
}

/// The place up to which `ranges` hold `wanted` bytes.
fn middle(ranges: &[ByteRange], mut wanted: u64) -> u64 {
    for range in ranges {
        if wanted < range.len() {
            return range.start + wanted;
        }
        wanted -= range.len();
    }
    ranges.last().map_or(0, |range| range.end)
}

/// Cuts a lane into turns.
fn turns(lane: &[ByteRange]) -> Vec<Vec<ByteRange>> {
    let (mut turns, mut turn, mut left) = (Vec::new(), Vec::new(), TURN);
    for range in lane {
        let mut start = range.start;
        while start < range.end {
            let end = range.end.min(start + left);
            turn.push(ByteRange { start, end });
            left -= end - start;
            start = end;
            if left == 0 {
                turns.push(std::mem::take(&mut turn));
                left = TURN;
            }
        }
    }
    if !turn.is_empty() {
        turns.push(turn);
    }
    turns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_cover_just_what_they_were_given_each_in_order() {
        let unit = 64 << 20;
        let given = vec![
            ByteRange { start: 0, end: 5 << 20 },
            ByteRange { start: 100 << 20, end: 900 << 20 },
            ByteRange { start: 901 << 20, end: 1001 << 20 },
        ];
        let lanes = Lanes::divide(given.clone(), 2000 << 20, unit);
        assert_eq!(lanes.split % unit, 0);
        let (front, back): (Vec<_>, Vec<_>) =
            lanes.ranges.iter().copied().partition(|range| range.end <= lanes.split);
        assert!(front.is_sorted() && back.is_sorted() && !front.is_empty() && !back.is_empty());
        assert!(back.iter().all(|range| range.start >= lanes.split));
        let mut merged: Vec<ByteRange> = Vec::new();
        for range in [front, back].concat() {
            match merged.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ => merged.push(range),
            }
        }
        assert_eq!(merged, given);
    }

    #[test]
    fn small_disks_have_one_lane() {
        let given = vec![ByteRange { start: 0, end: 100 << 20 }];
        let lanes = Lanes::divide(given.clone(), 200 << 20, 1 << 20);
        assert_eq!(lanes, Lanes { split: 200 << 20, ranges: given });
    }
}
