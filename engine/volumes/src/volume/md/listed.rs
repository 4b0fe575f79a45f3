//! The arrays among a disk's volumes, listed: RAID1 is where one of its members has it.

use super::super::extent::Extent;
use super::super::layout::{Notes, Volume};
use super::array::check;
use super::members::{Picked, called, pick};
use super::superblock::{Level, Superblock, superblock};
use crate::kind::Kind;

/// A member, where it is on the disk, and its bytes.
struct Found {
    name: String,
    superblock: Superblock,
    start: u64,
    length: u64,
}

/// The arrays whose members are among `volumes`.
pub(in super::super) fn volumes(
    disk: &Extent<'_>,
    volumes: &[Volume],
    notes: &mut Notes,
) -> Vec<Volume> {
    let mut arrays: Vec<Vec<Found>> = Vec::new();
    for volume in volumes {
        if !volume.holds(Kind::MdMember) || !volume.is_contiguous() {
            continue;
        }
        let extent = disk.part(volume.start, volume.length);
        let superblock = match superblock(&extent) {
            Ok(Some(superblock)) => superblock,
            Ok(None) => continue,
            Err(error) => {
                notes.add(format!("{}: its RAID superblock is damaged: {error}", volume.name));
                continue;
            }
        };
        let name = volume.name.clone();
        let found = Found { name, superblock, start: volume.start, length: extent.length() };
        let is_same = |members: &&mut Vec<Found>| {
            members.first().is_some_and(|first| first.superblock.array == found.superblock.array)
        };
        match arrays.iter_mut().find(is_same) {
            Some(members) => members.push(found),
            None => arrays.push(vec![found]),
        }
    }
    arrays.iter().filter_map(|members| volume(members)).collect()
}

/// The array of `members`, of which there is one at least.
fn volume(members: &[Found]) -> Option<Volume> {
    let first = members.first()?;
    let name = format!("md/{}", first.superblock.name());
    let mut volume = Volume::new(name, first.start, first.superblock.used);
    volume.type_name = Some("RAID array".to_owned());
    volume.within = members.iter().map(|member| member.name.clone()).collect();
    match mirrored(members) {
        Ok((start, length)) => (volume.start, volume.length) = (start, length),
        Err(why) => volume.unsupported = Some(why),
    }
    Some(volume)
}

/// Where on the disk the bytes of a RAID1 are, or why that cannot be said.
fn mirrored(members: &[Found]) -> Result<(u64, u64), String> {
    let given: Vec<(&Superblock, u64)> =
        members.iter().map(|member| (&member.superblock, member.length)).collect();
    let Picked { newest, roles, refused } = pick(&given).map_err(|error| error.to_string())?;
    check(newest).map_err(|error| format!("{}: {error}", called(newest)))?;
    if newest.level != Level::Raid1 {
        return Err(format!("arrays of {} are not read", newest.level));
    }
    let mut whole = roles.into_iter().flatten().filter_map(|index| members.get(index));
    let is_whole =
        |member: &Found| member.superblock.recovered.is_none() && member.superblock.bad.is_empty();
    match whole.find(|member| is_whole(member)) {
        Some(member) => {
            Ok((member.start.saturating_add(member.superblock.data.start), newest.used))
        }
        None => {
            let why: Vec<String> = refused.into_iter().map(|one| one.why).collect();
            Err(format!("no member holds all of it ({})", why.join("; ")))
        }
    }
}
