//! A file's content into an open file, its holes left out.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use crate::base::{ByteRange, Error, Result};
use crate::fs::FileContent;

/// Why a content was not copied.
#[derive(Debug)]
pub(super) enum NotCopied {
    /// It could not be read.
    Read(Error),
    /// The target did not take it.
    Write(io::Error),
    /// The run was stopped.
    Stopped,
}

/// Bytes that direct writes are multiples of, in place, length and memory: enough for all sectors.
pub(super) const ALIGNMENT: usize = 4096;

/// A file that a content is written to.
pub(super) struct Output<'a> {
    file: &'a File,
    /// The same file past the page cache.
    direct: Option<File>,
}

impl<'a> Output<'a> {
    /// Writes to `file` through the page cache.
    pub(super) fn new(file: &'a File) -> Self {
        Self { file, direct: None }
    }

    /// Writes to `file` past the page cache where its filesystem can do that: a large content is
    /// copied once less, and drives nothing out.
    pub(super) fn direct(file: &'a File) -> Self {
        let own = format!("/proc/self/fd/{}", file.as_raw_fd());
        let mut options = File::options();
        let direct = options.write(true).custom_flags(OFlag::O_DIRECT.bits()).open(own).ok();
        Self { file, direct }
    }

    /// Reserves the space of `pieces`, which are in order, where the filesystem can do that: they
    /// can then be written side by side, and a full disk is noticed before.
    ///
    /// # Errors
    /// That the disk is full, or a quota.
    pub(super) fn reserve(&self, pieces: &[ByteRange]) -> io::Result<()> {
        let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        for stretch in pieces.chunk_by(|one, next| one.end == next.start) {
            let (Some(first), Some(last)) = (stretch.first(), stretch.last()) else { continue };
            let (start, length) = (signed(first.start), signed(last.end - first.start));
            match fallocate(self.file, FallocateFlags::empty(), start, length) {
                Ok(()) => {}
                Err(full @ (Errno::ENOSPC | Errno::EDQUOT)) => return Err(full.into()),
                // A filesystem that reserves nothing.
                Err(_) => break,
            }
        }
        Ok(())
    }

    fn write(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        let is_aligned = at.is_multiple_of(ALIGNMENT as u64);
        let whole = if is_aligned { bytes.len() - bytes.len() % ALIGNMENT } else { 0 };
        let Some(direct) = self.direct.as_ref().filter(|_| whole > 0) else {
            return self.file.write_all_at(bytes, at);
        };
        let (body, tail) = bytes.split_at(whole);
        match direct.write_all_at(body, at) {
            // A filesystem that does not do it on this file after all.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => {
                self.file.write_all_at(body, at)?;
            }
            written => written?,
        }
        self.file.write_all_at(tail, at + whole as u64)
    }
}

/// Writes the bytes `piece` of `content` to the same place of `to`, by way of `buffer`, which is
/// at least as long.
pub(super) fn copy(
    content: &mut dyn FileContent,
    piece: ByteRange,
    to: &Output<'_>,
    buffer: &mut [u8],
) -> Result<(), NotCopied> {
    let wanted = usize::try_from(piece.len()).unwrap_or(usize::MAX);
    let part = buffer.get_mut(..wanted).unwrap_or_default();
    let count = content.read_at(piece.start, part).map_err(NotCopied::Read)?;
    if count < wanted {
        let expected = format!("{wanted} bytes at {}", piece.start);
        return Err(NotCopied::Read(Error::corrupt("content", expected, count)));
    }
    to.write(part, piece.start).map_err(NotCopied::Write)
}
