//! What a member says of its array: the one parser of md's metadata.
//!
//! Source: Linux, `include/uapi/linux/raid/md_p.h`, and `super_90_load` and `super_1_load` in
//! `drivers/md/md.c`.

use std::fmt;

use super::{version_0, version_1};
use crate::base::bytes::to_hex;
use crate::base::{ByteOffset, ByteRange, Error, ReadAt, Result};
use crate::text;

/// What every superblock begins with, as a number.
pub(super) const MAGIC: u32 = 0xa92b_4efc;
/// Bytes of the sectors that md counts in.
pub(super) const SECTOR: u64 = 512;
/// Bytes that a superblock takes at most.
pub(super) const SIZE: usize = 4096;

/// The metadata's version, which is also a superblock's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// 0.90: 64 to 128 KiB before the end.
    V0_90,
    /// 1.0: 8 to 12 KiB before the end.
    V1_0,
    /// 1.1: at the start.
    V1_1,
    /// 1.2: 4 KiB behind the start.
    V1_2,
}

impl Version {
    /// All of them. Where two are of one age, the earlier goes before.
    const ALL: [Self; 4] = [Self::V1_1, Self::V1_2, Self::V1_0, Self::V0_90];

    /// First byte of the superblock of a member of `size` bytes; `None` where it has no room.
    fn place(self, size: u64) -> Option<u64> {
        let sectors = size.checked_div(SECTOR)?;
        let sector = match self {
            Self::V0_90 => (sectors & !127).checked_sub(128)?,
            Self::V1_0 => sectors.checked_sub(16)? & !7,
            Self::V1_1 => 0,
            Self::V1_2 => 8,
        };
        sector.checked_mul(SECTOR)
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V0_90 => "0.90",
            Self::V1_0 => "1.0",
            Self::V1_1 => "1.1",
            Self::V1_2 => "1.2",
        })
    }
}

/// How an array keeps its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// One member behind the other.
    Linear,
    /// In turns.
    Raid0,
    /// The same on each member.
    Raid1,
    /// In turns, the last member for parity.
    Raid4,
    /// In turns, with parity in turns.
    Raid5,
    /// In turns, with two parities in turns.
    Raid6,
    /// In turns, with copies.
    Raid10,
    /// Another number: multipath (-4), faulty (-5), container (-100)...
    Other(i32),
}

impl Level {
    pub(super) fn of(number: u32) -> Self {
        match i32::from_le_bytes(number.to_le_bytes()) {
            -1 => Self::Linear,
            0 => Self::Raid0,
            1 => Self::Raid1,
            4 => Self::Raid4,
            5 => Self::Raid5,
            6 => Self::Raid6,
            10 => Self::Raid10,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Linear => f.write_str("linear"),
            Self::Raid0 => f.write_str("RAID0"),
            Self::Raid1 => f.write_str("RAID1"),
            Self::Raid4 => f.write_str("RAID4"),
            Self::Raid5 => f.write_str("RAID5"),
            Self::Raid6 => f.write_str("RAID6"),
            Self::Raid10 => f.write_str("RAID10"),
            Self::Other(-4) => f.write_str("multipath"),
            Self::Other(number) => write!(f, "RAID level {number}"),
        }
    }
}

/// What a device is to its array.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The member of this number, from 0.
    Active(u16),
    /// None yet.
    Spare,
    /// It failed.
    Faulty,
    /// It holds the write journal of a RAID4, 5 or 6.
    Journal,
}

/// What an array uses beyond its level.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Features {
    /// A bitmap of what was being written, which the members keep.
    pub bitmap: bool,
    /// A write journal, on a device of its own, which may hold newer data than the members.
    pub journal: bool,
    /// A log of partial parity.
    pub partial_parity_log: bool,
    /// The array is shared by a cluster.
    pub clustered: bool,
    /// This member is to replace another one of its role.
    pub replacement: bool,
    /// RAID0: the layout field says which layout of zones it has.
    pub zone_layout: bool,
    /// Features that are not known, and fields that should be zero and are not.
    pub unknown: Option<u32>,
}

/// A change of an array's shape that is under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reshape {
    /// Sectors of the array that have, or (where members are taken away) have not, been moved.
    pub position: u64,
    /// The level that it is to have.
    pub level: Level,
    /// Members more than before.
    pub delta_disks: i32,
}

/// A member's superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// The metadata's version.
    pub version: Version,
    /// The array's identifier, its bytes in the order in which they are printed.
    pub array: [u8; 16],
    /// The name that was given to it, mostly `HOST:NAME`; none with metadata 0.90.
    pub label: Option<String>,
    /// The number of its device, with metadata 0.90.
    pub minor: Option<u32>,
    /// When the array was made, seconds since 1970.
    pub created: u64,
    /// The level.
    pub level: Level,
    /// The layout's number, which means something else for each level.
    pub layout: u32,
    /// Bytes of a chunk; zero where there are none.
    pub chunk: u64,
    /// Members of the whole array.
    pub raid_disks: u32,
    /// Bytes of each member that the array uses (RAID1 and up).
    pub used: u64,
    /// This device's number among all that the array has or had.
    pub number: u32,
    /// What each device is, by number.
    pub roles: Vec<Role>,
    /// Times that the superblocks were written.
    pub events: u64,
    /// Where this member's data are.
    pub data: ByteRange,
    /// Bytes from the data's start up to which this member was rebuilt; `None` if it is whole.
    pub recovered: Option<u64>,
    /// Bytes from the data's start up to which all members agree; `None` if they all do.
    pub in_sync: Option<u64>,
    /// Whether it is read only where no other member can be.
    pub write_mostly: bool,
    /// A change of the array's shape under way.
    pub reshape: Option<Reshape>,
    /// What else it uses.
    pub features: Features,
    /// Stretches of this member (not of its data) that hold nothing valid.
    pub bad: Vec<ByteRange>,
    /// Where this superblock is.
    pub place: ByteRange,
}

impl Superblock {
    /// What this device is to the array, as it says itself.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role_of(self.number)
    }

    /// What it says device `number` is.
    pub(super) fn role_of(&self, number: u32) -> Role {
        let role = usize::try_from(number).ok().and_then(|number| self.roles.get(number));
        role.copied().unwrap_or(Role::Spare)
    }

    /// The array's identifier as `blkid` prints it.
    #[must_use]
    pub fn uuid(&self) -> Option<String> {
        text::uuid(&self.array)
    }

    /// What the array is called: its name without the host's, its device's number, or the start of
    /// its identifier.
    #[must_use]
    pub fn name(&self) -> String {
        let own = |label: &String| {
            label.split_once(':').map_or(label.as_str(), |(_, own)| own).to_owned()
        };
        let named = self.label.as_ref().map(own).filter(|name| !name.is_empty());
        let numbered = || self.minor.map(|minor| minor.to_string());
        let [a, b, c, d, ..] = self.array;
        named.or_else(numbered).unwrap_or_else(|| to_hex(&[a, b, c, d]))
    }
}

/// A superblock, and whether it is what its checksum says.
#[derive(Debug)]
pub(in super::super) struct Found {
    pub superblock: Superblock,
    /// The checksum that its bytes have.
    pub expected: u32,
    /// The one that it holds.
    pub found: u32,
}

impl Found {
    pub(in super::super) fn is_sound(&self) -> bool {
        self.expected == self.found
    }
}

/// The superblock of `member` at any of its places: a sound one, and the newest where several
/// are there (as mdadm takes it).
///
/// # Errors
/// `Corrupt` where the only one does not match its checksum; those of `member` where none is found
/// and one of the places cannot be read.
pub fn superblock(member: &dyn ReadAt) -> Result<Option<Superblock>> {
    let Some(found) = find(member)? else { return Ok(None) };
    if !found.is_sound() {
        let place = format!("RAID superblock at {}", found.superblock.place.start);
        let checksum = |sum: u32| format!("checksum {sum:08x}");
        return Err(Error::corrupt(place, checksum(found.expected), checksum(found.found)));
    }
    Ok(Some(found.superblock))
}

/// As [`superblock`], with one whose checksum is wrong where there is no other.
pub(in super::super) fn find(member: &dyn ReadAt) -> Result<Option<Found>> {
    let mut best: Option<Found> = None;
    let mut failure = None;
    for version in Version::ALL {
        let found = match read(member, version) {
            Ok(None) => continue,
            Ok(Some(found)) => found,
            Err(error) => {
                failure = failure.or(Some(error));
                continue;
            }
        };
        let rank = |found: &Found| (found.is_sound(), found.superblock.created);
        if best.as_ref().is_none_or(|best| rank(best) < rank(&found)) {
            best = Some(found);
        }
    }
    match (best, failure) {
        (None, Some(error)) => Err(error),
        (best, _) => Ok(best),
    }
}

fn read(member: &dyn ReadAt, version: Version) -> Result<Option<Found>> {
    let size = member.size().0;
    let room = |place: &u64| place.checked_add(4096).is_some_and(|end| end <= size);
    let Some(place) = version.place(size).filter(room) else { return Ok(None) };
    let mut block = vec![0; SIZE];
    member.read_exact_at(ByteOffset(place), &mut block)?;
    let parsed = match version {
        Version::V0_90 => version_0::parse(&block, place),
        _ => version_1::parse(&block, version, place),
    };
    let Some((mut found, log)) = parsed else { return Ok(None) };
    if let Some(log) = log.filter(|_| found.is_sound()) {
        found.superblock.bad = log.read(member)?;
    }
    Ok(Some(found))
}
