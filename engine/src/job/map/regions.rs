//! Where a disk's volumes begin and end, when their table may say anything.

use std::cmp::Reverse;

use crate::base::limits::MAX_PARTITIONS;
use crate::base::{ByteCount, ByteRange};
use crate::volume::Volume;

/// The disk in its order, cut where volumes begin and end, each part with the volume that it
/// belongs to. Where volumes overlap, a part belongs to the one that begins last, and the
/// shortest of those: what is inside another hides it there.
pub(super) fn regions(size: ByteCount, volumes: &[Volume]) -> Vec<(ByteRange, Option<usize>)> {
    let disk = ByteRange { start: 0, end: size.0 };
    // What lies in other volumes lies in pieces of them, which stand for it.
    let within =
        |volume: &Volume| volume.range().intersection(&disk).filter(|_| !volume.is_stacked());
    // A manifest may list more than any table that was probed.
    let ranges: Vec<Option<ByteRange>> = volumes.iter().take(MAX_PARTITIONS).map(within).collect();
    let mut cuts = vec![disk.start, disk.end];
    cuts.extend(ranges.iter().flatten().flat_map(|range| [range.start, range.end]));
    cuts.sort_unstable();
    cuts.dedup();
    let mut regions: Vec<(ByteRange, Option<usize>)> = Vec::new();
    for (start, end) in cuts.iter().zip(cuts.iter().skip(1)) {
        let part = ByteRange { start: *start, end: *end };
        let holding = ranges.iter().enumerate().filter_map(|(number, range)| {
            range.filter(|range| range.intersection(&part).is_some()).map(|range| (number, range))
        });
        let owner = holding.max_by_key(|(_, range)| (range.start, Reverse(range.end)));
        let owner = owner.map(|(number, _)| number);
        match regions.last_mut() {
            Some((last, same)) if *same == owner => last.end = part.end,
            _ => regions.push((part, owner)),
        }
    }
    regions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(ranges: &[(u64, u64)]) -> Vec<Volume> {
        let volume = |(number, (start, length)): (usize, &(u64, u64))| {
            let value = serde_json::json!({"name": format!("p{number}"), "start": start,
                "length": length});
            serde_json::from_value(value).expect("a volume")
        };
        ranges.iter().enumerate().map(volume).collect()
    }

    fn told(size: u64, ranges: &[(u64, u64)]) -> Vec<(u64, u64, Option<usize>)> {
        let regions = regions(ByteCount(size), &volumes(ranges));
        regions.into_iter().map(|(range, owner)| (range.start, range.end, owner)).collect()
    }

    #[test]
    fn gaps_and_volumes_cover_the_disk() {
        assert_eq!(told(100, &[]), [(0, 100, None)]);
        assert_eq!(told(0, &[(0, 10)]), []);
        assert_eq!(told(100, &[(0, 100)]), [(0, 100, Some(0))]);
        let two = [(60, 20), (10, 30)];
        let expected =
            [(0, 10, None), (10, 40, Some(1)), (40, 60, None), (60, 80, Some(0)), (80, 100, None)];
        assert_eq!(told(100, &two), expected);
    }

    #[test]
    fn what_a_table_should_not_say_still_covers_the_disk() {
        let nested = [(10, 80), (20, 30)];
        assert_eq!(
            told(100, &nested),
            [
                (0, 10, None),
                (10, 20, Some(0)),
                (20, 50, Some(1)),
                (50, 90, Some(0)),
                (90, 100, None)
            ]
        );
        assert_eq!(told(100, &[(90, 50)]), [(0, 90, None), (90, 100, Some(0))]);
        assert_eq!(told(100, &[(100, 1), (500, 10), (7, 0)]), [(0, 100, None)]);
        assert_eq!(told(100, &[(0, u64::MAX), (u64::MAX, u64::MAX)]), [(0, 100, Some(0))]);
        // Of volumes that begin together the shortest is inside the others.
        assert_eq!(told(100, &[(0, 50), (0, 100)]), [(0, 50, Some(0)), (50, 100, Some(1))]);
    }

    #[test]
    fn as_many_volumes_as_a_manifest_can_list_take_no_time() {
        let many: Vec<(u64, u64)> = (0..200_000).map(|number| (number, 2)).collect();
        let regions = told(1 << 40, &many);
        assert!(regions.len() <= 2 * MAX_PARTITIONS + 1, "{}", regions.len());
        assert_eq!(regions.last().map(|region| region.1), Some(1 << 40));
    }
}
