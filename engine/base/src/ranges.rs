//! Lists of ranges that are sorted and apart: joined, taken from one another, rounded inward.

use super::ByteRange;

/// Sorts ranges and joins those that touch or overlap; empty ones are left out.
#[must_use]
pub fn joined(mut ranges: Vec<ByteRange>) -> Vec<ByteRange> {
    ranges.retain(|range| !range.is_empty());
    ranges.sort_unstable();
    ranges.dedup_by(|later, before| {
        let touches = later.start <= before.end;
        if touches {
            before.end = before.end.max(later.end);
        }
        touches
    });
    ranges
}

/// What of `ranges` is not in `taken`; both are sorted and apart, and so is what comes of it.
#[must_use]
pub fn without(ranges: &[ByteRange], taken: &[ByteRange]) -> Vec<ByteRange> {
    let mut left = Vec::new();
    let mut taken = taken.iter().peekable();
    for range in ranges {
        let mut start = range.start;
        while let Some(hole) = taken.next_if(|hole| hole.end <= range.end) {
            if hole.start > start {
                left.push(ByteRange { start, end: hole.start });
            }
            start = start.max(hole.end);
        }
        let end = taken.peek().map_or(range.end, |hole| hole.start.clamp(start, range.end));
        left.push(ByteRange { start, end });
    }
    left.retain(|range| !range.is_empty());
    left
}

/// What both hold; both are sorted and apart, and so is what comes of it.
#[must_use]
pub fn common(ranges: &[ByteRange], others: &[ByteRange]) -> Vec<ByteRange> {
    let mut both = Vec::new();
    for range in ranges {
        let from = others.partition_point(|other| other.end <= range.start);
        let others = others[from..].iter().take_while(|other| other.start < range.end);
        both.extend(others.filter_map(|other| other.intersection(range)));
    }
    both
}

/// Whether a range of a sorted list touches `range`.
#[must_use]
pub fn touches(sorted: &[ByteRange], range: &ByteRange) -> bool {
    let behind = sorted.partition_point(|other| other.end <= range.start);
    sorted.get(behind).is_some_and(|other| other.start < range.end)
}

/// The whole units of `unit` bytes within each range; a last one that ends with the disk, at
/// `size`, counts as whole.
#[must_use]
pub fn whole_units(ranges: &[ByteRange], unit: u64, size: u64) -> Vec<ByteRange> {
    let inward = |range: &ByteRange| ByteRange {
        start: range.start.next_multiple_of(unit),
        end: if range.end >= size { size } else { range.end / unit * unit },
    };
    ranges.iter().map(inward).filter(|range| !range.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: u64 = 64;

    fn bits(ranges: &[ByteRange]) -> u64 {
        let bit = |place: u64| ranges.iter().any(|range| (range.start..range.end).contains(&place));
        (0..MOST).filter(|place| bit(*place)).fold(0, |bits, place| bits | 1 << place)
    }

    fn is_apart(ranges: &[ByteRange]) -> bool {
        let pairs = ranges.iter().zip(ranges.iter().skip(1));
        ranges.iter().all(|range| !range.is_empty())
            && pairs.into_iter().all(|(a, b)| a.end < b.start)
    }

    fn any_ranges() -> impl Strategy<Value = Vec<ByteRange>> {
        let range = (0..MOST, 0..9_u64)
            .prop_map(|(start, length)| ByteRange { start, end: (start + length).min(MOST) });
        proptest::collection::vec(range, 0..12)
    }

    proptest! {
        #[test]
        fn lists_are_what_their_bits_are(one in any_ranges(), other in any_ranges()) {
            let (a, b) = (joined(one.clone()), joined(other));
            prop_assert_eq!(bits(&a), bits(&one));
            prop_assert!(is_apart(&a));
            prop_assert_eq!(bits(&without(&a, &b)), bits(&a) & !bits(&b));
            prop_assert_eq!(bits(&common(&a, &b)), bits(&a) & bits(&b));
            for range in one.iter().filter(|range| !range.is_empty()) {
                prop_assert_eq!(touches(&a, range), bits(&a) & bits(&[*range]) != 0);
            }
            let whole = whole_units(&a, 4, 62);
            prop_assert_eq!(bits(&whole) & !bits(&a), 0);
            for start in (0..60).step_by(4) {
                let unit = ByteRange { start, end: start + 4 };
                let is_whole = bits(&a) & bits(&[unit]) == bits(&[unit]);
                prop_assert_eq!(bits(&whole) & bits(&[unit]) != 0, is_whole);
            }
        }
    }

    #[test]
    fn the_disks_short_last_unit_is_whole() {
        let range = [ByteRange { start: 5, end: 62 }];
        assert_eq!(whole_units(&range, 4, 62), [ByteRange { start: 8, end: 62 }]);
        assert_eq!(whole_units(&range, 4, 63), [ByteRange { start: 8, end: 60 }]);
    }
}
