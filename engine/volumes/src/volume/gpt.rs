//! The GUID partition table: its two headers and entry arrays, checked by their CRC32s.
//!
//! Layout: UEFI 2.10, sections 5.3.2 (header) and 5.3.3 (entries). The first copy's header is at
//! sector 1, the backup's at the disk's last sector.

use crate::base::bytes::FieldReader;
use crate::base::limits::{MAX_GPT_ENTRY_BYTES, MAX_PARTITIONS};
use crate::base::{Error, Result};

use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::types::gpt_type_name;
use crate::base::fields::{array, has, le64, slice};
use crate::text::{guid, label_utf16};

pub(super) const MAGIC: &[u8; 8] = b"EFI PART";
pub(super) const HEADER_MIN: u32 = 92;
/// Where the header keeps its own CRC32, which counts as zero in the sum.
pub(super) const CRC_AT: usize = 16;

/// A header whose CRC32 is right.
#[derive(Debug, Clone)]
pub(super) struct Header {
    /// Its own sector.
    pub own_sector: u64,
    /// The other copy's sector.
    pub alternate: u64,
    /// First sector that partitions may use.
    pub first_usable: u64,
    /// Last sector that partitions may use.
    pub last_usable: u64,
    /// The disk's GUID.
    pub disk: [u8; 16],
    /// First sector of the entry array.
    pub entries_sector: u64,
    /// Entries in the array.
    pub entry_count: u32,
    /// Bytes of an entry.
    pub entry_size: u32,
    /// CRC32 of the entry array.
    pub entries_crc: u32,
    /// The header's bytes as they stand on the disk, `HeaderSize` of them.
    pub raw: Vec<u8>,
}

/// One valid copy of the table.
#[derive(Debug, Clone)]
pub(super) struct Table {
    /// The header.
    pub header: Header,
    /// The entry array.
    pub entries: Vec<u8>,
    /// Bytes of a sector.
    pub sector_size: u32,
    /// Whether it is the first copy.
    pub primary: bool,
}

/// Why a copy cannot be used.
#[derive(Debug)]
pub(super) enum Flaw {
    /// There is no sign of a GPT.
    Absent,
    /// A header is there, but damaged; or it could not be read.
    Damaged {
        /// What is wrong, in words.
        reason: String,
        /// Where the damaged header puts the other copy, if it still can be read.
        alternate: Option<u64>,
    },
}

impl std::fmt::Display for Flaw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Absent => f.write_str("missing"),
            Self::Damaged { reason, .. } => write!(f, "damaged ({reason})"),
        }
    }
}

/// The disk's last sector, if it has one.
pub(super) fn last_sector(disk: &Extent<'_>, sector_size: u32) -> Option<u64> {
    disk.length().checked_div(u64::from(sector_size))?.checked_sub(1)
}

/// Reads the copy whose header is at `sector`.
pub(super) fn read_copy(
    disk: &Extent<'_>,
    sector_size: u32,
    sector: u64,
) -> std::result::Result<Table, Flaw> {
    let bytes = match read_sectors(disk, sector_size, sector, u64::from(sector_size)) {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Err(Flaw::Absent),
        Err(error) => {
            return Err(Flaw::Damaged { reason: error.to_string(), alternate: None });
        }
    };
    if !has(&bytes, 0, MAGIC) {
        return Err(Flaw::Absent);
    }
    let damaged =
        |error: Error| Flaw::Damaged { reason: error.to_string(), alternate: le64(&bytes, 32) };
    let header = parse_header(&bytes, sector).map_err(damaged)?;
    let entries = read_entries(disk, sector_size, &header).map_err(damaged)?;
    Ok(Table { header, entries, sector_size, primary: sector == 1 })
}

fn read_sectors(
    disk: &Extent<'_>,
    sector_size: u32,
    sector: u64,
    length: u64,
) -> Result<Option<Vec<u8>>> {
    let Some(offset) = sector.checked_mul(u64::from(sector_size)) else { return Ok(None) };
    let Ok(length) = usize::try_from(length) else { return Ok(None) };
    disk.read(offset, length)
}

fn parse_header(bytes: &[u8], sector: u64) -> Result<Header> {
    let mut fields = FieldReader::new("GPT header", bytes);
    fields.take(MAGIC.len())?;
    let revision = fields.u32()?;
    let size = fields.u32()?;
    let crc = fields.u32()?;
    let raw = usize::try_from(size)
        .ok()
        .filter(|_| size >= HEADER_MIN)
        .and_then(|size| bytes.get(..size))
        .ok_or_else(|| fields.corrupt("a header size from 92 bytes to a sector", size))?;
    let found = header_crc(raw);
    if crc != found {
        return Err(Error::corrupt(
            "header CRC32",
            format_args!("{crc:08x}"),
            format_args!("{found:08x}"),
        ));
    }
    if revision >> 16 != 1 {
        return Err(fields.corrupt("revision 1", format_args!("{revision:08x}")));
    }
    fields.u32()?;
    let header = Header {
        own_sector: fields.u64()?,
        alternate: fields.u64()?,
        first_usable: fields.u64()?,
        last_usable: fields.u64()?,
        disk: fields.array()?,
        entries_sector: fields.u64()?,
        entry_count: fields.u32()?,
        entry_size: fields.u32()?,
        entries_crc: fields.u32()?,
        raw: raw.to_vec(),
    };
    if header.own_sector != sector {
        return Err(Error::corrupt("the header's own sector", sector, header.own_sector));
    }
    if header.entry_size < 128 || header.entry_size > 4096 || !header.entry_size.is_multiple_of(8) {
        return Err(Error::corrupt("entry size", "128 to 4096 bytes", header.entry_size));
    }
    Ok(header)
}

/// The CRC32 of a header, with its own field taken as zero.
pub(super) fn header_crc(raw: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new();
    sum.update(raw.get(..CRC_AT).unwrap_or_default());
    sum.update(&[0; 4]);
    sum.update(raw.get(CRC_AT.saturating_add(4)..).unwrap_or_default());
    sum.finalize()
}

fn read_entries(disk: &Extent<'_>, sector_size: u32, header: &Header) -> Result<Vec<u8>> {
    let length = u64::from(header.entry_count).saturating_mul(u64::from(header.entry_size));
    if length > MAX_GPT_ENTRY_BYTES {
        return Err(Error::corrupt(
            "entry array",
            format_args!("{MAX_GPT_ENTRY_BYTES} bytes at most"),
            length,
        ));
    }
    let entries = read_sectors(disk, sector_size, header.entries_sector, length)?
        .ok_or_else(|| Error::corrupt("entry array", "it inside the disk", "it beyond the end"))?;
    let found = crc32fast::hash(&entries);
    if found != header.entries_crc {
        return Err(Error::corrupt(
            "entry array CRC32",
            format_args!("{:08x}", header.entries_crc),
            format_args!("{found:08x}"),
        ));
    }
    Ok(entries)
}

/// Looks for a GPT in sectors of `sector_size`: the first copy, else the backup.
pub(super) fn find(disk: &Extent<'_>, sector_size: u32, notes: &mut Notes) -> Option<Table> {
    find_after(disk, sector_size, &read_copy(disk, sector_size, 1), notes)
}

/// As [`find`], where what is of the first copy is known.
pub(super) fn find_after(
    disk: &Extent<'_>,
    sector_size: u32,
    first: &std::result::Result<Table, Flaw>,
    notes: &mut Notes,
) -> Option<Table> {
    let last = last_sector(disk, sector_size)?;
    match first {
        Ok(table) => {
            check_backup(disk, table, last, notes);
            Some(table.clone())
        }
        Err(flaw) => {
            let alternate = match flaw {
                Flaw::Damaged { alternate, .. } => *alternate,
                Flaw::Absent => None,
            };
            for place in std::iter::once(last).chain(alternate.filter(|place| *place != last)) {
                if let Ok(table) = read_copy(disk, sector_size, place) {
                    notes.add(format!("the primary GPT is {flaw}; the backup was used"));
                    return Some(Table { primary: false, ..table });
                }
            }
            if matches!(flaw, Flaw::Damaged { .. }) {
                notes.add(format!("the GPT is {flaw} and it has no valid backup"));
            }
            None
        }
    }
}

fn check_backup(disk: &Extent<'_>, table: &Table, last: u64, notes: &mut Notes) {
    let place = table.header.alternate;
    match read_copy(disk, table.sector_size, place) {
        Ok(backup) if backup.entries != table.entries || backup.header.disk != table.header.disk => {
            notes.add("the backup GPT differs from the primary, which was used");
        }
        Ok(_) if place != last => notes.add(format!(
            "the backup GPT is at sector {place}, not at the disk's last ({last})"
        )),
        Ok(_) => {}
        Err(_) if place > last => notes.add(format!(
            "the disk is smaller than its GPT says: the backup's sector {place} is beyond the last ({last})"
        )),
        Err(flaw) => notes.add(format!("the backup GPT is {flaw}; the primary was used")),
    }
}

/// The partitions of `table`, numbered by their place in the entry array.
pub(super) fn volumes(table: &Table, notes: &mut Notes) -> Vec<Volume> {
    let mut volumes = Vec::new();
    let size = usize::try_from(table.header.entry_size).unwrap_or(usize::MAX);
    for (number, entry) in (1_u64..).zip(table.entries.chunks_exact(size.max(128))) {
        match volume(table, number, entry) {
            None => {}
            Some(_) if volumes.len() >= MAX_PARTITIONS => {
                notes.add(format!("partitions after the first {MAX_PARTITIONS} were left out"));
                break;
            }
            Some(Err(note)) => notes.add(note),
            Some(Ok(volume)) => volumes.push(volume),
        }
    }
    let outside = |volume: &&Volume| !is_usable(table, volume);
    for volume in volumes.iter().filter(outside) {
        notes.add(format!("{} lies outside the sectors that the GPT says are usable", volume.name));
    }
    volumes
}

fn is_usable(table: &Table, volume: &Volume) -> bool {
    let size = u64::from(table.sector_size);
    let first = table.header.first_usable.saturating_mul(size);
    let end = table.header.last_usable.saturating_add(1).saturating_mul(size);
    volume.start >= first && volume.range().end <= end
}

/// The partition of one entry; `None` for an unused one, a note for an impossible one.
fn volume(table: &Table, number: u64, entry: &[u8]) -> Option<Result<Volume, String>> {
    let kind: [u8; 16] = array(entry, 0)?;
    if kind == [0; 16] {
        return None;
    }
    let (first, last) = (le64(entry, 32)?, le64(entry, 40)?);
    let size = u64::from(table.sector_size);
    let place = last
        .checked_sub(first)
        .and_then(|span| span.checked_add(1)?.checked_mul(size))
        .and_then(|length| Some((first.checked_mul(size)?, length)))
        .filter(|(start, length)| start.checked_add(*length).is_some());
    let Some((start, length)) = place else {
        return Some(Err(format!(
            "partition {number} is impossible: it runs from sector {first} to {last}"
        )));
    };
    let mut volume = Volume::new(format!("p{number}"), start, length);
    let kind = guid(&kind);
    volume.type_name = gpt_type_name(&kind).map(str::to_owned);
    volume.partition_type = Some(kind);
    volume.partition_uuid = array(entry, 16).map(|id: [u8; 16]| guid(&id));
    volume.active = le64(entry, 48)? & 1 << 2 != 0;
    volume.partition_label = slice(entry, 56, 72).and_then(label_utf16);
    Some(Ok(volume))
}
