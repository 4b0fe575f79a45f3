//! Logged inodes: their fields, and what of their forks has changed; and whole new inodes.
//!
//! The kernel's `struct xfs_inode_log_format`, `struct xfs_log_dinode` and
//! `struct xfs_icreate_log` (`fs/xfs/libxfs/xfs_log_format.h`), replayed as
//! `fs/xfs/xfs_inode_item_recover.c` and `xfs_icreate_item.c` do.

use super::super::inode::{CRC_AT, MAGIC, flags2};
use super::super::stamp;
use super::super::units::{GroupNumber, index};
use super::buffer::{Buffer, seal};
use super::replay::Replayer;
use super::ring::Lsn;
use super::transactions::Item;
use crate::base::fields::{be16, be32, be64, has, le16, le32, le64, slice, u8_at};
use crate::base::{Error, Result};

/// Bits of `ilf_fields`.
const DATA: u32 = 0x2 | 0x4;
const DATA_ROOT: u32 = 0x8;
const DEVICE: u32 = 0x10;
const ATTRIBUTES: u32 = 0x40 | 0x80;
const ATTRIBUTES_ROOT: u32 = 0x100;
/// Trees of extents that were given to another inode.
const OWNERS: u32 = 0x200 | 0x400;

/// Bytes of the format as 64-bit machines write it.
const FORMAT_SIZE: usize = 56;
/// Fields of an inode, whose bytes the log has the other way round: place and size.
const FIELDS: [(usize, usize); 21] = [
    (0x0, 2),
    (0x2, 2),
    (0x8, 4),
    (0xc, 4),
    (0x10, 4),
    (0x14, 2),
    (0x16, 2),
    (0x38, 8),
    (0x40, 8),
    (0x48, 4),
    (0x4c, 4),
    (0x50, 2),
    (0x54, 4),
    (0x58, 2),
    (0x5a, 2),
    (0x5c, 4),
    (0x68, 8),
    (0x78, 8),
    (0x80, 4),
    (0x98, 8),
    (0x18, 8),
];
/// Where times are.
const TIMES: [usize; 4] = [0x20, 0x28, 0x30, 0x90];
/// Bytes of an inode's fields before version 3 that are logged, and of all in version 3.
const OLD_FIELDS: usize = 0x60;
const ALL_FIELDS: usize = 0xb0;
/// What is never taken from the log: `di_next_unlinked` and `di_crc`.
const KEPT: std::ops::Range<usize> = 0x60..0x68;
/// Where `di_flushiter` is, which counts writes in version 2, and its highest value.
const FLUSHES_AT: usize = 0x1e;
const MAX_FLUSHES: u16 = 0xffff;

/// Bytes of new inodes that one item makes at most.
const MAX_NEW: usize = 1 << 20;

/// The format of a logged inode.
struct Format {
    ilf_fields: u32,
    ilf_ino: u64,
    ilf_rdev: u32,
    buffer: Buffer,
    ilf_boffset: usize,
}

impl Format {
    fn parse(bytes: &[u8]) -> Option<Self> {
        // On 32-bit machines there is no gap before the number.
        let at = if bytes.len() >= FORMAT_SIZE { 16 } else { 12 };
        let field = |after: usize| le32(bytes, after.saturating_add(at));
        let sectors = u16::try_from(field(32)?).ok().filter(|sectors| *sectors <= 256);
        Some(Self {
            ilf_fields: le32(bytes, 4)?,
            ilf_ino: le64(bytes, at)?,
            ilf_rdev: field(8)?,
            buffer: Buffer { sector: le64(bytes, at.saturating_add(24))?, sectors: sectors? },
            ilf_boffset: index(field(36)?),
        })
    }
}

/// The fields of a logged inode, as the disk has them, put into `inode`.
fn put_fields(logged: &[u8], inode: &mut [u8]) -> Option<()> {
    let version = u8_at(logged, 0x4)?;
    let size = if version >= 3 { ALL_FIELDS } else { OLD_FIELDS };
    let logged = logged.get(..size)?;
    let flags = if version >= 3 { le64(logged, 0x78)? } else { 0 };
    let mut fields = logged.to_vec();
    let mut turn = |at: usize, size: usize| {
        if let Some(field) = fields.get_mut(at..at.saturating_add(size)) {
            field.reverse();
        }
    };
    // The last field is a wide count or nothing, or, of old, six bytes of nothing and two of it.
    let is_wide = flags & flags2::NREXT64 != 0;
    for (at, size) in FIELDS {
        match (at, version) {
            (0x18, 3..) if !is_wide => {}
            (0x18, ..3) => turn(FLUSHES_AT, 2),
            _ => turn(at, size),
        }
    }
    for at in TIMES {
        if flags & flags2::BIGTIME != 0 {
            turn(at, 8);
        } else {
            turn(at, 4);
            turn(at.saturating_add(4), 4);
        }
    }
    for (at, byte) in fields.into_iter().enumerate().filter(|(at, _)| !KEPT.contains(at)) {
        *inode.get_mut(at)? = byte;
    }
    Some(())
}

/// The root of a tree of extents as the log has it, a whole block's header and all, put into the
/// fork `place`.
fn put_root(logged: &[u8], header: usize, place: &mut [u8]) -> Option<()> {
    let (level, count) = (be16(logged, 4)?, be16(logged, 6)?);
    let room = logged.len().checked_sub(header)? / 16;
    let own_room = place.len().checked_sub(4)? / 16;
    let length = usize::from(count).checked_mul(8)?;
    if usize::from(count) > room.min(own_room) {
        return None;
    }
    place.get_mut(..2)?.copy_from_slice(&level.to_be_bytes());
    place.get_mut(2..4)?.copy_from_slice(&count.to_be_bytes());
    let mut put = |to: usize, from: usize| {
        place.get_mut(to..)?.get_mut(..length)?.copy_from_slice(slice(logged, from, length)?);
        Some(())
    };
    put(4, header)?;
    let pointers = room.checked_mul(8)?.checked_add(header)?;
    put(own_room.checked_mul(8)?.checked_add(4)?, pointers)
}

impl Replayer<'_> {
    /// Replays a logged inode.
    ///
    /// # Errors
    /// `Corrupt` if it makes no sense; `Limit`; the volume's own.
    pub(super) fn inode(&mut self, lsn: Lsn, item: &Item) -> Result<()> {
        let broken = || Error::corrupt("logged inode", "a format", "something else");
        let format = Format::parse(item.format()).ok_or_else(broken)?;
        if self.cancelled.has(format.buffer) {
            return Ok(());
        }
        let length = usize::from(format.buffer.sectors).saturating_mul(512);
        let size = usize::from(self.geometry.inode_size);
        let mut cluster = self.overlay.read(format.buffer.sector, length)?;
        let end = format.ilf_boffset.saturating_add(size);
        let inode = cluster.get_mut(format.ilf_boffset..end).ok_or_else(broken)?;
        let number = format.ilf_ino;
        let core = item.regions.get(1).map_or(&[][..], Vec::as_slice);
        if !has(inode, 0, MAGIC) || le16(core, 0) != be16(MAGIC, 0) {
            let expected = "an inode on the disk and in the log";
            return Err(Error::corrupt(format!("logged inode {number}"), expected, "other"));
        }
        if format.ilf_fields & OWNERS != 0 {
            self.note_owner_change(number);
        }
        if self.is_newer(inode, core, lsn) {
            return Ok(());
        }
        // The fields are always whole; what is not logged of the forks stays as it was.
        let place = format
            .buffer
            .sector
            .saturating_add(u64::try_from(format.ilf_boffset / 512).unwrap_or(u64::MAX));
        if self.is_v5
            && !self.overlay.has(place, size)
            && stamp::wrong_checksum(inode, CRC_AT).is_some()
        {
            self.damaged.insert(place);
        }
        self.put(lsn, &format, item, inode).ok_or_else(|| {
            let found = "something else";
            Error::corrupt(format!("logged inode {number}"), "fields and forks", found)
        })?;
        if self.is_v5 && !self.damaged.contains(&place) {
            seal(inode, CRC_AT);
        }
        // Only its own sectors: those of its neighbours may hold damage that is theirs.
        let first = format.ilf_boffset / 512;
        let last = end.div_ceil(512).saturating_mul(512);
        let own = cluster.get(first.saturating_mul(512)..last).unwrap_or_default();
        self.overlay.write(place, own)
    }

    /// Whether what is on the disk is newer than what was logged at `lsn`.
    fn is_newer(&self, inode: &[u8], core: &[u8], lsn: Lsn) -> bool {
        if self.is_v5 {
            let written = be64(inode, 0x70).unwrap_or_default();
            return written != 0 && written != u64::MAX && written > lsn.0;
        }
        let written = be16(inode, FLUSHES_AT).unwrap_or_default();
        let logged = le16(core, FLUSHES_AT).unwrap_or_default();
        // The counter starts again after its highest value.
        let wrapped = written == MAX_FLUSHES && logged < MAX_FLUSHES / 2;
        logged < written && !wrapped
    }

    fn put(&self, lsn: Lsn, format: &Format, item: &Item, inode: &mut [u8]) -> Option<()> {
        let fields = format.ilf_fields;
        put_fields(item.regions.get(1)?, inode)?;
        let header = if self.is_v5 { 0x48 } else { 0x18 };
        let start = if self.is_v5 {
            inode.get_mut(0x70..0x78)?.copy_from_slice(&lsn.0.to_be_bytes());
            ALL_FIELDS
        } else {
            inode.get_mut(FLUSHES_AT..FLUSHES_AT.checked_add(2)?)?.fill(0);
            OLD_FIELDS.checked_add(4)?
        };
        let split = match u8_at(inode, 0x52)? {
            0 => inode.len(),
            units => usize::from(units).checked_mul(8)?.checked_add(start)?,
        };
        if fields & DEVICE != 0 {
            inode.get_mut(start..)?.get_mut(..4)?.copy_from_slice(&format.ilf_rdev.to_be_bytes());
        }
        let mut forks = item.regions.iter().skip(2);
        for (plain, root, range) in
            [(DATA, DATA_ROOT, start..split), (ATTRIBUTES, ATTRIBUTES_ROOT, split..inode.len())]
        {
            if fields & (plain | root) == 0 {
                continue;
            }
            let (logged, fork) = (forks.next()?, inode.get_mut(range)?);
            if fields & plain != 0 {
                fork.get_mut(..logged.len())?.copy_from_slice(logged);
            } else {
                put_root(logged, header, fork)?;
            }
        }
        Some(())
    }

    /// Replays the making of new inodes, all of them free.
    ///
    /// # Errors
    /// `Corrupt` if it makes no sense; `Limit`.
    pub(super) fn new_inodes(&mut self, item: &Item) -> Result<()> {
        let broken = || Error::corrupt("logged new inodes", "a format", "something else");
        let field = |at| be32(item.format(), at).ok_or_else(broken);
        let (group, within, count) = (GroupNumber(field(4)?), field(8)?, field(12)?);
        let (size, blocks, generation) = (index(field(16)?), field(20)?, field(24)?);
        let bytes = index(count).saturating_mul(size);
        let fits = index(blocks).checked_mul(self.geometry.block_bytes()) == Some(bytes);
        if size != usize::from(self.geometry.inode_size) || !fits || bytes > MAX_NEW {
            return Err(broken());
        }
        let block = self.geometry.block_in(group, within.into(), blocks.into())?;
        let sector = self.geometry.sector(block);
        // They are gone again later, or rather their blocks are something else by now.
        if self.cancelled.has_within(sector, u64::try_from(bytes / 512).unwrap_or(u64::MAX)) {
            return Ok(());
        }
        let first = self.geometry.inode_at(group, within.into());
        let mut all = vec![0; bytes];
        for (inode, number) in all.chunks_mut(size).zip(first..) {
            let mut put = |at: usize, field: &[u8]| {
                let place = inode.get_mut(at..).unwrap_or_default();
                place.iter_mut().zip(field).for_each(|(byte, new)| *byte = *new);
            };
            put(0, MAGIC);
            put(0x4, &[3]);
            put(0x5c, &generation.to_be_bytes());
            put(0x60, &u32::MAX.to_be_bytes());
            put(0x98, &number.to_be_bytes());
            put(0xa0, &self.metadata_uuid);
            seal(inode, CRC_AT);
        }
        self.overlay.write(sector, &all)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    #[test]
    fn the_root_of_a_tree_moves_to_a_fork_of_another_size() {
        let mut logged = vec![0; 0x18 + 5 * 16];
        logged[5] = 2;
        logged[7] = 3;
        for number in 0..3_u8 {
            logged[0x18 + usize::from(number) * 8 + 7] = 10 + number;
            logged[0x18 + 5 * 8 + usize::from(number) * 8 + 7] = 20 + number;
        }
        let mut fork = vec![0; 4 + 4 * 16 + 9];
        put_root(&logged, 0x18, &mut fork).expect("it has room");
        assert_eq!(fork[..4], [0, 2, 0, 3]);
        let numbers: Vec<u8> = fork[4..].chunks(8).map(|number| number[number.len() - 1]).collect();
        assert_eq!(numbers, [10, 11, 12, 0, 20, 21, 22, 0, 0, 0]);
        assert!(put_root(&logged, 0x18, &mut fork[..40]).is_none());
    }
}
