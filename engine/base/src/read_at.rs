//! Bytes at an offset: the one view that disks, images, volumes and files share.

use crate::limits::MAX_IO_SIZE;
use crate::{ByteCount, ByteOffset, Result};

/// Something that can be read anywhere: a disk, a raw file, an image, a partition of either.
pub trait ReadAt: Send + Sync {
    /// Its size.
    fn size(&self) -> ByteCount;

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `Invalid` when the range ends beyond [`size`](Self::size); `Io` or `Corrupt` when the
    /// bytes cannot be had. `buffer` holds nothing of use then.
    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()>;

    /// Bytes from `offset` to where a large read had best end, at most 1 MiB: what lies behind is
    /// stored by itself, so that nothing is read or decoded for two reads that meet there. Disks
    /// are captured in pieces of 1 MiB from their start, and images of them are read in such.
    fn reach(&self, offset: ByteOffset) -> u64 {
        let piece = MAX_IO_SIZE as u64;
        piece - offset.0 % piece
    }
}

/// Something that can also be written anywhere within its size.
pub trait WriteAt: ReadAt {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// `Invalid` when the range ends beyond the size; `Io` when the bytes cannot be written.
    fn write_all_at(&self, offset: ByteOffset, bytes: &[u8]) -> Result<()>;
}
