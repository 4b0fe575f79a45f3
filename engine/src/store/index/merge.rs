//! Merging segments into one, a page of each in memory.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::path::Path;
use std::sync::Arc;

use super::super::damage::BadPlaces;
use super::super::digest::{PackId, RepositoryId};
use super::segment::{Record, Segment, SegmentWriter};
use crate::base::Result;

/// The segments' records in order.
struct Cursor<'a> {
    segment: &'a Segment,
    /// The segment's pack numbers in the merged list.
    numbers: Vec<u32>,
    next_page: usize,
    page: std::vec::IntoIter<Record>,
}

impl Cursor<'_> {
    fn next(&mut self) -> Result<Option<Record>> {
        loop {
            if let Some(mut record) = self.page.next() {
                let Some(number) = self.numbers.get(record.pack as usize) else { continue };
                record.pack = *number;
                return Ok(Some(record));
            }
            if self.next_page == self.segment.pages() {
                return Ok(None);
            }
            self.page = self.segment.page(self.next_page)?.into_iter();
            self.next_page += 1;
        }
    }
}

/// Writes the union of `segments` as one, without what lies at `bad` places; of two records with
/// one digest, one is kept.
///
/// # Errors
/// `Corrupt` when a segment is damaged; `Io`.
pub fn merge(
    folder: &Path,
    repository: RepositoryId,
    segments: &[Arc<Segment>],
    bad: &BadPlaces,
) -> Result<Arc<Segment>> {
    let mut packs: Vec<(PackId, u64)> = Vec::new();
    let mut known: HashMap<PackId, u32> = HashMap::new();
    let mut cursors = Vec::new();
    for segment in segments {
        let mut numbers = Vec::new();
        for (id, size) in segment.packs() {
            let next = u32::try_from(packs.len()).expect("packs of a repository fit 32 bits");
            let number = *known.entry(*id).or_insert(next);
            if number == next {
                packs.push((*id, *size));
            }
            numbers.push(number);
        }
        cursors.push(Cursor { segment, numbers, next_page: 0, page: Vec::new().into_iter() });
    }
    let most = segments.iter().map(|segment| segment.records()).fold(0, u64::saturating_add);
    let mut writer = SegmentWriter::create(folder, most)?;
    let mut heap = BinaryHeap::new();
    for (number, cursor) in cursors.iter_mut().enumerate() {
        heap.extend(cursor.next()?.map(|record| Reverse((record, number))));
    }
    let mut last = None;
    while let Some(Reverse((record, number))) = heap.pop() {
        let pack = packs.get(record.pack as usize);
        let is_bad = pack.is_some_and(|(pack, _)| bad.holds(&record.place(*pack)));
        if last != Some(record.digest) && !is_bad {
            writer.push(&record)?;
            last = Some(record.digest);
        }
        heap.extend(cursors[number].next()?.map(|record| Reverse((record, number))));
    }
    writer.finish(repository, &packs)
}
