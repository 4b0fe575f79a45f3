//! A volume with some of its blocks replaced by copies from elsewhere on it.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::super::units::{BlockNumber, bytes, index};
use crate::base::ranges::joined;
use crate::base::{ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result};

/// Bytes of the magic number that an escaped copy lacks.
const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

/// Where the content of a block is instead.
#[derive(Debug, Clone, Copy)]
pub(super) struct Copy {
    /// The byte of the volume.
    pub offset: u64,
    /// Whether its first four bytes are the journal's magic number in truth.
    pub escaped: bool,
}

/// `volume` with `copies` over it.
pub(super) fn over(
    volume: &Arc<dyn ReadAt>,
    block_size: u32,
    copies: BTreeMap<BlockNumber, Copy>,
) -> Arc<dyn ReadAt> {
    Arc::new(Overlay { volume: Arc::clone(volume), block_size: u64::from(block_size), copies })
}

/// What `copies` are laid over, in bytes of the volume, sorted and apart.
pub(super) fn covered(block_size: u32, copies: &BTreeMap<BlockNumber, Copy>) -> Vec<ByteRange> {
    let size = u64::from(block_size);
    joined(copies.keys().map(|block| ByteRange::new(block.0.saturating_mul(size), size)).collect())
}

struct Overlay {
    volume: Arc<dyn ReadAt>,
    block_size: u64,
    copies: BTreeMap<BlockNumber, Copy>,
}

impl Overlay {
    /// Replaces what of `buffer`, read from `range`, belongs to `block`.
    fn patch(
        &self,
        range: ByteRange,
        buffer: &mut [u8],
        (block, copy): (&BlockNumber, &Copy),
    ) -> Result<()> {
        let start = block.0.saturating_mul(self.block_size);
        let own = ByteRange::new(start, self.block_size);
        let Some(both) = own.intersection(&range) else { return Ok(()) };
        let place = index(both.start.saturating_sub(range.start));
        let end = place.saturating_add(index(both.len()));
        let Some(part) = buffer.get_mut(place..end) else { return Ok(()) };
        let within = both.start.saturating_sub(start);
        let offset = copy.offset.saturating_add(within);
        self.volume.read_exact_at(ByteOffset(offset), part)?;
        if copy.escaped {
            let magic = MAGIC.get(index(within).min(4)..).unwrap_or_default();
            part.iter_mut().zip(magic).for_each(|(byte, magic)| *byte = *magic);
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
        let range = ByteRange::new(offset.0, bytes(buffer.len()));
        let first = range.start.checked_div(self.block_size);
        let last = range.end.checked_div(self.block_size);
        let (Some(first), Some(last)) = (first, last) else {
            return Err(Error::new(ErrorKind::Invalid, "blocks without bytes"));
        };
        for copy in self.copies.range(BlockNumber(first)..=BlockNumber(last)) {
            self.patch(range, buffer, copy)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::as_conversions, reason = "a test may panic")]

    use super::*;

    #[test]
    fn any_read_sees_the_copies_and_their_magic_number() {
        let mut bytes = vec![1; 4096];
        bytes[3072..].fill(7);
        bytes[3072..3076].fill(0);
        let volume: Arc<dyn ReadAt> = Arc::new(bytes);
        let copies = [(BlockNumber(1), Copy { offset: 3072, escaped: true })];
        let overlay = over(&volume, 1024, copies.into());
        let mut expected = vec![1; 3072];
        expected[1024..2048].fill(7);
        expected[1024..1028].copy_from_slice(&MAGIC);
        for (offset, length) in [(0, 3072), (1025, 10), (1026, 1), (1000, 26), (2047, 2), (0, 1024)]
        {
            let mut found = vec![0; length];
            overlay.read_exact_at(ByteOffset(offset as u64), &mut found).expect("read");
            assert_eq!(found, expected[offset..offset + length], "{length} bytes at {offset}");
        }
    }
}
