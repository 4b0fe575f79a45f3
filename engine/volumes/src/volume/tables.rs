//! Partition tables anywhere: on a disk, and within a volume that is a virtual machine's disk.

use super::apm::Map;
use super::bsd::Label;
use super::extent::Extent;
use super::gpt::{self, Flaw, Table};
use super::mbr::{self, BootRecord};
use super::signature::Signature;
use crate::base::Error;
use crate::fs::identify::is_boot_sector;
use crate::kind::Kind;

/// Where the entries of an MBR stand.
const ENTRIES: u64 = 446;

/// Sector sizes that are tried after the disk's own: an image file of a 4096-byte-sector disk
/// does not say that it is one.
const SECTOR_SIZES: [u32; 2] = [512, 4096];

/// The sizes that sectors may have, the likeliest first.
pub(super) fn candidates(sector_size: u32) -> impl Iterator<Item = u32> + Clone {
    let others = SECTOR_SIZES.into_iter().filter(move |size| *size != sector_size);
    std::iter::once(sector_size).chain(others)
}

/// What the first sectors of a stretch say of partition tables: read once.
pub(super) struct Signs<'a> {
    pub extent: Extent<'a>,
    pub sector_size: u32,
    /// Why the first sector cannot be read, if it cannot.
    pub unread: Option<Error>,
    /// The first sector, if it could be an MBR.
    pub record: Option<BootRecord>,
    /// Whether the first sector is a filesystem's.
    is_boot_sector: bool,
    /// The first copy of a GPT in sectors of each size.
    copies: Vec<(u32, Result<Table, Flaw>)>,
}

impl<'a> Signs<'a> {
    pub(super) fn read(extent: Extent<'a>, sector_size: u32) -> Self {
        let (sector, unread) = extent.head(512);
        let copy = |size| (size, gpt::read_copy(&extent, size, 1));
        Self {
            extent,
            sector_size,
            unread,
            record: BootRecord::parse(&sector),
            is_boot_sector: is_boot_sector(&sector),
            copies: candidates(sector_size).map(copy).collect(),
        }
    }

    /// The first copy of a GPT in sectors of each size, or why there is none.
    pub(super) fn copies(&self) -> &[(u32, Result<Table, Flaw>)] {
        &self.copies
    }

    /// The size of the sectors in which there is a sound first copy of a GPT.
    pub(super) fn gpt_sector(&self) -> Option<u32> {
        self.copies.iter().find(|(_, copy)| copy.is_ok()).map(|(size, _)| *size)
    }

    /// The record, if it is a table and not a filesystem's boot sector; that is one too if all that
    /// it lists makes sense.
    pub(super) fn table_record(&self) -> Option<&BootRecord> {
        let record = self.record.as_ref()?;
        (!self.is_boot_sector || self.makes_sense(record)).then_some(record)
    }

    fn makes_sense(&self, record: &BootRecord) -> bool {
        let length = self.extent.length();
        candidates(self.sector_size).any(|size| mbr::makes_sense(record, length, size))
    }

    /// Whether there are signs of a partition table on a disk, whether it makes sense or not.
    pub(super) fn may_be_disk(&self) -> bool {
        let is_listing = self.record.as_ref().is_some_and(BootRecord::is_used);
        (is_listing && !self.is_boot_sector) || !self.signatures().is_empty()
    }

    /// The partition tables of a whole disk: there, a damaged one still is one.
    pub(super) fn disk_signatures(&self) -> Vec<Signature> {
        let mut found = self.signatures();
        if found.is_empty() && self.may_be_disk() {
            found.push(Signature::new(Kind::Mbr, ENTRIES));
        }
        found
    }

    /// The partition tables, if they make sense: of an MBR every partition that it lists lies
    /// within the stretch, and none on another. Of those that a disc has for several kinds of
    /// machines it is the one that Linux goes by.
    pub(super) fn signatures(&self) -> Vec<Signature> {
        let apm = || Some(Signature::new(Kind::Apm, Map::find(&self.extent)?.block));
        let table = self.mbr_or_gpt().or_else(apm);
        let label = Label::find(&self.extent).map(|label| label.signature());
        table.into_iter().chain(label).collect()
    }

    fn mbr_or_gpt(&self) -> Option<Signature> {
        let record = self.record.as_ref().filter(|record| record.is_used());
        let is_protected = record.is_some_and(BootRecord::is_protective);
        if record.is_some_and(|record| !is_protected && self.makes_sense(record)) {
            return Some(Signature::new(Kind::Mbr, ENTRIES));
        }
        let size = self.gpt_sector()?;
        // With the record that protects it, it begins as early as that.
        let place = if is_protected { ENTRIES } else { u64::from(size) };
        Some(Signature::new(Kind::Gpt, place))
    }
}
