//! Folders so small that they fit their inode.
//!
//! The kernel's `fs/xfs/libxfs/xfs_da_format.h`, "Directory layout when stored internal to an
//! inode".

use std::ops::ControlFlow;

use super::Xfs;
use super::entries::{Entry, Visit, file_type};
use super::inode::Inode;
use super::units::{InodeNumber, index};
use crate::base::fields::{be32, be64, slice, u8_at};
use crate::base::{Error, Result};

/// The folder above, which the header says: behind `count` and `i8count`, which tells of what size
/// it is.
pub(super) fn short_parent(bytes: &[u8]) -> Option<InodeNumber> {
    let number = match u8_at(bytes, 1)? {
        0 => be32(bytes, 2)?.into(),
        _ => be64(bytes, 2)?,
    };
    (number != 0).then_some(InodeNumber(number))
}

impl Xfs {
    /// Calls `visit` for each entry; `.` and `..` are not among them.
    ///
    /// # Errors
    /// `Corrupt` for a header that makes no sense.
    pub(super) fn short_entries(&self, folder: &Inode, visit: Visit<'_>) -> Result<()> {
        let size = index(folder.di_size);
        let whole = folder.data_fork()?.bytes;
        let bytes = slice(whole, 0, size);
        let bytes = bytes.ok_or_else(|| folder.corrupt("entries within the inode", size))?;
        let broken = || folder.corrupt("a header", format!("{size} bytes"));
        // `count`, `i8count`: how many inode numbers need eight bytes; if any, all take them.
        let count = u8_at(bytes, 0).ok_or_else(broken)?;
        let wide = u8_at(bytes, 1).ok_or_else(broken)? > 0;
        // The folder above follows, then the entries.
        let mut at = if wide { 10 } else { 6 };
        for _ in 0..count {
            let Some((entry, end)) = self.short_entry(bytes, at, wide) else {
                let place = format!("{}: entry at byte {at}", folder.number);
                let _ = visit(Err(Error::corrupt(place, "an entry", "something else")));
                return Ok(());
            };
            if visit(Ok(entry)) == ControlFlow::Break(()) {
                return Ok(());
            }
            at = end;
        }
        if at != bytes.len() {
            let expected = format!("{count} entries in {size} bytes");
            let _ = visit(Err(folder.corrupt(expected, format!("{at} bytes"))));
        }
        Ok(())
    }

    /// `namelen`, two bytes of `offset`, the name, the type if there is one, the inode.
    fn short_entry<'a>(
        &self,
        bytes: &'a [u8],
        at: usize,
        wide: bool,
    ) -> Option<(Entry<'a>, usize)> {
        let length = usize::from(u8_at(bytes, at)?);
        let name = slice(bytes, at.checked_add(3)?, length).filter(|name| !name.is_empty())?;
        let mut next = at.checked_add(3)?.checked_add(length)?;
        let mut ftype = 0;
        if self.superblock.has_ftype() {
            ftype = u8_at(bytes, next)?;
            next = next.checked_add(1)?;
        }
        let (number, end) = match wide {
            true => (be64(bytes, next)?, next.checked_add(8)?),
            false => (be32(bytes, next)?.into(), next.checked_add(4)?),
        };
        let entry = Entry { name, inode: InodeNumber(number), file_type: file_type(ftype) };
        (number != 0).then_some((entry, end))
    }
}
