//! Arrays: LVM's names of the members, and what the members' own metadata say.
//!
//! Source: Linux, `drivers/md/dm-raid.c` (`struct dm_raid_superblock`).

use std::sync::Arc;

use super::layers::{Part, Striped};
use super::mirror::{Copies, Copy, InSync};
use super::segment::{Member, RaidLevel, SegmentText};
use crate::base::fields::{has, le32, le64};
use crate::base::{ByteOffset, Error, ErrorKind, ReadAt, Result};
use crate::volume::layer::Layer;

const MAGIC: &[u8] = b"DmRd";
/// Bytes of a superblock that are used.
const SIZE: usize = 152;
/// Members of one array at most: dm-raid's own limit.
const MAX_MEMBERS: usize = 253;
/// The superblock has the fields that came with version 1.9.0.
const EXTENDED: u32 = 1;
/// The array's shape is being changed.
const RESHAPED: u32 = 1;

/// What one member says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub devices: u32,
    pub position: u32,
    pub events: u64,
    /// A bit for each member.
    pub failed: [u64; 4],
    /// Bytes up to which this member was rebuilt; none if it is whole.
    pub recovered: Option<u64>,
    /// Bytes of a member up to which all agree; none if they all do.
    pub in_sync: Option<u64>,
    pub level: u32,
    pub layout: u32,
    pub stripe: u64,
    pub is_reshaped: bool,
    pub data_offset: u64,
}

impl Superblock {
    /// magic 0, features 4, devices 8, position 12, events 16, failed 24, recovery 32, resync 40,
    /// level 48, layout 52, sectors of a stripe 56; with the extension: flags 60, first sector of
    /// the data 96, more failed 120, features that have to be known 144.
    pub(super) fn parse(block: &[u8]) -> Result<Self> {
        let fields = || {
            let is_extended = le32(block, 4)? & EXTENDED != 0;
            let extended = |at: usize| if is_extended { le64(block, at) } else { Some(0) };
            let bytes = |sectors: u64| match sectors {
                u64::MAX => Some(None),
                sectors => sectors.checked_mul(512).map(Some),
            };
            Some((
                Self {
                    devices: le32(block, 8)?,
                    position: le32(block, 12)?,
                    events: le64(block, 16)?,
                    failed: [le64(block, 24)?, extended(120)?, extended(128)?, extended(136)?],
                    recovered: bytes(le64(block, 32)?)?,
                    in_sync: bytes(le64(block, 40)?)?,
                    level: le32(block, 48)?,
                    layout: le32(block, 52)?,
                    stripe: u64::from(le32(block, 56)?).checked_mul(512)?,
                    is_reshaped: is_extended && le32(block, 60)? & RESHAPED != 0,
                    data_offset: extended(96)?.checked_mul(512)?,
                },
                if is_extended { le32(block, 144)? } else { 0 },
            ))
        };
        let place = "array's metadata";
        if !has(block, 0, MAGIC) {
            let found = format!("{:02x?}", block.get(..4).unwrap_or_default());
            return Err(Error::corrupt(place, "magic DmRd", found));
        }
        match fields() {
            Some((superblock, 0)) => Ok(superblock),
            Some((_, features)) => Err(Error::newer(format!("{place}: features {features:#x}"))),
            None => Err(Error::corrupt(place, "numbers within 64 bits", "others")),
        }
    }

    fn is_failed(&self, member: usize) -> bool {
        let word = self.failed.get(member / 64).copied().unwrap_or(u64::MAX);
        word >> (member % 64) & 1 == 1
    }
}

/// The array of `segment`, whose members `member` opens by their names.
///
/// # Errors
/// `Unsupported` if too many of its members are missing, failed or not rebuilt.
pub(super) fn open(
    segment: &SegmentText,
    member: &dyn Fn(&str) -> Result<Arc<dyn Layer>>,
) -> Result<Arc<dyn Layer>> {
    let SegmentText::Raid { length, level, stripe, members, is_reshaped } = segment else {
        return Err(Error::corrupt("array", "an array", "none"));
    };
    let _ = (length, level, stripe, members, is_reshaped, member, MAX_MEMBERS, SIZE);
    Err(Error::new(ErrorKind::Unsupported, "TODO"))
}
