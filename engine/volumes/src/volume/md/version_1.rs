//! Superblocks of version 1.0, 1.1 and 1.2: little-endian.
//!
//! Source: Linux, `struct mdp_superblock_1` in `include/uapi/linux/raid/md_p.h`, `super_1_load` and
//! `super_1_validate` in `drivers/md/md.c`.

use super::superblock::{
    Features, Found, Level, MAGIC, Reshape, Role, SECTOR, Superblock, Version,
};
use crate::base::fields::{array, has, le16, le32, le64, slice, u8_at};
use crate::base::{ByteOffset, ByteRange, Error, ReadAt, Result};

/// Bytes before the list of roles.
const FIXED: usize = 256;
/// Devices at most, so that the list ends within 4 KiB.
const MAX_DEVICES: u32 = 1920;
/// Roles: none yet, failed, the journal; the highest that is a member's.
const SPARE: u16 = 0xffff;
const FAULTY: u16 = 0xfffe;
const JOURNAL: u16 = 0xfffd;
const LAST_MEMBER: u16 = 0xfeff;
/// A device flag: read from it only where nothing else is there.
const WRITE_MOSTLY: u8 = 1;
/// Where there is no more: a position that is behind everything.
const EVERYTHING: u64 = u64::MAX;
/// Sectors of a list of bad blocks at most.
const MAX_LOG: u64 = 8;

/// Bits of the feature map.
mod bits {
    pub(super) const BITMAP: u32 = 1;
    pub(super) const RECOVERY_OFFSET: u32 = 1 << 1;
    pub(super) const RESHAPE: u32 = 1 << 2;
    pub(super) const BAD_BLOCKS: u32 = 1 << 3;
    pub(super) const REPLACEMENT: u32 = 1 << 4;
    pub(super) const CLUSTERED: u32 = 1 << 8;
    pub(super) const JOURNAL: u32 = 1 << 9;
    pub(super) const PARTIAL_PARITY_LOG: u32 = 1 << 10;
    pub(super) const SEVERAL_PARTIAL_PARITY_LOGS: u32 = 1 << 11;
    pub(super) const ZONE_LAYOUT: u32 = 1 << 12;
    pub(super) const KNOWN: u32 = (1 << 13) - 1;
}

/// The superblock in `block` that says it stands at byte `place`, and where its member's bad
/// blocks are listed.
pub(super) fn parse(
    block: &[u8],
    version: Version,
    place: u64,
) -> Option<(Found, Option<BadBlockLog>)> {
    let is_here = has(block, 0, &MAGIC.to_le_bytes())
        && le32(block, 4)? == 1
        && le64(block, 144)?.checked_mul(SECTOR)? == place;
    if !is_here {
        return None;
    }
    let devices = le32(block, 220).filter(|devices| *devices <= MAX_DEVICES)?;
    let length = usize::try_from(devices).ok()?.checked_mul(2)?.checked_add(FIXED)?;
    let used = block.get(..length)?;
    let superblock = superblock(used, version, place)?;
    let (expected, found) = (checksum(used), le32(block, 216)?);
    let log = BadBlockLog::parse(block, place);
    Some((Found { superblock, expected, found }, log))
}

/// The sum of all words but the checksum's own, its carries added; an odd role at the end is a
/// word.
fn checksum(used: &[u8]) -> u32 {
    let (words, rest) = used.as_chunks::<4>();
    let words = words.iter().enumerate().filter(|(at, _)| *at != 54);
    let odd = le16(rest, 0).map_or(0, u64::from);
    let add =
        |sum: u64, (_, word): (usize, &[u8; 4])| sum.wrapping_add(u32::from_le_bytes(*word).into());
    let sum = words.fold(odd, add);
    let (low, high) = (sum & 0xffff_ffff, sum.wrapping_shr(32));
    u32::try_from(low.wrapping_add(high) & 0xffff_ffff).unwrap_or_default()
}

fn superblock(block: &[u8], version: Version, place: u64) -> Option<Superblock> {
    let sectors = |at: usize| le64(block, at).map(|sectors| sectors.saturating_mul(SECTOR));
    let map = le32(block, 8)?;
    let has_bit = |bit: u32| map & bit != 0;
    let positions = |at: usize| {
        let position = le64(block, at)?;
        Some((position != EVERYTHING).then(|| position.saturating_mul(SECTOR)))
    };
    let reshape = Reshape {
        position: le64(block, 104)?,
        level: Level::of(le32(block, 100)?),
        delta_disks: i32::from_le_bytes(array(block, 112)?),
    };
    let roles = block.get(FIXED..)?.as_chunks::<2>().0.iter();
    // The padding is to be zero: what is not may mean anything.
    let padding = [slice(block, 12, 4)?, slice(block, 224, 32)?].concat();
    let odd = (map & !bits::KNOWN, padding.iter().any(|byte| *byte != 0));
    let features = Features {
        bitmap: has_bit(bits::BITMAP),
        journal: has_bit(bits::JOURNAL),
        partial_parity_log: has_bit(bits::PARTIAL_PARITY_LOG | bits::SEVERAL_PARTIAL_PARITY_LOGS),
        clustered: has_bit(bits::CLUSTERED),
        replacement: has_bit(bits::REPLACEMENT),
        zone_layout: has_bit(bits::ZONE_LAYOUT),
        unknown: (odd != (0, false)).then_some(odd.0),
    };
    Some(Superblock {
        version,
        array: array(block, 16)?,
        label: slice(block, 32, 32).and_then(crate::text::label),
        minor: None,
        // The upper bits count parts of a second.
        created: le64(block, 64)? & ((1 << 40) - 1),
        level: Level::of(le32(block, 72)?),
        layout: le32(block, 76)?,
        chunk: u64::from(le32(block, 88)?).checked_mul(SECTOR)?,
        raid_disks: le32(block, 92)?,
        used: sectors(80)?,
        number: le32(block, 160)?,
        roles: roles.map(|role| member(u16::from_le_bytes(*role))).collect(),
        events: le64(block, 200)?,
        data: ByteRange::new(sectors(128)?, sectors(136)?),
        recovered: if has_bit(bits::RECOVERY_OFFSET) { positions(152)? } else { None },
        in_sync: positions(208)?,
        write_mostly: u8_at(block, 184)? & WRITE_MOSTLY != 0,
        reshape: has_bit(bits::RESHAPE).then_some(reshape),
        features,
        bad: Vec::new(),
        place: ByteRange::new(place, u64::try_from(block.len()).ok()?),
    })
}

fn member(role: u16) -> Role {
    match role {
        SPARE => Role::Spare,
        FAULTY => Role::Faulty,
        JOURNAL => Role::Journal,
        0..=LAST_MEMBER => Role::Active(role),
        _ => Role::Spare,
    }
}

/// Where a member keeps the list of what it could not write.
pub(super) struct BadBlockLog {
    place: u64,
    sectors: u64,
    /// Binary digits by which its numbers are to be shifted to count sectors.
    shift: u8,
}

impl BadBlockLog {
    /// The list that the superblock in `block` at byte `place` says is in use.
    fn parse(block: &[u8], place: u64) -> Option<Self> {
        if le32(block, 8)? & bits::BAD_BLOCKS == 0 {
            return None;
        }
        let sectors = u64::from(le16(block, 186)?);
        let offset = i64::from(i32::from_le_bytes(array(block, 188)?));
        let sector = i64::try_from(SECTOR).ok()?;
        // One that leads out of the member cannot be read, which is an error then.
        let place = place.checked_add_signed(offset.checked_mul(sector)?).unwrap_or(u64::MAX);
        Some(Self { place, sectors, shift: u8_at(block, 185)? })
    }

    /// The stretches of the member that it lists.
    ///
    /// # Errors
    /// `Corrupt` where it makes no sense; those of `member`.
    pub(super) fn read(&self, member: &dyn ReadAt) -> Result<Vec<ByteRange>> {
        let name = || format!("list of bad blocks at {}", self.place);
        if self.sectors > MAX_LOG || self.shift > 32 {
            let found = format!("{} sectors, shift {}", self.sectors, self.shift);
            return Err(Error::corrupt(name(), format!("{MAX_LOG} sectors at most"), found));
        }
        let length = usize::try_from(self.sectors.saturating_mul(SECTOR)).unwrap_or_default();
        let mut block = vec![0; length];
        let read = member.read_exact_at(ByteOffset(self.place), &mut block);
        read.map_err(|error| error.within(name()))?;
        let mut bad = Vec::new();
        for entry in block.as_chunks::<8>().0 {
            let entry = u64::from_le_bytes(*entry);
            if entry == u64::MAX {
                break;
            }
            // Ten bits of a count, the rest is the first sector.
            let unit = 1_u64.checked_shl(self.shift.into()).unwrap_or(u64::MAX);
            let bytes = |number: u64| number.saturating_mul(unit).saturating_mul(SECTOR);
            let range = ByteRange::new(bytes(entry.wrapping_shr(10)), bytes(entry & 0x3ff));
            if !range.is_empty() {
                bad.push(range);
            }
        }
        Ok(bad)
    }
}
