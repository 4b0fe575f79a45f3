//! Entries of folders, as a block of them or an inode's inline data holds them.
//!
//! Kernel documentation, `filesystems/ext4/directory.rst`, "Linear (Classic) Directories".

use std::ops::ControlFlow;

use super::units::InodeNumber;
use crate::base::fields::{le16, le32, slice, u8_at};
use crate::base::{Error, Result};
use crate::fs::FileType;

/// Bytes of an entry before its name.
const HEADER_SIZE: usize = 8;
/// Bytes of the false entry at a block's end that holds its checksum.
pub(super) const TAIL_SIZE: usize = 12;
/// What stands in that entry for a file type.
const TAIL_TYPE: u8 = 0xde;

/// An entry in use.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dirent<'a> {
    pub inode: InodeNumber,
    pub name: &'a [u8],
    pub file_type: Option<FileType>,
}

/// How entries are laid out in a filesystem.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    /// Whether entries say the file's type, in the upper byte of what was the name's length.
    pub has_types: bool,
    /// Inodes that there are.
    pub inode_count: u32,
}

/// The checksum at the end of a block of entries; `None` if there is none.
pub(super) fn tail_checksum(block: &[u8]) -> Option<(usize, u32)> {
    let at = block.len().checked_sub(TAIL_SIZE)?;
    let is_tail = le32(block, at)? == 0
        && le16(block, at.checked_add(4)?)? == 12
        && u8_at(block, at.checked_add(6)?)? == 0
        && u8_at(block, at.checked_add(7)?)? == TAIL_TYPE;
    if is_tail { Some((at, le32(block, at.checked_add(8)?)?)) } else { None }
}

/// The length of an entry that `rec_len` stands for: blocks of 64 KiB need a seventeenth bit.
pub(super) fn record_length(rec_len: u16, block_size: usize) -> usize {
    match rec_len {
        0 | u16::MAX => block_size.max(usize::from(rec_len & !3)),
        _ => usize::from(rec_len & !3) | usize::from(rec_len & 3) << 16,
    }
}

/// Calls `visit` for each entry of `bytes` that is in use, `.` and `..` among them; with an error
/// where the chain of entries breaks, which ends it, or where one entry makes no sense.
pub(super) fn each_entry<'a>(
    bytes: &'a [u8],
    layout: Layout,
    visit: &mut dyn FnMut(Result<Dirent<'a>>) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut at = 0_usize;
    // What is left at the end may be too short for an entry, in inline data.
    while let Some(header) = slice(bytes, at, HEADER_SIZE) {
        let length = record_length(le16(header, 4).unwrap_or_default(), bytes.len());
        let record =
            slice(bytes, at, length).filter(|_| length >= HEADER_SIZE && length.is_multiple_of(4));
        let Some(record) = record else {
            let place = format!("folder entry at byte {at}");
            return visit(Err(Error::corrupt(place, "an entry within the block", length)));
        };
        match parse(record, layout) {
            Ok(None) => {}
            Ok(Some(entry)) => visit(Ok(entry))?,
            Err(error) => visit(Err(error.within(format!("folder entry at byte {at}"))))?,
        }
        at = at.saturating_add(length);
    }
    ControlFlow::Continue(())
}

/// The entry in `record`; `None` if it is not in use.
fn parse(record: &[u8], layout: Layout) -> Result<Option<Dirent<'_>>> {
    let inode = le32(record, 0x0).unwrap_or_default();
    if inode == 0 {
        return Ok(None);
    }
    if inode > layout.inode_count {
        let expected = format!("an inode up to {}", layout.inode_count);
        return Err(Error::corrupt("inode number", expected, inode));
    }
    let (length, file_type) = match layout.has_types {
        true => (usize::from(u8_at(record, 0x6).unwrap_or_default()), u8_at(record, 0x7)),
        false => (usize::from(le16(record, 0x6).unwrap_or_default()), None),
    };
    match slice(record, HEADER_SIZE, length).filter(|name| !name.is_empty()) {
        Some(name) => {
            let file_type = file_type.and_then(type_of);
            Ok(Some(Dirent { inode: InodeNumber(inode), name, file_type }))
        }
        None => Err(Error::corrupt("name", "1 byte to the entry's end", length)),
    }
}

fn type_of(file_type: u8) -> Option<FileType> {
    // Encrypted and case-folding folders set the bit above.
    Some(match file_type & 0x7 {
        1 => FileType::Regular,
        2 => FileType::Directory,
        3 => FileType::CharDevice,
        4 => FileType::BlockDevice,
        5 => FileType::Fifo,
        6 => FileType::Socket,
        7 => FileType::Symlink,
        _ => return None,
    })
}
