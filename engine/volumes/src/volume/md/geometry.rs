//! Where an array's bytes are on its members.

use super::members::Chosen;
use super::mirrors::Mirrors;
use super::rows::Rows;
use super::superblock::{Level, Superblock};
use super::zones::Zones;
use crate::base::{ByteRange, Error, ErrorKind, Result};

/// A stretch of a member: from byte `at` of its data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Piece {
    pub role: usize,
    pub at: u64,
    /// Bytes that lie together.
    pub length: u64,
}

/// The way that an array spreads its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Geometry {
    /// One member behind the other: the first byte of each, and the end.
    Linear(Vec<u64>),
    /// RAID0.
    Zones(Zones),
    /// RAID1 of so many members and bytes.
    Same { disks: usize, size: u64 },
    /// RAID10.
    Mirrors(Mirrors),
    /// RAID4, 5 and 6.
    Rows(Rows),
}

impl Geometry {
    /// The geometry of what was chosen.
    ///
    /// # Errors
    /// `Unsupported` for levels and layouts that are not read, `Corrupt` where it makes no sense,
    /// `NotFound` where RAID0 and linear arrays lack a member.
    pub(super) fn new(chosen: &Chosen) -> Result<Self> {
        let newest = &chosen.newest;
        let disks = chosen.members.len();
        match newest.level {
            Level::Linear => linear(newest, &lengths(chosen)?),
            Level::Raid0 => Ok(Self::Zones(Zones::new(newest, &lengths(chosen)?)?)),
            Level::Raid1 => Ok(Self::Same { disks, size: newest.used }),
            Level::Raid10 => Ok(Self::Mirrors(Mirrors::new(newest, disks)?)),
            Level::Raid4 | Level::Raid5 | Level::Raid6 => Ok(Self::Rows(Rows::new(newest, disks)?)),
            Level::Other(_) => {
                let context = format!("arrays of {} are not read", newest.level);
                Err(Error::new(ErrorKind::Unsupported, context))
            }
        }
    }

    /// Bytes of the array.
    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Linear(starts) => starts.last().copied().unwrap_or(0),
            Self::Zones(zones) => zones.size(),
            Self::Same { size, .. } => *size,
            Self::Mirrors(mirrors) => mirrors.size(),
            Self::Rows(rows) => rows.size(),
        }
    }

    /// Copies of each byte.
    pub(super) fn copies(&self) -> usize {
        match self {
            Self::Linear(_) | Self::Zones(_) | Self::Rows(_) => 1,
            Self::Same { disks, .. } => *disks,
            Self::Mirrors(mirrors) => mirrors.copies(),
        }
    }

    /// Where copy number `copy` of byte `at` is, which the array has.
    pub(super) fn locate(&self, at: u64, copy: usize) -> Option<Piece> {
        if copy >= self.copies() || at >= self.size() {
            return None;
        }
        match self {
            Self::Linear(starts) => {
                let role = starts.partition_point(|start| *start <= at).checked_sub(1)?;
                let end = starts.get(role.checked_add(1)?)?;
                let within = at.checked_sub(*starts.get(role)?)?;
                Some(Piece { role, at: within, length: end.checked_sub(at)? })
            }
            Self::Zones(zones) => zones.locate(at),
            Self::Same { size, .. } => {
                Some(Piece { role: copy, at, length: size.checked_sub(at)? })
            }
            Self::Mirrors(mirrors) => mirrors.locate(at, copy),
            Self::Rows(rows) => rows.locate(at),
        }
    }

    /// The stretch of the array from byte `at` on, that lies together on each member that holds
    /// some of it, as a whole number of turns: how long it is, `most` at most. `None` where there
    /// is no such stretch.
    pub(super) fn turns(&self, at: u64, most: u64) -> Option<Turns> {
        match self {
            Self::Zones(zones) => zones.turns(at, most),
            Self::Mirrors(mirrors) => mirrors.turns(at, most),
            _ => None,
        }
    }
}

/// Whole turns of an array, and the stretch of each member that holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Turns {
    /// Bytes of the array.
    pub length: u64,
    /// Members, and bytes of their data.
    pub stretches: Vec<(usize, ByteRange)>,
}

/// Bytes of each member's data, in whole chunks where there are chunks.
fn lengths(chosen: &Chosen) -> Result<Vec<u64>> {
    let newest = &chosen.newest;
    let length = |(role, member): (usize, &Option<super::member::Member>)| {
        let missing = || {
            let context =
                format!("{} needs all of its members; role {role} is missing", newest.level);
            Error::new(ErrorKind::NotFound, context)
        };
        let member = member.as_ref().filter(|member| member.is_whole).ok_or_else(missing)?;
        let rest = member.length().checked_rem(newest.chunk).unwrap_or(0);
        Ok(member.length().saturating_sub(rest))
    };
    chosen.members.iter().enumerate().map(length).collect()
}

fn linear(superblock: &Superblock, lengths: &[u64]) -> Result<Geometry> {
    let mut starts = vec![0];
    let mut end = 0_u64;
    for length in lengths {
        let next = end.checked_add(*length);
        end =
            next.ok_or_else(|| Error::corrupt(superblock.level, "a size within 64 bits", "more"))?;
        starts.push(end);
    }
    Ok(Geometry::Linear(starts))
}
