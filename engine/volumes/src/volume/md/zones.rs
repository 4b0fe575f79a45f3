//! RAID0: chunks in turns, on fewer members where the smaller ones end.
//!
//! Source: Linux, `create_strip_zones` and `raid0_map_submit_bio` in `drivers/md/raid0.c`.

use super::geometry::{Piece, Turns};
use super::superblock::Superblock;
use crate::base::{ByteRange, Error, ErrorKind, Result};

/// Numbers of the layout field.
const ORIGINAL: u32 = 1;
const ALTERNATE: u32 = 2;

/// A stretch of the array that is on the same members.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Zone {
    start: u64,
    end: u64,
    /// Bytes of each member that lie before it.
    member_start: u64,
    roles: Vec<usize>,
    /// Which of `roles` has the first turn.
    first: u64,
}

/// The zones of an array, one behind the other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Zones {
    chunk: u64,
    zones: Vec<Zone>,
    size: u64,
}

impl Zones {
    /// The zones of members of these `lengths`, in whole chunks.
    ///
    /// # Errors
    /// `Unsupported` where members are of different sizes and nothing says which of the kernel's
    /// two layouts was used; `Corrupt` where it makes no sense.
    pub(super) fn new(superblock: &Superblock, lengths: &[u64]) -> Result<Self> {
        let Superblock { level, chunk, layout, .. } = superblock;
        let zones = zones(lengths);
        let zones = zones.filter(|_| *chunk > 0 && lengths.iter().all(|length| *length > 0));
        let mut zones = zones.ok_or_else(|| {
            let found = format!("chunks of {chunk} on members of {lengths:?}");
            Error::corrupt(level, "chunks on every member", found)
        })?;
        let needs_layout = zones.get(1).is_some_and(|zone| zone.roles.len() > 1);
        let is_original = match (superblock.features.zone_layout, *layout) {
            _ if !needs_layout => false,
            (true, ORIGINAL) => true,
            (true, ALTERNATE) => false,
            _ => {
                let context = format!(
                    "{level} with members of different sizes does not say which \
                    layout it has (original or alternate; the kernel asks for \
                    raid0.default_layout, mdadm --update=layout-original or layout-alternate)"
                );
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
        };
        for zone in zones.iter_mut().filter(|_| is_original) {
            let members = u64::try_from(zone.roles.len()).unwrap_or(1);
            let turn = zone.start.checked_div(*chunk).unwrap_or(0);
            zone.first = turn.checked_rem(members).unwrap_or(0);
        }
        // Of chunks that are no power of two the kernel takes these bits of the sectors' number.
        let mask = !(chunk >> 9).wrapping_sub(1) << 9;
        let size = lengths.iter().fold(0_u64, |size, length| size.saturating_add(length & mask));
        Ok(Self { chunk: *chunk, zones, size })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    fn zone(&self, at: u64) -> Option<&Zone> {
        self.zones.get(self.zones.partition_point(|zone| zone.end <= at))
    }

    pub(super) fn locate(&self, at: u64) -> Option<Piece> {
        let zone = self.zone(at)?;
        let within = at.checked_sub(zone.start)?;
        let members = u64::try_from(zone.roles.len()).ok()?;
        let (number, of_chunk) = (within.checked_div(self.chunk)?, within.checked_rem(self.chunk)?);
        let turn = number.checked_add(zone.first)?.checked_rem(members)?;
        let row = number.checked_div(members)?.checked_mul(self.chunk)?;
        Some(Piece {
            role: *zone.roles.get(usize::try_from(turn).ok()?)?,
            at: zone.member_start.checked_add(row)?.checked_add(of_chunk)?,
            length: self.chunk.checked_sub(of_chunk)?,
        })
    }

    pub(super) fn turns(&self, at: u64, most: u64) -> Option<Turns> {
        let zone = self.zone(at)?;
        let row = u64::try_from(zone.roles.len()).ok()?.checked_mul(self.chunk)?;
        let within = at.checked_sub(zone.start)?;
        let most = most.min(zone.end.checked_sub(at)?);
        let rows = most.checked_div(row)?;
        if rows == 0 || within.checked_rem(row)? != 0 {
            return None;
        }
        let start = within.checked_div(row)?.checked_mul(self.chunk)?;
        let start = zone.member_start.checked_add(start)?;
        let stretch = ByteRange::new(start, rows.checked_mul(self.chunk)?);
        let stretches = zone.roles.iter().map(|role| (*role, stretch)).collect();
        Some(Turns { length: rows.checked_mul(row)?, stretches })
    }
}

/// The zones without their first turns: one for each size that members have.
fn zones(lengths: &[u64]) -> Option<Vec<Zone>> {
    let mut ends = lengths.to_vec();
    ends.sort_unstable();
    ends.dedup();
    let (mut start, mut member_start) = (0_u64, 0);
    let mut zones = Vec::new();
    for end in ends {
        let is_longer = |(role, length): (usize, &u64)| (*length > member_start).then_some(role);
        let roles: Vec<usize> = lengths.iter().enumerate().filter_map(is_longer).collect();
        let members = u64::try_from(roles.len()).ok()?;
        let length = end.checked_sub(member_start)?.checked_mul(members)?;
        let zone_end = start.checked_add(length)?;
        zones.push(Zone { start, end: zone_end, member_start, roles, first: 0 });
        (start, member_start) = (zone_end, end);
    }
    Some(zones)
}
