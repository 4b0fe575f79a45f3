//! Blocks of a folder's entries: one after another, with gaps between them.
//!
//! The kernel's `fs/xfs/libxfs/xfs_da_format.h`, "Data block structures" and "Single block format".

use std::ops::ControlFlow;

use super::Xfs;
use super::inode::Inode;
use super::map::{Map, RunPlace};
use super::stamp::FOLDER;
use super::units::{BlockNumber, FileBlock, InodeNumber, bytes, index};
use crate::base::fields::{be16, be32, be64, slice, u8_at};
use crate::base::{Error, Result};
use crate::fs::FileType;

/// Bytes before the first entry, in versions 4 and 5.
const HEADER: usize = 16;
const HEADER_V5: usize = 64;
/// What a gap starts with, where an entry has the upper part of an inode's number.
const GAP: u16 = 0xffff;
/// Bytes of an entry before its name, and of the tag at its end.
const BEFORE_NAME: usize = 9;
const TAG_SIZE: usize = 2;
/// Bytes that a block with its own index ends with, and those of each entry of the index.
const TAIL_SIZE: usize = 8;
const INDEX_ENTRY: usize = 8;

/// An entry of a folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry<'a> {
    pub name: &'a [u8],
    pub inode: InodeNumber,
    pub file_type: Option<FileType>,
}

/// What a walk of entries calls.
pub(super) type Visit<'a> = &'a mut dyn FnMut(Result<Entry<'_>>) -> ControlFlow<()>;

/// What a fork has in some of its blocks, which do not always lie side by side.
pub(super) struct ForkBlock {
    pub bytes: Vec<u8>,
    /// Where it starts.
    pub block: BlockNumber,
}

/// A block of entries, verified.
pub(super) struct EntryBlock {
    pub bytes: Vec<u8>,
    pub block: BlockNumber,
    /// Where the entries end and, if the block has its own index, that starts.
    pub end: usize,
    /// Entries of that index.
    pub indexed: usize,
}

/// The type that an entry tells.
pub(super) fn file_type(ftype: u8) -> Option<FileType> {
    Some(match ftype {
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

impl EntryBlock {
    /// The entry at `at`, if one is there.
    fn entry(&self, at: usize, has_ftype: bool) -> Option<(Entry<'_>, usize)> {
        let number = be64(&self.bytes, at)?;
        let length = usize::from(u8_at(&self.bytes, at.checked_add(8)?)?);
        let name_at = at.checked_add(BEFORE_NAME)?;
        let name = slice(&self.bytes, name_at, length).filter(|name| !name.is_empty())?;
        let after = name_at.checked_add(length)?;
        let ftype = if has_ftype { u8_at(&self.bytes, after)? } else { 0 };
        let size = BEFORE_NAME.checked_add(length)?.checked_add(has_ftype.into())?;
        let end = size.checked_add(TAG_SIZE)?.checked_next_multiple_of(8)?.checked_add(at)?;
        // Each entry ends with the place where it starts.
        let tag = be16(&self.bytes, end.checked_sub(TAG_SIZE)?)?;
        let is_sound = usize::from(tag) == at & 0xffff && end <= self.end && number != 0;
        let entry = Entry { name, inode: InodeNumber(number), file_type: file_type(ftype) };
        is_sound.then_some((entry, end))
    }
}

impl Xfs {
    /// Reads the `count` blocks of a fork from `first` as one.
    ///
    /// # Errors
    /// `Corrupt` where there are none; see [`Filesystem`](crate::fs::Filesystem).
    pub(super) fn fork_block(
        &self,
        map: &mut Map,
        first: FileBlock,
        count: u32,
    ) -> Result<ForkBlock> {
        let end = first.0.saturating_add(count.into());
        let (mut whole, mut start, mut next) = (Vec::new(), None, first);
        while next.0 < end {
            let run = self.run(map, next, end)?;
            let RunPlace::At(block) = run.place else {
                return Err(Error::corrupt(next, "metadata", "no block"));
            };
            let count = run.count.min(end.saturating_sub(next.0));
            for distance in 0..count {
                let block = BlockNumber(block.0.saturating_add(distance));
                whole.extend_from_slice(&self.blocks.read(block)?);
            }
            start = start.or(Some(block));
            next = FileBlock(next.0.saturating_add(count));
        }
        let block = start.ok_or_else(|| Error::corrupt(first, "metadata", "no block"))?;
        Ok(ForkBlock { bytes: whole, block })
    }

    /// Checks that `block` holds entries of `folder`.
    ///
    /// # Errors
    /// `Corrupt` if it does not.
    pub(super) fn entry_block(&self, folder: &Inode, block: ForkBlock) -> Result<EntryBlock> {
        let magics: [&[u8]; 2] =
            if self.superblock.is_v5() { [b"XDB3", b"XDD3"] } else { [b"XD2B", b"XD2D"] };
        let found = block.bytes.get(..4).unwrap_or_default();
        let verified = match magics.iter().position(|magic| *magic == found) {
            None => Err(Error::corrupt("magic", "entries", format!("{found:02x?}"))),
            Some(kind) => self
                .check_stamp(&block.bytes, &FOLDER, block.block, folder.number.0)
                .and_then(|()| ends(&block.bytes, kind == 0)),
        };
        let place = block.block;
        let (end, indexed) = verified.map_err(|error| error.within(place).within(folder.number))?;
        Ok(EntryBlock { bytes: block.bytes, block: place, end, indexed })
    }

    /// Calls `visit` for each entry of a block, with an error for what is lost of it.
    pub(super) fn each_entry(&self, block: &EntryBlock, visit: Visit<'_>) -> ControlFlow<()> {
        let has_ftype = self.superblock.has_ftype();
        let mut at = self.header_size(HEADER, HEADER_V5);
        while at < block.end {
            if be16(&block.bytes, at) == Some(GAP) {
                let length = be16(&block.bytes, at.saturating_add(2)).map_or(0, usize::from);
                let end = at.saturating_add(length);
                if length == 0 || !length.is_multiple_of(8) || end > block.end {
                    let place = format!("{}: gap at byte {at}", block.block);
                    return visit(Err(Error::corrupt(place, "a valid length", length)));
                }
                at = end;
                continue;
            }
            let Some((entry, end)) = block.entry(at, has_ftype) else {
                let place = format!("{}: byte {at}", block.block);
                return visit(Err(Error::corrupt(place, "an entry", "something else")));
            };
            visit(Ok(entry))?;
            at = end;
        }
        ControlFlow::Continue(())
    }

    /// The entry that an index says is at byte `at` of a block.
    ///
    /// # Errors
    /// `Corrupt` if there is none.
    pub(super) fn entry_at<'a>(&self, block: &'a EntryBlock, at: usize) -> Result<Entry<'a>> {
        let entry = block.entry(at, self.superblock.has_ftype());
        entry.map(|(entry, _)| entry).ok_or_else(|| {
            let place = format!("{}: byte {at}", block.block);
            Error::corrupt(place, "the entry that the index tells of", "something else")
        })
    }
}

/// Where the entries of a block end, and how many the index has that follows them.
fn ends(block: &[u8], has_index: bool) -> Result<(usize, usize)> {
    if !has_index {
        return Ok((block.len(), 0));
    }
    let tail = block.len().saturating_sub(TAIL_SIZE);
    let count = index(be32(block, tail).unwrap_or_default());
    match tail.checked_sub(count.saturating_mul(INDEX_ENTRY)) {
        Some(start) => Ok((start, count)),
        None => {
            let most = bytes(tail / INDEX_ENTRY);
            Err(Error::corrupt("index", format!("{most} entries at most"), count))
        }
    }
}
