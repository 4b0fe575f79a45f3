//! A file's content into an open file, its holes left out.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::trouble::{Made, Trouble};
use crate::base::{ByteRange, Error, ErrorContext, Result};
use crate::fs::FileContent;

/// Fills `buffer` with the bytes of `content` from `offset`.
///
/// # Errors
/// The content's own; `Corrupt` where it ends before.
pub(super) fn fill(content: &mut dyn FileContent, offset: u64, buffer: &mut [u8]) -> Result<()> {
    let count = content.read_at(offset, buffer)?;
    if count < buffer.len() {
        let expected = format!("{} bytes at {offset}", buffer.len());
        return Err(Error::corrupt("content", expected, count));
    }
    Ok(())
}

/// Writes the bytes `piece` of `content` to the same place of the file `to`, which messages call
/// by its path, by way of `buffer`, which is at least as long.
pub(super) fn copy(
    content: &mut dyn FileContent,
    piece: ByteRange,
    to: (&File, &Path),
    buffer: &mut [u8],
) -> Made<()> {
    let length = usize::try_from(piece.len()).unwrap_or(usize::MAX);
    let part = buffer.get_mut(..length).unwrap_or_default();
    fill(content, piece.start, part).map_err(Trouble::image)?;
    let (file, shown) = to;
    let written = file.write_all_at(part, piece.start);
    written.context(|| format!("write {}", shown.display())).map_err(Trouble::target)
}
