//! Partition tables anywhere: on a disk, and within a volume that is a virtual machine's disk.

use super::extent::Extent;
use super::mbr::BootRecord;
use super::signature::{self, Signature};
use super::{gpt, mbr};
use crate::kind::Kind;

/// Where the entries of an MBR stand.
const ENTRIES: u64 = 446;

/// Whether there are signs of a partition table on a disk, whether it makes sense or not.
pub(super) fn may_be(disk: &Extent<'_>, sector_size: u32) -> bool {
    let (sector, _) = disk.head(512);
    let is_boot_sector = signature::is_boot_sector(&sector);
    let record = BootRecord::parse(&sector).filter(|record| record.is_used() && !is_boot_sector);
    record.is_some() || gpt::read_copy(disk, sector_size, 1).is_ok()
}

/// The partition table of a whole disk: there, a damaged one still is one.
pub(super) fn signature_of_disk(disk: Extent<'_>, sector_size: u32) -> Option<Signature> {
    let lax = || may_be(&disk, sector_size).then(|| Signature::new(Kind::Mbr, ENTRIES));
    signature(disk, sector_size).or_else(lax)
}

/// The partition table that is in a volume, if it makes sense there: of an MBR every partition
/// that it lists, in sectors of 512 bytes or of `sector_size`, lies within the stretch, and none
/// on another.
pub(super) fn signature(extent: Extent<'_>, sector_size: u32) -> Option<Signature> {
    let (sector, _) = extent.head(512);
    let sizes = [512, sector_size];
    let record = BootRecord::parse(&sector).filter(BootRecord::is_used);
    let is_protected = record.as_ref().is_some_and(BootRecord::is_protective);
    let listing = record.filter(|_| !is_protected);
    let length = extent.length();
    let makes_sense = |record| sizes.iter().any(|size| mbr::makes_sense(record, length, *size));
    if listing.as_ref().is_some_and(makes_sense) {
        return Some(Signature::new(Kind::Mbr, ENTRIES));
    }
    let has_gpt = |size: &&u32| gpt::read_copy(&extent, **size, 1).is_ok();
    let size = sizes.iter().find(has_gpt)?;
    // With the record that protects it, it begins as early as that.
    let place = if is_protected { ENTRIES } else { u64::from(*size) };
    Some(Signature::new(Kind::Gpt, place))
}
