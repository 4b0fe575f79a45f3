//! The volume's blocks, with those that were read last kept in memory.

use std::sync::Arc;

use super::geometry::Geometry;
use super::units::{BlockNumber, bytes};
use crate::base::{ByteOffset, Error, ReadAt, Result, limits};
use crate::fs::recent::Recent;

/// Reads blocks. What is metadata comes through a cache, what is content does not.
pub(super) struct Blocks {
    volume: Arc<dyn ReadAt>,
    geometry: Geometry,
    cache: Recent<BlockNumber, [u8]>,
}

impl Blocks {
    pub(super) fn new(volume: Arc<dyn ReadAt>, geometry: Geometry) -> Self {
        Self { volume, geometry, cache: Recent::new(limits::CACHED_FS_BLOCKS) }
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// A block of metadata.
    ///
    /// # Errors
    /// `Corrupt` beyond the volume's end; the volume's own.
    pub(super) fn read(&self, block: BlockNumber) -> Result<Arc<[u8]>> {
        if let Some(found) = self.cache.get(block) {
            return Ok(found);
        }
        let mut buffer = vec![0; self.geometry.block_bytes()];
        self.read_bytes(self.geometry.offset(block), &mut buffer)?;
        let buffer: Arc<[u8]> = buffer.into();
        self.cache.put(block, Arc::clone(&buffer));
        Ok(buffer)
    }

    /// Bytes of content, which the cache would only be flushed by.
    ///
    /// # Errors
    /// `Corrupt` beyond the volume's end; the volume's own.
    pub(super) fn read_bytes(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(bytes(buffer.len()));
        let size = self.volume.size().0;
        if end.is_none_or(|end| end > size) {
            let expected = format!("{} bytes", buffer.len());
            let found = format!("the volume's end at {size}");
            return Err(Error::corrupt(format!("byte {offset}"), expected, found));
        }
        self.volume.read_exact_at(ByteOffset(offset), buffer)
    }
}
