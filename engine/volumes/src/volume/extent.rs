//! A disk or a volume, read with every range checked.

use crate::base::{ByteOffset, ReadAt, Result};

/// All of `disk`.
#[derive(Clone, Copy)]
pub(super) struct Extent<'a> {
    disk: &'a dyn ReadAt,
}

/// Bytes that a failed read is retried in, so that one bad sector hides little.
const RETRY: usize = 4096;

impl<'a> Extent<'a> {
    /// The whole of `disk`.
    pub(super) fn whole(disk: &'a dyn ReadAt) -> Self {
        Self { disk }
    }

    /// Its bytes.
    pub(super) fn length(&self) -> u64 {
        self.disk.size().0
    }

    /// Exactly `length` bytes from `offset`; `None` if they are not all inside.
    ///
    /// # Errors
    /// The disk's own.
    pub(super) fn read(&self, offset: u64, length: usize) -> Result<Option<Vec<u8>>> {
        let Some(place) = self.place(offset, length) else { return Ok(None) };
        let mut buffer = vec![0; length];
        self.disk.read_exact_at(place, &mut buffer)?;
        Ok(Some(buffer))
    }

    /// Up to `length` bytes from its start. Pieces that cannot be read come as zeros, with the
    /// first error beside them.
    pub(super) fn head(&self, length: usize) -> (Vec<u8>, Option<crate::base::Error>) {
        let length = usize::try_from(self.length()).map_or(length, |own| own.min(length));
        let mut buffer = vec![0; length];
        let Err(error) = self.disk.read_exact_at(ByteOffset(0), &mut buffer) else {
            return (buffer, None);
        };
        let mut at = 0_u64;
        for piece in buffer.chunks_mut(RETRY) {
            if self.disk.read_exact_at(ByteOffset(at), piece).is_err() {
                piece.fill(0);
            }
            at = at.saturating_add(u64::try_from(piece.len()).unwrap_or(u64::MAX));
        }
        (buffer, Some(error))
    }

    fn place(&self, offset: u64, length: usize) -> Option<ByteOffset> {
        let end = offset.checked_add(u64::try_from(length).ok()?)?;
        (end <= self.length()).then_some(ByteOffset(offset))
    }
}
