//! Containers of other volumes: LUKS, Linux RAID, LVM2, ZFS and BIOS RAID.
//!
//! LVM2: `volume::lvm`. LUKS: `volume::luks`. md: `volume::md`. ZFS: "ZFS On-Disk
//! Specification", chapter 1. BIOS RAID: util-linux `libblkid/src/superblocks/*_raid.c`.

use super::super::layout::Notes;
use super::super::lvm::Label;
use super::super::{luks, md};
use super::{Signature, Subject};
use crate::base::fields::has;
use crate::kind::Kind;

/// LUKS1 and LUKS2.
pub(super) fn luks(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    luks::identify(subject.head).map(|identity| luks_at(0, identity))
}

/// A LUKS2 container whose first header is overwritten, by the second one at any of the places
/// where it can be and that the head reaches.
pub(super) fn luks_second_header(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    if luks::identify(subject.head).is_some() {
        return None;
    }
    let (place, identity) = luks::identify_second(subject.head)?;
    notes.add(format!("{}: the first LUKS2 header is damaged; the second was read", subject.name));
    Some(luks_at(place, identity))
}

fn luks_at(place: u64, identity: luks::Identity) -> Signature {
    Signature::new(Kind::Luks, place).label(identity.label).uuid(identity.uuid)
}

/// A member of a Linux RAID, even if its superblock is damaged.
pub(super) fn md(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let found = match md::find(subject.volume.as_ref()) {
        Ok(found) => found?,
        Err(error) => {
            // That its first bytes cannot be read was said already.
            if subject.extent.read(0, 8192).is_ok() {
                notes.add(format!("{}: a part of it cannot be read: {error}", subject.name));
            }
            return None;
        }
    };
    let (place, uuid) = (found.superblock.place.start, found.superblock.uuid());
    Some(Signature::new(Kind::MdMember, place).label(found.superblock.label).uuid(uuid))
}

/// An LVM2 physical volume: its label is in one of the first four sectors.
pub(super) fn lvm2(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let label = Label::parse(subject.head)?;
    // Wherever it is among them, what would overwrite the second one would overwrite it.
    let signature = Signature::new(Kind::PhysicalVolume, 512);
    Some(signature.uuid(Some(label.id)).size(Some(label.size)))
}

/// Uberblocks that must be found, as libblkid demands: a single one may be a stale rest.
const ZFS_UBERBLOCKS: usize = 4;

/// A ZFS device, by the uberblocks in the second half of its first 256 KiB label.
pub(super) fn zfs(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    const LITTLE: [u8; 8] = 0x00ba_b10c_u64.to_le_bytes();
    const BIG: [u8; 8] = 0x00ba_b10c_u64.to_be_bytes();
    let ring = subject.read(128 * 1024, 128 * 1024, notes)?;
    let found = ring
        .as_chunks::<1024>()
        .0
        .iter()
        .filter(|slot| has(&slot[..], 0, &LITTLE) || has(&slot[..], 0, &BIG))
        .count();
    (found >= ZFS_UBERBLOCKS).then(|| Signature::new(Kind::ZfsMember, 128 * 1024))
}

/// Members of a BIOS's RAID, by what their firmware keeps at the end of the disk.
pub(super) fn bios_raid(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    const TAILS: &[(Kind, u64, &[u8])] = &[
        (Kind::IntelRaid, 1024, b"Intel Raid ISM Cfg Sig. "),
        (Kind::DdfRaid, 512, &[0xde, 0x11, 0xde, 0x11]),
        (Kind::LsiRaid, 512, b"$XIDE$"),
        (Kind::NvidiaRaid, 1024, b"NVIDIA  "),
    ];
    // Firmware counts whole sectors from the end of the disk.
    let odd = subject.extent.length() & 511;
    let tail = subject.read_tail(odd.checked_add(1024)?, 1024, notes)?;
    TAILS.iter().find_map(|(kind, from_end, magic)| {
        let at = usize::try_from(1024_u64.checked_sub(*from_end)?).ok()?;
        let end = subject.extent.length().checked_sub(odd)?;
        has(&tail, at, magic).then(|| Signature::new(*kind, end.saturating_sub(*from_end)))
    })
}
