//! A piece of a disk, read with every range checked.

use crate::base::{ByteCount, ByteOffset, ReadAt, Result, check_range};

/// `length` bytes of `disk` from `start`, never beyond the disk's end.
#[derive(Clone, Copy)]
pub(super) struct Extent<'a> {
    disk: &'a dyn ReadAt,
    start: u64,
    length: u64,
}

/// Bytes that a failed read is retried in, so that one bad sector hides little.
const RETRY: usize = 4096;

impl<'a> Extent<'a> {
    /// The whole of `disk`.
    pub(super) fn whole(disk: &'a dyn ReadAt) -> Self {
        Self { disk, start: 0, length: disk.size().0 }
    }

    /// A piece of it, cut off at its end.
    pub(super) fn part(&self, start: u64, length: u64) -> Self {
        let start = start.min(self.length);
        let length = length.min(self.length.saturating_sub(start));
        Self { disk: self.disk, start: self.start.saturating_add(start), length }
    }

    /// Its bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
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
        let length = usize::try_from(self.length).map_or(length, |own| own.min(length));
        let mut buffer = vec![0; length];
        let Err(error) = self.disk.read_exact_at(ByteOffset(self.start), &mut buffer) else {
            return (buffer, None);
        };
        let mut at = self.start;
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
        (end <= self.length).then(|| ByteOffset(self.start.saturating_add(offset)))
    }
}

impl ReadAt for Extent<'_> {
    fn size(&self) -> ByteCount {
        ByteCount(self.length)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        self.disk.read_exact_at(ByteOffset(self.start.saturating_add(offset.0)), buffer)
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        self.disk.reach(ByteOffset(self.start.saturating_add(offset.0)))
    }
}
