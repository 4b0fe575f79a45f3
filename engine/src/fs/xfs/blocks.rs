//! The volume's blocks, with those that were read last kept in memory.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::geometry::Geometry;
use super::units::{BlockNumber, bytes};
use crate::base::{ByteOffset, Error, Result, limits};
use crate::block::ReadAt;

/// Reads blocks. What is metadata comes through a cache, what is content does not.
pub(super) struct Blocks {
    volume: Arc<dyn ReadAt>,
    geometry: Geometry,
    cache: Mutex<Cache>,
}

impl Blocks {
    pub(super) fn new(volume: Arc<dyn ReadAt>, geometry: Geometry) -> Self {
        Self { volume, geometry, cache: Mutex::default() }
    }

    pub(super) fn geometry(&self) -> &Geometry {
        &self.geometry
    }

    /// A block of metadata.
    ///
    /// # Errors
    /// `Corrupt` beyond the volume's end; the volume's own.
    pub(super) fn read(&self, block: BlockNumber) -> Result<Arc<[u8]>> {
        if let Some(found) = self.cache().get(block) {
            return Ok(found);
        }
        let mut buffer = vec![0; self.geometry.block_bytes()];
        self.read_bytes(self.geometry.offset(block), &mut buffer)?;
        let buffer: Arc<[u8]> = buffer.into();
        self.cache().put(block, Arc::clone(&buffer));
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

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        // A thread that panicked left whole blocks behind, or none.
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two generations of blocks: a block that is used moves to the younger one, and when that is
/// full, it takes the place of the elder. So whatever is used stays, at no cost of bookkeeping.
#[derive(Default)]
struct Cache {
    young: HashMap<BlockNumber, Arc<[u8]>>,
    old: HashMap<BlockNumber, Arc<[u8]>>,
}

impl Cache {
    fn get(&mut self, block: BlockNumber) -> Option<Arc<[u8]>> {
        if let Some(found) = self.young.get(&block) {
            return Some(Arc::clone(found));
        }
        let found = self.old.remove(&block)?;
        self.put(block, Arc::clone(&found));
        Some(found)
    }

    fn put(&mut self, block: BlockNumber, bytes: Arc<[u8]>) {
        if self.young.len() >= limits::CACHED_FS_BLOCKS / 2 {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(block, bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_keeps_what_is_used_and_never_grows() {
        let mut cache = Cache::default();
        let limit = u64::try_from(limits::CACHED_FS_BLOCKS).expect("a small number");
        for number in 0..limit * 4 {
            cache.put(BlockNumber(number), Arc::from([0_u8].as_slice()));
            assert!(cache.get(BlockNumber(0)).is_some(), "block 0 was lost at {number}");
            assert!(cache.young.len() + cache.old.len() <= limits::CACHED_FS_BLOCKS);
        }
        assert!(cache.get(BlockNumber(5)).is_none());
    }
}
