//! A file's content into an open file, its holes left out.

use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::errno::Errno;
use nix::fcntl::{FallocateFlags, OFlag, fallocate};

use crate::base::limits::MAX_DATA_STRETCHES;
use crate::base::{ByteRange, Error, Result};
use crate::fs::{Extent, FileContent, Place};

/// The stretches of `content` within `range` that hold data; the rest reads as zeros. Where there
/// are too many to be told apart, the last one takes in the holes after it.
fn data(content: &mut dyn FileContent, range: ByteRange) -> Result<Vec<ByteRange>> {
    let mut found: Vec<ByteRange> = Vec::new();
    content.extents(&mut |extent: Extent| {
        let place = ByteRange::new(extent.offset, extent.length);
        if place.start >= range.end {
            return ControlFlow::Break(());
        }
        let is_data = !matches!(extent.place, Place::Hole | Place::Unwritten);
        if let Some(place) = place.intersection(&range).filter(|_| is_data) {
            let is_full = found.len() >= MAX_DATA_STRETCHES;
            match found.last_mut().filter(|last| last.end == place.start || is_full) {
                Some(last) => last.end = place.end,
                None => found.push(place),
            }
        }
        ControlFlow::Continue(())
    })?;
    Ok(found)
}

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
const ALIGNMENT: usize = 4096;

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

    /// Reserves the space of what `content` has to be written, where the filesystem can do that:
    /// writes side by side are then possible, and a full disk is noticed at once.
    pub(super) fn reserve(&self, content: &mut dyn FileContent) -> Result<(), NotCopied> {
        let whole = ByteRange::new(0, content.size());
        for stretch in data(content, whole).map_err(NotCopied::Read)? {
            let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
            let (start, length) = (signed(stretch.start), signed(stretch.len()));
            match fallocate(self.file, FallocateFlags::empty(), start, length) {
                Err(full @ (Errno::ENOSPC | Errno::EDQUOT)) => {
                    return Err(NotCopied::Write(full.into()));
                }
                Err(_) => break,
                Ok(()) => {}
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

/// Writes the bytes `range` of `content` to the same place of `to`, a `buffer` at a time. `told`
/// hears of each piece, and says whether to go on.
pub(super) fn copy(
    content: &mut dyn FileContent,
    range: ByteRange,
    to: &Output<'_>,
    buffer: &mut [u8],
    told: &dyn Fn(u64) -> bool,
) -> Result<(), NotCopied> {
    for stretch in data(content, range).map_err(NotCopied::Read)? {
        let mut at = stretch.start;
        while at < stretch.end {
            let left = usize::try_from(stretch.end - at).unwrap_or(usize::MAX);
            let wanted = left.min(buffer.len());
            let Some(piece) = buffer.get_mut(..wanted) else { break };
            let count = content.read_at(at, piece).map_err(NotCopied::Read)?;
            if count < wanted {
                let error = Error::corrupt("content", format!("{wanted} bytes at {at}"), count);
                return Err(NotCopied::Read(error));
            }
            to.write(piece, at).map_err(NotCopied::Write)?;
            at += count as u64;
            if !told(count as u64) {
                return Err(NotCopied::Stopped);
            }
        }
    }
    Ok(())
}
