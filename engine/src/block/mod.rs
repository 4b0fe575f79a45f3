//! Bytes at an offset: the one view that disks, files and images share.

use crate::base::{ByteCount, ByteOffset, Result};

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
}

/// Something that can also be written anywhere within its size.
pub trait WriteAt: ReadAt {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// `Invalid` when the range ends beyond the size; `Io` when the bytes cannot be written.
    fn write_all_at(&self, offset: ByteOffset, bytes: &[u8]) -> Result<()>;
}
