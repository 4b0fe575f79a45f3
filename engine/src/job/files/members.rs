//! Filesystems that lie on several volumes: which volumes belong together.

use std::sync::Arc;

use crate::base::{Error, ErrorKind, ReadAt, Result};
use crate::fs::{self, DeviceOf};
use crate::volume::{Kind, Placed, Stack, Volume};

/// A volume that is one device of a btrfs.
pub(super) struct Member<'a> {
    pub volume: &'a Volume,
    pub placed: Placed,
    pub bytes: Arc<dyn ReadAt>,
    /// The number of the disk that it is on, zero for the one whose files are read.
    disk: usize,
    pub device: DeviceOf,
}

/// The devices of a btrfs that are among `volumes` of `stack`, each with the number of its own
/// disk. What cannot be read is none.
pub(super) fn of<'a>(
    stack: &Stack,
    volumes: impl Iterator<Item = (usize, &'a Volume)>,
) -> Vec<Member<'a>> {
    let member = |(number, volume): (usize, &'a Volume)| {
        if !may_be(volume) {
            return None;
        }
        let placed = stack.placed(volume)?;
        let bytes = placed.bytes().ok()?;
        let device = fs::btrfs_device(&bytes)?;
        Some(Member { volume, placed, bytes, disk: number, device })
    };
    volumes.filter_map(member).collect()
}

/// Whether `volume` may be a device of a btrfs: superblocks may also be left of what something else
/// took the place of.
pub(super) fn may_be(volume: &Volume) -> bool {
    volume.content.is_none() || volume.holds(Kind::Btrfs)
}

/// The members of the filesystem that `volume` is a device of, itself the first; none if it is the
/// only one. Copies of a device on further disks do not count beside one on the volume's own.
///
/// # Errors
/// `Invalid` when two are the same device, and so one a copy of the other.
pub(super) fn together<'m, 'a>(
    volume: &Volume,
    members: &'m [Member<'a>],
) -> Result<Vec<&'m Member<'a>>> {
    let own = members.iter().find(|member| std::ptr::eq(member.volume, volume));
    let Some(own) = own.filter(|own| own.device.devices > 1) else { return Ok(Vec::new()) };
    let mut found = vec![own];
    let is_elsewhere =
        |known: &Member<'_>, other: &Member<'_>| known.disk == own.disk && other.disk != own.disk;
    for member in members.iter().filter(|member| is_part_of(own, member)) {
        match found.iter().find(|known| known.device.device == member.device.device) {
            None => found.push(member),
            // A copy of the volume itself is another filesystem's, and what is found on the own
            // disk stands before what is on others.
            Some(known) if std::ptr::eq(*known, own) || is_elsewhere(known, member) => {}
            Some(known) => {
                let context = format!(
                    "{} and {} are both device {} of btrfs {}: one is a copy",
                    known.volume.name, member.volume.name, own.device.device, own.device.filesystem
                );
                return Err(Error::new(ErrorKind::Invalid, context));
            }
        }
    }
    Ok(if found.len() > 1 { found } else { Vec::new() })
}

/// Whether `other` is a device of the filesystem that `one` is a device of, or a seed of it, which
/// is a filesystem of its own beside.
fn is_part_of(one: &Member<'_>, other: &Member<'_>) -> bool {
    one.device.filesystem == other.device.filesystem
        || one.device.seeds.contains(&other.device.device)
}

/// Whether a further disk, of this number, has a device of a filesystem that is on the first.
pub(super) fn has_part(members: &[Member<'_>], disk: usize) -> bool {
    let first = members.iter().filter(|member| member.disk == 0);
    let mut pairs = first.flat_map(|own| members.iter().map(move |other| (own, other)));
    pairs.any(|(own, other)| other.disk == disk && is_part_of(own, other))
}
