//! A folder's records, 32 bytes each.

use std::collections::HashMap;
use std::ops::ControlFlow;

use super::chain::{Chain, Start};
use super::heap::Heap;
use crate::base::{ByteRange, Error, Result};

/// Bytes of a record.
pub(in crate::fs) const RECORD: usize = 32;
/// Bytes that are read at first, as often one file's records are all that is wanted.
const FIRST_PIECE: u64 = 1024;
/// Bytes that are read at once.
const PIECE: u64 = 32 * 1024;

/// A record, and where on the volume it is.
pub(in crate::fs) struct Record<'a> {
    pub place: u64,
    pub bytes: &'a [u8],
}

/// Shows the records of a chain's bytes `range` to `visit`, and an error for each piece that
/// cannot be read, until it breaks. Returns whether the chain goes on beyond the range.
///
/// # Errors
/// `Corrupt` when the chain is broken, after what is before that was shown.
pub(in crate::fs) fn each_record(
    heap: &Heap,
    start: Start,
    range: ByteRange,
    visit: &mut dyn FnMut(Result<Record<'_>>) -> ControlFlow<()>,
) -> Result<bool> {
    let mut chain = Chain::new(heap, start);
    let (mut offset, mut piece) = (range.start, FIRST_PIECE);
    let mut seen = HashMap::new();
    while offset < range.end {
        let wanted = piece.min(range.end.saturating_sub(offset));
        let Some((place, length)) = chain.stretch(offset, wanted)? else { return Ok(false) };
        check_new(heap, &mut seen, (place, length), offset)?;
        if show(heap, place, length, visit) == ControlFlow::Break(()) {
            return Ok(false);
        }
        offset = offset.saturating_add(length);
        piece = PIECE;
    }
    Ok(true)
}

/// Checks that the clusters of a stretch, which is the chain's bytes from `offset` on, were in the
/// chain at no other place.
fn check_new(
    heap: &Heap,
    seen: &mut HashMap<u32, u64>,
    (place, length): (u64, u64),
    offset: u64,
) -> Result<()> {
    let size = heap.cluster_size.max(1);
    let (Some(first), Some(index)) = (heap.cluster_at(place), offset.checked_div(size)) else {
        return Ok(());
    };
    let within = offset.checked_rem(size).unwrap_or_default();
    let count = within.saturating_add(length).div_ceil(size);
    for (cluster, index) in (first..).zip((index..).take(usize::try_from(count).unwrap_or(0))) {
        if *seen.entry(cluster).or_insert(index) != index {
            let found = format!("cluster {cluster} once more");
            return Err(Error::corrupt("chain of clusters", "its end", found));
        }
    }
    Ok(())
}

/// Shows the records of `length` bytes from `place`.
pub(in crate::fs) fn show(
    heap: &Heap,
    place: u64,
    length: u64,
    visit: &mut dyn FnMut(Result<Record<'_>>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or_default()];
    if let Err(error) = heap.read(place, &mut bytes) {
        return visit(Err(error.within(format!("folder at byte {place}"))));
    }
    let mut at = place;
    for record in bytes.chunks_exact(RECORD) {
        visit(Ok(Record { place: at, bytes: record }))?;
        at = at.saturating_add(u64::try_from(RECORD).unwrap_or_default());
    }
    ControlFlow::Continue(())
}

/// The record at byte `place`.
///
/// # Errors
/// `Corrupt` when the volume has no such byte; `Io`.
pub(in crate::fs) fn read_record(heap: &Heap, place: u64) -> Result<[u8; RECORD]> {
    let mut record = [0; RECORD];
    heap.read(place, &mut record)?;
    Ok(record)
}
