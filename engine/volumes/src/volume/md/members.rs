//! Which members an array is made of, by the kernel's and mdadm's rules.
//!
//! Source: Linux, `super_1_validate` and `analyze_sbs` in `drivers/md/md.c`; mdadm, `Assemble.c`.

use std::cmp::Reverse;
use std::sync::Arc;

use super::member::Member;
use super::superblock::{Level, Role, Superblock, Version};
use crate::base::{Error, ErrorKind, ReadAt, Result};

/// A member, as it is given.
pub(super) type Given = (Superblock, Arc<dyn ReadAt>);

/// A member that is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    /// Its number among those that were given.
    pub member: usize,
    /// Why, a clause.
    pub why: String,
}

/// What an array is made of.
pub(super) struct Chosen {
    /// What the newest member says.
    pub newest: Superblock,
    /// The members by their role.
    pub members: Vec<Option<Member>>,
    pub refused: Vec<Refused>,
}

/// Members by their numbers among those that were given.
pub(super) struct Picked<'a> {
    /// What the newest member says.
    pub newest: &'a Superblock,
    /// By role.
    pub roles: Vec<Option<usize>>,
    pub refused: Vec<Refused>,
}

/// Chooses among `given`.
///
/// # Errors
/// Those of [`pick`].
pub(super) fn choose(given: &[Given]) -> Result<Chosen> {
    let sized = given.iter().map(|(superblock, bytes)| (superblock, bytes.size().0));
    let Picked { newest, roles, refused } = pick(&sized.collect::<Vec<_>>())?;
    let newest = newest.clone();
    let member = |index: usize| {
        let (superblock, bytes) = given.get(index)?;
        Some(Member::new(index, superblock, Arc::clone(bytes)))
    };
    let members = roles.into_iter().map(|index| index.and_then(member)).collect();
    Ok(Chosen { newest, members, refused })
}

/// Picks members among those `given`, superblocks and sizes.
///
/// # Errors
/// `Invalid` where they are of several arrays, `NotFound` where none is active, `Corrupt` where
/// the number of members makes no sense.
pub(super) fn pick<'a>(given: &[(&'a Superblock, u64)]) -> Result<Picked<'a>> {
    let newest = newest(given)?;
    let disks = usize::try_from(newest.raid_disks).unwrap_or(usize::MAX);
    let largest = match newest.version {
        Version::V0_90 => 27,
        _ => 1920,
    };
    if disks == 0 || disks > largest {
        let expected = format!("1 to {largest} members");
        return Err(Error::corrupt(called(newest), expected, newest.raid_disks));
    }
    let mut roles: Vec<Option<usize>> = vec![None; disks];
    let mut refused = Vec::new();
    let mut order: Vec<_> = given.iter().enumerate().collect();
    // Of two that claim one role the newer one has it.
    order.sort_by_key(|(_, (superblock, _))| Reverse(superblock.events));
    for (index, (superblock, size)) in order {
        let refusal = match fit(newest, superblock, *size) {
            Ok(role) => match roles.get_mut(role) {
                Some(free @ None) => {
                    *free = Some(index);
                    None
                }
                Some(_) => Some(format!("{} is there twice", device(superblock))),
                None => Some(format!("{} has no place in the array", device(superblock))),
            },
            Err(why) => Some(why),
        };
        refused.extend(refusal.map(|why| Refused { member: index, why }));
    }
    refused.sort_by_key(|one| one.member);
    Ok(Picked { newest, roles, refused })
}

/// What the array is called in errors.
pub(super) fn called(superblock: &Superblock) -> String {
    format!("array {}", superblock.name())
}

/// The superblock that is newest; spares do not count, as their numbers of events do not.
fn newest<'a>(given: &[(&'a Superblock, u64)]) -> Result<&'a Superblock> {
    let mut newest: Option<&'a Superblock> = None;
    for (superblock, _) in given {
        if let Some((first, _)) = given.first().filter(|(first, _)| first.array != superblock.array)
        {
            let (one, other) = (called(first), called(superblock));
            return Err(Error::new(ErrorKind::Invalid, format!("members of {one} and {other}")));
        }
        let counts = matches!(superblock.role(), Role::Active(_) | Role::Journal);
        if counts && newest.is_none_or(|newest| newest.events < superblock.events) {
            newest = Some(superblock);
        }
    }
    let none = || match given.first() {
        Some((first, _)) => format!("{}: no active member is there", called(first)),
        None => "an array without members".to_owned(),
    };
    newest.ok_or_else(|| Error::new(ErrorKind::NotFound, none()))
}

fn device(superblock: &Superblock) -> String {
    match superblock.role() {
        Role::Active(role) => format!("device {} (role {role})", superblock.number),
        _ => format!("device {}", superblock.number),
    }
}

/// The role that the member of `size` bytes has in the array that `newest` describes, or why it
/// has none.
fn fit(newest: &Superblock, member: &Superblock, size: u64) -> Result<usize, String> {
    let device = device(member);
    let role = match member.role() {
        Role::Active(role) => role,
        Role::Spare => return Err(format!("{device} is a spare or is still being rebuilt")),
        Role::Faulty => return Err(format!("{device} is marked as failed")),
        Role::Journal => return Err(format!("{device} is the write journal")),
    };
    let behind = newest.events.saturating_sub(member.events);
    // A machine that goes down between two writes of superblocks leaves them one apart.
    if behind > 1 {
        return Err(format!("{device} is stale: the array changed {behind} times without it"));
    }
    if newest.role_of(member.number) != member.role() {
        return Err(format!("{device} is marked as failed or removed by a newer member"));
    }
    if let Role::Active(first) = newest.role()
        && !member.roles.contains(&Role::Active(first))
    {
        return Err(format!("{device} went on without the member of role {first}"));
    }
    if member.features.replacement {
        return Err(format!("{device} is a replacement that is not complete"));
    }
    if member.reshape.is_some() {
        return Err(format!("{device} says that the array is being reshaped"));
    }
    let shape = |superblock: &Superblock| {
        let Superblock { version, level, layout, chunk, raid_disks, used, .. } = superblock;
        (*version, *level, *layout, *chunk, *raid_disks, used_by(*level, *used))
    };
    if shape(newest) != shape(member) {
        return Err(format!("{device} says something else of the array's shape"));
    }
    place(member, size).map_err(|why| format!("{device} {why}"))?;
    Ok(usize::from(role))
}

/// Bytes of each member that count: none where every member has its own number.
fn used_by(level: Level, used: u64) -> u64 {
    match level {
        Level::Linear | Level::Raid0 => 0,
        _ => used,
    }
}

/// Checks that a member of `size` bytes has what its superblock says.
fn place(member: &Superblock, size: u64) -> Result<(), String> {
    let data = member.data;
    if data.start > data.end || data.end > size {
        return Err(format!("has {size} bytes, its data are {data}"));
    }
    let needed = used_by(member.level, member.used);
    if needed > data.len() {
        return Err(format!("has room for {} bytes, the array needs {needed}", data.len()));
    }
    let is_before = matches!(member.version, Version::V1_1 | Version::V1_2);
    // Superblocks at the end are where no data are, or the member was made smaller.
    let is_clear = match is_before {
        true => member.place.end <= data.start,
        false => data.start.saturating_add(needed) <= member.place.start,
    };
    if is_clear { Ok(()) } else { Err(format!("keeps its superblock among its data, {data}")) }
}
