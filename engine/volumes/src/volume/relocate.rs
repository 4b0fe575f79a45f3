//! Makes the GPT of a restored image right on a disk larger than the image's own.
//!
//! A GPT's backup belongs at the disk's end (UEFI 2.10, section 5.3.2). On a larger disk it must
//! move there, and the first header, the protective MBR and their checksums must say so.
//! Partitions stay where they are.

use crate::base::{ByteCount, ByteOffset, Error, ErrorKind, ReadAt, Result};

use super::extent::Extent;
use super::gpt::{self, CRC_AT, Table, header_crc, last_sector};
use super::layout::Notes;
use super::mbr::{BootRecord, PROTECTIVE};
use super::probe::check_sector_size;

/// What to write, in this order, after the image's own bytes, to move a GPT's backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GptMove {
    /// Places on the target and the bytes that belong there; whole sectors, at most some
    /// 2 MiB together.
    pub writes: Vec<(ByteOffset, Vec<u8>)>,
    /// Bytes from the end of the image's usable area that partitions may now use as well.
    pub gained: ByteCount,
}

/// Plans the move of `image`'s GPT to a disk of `target_size` bytes. `sector_size` is the
/// table's, as [`DiskLayout::sector_size`](super::DiskLayout::sector_size) says it.
///
/// `None` when the image has no valid GPT in such sectors, or the target is not a sector larger.
///
/// # Errors
/// `Invalid` when the target is smaller than the image or the sector size is none; `Corrupt`
/// when the valid copy, or a partition, leaves no room for the other; `Io` and others of the
/// image's own.
pub fn plan_gpt_move(
    image: &dyn ReadAt,
    sector_size: u32,
    target_size: ByteCount,
) -> Result<Option<GptMove>> {
    check_sector_size(sector_size)?;
    if target_size < image.size() {
        return Err(Error::new(
            ErrorKind::Invalid,
            format!("a target of {target_size} bytes is smaller than the image's {}", image.size()),
        ));
    }
    let disk = Extent::whole(image);
    let (Some(old_last), Some(new_last)) = (
        last_sector(&disk, sector_size),
        target_size.0.checked_div(u64::from(sector_size)).and_then(|count| count.checked_sub(1)),
    ) else {
        return Ok(None);
    };
    if new_last <= old_last {
        return Ok(None);
    }
    let Some(table) = gpt::find(&disk, sector_size, &mut Notes::default()) else {
        return Ok(None);
    };
    let plan = Plan::new(&table, new_last)?;
    let mut writes = Vec::new();
    for sector in [old_last, plan.old_backup] {
        if plan.is_stale(&disk, sector, &writes)? {
            writes.push((plan.offset(sector)?, vec![0; plan.sector]));
        }
    }
    writes.push((plan.offset(plan.backup_entries)?, plan.entries()));
    writes.push((plan.offset(new_last)?, plan.header(Copy::Backup)?));
    writes.push((plan.offset(plan.primary_entries)?, plan.entries()));
    writes.push((plan.offset(1)?, plan.header(Copy::Primary)?));
    if let Some(sector) = protective_mbr(&disk, &plan)? {
        writes.push((ByteOffset(0), sector));
    }
    let gained = plan.last_usable.saturating_sub(table.header.last_usable);
    let gained = gained.saturating_mul(u64::from(sector_size));
    Ok(Some(GptMove { writes, gained: ByteCount(gained) }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Copy {
    Primary,
    Backup,
}

/// Where everything goes on the larger disk, in sectors.
struct Plan<'a> {
    table: &'a Table,
    sector: usize,
    new_last: u64,
    old_backup: u64,
    entry_sectors: u64,
    primary_entries: u64,
    backup_entries: u64,
    last_usable: u64,
}

impl<'a> Plan<'a> {
    fn new(table: &'a Table, new_last: u64) -> Result<Self> {
        let header = &table.header;
        let bytes = u64::try_from(table.entries.len()).unwrap_or(u64::MAX);
        let entry_sectors = bytes.div_ceil(u64::from(table.sector_size).max(1));
        // A backup does not say where the first copy's entries are; sector 2 is the custom.
        let primary_entries = if table.primary { header.entries_sector } else { 2 };
        let (old_backup, own_end) = if table.primary {
            (header.alternate, primary_entries.saturating_add(entry_sectors))
        } else {
            (header.own_sector, entry_sectors.saturating_add(2))
        };
        let backup_entries = new_last.saturating_sub(entry_sectors);
        let last_usable = backup_entries.saturating_sub(1);
        if primary_entries < 2
            || own_end > header.first_usable
            || last_usable < header.last_usable
            || header.first_usable > last_usable
        {
            return Err(Error::corrupt(
                "GPT",
                "room for both entry arrays around the usable sectors",
                format_args!("sectors {} to {}", header.first_usable, header.last_usable),
            ));
        }
        let size = u64::from(table.sector_size);
        let room = own_end.saturating_mul(size)..=backup_entries.saturating_mul(size);
        let volumes = gpt::volumes(table, &mut Notes::default());
        for volume in volumes {
            let range = volume.range();
            if !room.contains(&range.start) || !room.contains(&range.end) {
                let found = format!("{} at {range}", volume.name);
                return Err(Error::corrupt("GPT", "partitions between its two copies", found));
            }
        }
        let sector = usize::try_from(table.sector_size).unwrap_or(usize::MAX);
        Ok(Self {
            table,
            sector,
            new_last,
            old_backup,
            entry_sectors,
            primary_entries,
            backup_entries,
            last_usable,
        })
    }

    fn offset(&self, sector: u64) -> Result<ByteOffset> {
        sector
            .checked_mul(u64::from(self.table.sector_size))
            .map(ByteOffset)
            .ok_or_else(|| Error::corrupt("GPT", "sectors within 64 bits of bytes", sector))
    }

    /// The entry array, in whole sectors.
    fn entries(&self) -> Vec<u8> {
        let mut bytes = self.table.entries.clone();
        bytes.resize(bytes.len().next_multiple_of(self.sector.max(1)), 0);
        bytes
    }

    /// A header's sector: the valid one's bytes with the places and the checksum made right.
    fn header(&self, copy: Copy) -> Result<Vec<u8>> {
        let (own, other, entries) = match copy {
            Copy::Primary => (1, self.new_last, self.primary_entries),
            Copy::Backup => (self.new_last, 1, self.backup_entries),
        };
        let mut raw = self.table.header.raw.clone();
        for (at, value) in [(24, own), (32, other), (48, self.last_usable), (72, entries)] {
            put(&mut raw, at, &u64::to_le_bytes(value))?;
        }
        let sum = header_crc(&raw);
        put(&mut raw, CRC_AT, &sum.to_le_bytes())?;
        raw.resize(self.sector, 0);
        Ok(raw)
    }

    /// Whether `sector` holds a header that the move leaves behind: one that is really there, in
    /// no partition, and not overwritten anyway.
    fn is_stale(
        &self,
        disk: &Extent<'_>,
        sector: u64,
        writes: &[(ByteOffset, Vec<u8>)],
    ) -> Result<bool> {
        // A damaged header may name any sector at all as the other's.
        let Ok(place) = self.offset(sector) else { return Ok(false) };
        if sector <= self.primary_entries.saturating_add(self.entry_sectors)
            || sector >= self.backup_entries
            || writes.iter().any(|(written, _)| *written == place)
        {
            return Ok(false);
        }
        let is_header = disk
            .read(place.0, gpt::MAGIC.len())?
            .is_some_and(|bytes| bytes.as_slice() == gpt::MAGIC);
        let volumes = gpt::volumes(self.table, &mut Notes::default());
        let taken = volumes.iter().any(|volume| {
            let range = volume.range();
            range.start < place.0.saturating_add(u64::from(self.table.sector_size))
                && place.0 < range.end
        });
        Ok(is_header && !taken)
    }
}

fn put(bytes: &mut [u8], at: usize, field: &[u8]) -> Result<()> {
    let place = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..field.len()));
    place
        .ok_or_else(|| Error::corrupt("GPT header", "92 bytes at least", at))?
        .copy_from_slice(field);
    Ok(())
}

/// The first sector with its protective entry grown to the new size; `None` where it has none,
/// or is a hybrid whose entry is not meant to cover the disk.
fn protective_mbr(disk: &Extent<'_>, plan: &Plan<'_>) -> Result<Option<Vec<u8>>> {
    let Some(mut sector) = disk.read(0, plan.sector)? else { return Ok(None) };
    let Some(record) = BootRecord::parse(&sector) else { return Ok(None) };
    if record.is_hybrid() {
        return Ok(None);
    }
    let protective =
        record.entries.iter().position(|entry| entry.kind == PROTECTIVE && entry.start == 1);
    let Some(number) = protective else { return Ok(None) };
    let entry = number.saturating_mul(16).saturating_add(446);
    // Sectors after the first, or all ones where 32 bits are too few (UEFI 2.10, table 5.4); the
    // old cylinder address can say neither, and is all ones.
    let count = u32::try_from(plan.new_last).unwrap_or(u32::MAX);
    put(&mut sector, entry.saturating_add(5), &[0xff, 0xff, 0xff])?;
    put(&mut sector, entry.saturating_add(12), &count.to_le_bytes())?;
    Ok(Some(sector))
}
