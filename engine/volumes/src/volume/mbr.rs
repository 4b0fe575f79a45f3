//! The master boot record and its chain of extended boot records.
//!
//! Layout: 446 bytes of boot code (the disk signature at 440), four 16-byte entries, 55 AA
//! (UEFI 2.10, section 5.2.1). Logical partitions follow Linux (`block/partitions/msdos.c`): each
//! link's data entries count from that link, its next link from the extended partition's start,
//! and empty entries take no number. Any entry of a link may be either; but what the third and
//! the fourth say counts as a partition only if it lies within the link and the container.

use crate::base::limits::{MAX_EBR_LINKS, MAX_PARTITIONS};

use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::types::{is_extended, mbr_type_name};
use crate::base::fields::{has, le32, slice, u8_at};

/// The type of the entry that protects a GPT from tools that know none.
pub(super) const PROTECTIVE: u8 = 0xee;

const SIGNATURE_AT: usize = 440;
const ENTRIES_AT: usize = 446;
const ENTRY_SIZE: usize = 16;
const MAGIC_AT: usize = 510;
const MAGIC: [u8; 2] = [0x55, 0xaa];

/// One partition entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// 0x80 on the active partition, 0 on others.
    pub flag: u8,
    /// The type; 0 on an unused entry.
    pub kind: u8,
    /// First sector.
    pub start: u32,
    /// Sectors; 0 on an unused entry.
    pub sectors: u32,
}

impl Entry {
    fn parse(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            flag: u8_at(bytes, 0)?,
            kind: u8_at(bytes, 4)?,
            start: le32(bytes, 8)?,
            sectors: le32(bytes, 12)?,
        })
    }

    fn is_used(self) -> bool {
        self.sectors != 0
    }
}

/// A boot record that could be a partition table: 55 AA, and no impossible flag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BootRecord {
    /// The disk's signature.
    pub signature: u32,
    /// The four entries.
    pub entries: Vec<Entry>,
}

impl BootRecord {
    /// Reads `sector`; `None` if it is no partition table.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        let entries = parse_entries(sector)?;
        let flags_fit = entries.iter().all(|entry| matches!(entry.flag, 0 | 0x80));
        flags_fit.then_some(Self { signature: le32(sector, SIGNATURE_AT)?, entries })
    }

    /// Whether an entry protects a GPT.
    pub(super) fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_used() && entry.kind == PROTECTIVE)
    }

    /// Whether it protects a GPT and lists other partitions too.
    pub(super) fn is_hybrid(&self) -> bool {
        self.is_protective()
            && self.entries.iter().any(|entry| entry.is_used() && entry.kind != PROTECTIVE)
    }

    /// Whether it lists any partition.
    pub(super) fn is_used(&self) -> bool {
        self.entries.iter().any(|entry| entry.is_used())
    }
}

/// Whether what `record` lists makes sense on a disk of `length` bytes: every entry in use has a
/// type, begins behind the record and ends on the disk, and none overlaps another.
pub(super) fn makes_sense(record: &BootRecord, length: u64, sector_size: u32) -> bool {
    let sectors = length.checked_div(u64::from(sector_size)).unwrap_or(0);
    let used = record.entries.iter().filter(|entry| entry.is_used());
    let mut places: Vec<(u64, u64)> = used
        .clone()
        .map(|entry| {
            let start = u64::from(entry.start);
            (start, start.saturating_add(entry.sectors.into()))
        })
        .collect();
    places.sort_unstable();
    let are_apart = places.windows(2).all(|pair| match pair {
        [(_, end), (start, _)] => end <= start,
        _ => true,
    });
    let are_inside = places.iter().all(|(start, end)| *start > 0 && *end <= sectors);
    are_apart && are_inside && used.into_iter().all(|entry| entry.kind != 0)
}

/// The four entries of a sector that ends in 55 AA.
fn parse_entries(sector: &[u8]) -> Option<Vec<Entry>> {
    if !has(sector, MAGIC_AT, &MAGIC) {
        return None;
    }
    let table = slice(sector, ENTRIES_AT, ENTRY_SIZE.checked_mul(4)?)?;
    table.chunks(ENTRY_SIZE).map(Entry::parse).collect()
}

/// The record's partitions: primary ones with their place's number, then logical ones from 5.
pub(super) fn volumes(
    disk: &Extent<'_>,
    sector_size: u32,
    record: &BootRecord,
    notes: &mut Notes,
) -> Vec<Volume> {
    let mut list = List { signature: record.signature, sector_size, volumes: Vec::new() };
    for (number, entry) in (1..).zip(&record.entries) {
        if entry.is_used() && !is_extended(entry.kind) && entry.kind != PROTECTIVE {
            list.add(number, *entry, 0);
        }
    }
    let mut number = 5;
    for entry in record.entries.iter().filter(|entry| entry.is_used() && is_extended(entry.kind)) {
        walk(disk, *entry, &mut list, &mut number, notes);
    }
    list.volumes
}

/// Follows the chain of links within the extended partition `container`.
fn walk(disk: &Extent<'_>, container: Entry, list: &mut List, number: &mut u64, notes: &mut Notes) {
    let base = u64::from(container.start);
    let mut link = base;
    let mut link_sectors = container.sectors;
    for _ in 0..MAX_EBR_LINKS {
        let entries = match read_link(disk, link, list.sector_size) {
            Ok(entries) => entries,
            Err(reason) => {
                notes.add(format!(
                    "the chain of logical partitions breaks at sector {link}: {reason}"
                ));
                return;
            }
        };
        let is_data = |entry: &Entry| entry.is_used() && !is_extended(entry.kind);
        let data = entries.iter().enumerate().filter(|(slot, entry)| {
            is_data(entry) && (*slot < 2 || fits(entry, (link, link_sectors), container))
        });
        for (_, entry) in data {
            list.add(*number, *entry, link);
            *number = number.saturating_add(1);
        }
        let Some(next) = entries.iter().find(|entry| entry.is_used() && is_extended(entry.kind))
        else {
            return;
        };
        link = base.saturating_add(u64::from(next.start));
        link_sectors = next.sectors;
    }
    notes.add(format!("the chain of logical partitions is longer than {MAX_EBR_LINKS} links"));
}

/// Whether a third or fourth entry, where some tools leave rubbish, makes sense: within its link,
/// which starts at sector `link`, and within the container.
fn fits(entry: &Entry, (link, link_sectors): (u64, u32), container: Entry) -> bool {
    let end_in_link = u64::from(entry.start).saturating_add(entry.sectors.into());
    let (first, end) = (link.saturating_add(entry.start.into()), link.saturating_add(end_in_link));
    let base = u64::from(container.start);
    let container_end = base.saturating_add(container.sectors.into());
    end_in_link <= u64::from(link_sectors) && first >= base && end <= container_end
}

/// The four entries of the link at `sector`.
fn read_link(disk: &Extent<'_>, sector: u64, sector_size: u32) -> Result<Vec<Entry>, String> {
    let offset = sector.saturating_mul(u64::from(sector_size));
    let bytes = match disk.read(offset, 512) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err("it is beyond the end of the disk".into()),
        Err(error) => return Err(format!("it cannot be read ({error})")),
    };
    parse_entries(&bytes).ok_or_else(|| "no boot record is there".into())
}

/// The partitions found so far.
struct List {
    signature: u32,
    sector_size: u32,
    volumes: Vec<Volume>,
}

impl List {
    fn add(&mut self, number: u64, entry: Entry, base: u64) {
        if self.volumes.len() >= MAX_PARTITIONS {
            return;
        }
        let size = u64::from(self.sector_size);
        let start = base.saturating_add(u64::from(entry.start)).saturating_mul(size);
        let length = u64::from(entry.sectors).saturating_mul(size);
        let mut volume = Volume::new(format!("p{number}"), start, length);
        volume.partition_type = Some(format!("{:#04x}", entry.kind));
        volume.type_name = mbr_type_name(entry.kind).map(str::to_owned);
        volume.partition_uuid =
            (self.signature != 0).then(|| format!("{:08x}-{number:02x}", self.signature));
        volume.active = entry.flag == 0x80;
        self.volumes.push(volume);
    }
}
