//! An array, put together of its members and read as one.

use std::sync::Arc;

use super::super::layer::Layer;
use super::geometry::Geometry;
use super::member::Member;
use super::members::{Chosen, Refused, called, choose};
use super::superblock::{Level, Superblock};
use super::whole_rows::WholeRows;
use crate::base::{
    ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result, check_range,
};

/// A RAID array.
///
/// Reading takes each byte from the first member that has it. Where none does, or reading fails,
/// RAID4, 5 and 6 compute it from the rest of its row, if their parity is known to be right.
pub struct Array {
    newest: Superblock,
    pub(super) geometry: Geometry,
    /// By role.
    pub(super) members: Vec<Option<Member>>,
    refused: Vec<Refused>,
    /// Bytes of each member up to which parity is known to be right.
    pub(super) parity_end: u64,
    pub(super) whole_rows: WholeRows,
    size: u64,
}

impl Array {
    /// The array that `members` are of, as its newest one describes it.
    ///
    /// # Errors
    /// `Invalid` for members of several arrays. `NotFound` where more members are missing or
    /// refused than the level can do without, saying which and why. `Unsupported` for what is not
    /// read: other levels and layouts, arrays that are being reshaped, that have a write journal,
    /// and RAID4, 5 and 6 that lack a member and were not shut down, whose parity may be wrong.
    /// `Corrupt` where a superblock makes no sense.
    pub fn assemble(members: &[(Superblock, Arc<dyn ReadAt>)]) -> Result<Self> {
        let chosen = choose(members)?;
        let name = called(&chosen.newest);
        let geometry = check(&chosen.newest).and_then(|()| Geometry::new(&chosen));
        let geometry = geometry.and_then(|geometry| {
            check_members(&chosen, &geometry)?;
            Ok(geometry)
        });
        let geometry = geometry.map_err(|error| {
            // Of what is missing the reason is mostly that it was refused.
            let hides = error.kind() == ErrorKind::NotFound && !chosen.refused.is_empty();
            let error = error.within(&name);
            if !hides {
                return error;
            }
            let why: Vec<&str> = chosen.refused.iter().map(|one| one.why.as_str()).collect();
            Error::new(ErrorKind::NotFound, format!("{error}: {}", why.join("; ")))
        })?;
        let Chosen { newest, members, refused } = chosen;
        let parity_end = newest.in_sync.unwrap_or(u64::MAX);
        let size = geometry.size();
        let whole_rows = WholeRows::default();
        Ok(Self { newest, geometry, members, refused, parity_end, whole_rows, size })
    }

    /// What the newest member says of the array.
    #[must_use]
    pub fn superblock(&self) -> &Superblock {
        &self.newest
    }

    /// Members that were given and are not used, and why.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Whether a member is missing or not rebuilt to its end.
    #[must_use]
    pub fn is_degraded(&self) -> bool {
        missing(&self.members) > 0
    }

    /// The numbers, among those that were given, of the members that are used, by role.
    pub fn used(&self) -> impl Iterator<Item = usize> {
        self.members.iter().flatten().map(|member| member.index)
    }

    /// Visits all places of `length` bytes that lie together from byte `at` on; returns how many
    /// they are.
    fn visit_at(
        &self,
        at: u64,
        length: u64,
        visit: &mut dyn FnMut(usize, ByteRange),
    ) -> Option<u64> {
        let mut visit = |role: usize, stretch: ByteRange| {
            let member = self.members.get(role).and_then(Option::as_ref);
            if let Some(member) = member {
                visit(member.index, member.place(stretch.start, stretch.len()));
            }
        };
        if let Some(turns) = self.geometry.turns(at, length) {
            turns.stretches.into_iter().for_each(|(role, stretch)| visit(role, stretch));
            return Some(turns.length);
        }
        let mut together = length;
        let copies = 0..self.geometry.copies();
        let pieces: Option<Vec<_>> = copies.map(|copy| self.geometry.locate(at, copy)).collect();
        let pieces = pieces?;
        for piece in &pieces {
            together = together.min(piece.length);
        }
        for piece in pieces {
            visit(piece.role, ByteRange::new(piece.at, together));
        }
        Some(together).filter(|together| *together > 0)
    }
}

/// Refuses what no geometry could make readable.
pub(super) fn check(newest: &Superblock) -> Result<()> {
    let unsupported = |why: &str| Err(Error::new(ErrorKind::Unsupported, why));
    if let Some(reshape) = &newest.reshape {
        let context = format!(
            "it is being reshaped: {} up to sector {} of it are in their new \
            place",
            newest.level, reshape.position
        );
        return unsupported(&context);
    }
    if let Some(unknown) = newest.features.unknown {
        return Err(Error::newer(format!("features {unknown:#x} of its superblock")));
    }
    if newest.features.journal {
        return unsupported("its write journal may hold newer data than its members");
    }
    Ok(())
}

/// Members that are missing or not whole.
fn missing(members: &[Option<Member>]) -> usize {
    members.iter().filter(|member| !is_whole(member)).count()
}

fn is_whole(member: &Option<Member>) -> bool {
    member.as_ref().is_some_and(|member| member.is_whole)
}

/// Refuses an array that lacks more than it can.
fn check_members(chosen: &Chosen, geometry: &Geometry) -> Result<()> {
    let Superblock { level, in_sync, features, .. } = &chosen.newest;
    let missing = missing(&chosen.members);
    let (all, spare) = (chosen.members.len(), spare(chosen, geometry));
    if let Err(which) = spare {
        let context = format!("{level} of {all} members lacks {missing}{which}");
        return Err(Error::new(ErrorKind::NotFound, context));
    }
    let has_parity = matches!(level, Level::Raid4 | Level::Raid5 | Level::Raid6);
    if has_parity && missing > 0 && in_sync.is_some() {
        let log = match features.partial_parity_log {
            true => "; its partial parity log would have to be applied first",
            false => "",
        };
        let context = format!(
            "a {level} that lacks {missing} of {all} members was not shut down, \
            so its parity may be wrong (dirty degraded array){log}"
        );
        return Err(Error::new(ErrorKind::Unsupported, context));
    }
    Ok(())
}

/// Whether there is a way to each byte, or which members are missed, as an addition.
fn spare(chosen: &Chosen, geometry: &Geometry) -> Result<(), String> {
    let members = &chosen.members;
    let missing = missing(members);
    let most = match (geometry, chosen.newest.level) {
        (Geometry::Linear(_) | Geometry::Zones(_), _) => 0,
        (Geometry::Same { disks, .. }, _) => disks.saturating_sub(1),
        (Geometry::Rows(_), Level::Raid6) => 2,
        (Geometry::Rows(_), _) => 1,
        (Geometry::Mirrors(mirrors), _) => {
            // Chunks take the same turns again after as many as there are members.
            let count = u64::try_from(members.len()).unwrap_or(u64::MAX);
            let is_there = |role: usize| members.get(role).is_some_and(is_whole);
            let is_lost = |chunk: &u64| !mirrors.roles(*chunk).any(is_there);
            let there = members.len().saturating_sub(missing);
            if there.saturating_mul(mirrors.copies()) < members.len() {
                return Err(format!("; {there} cannot hold all of it"));
            }
            return match (0..count).find(is_lost) {
                None => Ok(()),
                Some(chunk) => {
                    let roles: Vec<String> =
                        mirrors.roles(chunk).map(|role| role.to_string()).collect();
                    Err(format!(", and none of roles {} is left", roles.join(", ")))
                }
            };
        }
    };
    if missing <= most { Ok(()) } else { Err(format!("; it can do without {most}")) }
}

impl ReadAt for Array {
    fn size(&self) -> ByteCount {
        ByteCount(self.size)
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        check_range(self.size(), offset, buffer.len())?;
        self.read(offset.0, buffer).map_err(|error| error.within(called(&self.newest)))
    }

    fn reach(&self, offset: ByteOffset) -> u64 {
        let copies = 0..self.geometry.copies();
        let mut pieces = copies.filter_map(|copy| self.geometry.locate(offset.0, copy));
        let held = pieces.find_map(|piece| {
            let member = self.members.get(piece.role)?.as_ref()?;
            member.holds(piece.at, 1).then(|| member.reach(piece.at))
        });
        // That chunks end before costs nothing: the others of a row are read in one go as well.
        held.unwrap_or_else(|| {
            let piece = u64::try_from(crate::base::limits::MAX_IO_SIZE).unwrap_or(u64::MAX);
            piece.saturating_sub(offset.0.checked_rem(piece).unwrap_or(0))
        })
    }
}

impl Layer for Array {
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()> {
        if let Geometry::Rows(_) = self.geometry {
            let why = format!("{}: parity covers all of it", called(&self.newest));
            return Err(Error::new(ErrorKind::Unsupported, why));
        }
        let end = within.end.min(self.size);
        let mut at = within.start;
        while at < end {
            let visited = self.visit_at(at, end.saturating_sub(at), visit);
            let visited = visited.ok_or_else(|| {
                Error::corrupt(called(&self.newest), format!("a place of byte {at}"), "none")
            })?;
            at = at.saturating_add(visited);
        }
        Ok(())
    }
}
