//! The boot sector: where everything is.

use std::sync::Arc;

use super::Fat;
use crate::base::fields::{array, has, le16, le32, u8_at};
use crate::base::{ByteOffset, ReadAt, Result};
use crate::content::Content;
use crate::fs::clusters::{Heap, Start, Table, Width, serial_number};
use crate::fs::{Doubts, FilesystemInfo};
use crate::kind::Kind;

/// Bytes of the boot sector that say anything.
const BOOT: usize = 512;
/// The sector in which a FAT32 keeps the copy.
const COPY_SECTOR: u64 = 6;
/// FAT32 has two flags here, see [`active_copy`].
const MIRRORING_OFF: u16 = 0x80;
/// The largest cluster that Linux and Windows take, bytes.
const MAX_CLUSTER: u64 = 512 * 1024;

/// Where the root's records are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Root {
    /// Before the clusters (FAT12, FAT16): first byte and length.
    Fixed(u64, u64),
    /// On clusters.
    Chain(Start),
}

/// A boot sector that makes sense.
pub(super) struct Boot {
    width: Width,
    sector: u32,
    cluster_size: u64,
    /// First byte of each allocation table, the one that counts first.
    tables: Vec<u64>,
    table_length: u64,
    data_start: u64,
    /// Cluster numbers end before this one.
    end: u32,
    size: u64,
    serial: Option<[u8; 4]>,
    pub(super) root: Root,
    /// Whether Windows or Linux left a mark that it was in use.
    pub(super) is_dirty: bool,
}

impl Boot {
    /// Reads the boot sector of `volume`; `None` if it is none of FAT's.
    pub(super) fn read(volume: &Arc<dyn ReadAt>) -> Result<Option<Self>> {
        let mut boot = [0; BOOT];
        if volume.size().0 < u64::try_from(BOOT).unwrap_or_default() {
            return Ok(None);
        }
        volume.read_exact_at(ByteOffset(0), &mut boot)?;
        Ok(Self::parse(&boot))
    }

    /// Reads the copy of the boot sector that a FAT32 keeps; `None` if there is none that fits what
    /// follows it.
    pub(super) fn read_copy(volume: &Arc<dyn ReadAt>) -> Result<Option<Self>> {
        for sector in [512_u64, 1024, 2048, 4096] {
            let mut copy = [0; BOOT];
            let place = sector.saturating_mul(COPY_SECTOR);
            if place.saturating_add(512) > volume.size().0 {
                return Ok(None);
            }
            volume.read_exact_at(ByteOffset(place), &mut copy)?;
            let names_itself = le16(&copy, 50).map(u64::from) == Some(COPY_SECTOR); // BPB_BkBootSec
            let is_signed = has(&copy, 510, &[0x55, 0xaa]);
            let boot = Self::parse(&copy).filter(|boot| {
                names_itself && is_signed && boot.is_32() && u64::from(boot.sector) == sector
            });
            let Some(boot) = boot else { continue };
            // The table starts with the media type, and what was there before has another place.
            let table = boot.tables.first().copied().unwrap_or_default();
            let mut first = [0; 4];
            if table.saturating_add(4) > volume.size().0 {
                continue;
            }
            volume.read_exact_at(ByteOffset(table), &mut first)?;
            let media = u8_at(&copy, 21).map(|media| 0x0fff_ff00 | u32::from(media));
            if Some(u32::from_le_bytes(first) & 0x0fff_ffff) == media {
                return Ok(Some(boot));
            }
        }
        Ok(None)
    }

    /// The boot sector that `sector` is by its signature or a name, as blkid has it: all else in it
    /// is numbers that other things may have there as well.
    pub(super) fn identify(sector: &[u8]) -> Option<Self> {
        let is_named = has(sector, 54, b"FAT") || has(sector, 54, b"MSDOS"); // BS_FilSysType
        let is_named = is_named || has(sector, 82, b"FAT32   "); // the same of FAT32
        let is_meant = is_named || has(sector, 510, &[0x55, 0xaa]);
        Self::parse(sector).filter(|_| is_meant)
    }

    fn is_32(&self) -> bool {
        self.width == Width::TwentyEight
    }

    fn parse(boot: &[u8]) -> Option<Self> {
        let sector = u64::from(le16(boot, 11)?); // BPB_BytsPerSec
        let per_cluster = u64::from(u8_at(boot, 13)?); // BPB_SecPerClus
        let reserved = u64::from(le16(boot, 14)?); // BPB_RsvdSecCnt
        let count = u64::from(u8_at(boot, 16)?); // BPB_NumFATs
        let root_entries = u64::from(le16(boot, 17)?); // BPB_RootEntCnt
        let total_short = le16(boot, 19)?; // BPB_TotSec16
        let media = u8_at(boot, 21)?; // BPB_Media
        let table_short = le16(boot, 22)?; // BPB_FATSz16
        let total_long = le32(boot, 32)?; // BPB_TotSec32
        let cluster_size = per_cluster.checked_mul(sector)?;
        let is_sound = sector.is_power_of_two()
            && (512..=4096).contains(&sector)
            && per_cluster.is_power_of_two()
            && cluster_size <= MAX_CLUSTER
            && reserved > 0
            && (1..=4).contains(&count)
            && (media == 0xf0 || media >= 0xf8);
        if !is_sound {
            return None;
        }
        let total = if total_short == 0 { u64::from(total_long) } else { u64::from(total_short) };
        let is_32 = table_short == 0;
        let table_sectors = if is_32 { u64::from(le32(boot, 36)?) } else { table_short.into() };
        let table_length = table_sectors.checked_mul(sector)?;
        let first_table = reserved.checked_mul(sector)?;
        let root_start = table_length.checked_mul(count)?.checked_add(first_table)?;
        let root_length = root_entries.checked_mul(32)?;
        let data_start =
            root_start.checked_add(root_length.div_ceil(sector).checked_mul(sector)?)?;
        let size = total.checked_mul(sector)?;
        let clusters = size.checked_sub(data_start)?.checked_div(cluster_size)?;
        let width = match is_32 {
            true => Width::TwentyEight,
            false if clusters < 4085 => Width::Twelve,
            false => Width::Sixteen,
        };
        // A table that is too short for the volume leaves its end unused, as Linux does.
        let end = clusters.checked_add(2)?.min(width.entries(table_length));
        let end = u32::try_from(end).ok().filter(|end| (3..=0x0fff_fff7).contains(end))?;
        let nth = |copy: u64| table_length.checked_mul(copy)?.checked_add(first_table);
        let tables: Vec<u64> = match active_copy(boot, is_32)? {
            Some(active) if active < count => vec![nth(active)?],
            Some(_) => return None,
            None => (0..count).map(nth).collect::<Option<_>>()?,
        };
        let root = match is_32 {
            true => Root::Chain(Fat::chain(le32(boot, 44)?)), // BPB_RootClus
            false => Root::Fixed(root_start, root_length),
        };
        let extended = if is_32 { 64 } else { 36 };
        let signature = u8_at(boot, usize::checked_add(extended, 2)?)?;
        let serial = array::<4>(boot, usize::checked_add(extended, 3)?)?;
        let serial = matches!(signature, 0x28 | 0x29).then_some(serial);
        // BS_Reserved1: Linux and Windows set bit 0 while it is mounted.
        let is_dirty = u8_at(boot, usize::checked_add(extended, 1)?)? & 1 != 0;
        let sector = u32::try_from(sector).ok()?;
        Some(Self {
            width,
            sector,
            cluster_size,
            tables,
            table_length,
            data_start,
            end,
            size,
            serial,
            root,
            is_dirty,
        })
    }

    /// The clusters of `volume`.
    pub(super) fn heap(&self, volume: &Arc<dyn ReadAt>, doubts: &Arc<Doubts>) -> Heap {
        let table = Table {
            volume: Arc::clone(volume),
            width: self.width,
            copies: self.tables.clone(),
            length: self.table_length,
            end: self.end,
            doubts: Arc::clone(doubts),
        };
        Heap { table, start: self.data_start, cluster_size: self.cluster_size }
    }

    /// What it says of the filesystem. Its copy of the label is often stale: that of the root
    /// counts.
    pub(super) fn content(&self) -> Content {
        let kind = match self.width {
            Width::Twelve => Kind::Fat12,
            Width::Sixteen => Kind::Fat16,
            Width::TwentyEight | Width::ThirtyTwo => Kind::Fat32,
        };
        let uuid = self.serial.and_then(serial_number);
        Content { uuid, size: Some(self.size), ..Content::new(kind) }
    }

    /// The same, of a filesystem that is opened.
    pub(super) fn info(&self) -> FilesystemInfo {
        let Content { kind, label, uuid, .. } = self.content();
        let block_size = u32::try_from(self.cluster_size).unwrap_or(self.sector);
        let (size, notes) = (self.size, Vec::new());
        FilesystemInfo { kind: kind.name(), label, uuid, size, block_size, notes }
    }
}

/// The only table that is kept up to date, on a FAT32 without mirroring (`BPB_ExtFlags`).
fn active_copy(boot: &[u8], is_32: bool) -> Option<Option<u64>> {
    let flags = le16(boot, 40)?;
    let is_single = is_32 && flags & MIRRORING_OFF != 0;
    Some(is_single.then(|| u64::from(flags & 0x0f)))
}
