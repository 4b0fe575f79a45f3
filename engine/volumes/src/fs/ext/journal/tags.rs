//! What descriptor and revoke blocks list.

use super::super::units::{BlockNumber, index, join};
use super::header::JournalSuperblock;
use crate::base::fields::{array, be32, slice};
use crate::base::{Error, Result};

/// Bytes of the header before the first tag, and of a revoke block's.
const HEADER: usize = 12;
const REVOKE_HEADER: usize = 16;
/// Bits of `t_flags`.
const ESCAPED: u32 = 0x1;
const SAME_UUID: u32 = 0x2;
const LAST: u32 = 0x8;

/// A block that follows the descriptor, and where it belongs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Tag {
    pub block: BlockNumber,
    /// Whether its first four bytes were the journal's magic number, and are zeros in the journal.
    pub escaped: bool,
    /// Its checksum: all of it (version 3), or the lower half (version 2).
    pub checksum: u32,
}

/// The tags of a descriptor block, which the block's size bounds.
pub(super) fn tags(superblock: &JournalSuperblock, block: &[u8]) -> Vec<Tag> {
    let tail = if superblock.has_checksums() { 4 } else { 0 };
    let room = block.get(..block.len().saturating_sub(tail)).unwrap_or_default();
    let mut found = Vec::new();
    let mut at = HEADER;
    while let Some((tag, flags)) =
        slice(room, at, tag_size(superblock)).and_then(|tag| parse(superblock, tag))
    {
        found.push(tag);
        let uuid = if flags & SAME_UUID == 0 { 16 } else { 0 };
        at = at.saturating_add(tag_size(superblock)).saturating_add(uuid);
        if flags & LAST != 0 {
            break;
        }
    }
    found
}

/// Bytes of a tag. Version 2 of the checksums has two more than it has fields.
fn tag_size(superblock: &JournalSuperblock) -> usize {
    match (superblock.has_checksums_v3(), superblock.has_checksums_v2(), superblock.is_64bit()) {
        (true, ..) => 16,
        (_, true, true) => 14,
        (_, false, true) => 12,
        (_, true, false) => 10,
        (_, false, false) => 8,
    }
}

fn parse(superblock: &JournalSuperblock, tag: &[u8]) -> Option<(Tag, u32)> {
    let low = be32(tag, 0x0)?;
    let high = if superblock.is_64bit() { be32(tag, 0x8)? } else { 0 };
    let (flags, checksum) = match superblock.has_checksums_v3() {
        true => (be32(tag, 0x4)?, be32(tag, 0xc)?),
        false => {
            let half = |at| Some(u32::from(u16::from_be_bytes(array(tag, at)?)));
            (half(0x6)?, half(0x4)?)
        }
    };
    let block = BlockNumber(join(low, high));
    Some((Tag { block, escaped: flags & ESCAPED != 0, checksum }, flags))
}

/// The blocks that a revoke block lists.
///
/// # Errors
/// `Corrupt` if it says that it holds more than fits.
pub(super) fn revoked(superblock: &JournalSuperblock, block: &[u8]) -> Result<Vec<BlockNumber>> {
    let r_count = index(be32(block, 0xc).unwrap_or_default());
    let Some(records) = block.get(REVOKE_HEADER..r_count) else {
        return Err(Error::corrupt("revoke block", "r_count within the block", r_count));
    };
    Ok(match superblock.is_64bit() {
        true => {
            let records = records.as_chunks().0.iter();
            records.map(|record| BlockNumber(u64::from_be_bytes(*record))).collect()
        }
        false => {
            let records = records.as_chunks().0.iter();
            records.map(|record| BlockNumber(u64::from(u32::from_be_bytes(*record)))).collect()
        }
    })
}
