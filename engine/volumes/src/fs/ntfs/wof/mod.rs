//! Files that Windows' overlay filter (WOF) compressed: their content is in chunks in the stream
//! `WofCompressedData`, which starts with where the second and later chunks are.
//!
//! The form is that of a resource in a Windows image.

mod bits;
mod lzx;
mod xpress;

use super::compressed::visit_parts;
use super::content::fill;
use super::space::Space;
use super::stream::{Body, Stream};
use super::units::index;
use crate::base::fields::{le32, le64, slice};
use crate::base::{Error, Result};
use crate::fs::{Extent, FileContent, Place, Visit};

/// Unpacks a chunk to a length.
type Unpack = fn(&[u8], usize) -> Result<Vec<u8>>;

/// An open file.
pub(super) struct Overlaid<'a> {
    space: &'a Space,
    size: u64,
    chunk_size: u64,
    unpack: Unpack,
    packed: Box<dyn FileContent + 'a>,
    /// Where the packed bytes are on the volume.
    map: Stream,
    /// Bytes of a place in the table, and of all of it.
    place_size: u64,
    table_size: u64,
    /// The chunk that was read last, by its number.
    unpacked: Option<(u64, Vec<u8>)>,
}

impl<'a> Overlaid<'a> {
    /// The file of `size` bytes that is packed by `algorithm` in `map`, which `packed` reads.
    ///
    /// # Errors
    /// `Unsupported` when the algorithm is not known; `Corrupt` when the table does not fit.
    pub(super) fn new(
        space: &'a Space,
        size: u64,
        algorithm: u32,
        map: Stream,
        packed: Box<dyn FileContent + 'a>,
    ) -> Result<Self> {
        let (chunk_size, unpack): (u64, Unpack) = match algorithm {
            0 => (4096, xpress::unpack),
            1 => (32 * 1024, lzx::unpack),
            2 => (8192, xpress::unpack),
            3 => (16 * 1024, xpress::unpack),
            _ => {
                let context = format!("WOF's algorithm {algorithm}");
                return Err(Error::newer(context));
            }
        };
        let place_size = if size > u64::from(u32::MAX) { 8 } else { 4 };
        let count = size.div_ceil(chunk_size);
        let table_size = count.saturating_sub(1).saturating_mul(place_size);
        if table_size > packed.size() {
            let expected = format!("places of {count} chunks");
            return Err(Error::corrupt("WOF stream", expected, format!("{} bytes", packed.size())));
        }
        let unpacked = None;
        Ok(Self { space, size, chunk_size, unpack, packed, map, place_size, table_size, unpacked })
    }

    /// The first packed byte of chunk `number`, and the one after the last.
    fn bounds(&mut self, number: u64) -> Result<(u64, u64)> {
        let start = match number.checked_sub(1) {
            None => self.table_size,
            Some(before) => self.place(before)?,
        };
        let is_last = number.saturating_add(1).saturating_mul(self.chunk_size) >= self.size;
        let end = if is_last { self.packed.size() } else { self.place(number)? };
        if start >= end || end > self.packed.size() {
            let found = format!("bytes {start} to {end} of {}", self.packed.size());
            return Err(Error::corrupt(format!("WOF chunk {number}"), "a place", found));
        }
        Ok((start, end))
    }

    /// Where chunk `number + 1` starts.
    fn place(&mut self, number: u64) -> Result<u64> {
        let mut field = [0; 8];
        let field = field.get_mut(..index(self.place_size)).unwrap_or_default();
        self.packed.read_at(number.saturating_mul(self.place_size), field)?;
        let place = le64(field, 0).or_else(|| le32(field, 0).map(u64::from)).unwrap_or_default();
        Ok(place.saturating_add(self.table_size))
    }

    /// The unpacked bytes of chunk `number`.
    fn chunk(&mut self, number: u64) -> Result<&[u8]> {
        if self.unpacked.as_ref().is_none_or(|(known, _)| *known != number) {
            self.unpacked = None;
            let (start, end) = self.bounds(number)?;
            let before = number.saturating_mul(self.chunk_size);
            let size = self.size.saturating_sub(before).min(self.chunk_size);
            let length = end.saturating_sub(start);
            let wrong = |found| Error::corrupt(format!("WOF chunk {number}"), "its bytes", found);
            if length > size {
                return Err(wrong(format!("{length} for {size}")));
            }
            let mut packed = vec![0; index(length)];
            if self.packed.read_at(start, &mut packed)? < packed.len() {
                return Err(wrong("fewer".to_owned()));
            }
            // What did not get smaller is as it was.
            let unpacked = match length == size {
                true => packed,
                false => (self.unpack)(&packed, index(size))
                    .map_err(|error| error.within(format!("WOF chunk {number}")))?,
            };
            self.unpacked = Some((number, unpacked));
        }
        Ok(self.unpacked.as_ref().map_or(&[], |(_, unpacked)| unpacked))
    }

    fn read_chunk(&mut self, at: u64, part: &mut [u8]) -> Result<usize> {
        let number = at.checked_div(self.chunk_size).unwrap_or_default();
        let within = at.checked_rem(self.chunk_size).unwrap_or_default();
        let count = index(self.chunk_size.saturating_sub(within)).min(part.len());
        let chunk = self.chunk(number)?;
        let found = slice(chunk, index(within), count)
            .ok_or_else(|| Error::corrupt(format!("WOF chunk {number}"), "all of it", "less"))?;
        part.get_mut(..count).unwrap_or_default().copy_from_slice(found);
        Ok(count)
    }

    /// The stretches of the volume that packed bytes are in.
    fn stretches(&self, start: u64, end: u64) -> Result<Vec<Place>> {
        let Body::Mapped(runs) = &self.map.body else { return Ok(vec![Place::Inline]) };
        let (mut at, mut stretches) = (start, Vec::new());
        while at < end {
            let stretch = Stream::stretch(runs, self.space, at)?;
            let length = stretch.length.min(end.saturating_sub(at)).max(1);
            stretches.extend(stretch.place.map(|place| Place::Encoded(place, length)));
            at = at.saturating_add(length);
        }
        Ok(stretches)
    }
}

impl FileContent for Overlaid<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize> {
        let size = self.size;
        fill(size, size, offset, buffer, &mut |at, part| self.read_chunk(at, part))
    }

    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()> {
        let mut start = 0_u64;
        while start < self.size {
            let end = start.saturating_add(self.chunk_size).min(self.size);
            let (first, last) = self.bounds(start.checked_div(self.chunk_size).unwrap_or(0))?;
            let stretches = self.stretches(first, last)?;
            if visit_parts(start, end, &stretches, visit).is_break() {
                return Ok(());
            }
            start = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_bytes_make_a_decoder_panic_or_give_too_much(
            packed in proptest::collection::vec(any::<u8>(), 0..2000),
            size in 0_usize..5000,
        ) {
            // Lengths of codes that are whole, so that what follows is decoded.
            let mut coded = vec![0x99; 256];
            coded.extend_from_slice(&packed);
            for bytes in [&packed, &coded] {
                for unpack in [xpress::unpack, lzx::unpack] {
                    if let Ok(unpacked) = unpack(bytes, size) {
                        prop_assert_eq!(unpacked.len(), size);
                    }
                }
            }
        }
    }
}
