//! Which stretches of a content are data, by its filesystem's own map, and how an archive says so:
//! GNU's sparse format 1.0. What is a hole is never read.
//!
//! Source: GNU tar 1.34, manual, "Storing Sparse Files".

use std::ops::ControlFlow;

use super::content::Copier;
use crate::base::limits::MAX_ARCHIVED_STRETCHES;
use crate::base::{ByteRange, Error, ReadAt, Result};
use crate::fs::{Extent, FileContent, Place};

/// Bytes of an archive's blocks.
const BLOCK: u64 = super::BLOCK as u64;

/// The data of a content.
pub(super) struct DataMap {
    /// Bytes of the content, holes included.
    pub size: u64,
    /// The data, in whole blocks of the archive but for the content's end, apart and ascending.
    pub data: Vec<ByteRange>,
    /// The same in words, in whole blocks, as it stands before the data; `None` where the content
    /// takes no less without its holes, which are written out then.
    pub encoded: Option<Vec<u8>>,
    /// Why the map ends early, if it does.
    pub failure: Option<Error>,
}

impl DataMap {
    /// The map of `content`, which lies on `volume`. If there are too many holes, the small ones
    /// count as data.
    ///
    /// # Errors
    /// `Cancelled`.
    pub(super) fn of(
        content: &mut dyn FileContent,
        volume: &dyn ReadAt,
        copier: &Copier<'_>,
    ) -> Result<Self> {
        let mut smallest_hole = BLOCK;
        loop {
            let mut gathered = Gathered::new(content.size(), smallest_hole);
            let mut stopped = Ok(());
            let mut is_full = false;
            let mapped = content.extents(&mut |extent| {
                stopped = copier.check();
                gathered.add(&extent);
                is_full = gathered.data.len() > MAX_ARCHIVED_STRETCHES;
                match is_full || stopped.is_err() {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            stopped?;
            if is_full {
                smallest_hole = smallest_hole.saturating_mul(16);
                continue;
            }
            return Ok(gathered.ended(mapped.err(), volume.size().0));
        }
    }

    /// Bytes of data, with which the archive's entry goes on behind the map.
    pub(super) fn data_size(&self) -> u64 {
        self.data.iter().map(ByteRange::len).sum()
    }
}

/// A map that is being made.
struct Gathered {
    size: u64,
    smallest_hole: u64,
    data: Vec<ByteRange>,
    /// How far the content is mapped.
    end: u64,
}

impl Gathered {
    fn new(size: u64, smallest_hole: u64) -> Self {
        Self { size, smallest_hole, data: Vec::new(), end: 0 }
    }

    fn add(&mut self, extent: &Extent) {
        let range = ByteRange::new(extent.offset, extent.length);
        self.end = range.end.min(self.size);
        if !matches!(extent.place, Place::Hole | Place::Unwritten(_)) {
            self.add_data(range);
        }
    }

    fn add_data(&mut self, range: ByteRange) {
        // Unpackers take each stretch in whole blocks.
        let start = range.start - range.start % BLOCK;
        let end = range.end.checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX).min(self.size);
        match self.data.last_mut() {
            Some(last) if start < last.end.saturating_add(self.smallest_hole) => {
                last.end = last.end.max(end);
            }
            _ if start < end => self.data.push(ByteRange { start, end }),
            _ => {}
        }
    }

    /// The map. What it does not reach is taken for data as long as the volume could hold as
    /// much, and for a hole otherwise.
    fn ended(mut self, failure: Option<Error>, volume_size: u64) -> DataMap {
        let rest = ByteRange { start: self.end, end: self.size };
        if failure.is_some() && rest.len() <= volume_size {
            self.add_data(rest);
        }
        let encoded = encode(&self.data, self.size);
        DataMap { size: self.size, data: self.data, encoded, failure }
    }
}

/// The map in words; `None` where it would save nothing.
fn encode(data: &[ByteRange], size: u64) -> Option<Vec<u8>> {
    let data_size: u64 = data.iter().map(ByteRange::len).sum();
    if data_size >= size {
        return None;
    }
    // Unpackers make a file as long as its last stretch says.
    let has_hole_at_end = data.last().is_none_or(|last| last.end < size);
    let end = has_hole_at_end.then(|| ByteRange::new(size, 0));
    let mut text = format!("{}\n", data.len() + usize::from(has_hole_at_end));
    for stretch in data.iter().copied().chain(end) {
        text.push_str(&format!("{}\n{}\n", stretch.start, stretch.len()));
    }
    let mut encoded = text.into_bytes();
    encoded.resize(encoded.len().next_multiple_of(super::BLOCK), 0);
    (encoded.len() as u64 + data_size < size).then_some(encoded)
}
