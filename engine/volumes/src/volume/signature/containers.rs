//! Containers of other volumes: LUKS, Linux RAID, LVM2, ZFS and BIOS RAID.
//!
//! LUKS: "LUKS1 On-Disk Format" 1.2.3 and "LUKS2 On-Disk Format" 1.1. md: the kernel's
//! `include/uapi/linux/raid/md_p.h`. LVM2: `lib/format_text/layout.h` of LVM2. ZFS: "ZFS On-Disk
//! Specification", chapter 1. BIOS RAID: util-linux `libblkid/src/superblocks/*_raid.c`.

use super::super::layout::Notes;
use super::super::text::{label, uuid};
use super::{Signature, Subject};
use crate::base::fields::{array, has, le32, le64, slice, u8_at};
use crate::kind::Kind;

/// LUKS1 and LUKS2.
pub(super) fn luks(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let block = subject.head;
    if !has(block, 0, b"LUKS\xba\xbe\0") {
        return None;
    }
    let name = (u8_at(block, 7)? == 2).then(|| slice(block, 24, 48).and_then(label)).flatten();
    Some(Signature::new(Kind::Luks, 0).label(name).uuid(slice(block, 168, 40).and_then(label)))
}

/// A LUKS2 container whose first header is overwritten, by the second one at any of the places
/// where it can be (4.1 of the LUKS2 document) and that the head reaches.
pub(super) fn luks_second_header(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    const PLACES: [usize; 4] = [0x4000, 0x8000, 0x10000, 0x20000];
    let (place, block) = PLACES
        .iter()
        .filter_map(|place| Some((*place, subject.head.get(*place..)?)))
        .find(|(_, block)| has(block, 0, b"SKUL\xba\xbe\0\x02"))?;
    notes.add(format!("{}: the first LUKS2 header is damaged; the second was read", subject.name));
    let name = slice(block, 24, 48).and_then(label);
    let at = u64::try_from(place).ok()?;
    Some(Signature::new(Kind::Luks, at).label(name).uuid(slice(block, 168, 40).and_then(label)))
}

const MD_MAGIC: [u8; 4] = [0xfc, 0x4e, 0x2b, 0xa9];

/// A member of a Linux RAID: superblock version 1.1 at the start, 1.2 at 4 KiB, 1.0 some 8 KiB
/// before the end, 0.90 some 64 KiB before the end.
pub(super) fn md(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let at_head = [0, 4096]
        .iter()
        .find_map(|at| md_version_1(subject.head.get(*at..)?, u64::try_from(*at).ok()?));
    at_head.or_else(|| md_at_end(subject, notes))
}

fn md_at_end(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let size = subject.extent.length();
    let near_end = size.checked_sub(8192).map(|place| place & !4095);
    if let Some(place) = near_end
        && let Some(block) = subject.read(place, 256, notes)
        && let Some(content) = md_version_1(&block, place)
    {
        return Some(content);
    }
    let place = (size & !65535).checked_sub(65536)?;
    let block = subject.read(place, 4096, notes)?;
    if !has(&block, 0, &MD_MAGIC) || le32(&block, 4)? != 0 || le32(&block, 8)? > 91 {
        return None;
    }
    // Version 0.90 keeps its UUID in four words that do not follow one another.
    let words =
        [array::<4>(&block, 20)?, array(&block, 52)?, array(&block, 56)?, array(&block, 60)?];
    let mut id = [0; 16];
    for (into, word) in id.as_chunks_mut::<4>().0.iter_mut().zip(words) {
        // Its words are numbers: they are read in the machine's order and printed as they are.
        *into = u32::from_le_bytes(word).to_be_bytes();
    }
    Some(Signature::new(Kind::MdMember, place).uuid(uuid(&id)))
}

/// A version-1 superblock that says it stands at byte `place`.
fn md_version_1(block: &[u8], place: u64) -> Option<Signature> {
    let fits = has(block, 0, &MD_MAGIC)
        && le32(block, 4)? == 1
        && le64(block, 144)?.checked_mul(512)? == place;
    let id = array(block, 16).and_then(|id| uuid(&id));
    fits.then(|| {
        Signature::new(Kind::MdMember, place).label(slice(block, 32, 32).and_then(label)).uuid(id)
    })
}

/// An LVM2 physical volume: its label is in one of the first four sectors.
pub(super) fn lvm2(subject: &Subject<'_>, _notes: &mut Notes) -> Option<Signature> {
    let sectors = subject.head.as_chunks::<512>().0;
    (0_u64..).zip(sectors.iter().take(4)).find_map(|(number, sector)| {
        let known = has(sector, 0, b"LABELONE") && has(sector, 24, b"LVM2 001");
        if !known || le64(sector, 8)? != number {
            return None;
        }
        // LVM's CRC is CRC32 from its own start value, without the final complement.
        let mut sum = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
        sum.update(sector.get(20..)?);
        if !sum.finalize() != le32(sector, 16)? {
            return None;
        }
        let at = number.checked_mul(512)?;
        let header = usize::try_from(le32(sector, 20)?).ok()?;
        let id = slice(sector, header, 32)?;
        let size = le64(sector, header.checked_add(32)?);
        Some(Signature::new(Kind::PhysicalVolume, at).uuid(lvm_id(id)).size(size))
    })
}

/// An LVM identifier as LVM prints it: groups of 6-4-4-4-4-4-6.
fn lvm_id(id: &[u8]) -> Option<String> {
    let text = str::from_utf8(id).ok().filter(|text| text.chars().all(|c| c.is_ascii_graphic()))?;
    let mut rest = text;
    let mut groups = Vec::new();
    for length in [6, 4, 4, 4, 4, 4, 6] {
        let (group, after) = rest.split_at_checked(length)?;
        groups.push(group);
        rest = after;
    }
    Some(groups.join("-"))
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
