//! The volume's bytes and clusters, with the metadata that was read last kept in memory.

use std::sync::Arc;

use super::boot::Boot;
use super::units::{Lcn, bytes, index};
use crate::base::limits::{CACHED_FS_BLOCKS, MAX_IO_SIZE};
use crate::base::{ByteOffset, Error, ReadAt, Result};
use crate::fs::recent::Recent;

/// Bytes of metadata that are read and kept as one.
const PIECE: u64 = 4096;

/// Reads the volume. What is metadata comes through a cache, what is content does not.
pub(super) struct Space {
    volume: Arc<dyn ReadAt>,
    pub(super) cluster_size: u64,
    pub(super) clusters: u64,
    cache: Recent<u64, [u8]>,
}

impl Space {
    pub(super) fn new(volume: Arc<dyn ReadAt>, boot: &Boot) -> Self {
        let (cluster_size, clusters) = (boot.cluster_size, boot.clusters);
        Self { volume, cluster_size, clusters, cache: Recent::new(CACHED_FS_BLOCKS) }
    }
    /// Bytes of the volume.
    pub(super) fn volume_size(&self) -> u64 {
        self.volume.size().0
    }

    /// The first byte of a cluster.
    pub(super) fn offset(&self, cluster: Lcn) -> u64 {
        cluster.0.saturating_mul(self.cluster_size)
    }

    /// Bytes of content, which the cache would only be flushed by.
    ///
    /// # Errors
    /// `Corrupt` beyond the volume's end; the volume's own.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len())?;
        let mut at = offset;
        for piece in buffer.chunks_mut(MAX_IO_SIZE) {
            self.volume.read_exact_at(ByteOffset(at), piece)?;
            at = at.saturating_add(bytes(piece.len()));
        }
        Ok(())
    }

    /// Bytes of metadata.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(super) fn read_metadata(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        self.check(offset, buffer.len())?;
        let (mut at, mut rest) = (offset, buffer);
        while !rest.is_empty() {
            let within = index(at % PIECE);
            let count = rest.len().min(index(PIECE).saturating_sub(within));
            let (part, after) = rest.split_at_mut(count);
            let piece = self.piece(at / PIECE)?;
            let found = piece.get(within..).and_then(|piece| piece.get(..count));
            part.copy_from_slice(found.unwrap_or(&[]).get(..part.len()).ok_or_else(|| {
                Error::corrupt(format!("byte {at}"), format!("{count} bytes"), "the volume's end")
            })?);
            at = at.saturating_add(bytes(count));
            rest = after;
        }
        Ok(())
    }

    fn piece(&self, number: u64) -> Result<Arc<[u8]>> {
        if let Some(found) = self.cache.get(number) {
            return Ok(found);
        }
        let start = number.saturating_mul(PIECE);
        let length = PIECE.min(self.volume.size().0.saturating_sub(start));
        let mut buffer = vec![0; index(length)];
        self.volume.read_exact_at(ByteOffset(start), &mut buffer)?;
        let buffer: Arc<[u8]> = buffer.into();
        self.cache.put(number, Arc::clone(&buffer));
        Ok(buffer)
    }

    fn check(&self, offset: u64, length: usize) -> Result<()> {
        let size = self.volume.size().0;
        let end = offset.checked_add(bytes(length));
        if end.is_none_or(|end| end > size) {
            let (expected, found) = (format!("{length} bytes"), format!("its end at {size}"));
            return Err(Error::corrupt(format!("byte {offset} of the volume"), expected, found));
        }
        Ok(())
    }
}
