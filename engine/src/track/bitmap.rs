//! The bitmaps of epochs.

use super::layout::{BitmapShape, COARSE_SHIFT};
use crate::base::{ByteCount, ByteRange, ChangeMap, Granule, Result};
use crate::sys::bpf::{Map, MapKind};

/// One epoch's bits.
#[derive(Debug)]
pub struct Bitmap {
    /// The kernel's map.
    pub map: Map,
    shape: BitmapShape,
    granule: Granule,
    size: ByteCount,
}

impl Bitmap {
    /// An empty one for a disk of `size`.
    ///
    /// # Errors
    /// The kernel's, for want of memory.
    pub fn create(size: ByteCount, granule: Granule) -> Result<Self> {
        let shape = shape(size, granule);
        let words = u32::try_from(shape.words).unwrap_or(u32::MAX);
        let map = Map::create(MapKind::Words, words, "imgx_epoch")?;
        Ok(Self { map, shape, granule, size })
    }

    /// That of a disk of `size` behind a descriptor.
    #[must_use]
    pub fn adopt(descriptor: std::os::fd::OwnedFd, size: ByteCount, granule: Granule) -> Self {
        let map = Map::adopt(descriptor, MapKind::Words);
        Self { map, shape: shape(size, granule), granule, size }
    }

    /// Bytes of memory that it takes.
    #[must_use]
    pub fn memory(size: ByteCount, granule: Granule) -> u64 {
        shape(size, granule).words as u64 * 8
    }

    /// What is marked.
    ///
    /// # Errors
    /// The kernel's.
    pub fn read(&self) -> Result<ChangeMap> {
        let words = self.map.words(self.shape.words)?;
        let coarse = usize::try_from(self.shape.coarse / 64).unwrap_or(usize::MAX);
        let fine = (0..coarse).map(|word| words.load(word));
        let mut changes = ChangeMap::from_words(self.size, self.granule, fine)?;
        let span = self.granule.bytes() << COARSE_SHIFT;
        for word in coarse..self.shape.words {
            let bits = words.load(word);
            for bit in (0..64).filter(|bit| bits >> bit & 1 == 1) {
                let number = (word - coarse) as u64 * 64 + bit;
                let start = number.saturating_mul(span);
                let end = start.saturating_add(span).min(self.size.0);
                if start < end {
                    changes.set(ByteRange { start, end });
                }
            }
        }
        Ok(changes)
    }

    /// Marks what is marked in `other`, which is of the same disk.
    ///
    /// # Errors
    /// The kernel's.
    pub fn add(&self, other: &Self) -> Result<()> {
        let (to, from) = (self.map.words(self.shape.words)?, other.map.words(self.shape.words)?);
        for word in 0..self.shape.words {
            let bits = from.load(word);
            if bits != 0 {
                to.set_bits(word, bits);
            }
        }
        Ok(())
    }
}

fn shape(size: ByteCount, granule: Granule) -> BitmapShape {
    BitmapShape::new(granule.count(size))
}
