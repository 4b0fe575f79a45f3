//! A file's content on a chain.

use std::ops::ControlFlow;

use super::chain::{Chain, Start};
use super::heap::Heap;
use crate::base::limits::MAX_IO_SIZE;
use crate::base::{Error, Result};
use crate::fs::{Extent, FileContent, Place, Visit};

/// Bytes that one extent is searched for at most.
const LONGEST_EXTENT: u64 = 1 << 30;

/// An open file.
pub(in crate::fs) struct ChainContent<'a> {
    chain: Chain<'a>,
    size: u64,
    /// Bytes that were written; the rest reads as zeros (exFAT's `ValidDataLength`).
    valid: u64,
}

impl<'a> ChainContent<'a> {
    pub(in crate::fs) fn new(heap: &'a Heap, start: Start, size: u64, valid: u64) -> Self {
        Self { chain: Chain::new(heap, start), size, valid: valid.min(size) }
    }

    fn stretch(&mut self, offset: u64, wanted: u64) -> Result<(u64, u64)> {
        let size = self.size;
        let found = self.chain.stretch(offset, wanted)?.ok_or_else(|| {
            let expected = format!("clusters for {size} bytes");
            Error::corrupt("chain of clusters", expected, format!("its end before byte {offset}"))
        })?;
        if offset.saturating_add(found.1) >= self.valid {
            let clusters = self.valid.div_ceil(self.chain.heap().cluster_size.max(1));
            self.chain.check_end(clusters)?;
        }
        Ok(found)
    }
}

impl FileContent for ChainContent<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        let end = offset.saturating_add(length).min(self.size);
        let count = usize::try_from(end.saturating_sub(offset)).unwrap_or(usize::MAX);
        let Some(mut rest) = buffer.get_mut(..count) else { return Ok(0) };
        let mut at = offset;
        while !rest.is_empty() {
            let left = self.valid.saturating_sub(at);
            if left == 0 {
                rest.fill(0);
                break;
            }
            let wanted = left.min(u64::try_from(rest.len()).unwrap_or(u64::MAX));
            let (place, found) = self.stretch(at, wanted)?;
            let split = usize::try_from(found).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut(split);
            let mut from = place;
            for piece in part.chunks_mut(MAX_IO_SIZE) {
                self.chain.heap().read(from, piece)?;
                from = from.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
            }
            at = at.saturating_add(found);
            rest = after;
        }
        Ok(count)
    }

    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
        let mut offset = 0;
        while offset < self.valid {
            let wanted = self.valid.saturating_sub(offset).min(LONGEST_EXTENT);
            let (place, length) = self.stretch(offset, wanted)?;
            let extent = Extent { offset, length, place: Place::At(place) };
            if visit(extent) == ControlFlow::Break(()) {
                return Ok(());
            }
            offset = offset.saturating_add(length);
        }
        let length = self.size.saturating_sub(self.valid);
        if length > 0 {
            // Nobody is left to break for.
            let _ = visit(Extent { offset: self.valid, length, place: Place::Unwritten(None) });
        }
        Ok(())
    }
}
