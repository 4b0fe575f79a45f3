//! A file's content into an open file, its holes left out.

use std::fs::File;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;

use crate::base::limits::{MAX_DATA_STRETCHES, MAX_IO_SIZE};
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
    Write(std::io::Error),
    /// The run was stopped.
    Stopped,
}

/// Writes the bytes `range` of `content` to the same place of `to`. `told` hears of each piece,
/// and says whether to go on.
pub(super) fn copy(
    content: &mut dyn FileContent,
    range: ByteRange,
    to: &File,
    buffer: &mut Vec<u8>,
    told: &dyn Fn(u64) -> bool,
) -> Result<(), NotCopied> {
    buffer.resize(MAX_IO_SIZE, 0);
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
            to.write_all_at(piece, at).map_err(NotCopied::Write)?;
            at += count as u64;
            if !told(count as u64) {
                return Err(NotCopied::Stopped);
            }
        }
    }
    Ok(())
}
