//! Holes: where a file has none of its bytes stored, and how to make it so.

use std::fs::File;

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::statvfs::fstatvfs;
use nix::unistd::{Whence, lseek};

use crate::base::ByteRange;

/// The first byte at or after `from` that is data; `None` if there is none up to the end.
/// Moves the file's position.
///
/// # Errors
/// The kernel's error; `EINVAL` where the filesystem cannot tell.
pub fn next_data(file: &File, from: u64) -> nix::Result<Option<u64>> {
    match seek(file, from, Whence::SeekData) {
        Err(Errno::ENXIO) => Ok(None),
        other => other.map(Some),
    }
}

/// The first byte at or after `from` that lies in a hole; the file's end counts as one.
/// Moves the file's position.
///
/// # Errors
/// The kernel's error; `ENXIO` from the end on.
pub fn next_hole(file: &File, from: u64) -> nix::Result<u64> {
    seek(file, from, Whence::SeekHole)
}

/// Makes `range` of a file a hole, or of a block device zeros that need not be stored (it fails
/// unless the device guarantees that they read as zeros).
///
/// # Errors
/// The kernel's error; `EOPNOTSUPP` where it is not possible.
pub fn punch(file: &File, range: ByteRange) -> nix::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    allocate(file, flags, range)
}

/// Makes `range` of a file read as zero while its space stays allocated.
///
/// # Errors
/// The kernel's error; `EOPNOTSUPP` where it is not possible.
pub fn zero_range(file: &File, range: ByteRange) -> nix::Result<()> {
    let flags = FallocateFlags::FALLOC_FL_ZERO_RANGE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    allocate(file, flags, range)
}

/// Reserves the space of `range`, which grows the file to its end and reads as zero.
///
/// # Errors
/// The kernel's error; `EOPNOTSUPP` where it is not possible, `ENOSPC` without enough space.
pub fn reserve(file: &File, range: ByteRange) -> nix::Result<()> {
    // A filesystem asked for too much may take all it has before it notices, which would fail
    // everybody else's writes meanwhile.
    let filesystem = fstatvfs(file)?;
    let unit = filesystem.fragment_size();
    if range.len() > filesystem.blocks_available().saturating_mul(unit) {
        return Err(Errno::ENOSPC);
    }
    allocate(file, FallocateFlags::empty(), range)
}

fn allocate(file: &File, flags: FallocateFlags, range: ByteRange) -> nix::Result<()> {
    let (start, length) = (signed(range.start)?, signed(range.len())?);
    loop {
        match fallocate(file, flags, start, length) {
            Err(Errno::EINTR) => {}
            other => return other,
        }
    }
}

fn seek(file: &File, from: u64, whence: Whence) -> nix::Result<u64> {
    let found = lseek(file, signed(from)?, whence)?;
    u64::try_from(found).map_err(|_| Errno::ERANGE)
}

fn signed(bytes: u64) -> nix::Result<i64> {
    i64::try_from(bytes).map_err(|_| Errno::EFBIG)
}
