//! A volume with some of its sectors replaced by what the log makes of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::units::{bytes, index};
use crate::base::ranges::joined;
use crate::base::{ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, limits};

/// Bytes of a sector.
const SECTOR: usize = 512;

/// The sectors, and the volume under them.
pub(super) struct Overlay {
    volume: Arc<dyn ReadAt>,
    sectors: BTreeMap<u64, Box<[u8; SECTOR]>>,
}

impl Overlay {
    pub(super) fn new(volume: &Arc<dyn ReadAt>) -> Self {
        Self { volume: Arc::clone(volume), sectors: BTreeMap::new() }
    }

    /// Sectors that are not as the volume has them.
    pub(super) fn len(&self) -> usize {
        self.sectors.len()
    }

    /// Those sectors, in bytes of the volume, sorted and apart.
    pub(super) fn covered(&self) -> Vec<ByteRange> {
        let sectors = self.sectors.keys();
        joined(sectors.map(|sector| ByteRange::new(sector.saturating_mul(512), 512)).collect())
    }

    /// Whether any of `length` bytes from `sector` on were replaced.
    pub(super) fn has(&self, sector: u64, length: usize) -> bool {
        let end = sector.saturating_add(bytes(length.div_ceil(SECTOR)));
        self.sectors.range(sector..end).next().is_some()
    }

    /// Reads `length` bytes from `sector` on.
    ///
    /// # Errors
    /// `Corrupt` beyond the volume's end; the volume's own.
    pub(super) fn read(&self, sector: u64, length: usize) -> Result<Vec<u8>> {
        let mut buffer = vec![0; length];
        let offset = sector.saturating_mul(512);
        let end = offset.checked_add(bytes(length));
        if end.is_none_or(|end| end > self.volume.size().0) {
            let expected = format!("{length} bytes on the volume");
            return Err(Error::corrupt(format!("sector {sector}"), expected, "its end"));
        }
        self.read_exact_at(ByteOffset(offset), &mut buffer)?;
        Ok(buffer)
    }

    /// Puts `content`, which is whole sectors, over the volume from `sector` on.
    ///
    /// # Errors
    /// `Limit` when the overlay gets too large.
    pub(super) fn write(&mut self, sector: u64, content: &[u8]) -> Result<()> {
        for (content, sector) in content.chunks(SECTOR).zip(sector..) {
            let Some(whole) = content.first_chunk() else { break };
            self.sectors.insert(sector, Box::new(*whole));
        }
        if self.sectors.len().saturating_mul(SECTOR) > limits::MAX_REPLAYED_BYTES {
            let context = format!("a log that changes over {} bytes", limits::MAX_REPLAYED_BYTES);
            return Err(Error::new(ErrorKind::Limit, context));
        }
        Ok(())
    }
}

impl ReadAt for Overlay {
    fn size(&self) -> ByteCount {
        self.volume.size()
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        self.volume.read_exact_at(offset, buffer)?;
        let end = offset.0.saturating_add(bytes(buffer.len()));
        for (sector, content) in self.sectors.range(offset.0 / 512..end.div_ceil(512)) {
            let start = sector.saturating_mul(512);
            // Either the read starts within the sector, or the sector within the read.
            let skip = index(offset.0.saturating_sub(start));
            let place = index(start.saturating_sub(offset.0));
            let content = content.get(skip..).unwrap_or_default();
            let part = buffer.get_mut(place..).unwrap_or_default();
            part.iter_mut().zip(content).for_each(|(byte, new)| *byte = *new);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::as_conversions, reason = "a test may panic")]

    use super::*;

    #[test]
    fn any_read_sees_what_was_written_over_the_volume() {
        let volume: Arc<dyn ReadAt> = Arc::new(vec![1_u8; 4096]);
        let mut overlay = Overlay::new(&volume);
        overlay.write(2, &[7; 1024]).expect("written");
        let mut expected = vec![1; 4096];
        expected[1024..2048].fill(7);
        for (offset, length) in
            [(0, 4096), (1023, 2), (1024, 1), (1500, 600), (2047, 2), (2048, 5), (0, 1024)]
        {
            let mut found = vec![0; length];
            overlay.read_exact_at(ByteOffset(offset as u64), &mut found).expect("read");
            assert_eq!(found, expected[offset..offset + length], "{length} bytes at {offset}");
        }
        assert!(overlay.has(1, 1024) && !overlay.has(0, 1024) && !overlay.has(4, 512));
        assert!(overlay.read(7, 1024).is_err());
    }
}
