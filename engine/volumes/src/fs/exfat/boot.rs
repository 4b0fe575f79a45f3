//! The boot region [3.1] and its backup: where everything is.

use std::sync::Arc;

use crate::base::fields::{array, has, le16, le32, le64, u8_at};
use crate::base::{ByteOffset, Error, ErrorKind, ReadAt, Result};
use crate::content::Content;
use crate::fs::clusters::{Heap, Table, Width, serial_number};
use crate::fs::{Doubts, FilesystemInfo};
use crate::kind::Kind;

/// `FileSystemName`, at byte 3.
const NAME: &[u8] = b"EXFAT   ";
/// Sectors of the region that the checksum in the sector after them covers.
const COVERED: u64 = 11;
/// First sector of the backup.
const BACKUP: u64 = 12;
/// Bits of `VolumeFlags`.
const SECOND_TABLE: u16 = 0x1;
const DIRTY: u16 = 0x2;
/// Clusters at most: 2^32 - 11 [3.1.9].
const MAX_CLUSTERS: u32 = 0xffff_fff5;

/// Whether a boot region has to have the right checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Checked,
    Unchecked,
}

/// A boot region that makes sense.
pub(super) struct Boot {
    cluster_size: u64,
    tables: Vec<u64>,
    table_length: u64,
    heap_start: u64,
    end: u32,
    size: u64,
    serial: [u8; 4],
    pub(super) root_cluster: u32,
    /// Tables that there are: one or two.
    count: u8,
    /// Which table and bitmap count: 0 or 1.
    pub(super) active_table: u8,
    pub(super) is_dirty: bool,
}

impl Boot {
    /// Reads the boot region of `volume`, or its backup, with a note of that; `None` if there is
    /// neither.
    pub(super) fn read(volume: &Arc<dyn ReadAt>) -> Result<Option<(Self, Option<String>)>> {
        let first = Self::read_at(volume, 0, None, Trust::Checked);
        match first {
            Ok(Some(boot)) => return Ok(Some((boot, None))),
            Ok(None) => {}
            Err(error) if error.kind() == ErrorKind::Unsupported => return Err(error),
            Err(_) => {}
        }
        // Without the main region the sector size is not known; 512 is nearly every one.
        for sector in [512_u64, 1024, 2048, 4096] {
            let start = sector.saturating_mul(BACKUP);
            if let Ok(Some(boot)) = Self::read_at(volume, start, Some(sector), Trust::Checked) {
                let note = "The boot region is damaged; its backup is used.".to_owned();
                return Ok(Some((boot, Some(note))));
            }
        }
        if let (Err(error), Ok(Some(boot))) =
            (&first, Self::read_at(volume, 0, None, Trust::Unchecked))
        {
            let note = format!("The boot region is damaged, and used as it is: {error}.");
            return Ok(Some((boot, Some(note))));
        }
        first.map(|_| None)
    }

    /// Reads the region that starts at byte `start`; one that is no region of exFAT's is `None`.
    fn read_at(
        volume: &Arc<dyn ReadAt>,
        start: u64,
        expected_sector: Option<u64>,
        trust: Trust,
    ) -> Result<Option<Self>> {
        let mut boot = [0; 512];
        if volume.size().0 < start.saturating_add(512) {
            return Ok(None);
        }
        volume.read_exact_at(ByteOffset(start), &mut boot)?;
        if boot.get(3..11) != Some(NAME) || boot.get(510..512) != Some(&[0x55, 0xaa]) {
            return Ok(None);
        }
        let sector = sector_size(&boot).ok_or_else(|| {
            let found = u8_at(&boot, 108).unwrap_or_default();
            Error::corrupt("boot sector", "a sector shift from 9 to 12", found)
        })?;
        if expected_sector.is_some_and(|expected| expected != sector) {
            return Ok(None);
        }
        if trust == Trust::Checked {
            check(volume, start, sector)?;
        }
        let parsed = Self::parse(&boot, sector).filter(Self::is_sound);
        parsed.map(Some).ok_or_else(|| {
            Error::corrupt("boot sector", "a table and clusters within the volume", "others")
        })
    }

    /// The boot sector that `sector` is by its name and its sizes, whether or not it is sound.
    pub(super) fn identify(sector: &[u8]) -> Option<Self> {
        Self::parse(sector, sector_size(sector)?).filter(|_| has(sector, 3, NAME))
    }

    /// Whether its tables and clusters are where they can be.
    fn is_sound(&self) -> bool {
        let is_long_enough = Width::ThirtyTwo.entries(self.table_length) >= u64::from(self.end);
        let clusters = u64::from(self.end.saturating_sub(2));
        let heap_length = clusters.checked_mul(self.cluster_size);
        let heap_end = heap_length.and_then(|length| self.heap_start.checked_add(length));
        (1..=2).contains(&self.count)
            && is_long_enough
            && heap_end.is_some_and(|end| end <= self.size)
            && self.cluster_size <= 32 << 20
            && (2..self.end).contains(&self.root_cluster)
    }

    fn parse(boot: &[u8], sector: u64) -> Option<Self> {
        let size = le64(boot, 72)?.checked_mul(sector)?; // VolumeLength
        let table_start = u64::from(le32(boot, 80)?).checked_mul(sector)?; // FatOffset
        let table_length = u64::from(le32(boot, 84)?).checked_mul(sector)?; // FatLength
        let heap_start = u64::from(le32(boot, 88)?).checked_mul(sector)?; // ClusterHeapOffset
        let clusters = le32(boot, 92)?; // ClusterCount
        let root_cluster = le32(boot, 96)?; // FirstClusterOfRootDirectory
        let serial = array::<4>(boot, 100)?; // VolumeSerialNumber
        let flags = le16(boot, 106)?; // VolumeFlags
        let per_cluster = u8_at(boot, 109)?; // SectorsPerClusterShift
        let count = u8_at(boot, 110)?; // NumberOfFats
        // Clusters are of 32 MiB at most.
        let cluster_size = sector.checked_shl(per_cluster.into()).filter(|_| per_cluster <= 16)?;
        let end = clusters.checked_add(2).filter(|_| clusters <= MAX_CLUSTERS)?;
        let active_table = u8::from(count == 2 && flags & SECOND_TABLE != 0);
        let first = table_length.checked_mul(active_table.into())?.checked_add(table_start)?;
        Some(Self {
            cluster_size,
            tables: vec![first],
            table_length,
            heap_start,
            end,
            size,
            serial,
            root_cluster,
            count,
            active_table,
            is_dirty: flags & DIRTY != 0,
        })
    }

    /// The clusters of `volume`.
    pub(super) fn heap(&self, volume: &Arc<dyn ReadAt>, doubts: &Arc<Doubts>) -> Heap {
        let table = Table {
            volume: Arc::clone(volume),
            width: Width::ThirtyTwo,
            copies: self.tables.clone(),
            length: self.table_length,
            end: self.end,
            doubts: Arc::clone(doubts),
        };
        Heap { table, start: self.heap_start, cluster_size: self.cluster_size }
    }

    /// What it says of the filesystem, but for the label, which the root has.
    pub(super) fn content(&self) -> Content {
        let uuid = serial_number(self.serial);
        Content { uuid, size: Some(self.size), ..Content::new(Kind::Exfat) }
    }

    /// The same, of a filesystem that is opened.
    pub(super) fn info(&self) -> FilesystemInfo {
        let Content { kind, label, uuid, .. } = self.content();
        FilesystemInfo {
            kind: kind.name(),
            label,
            uuid,
            size: self.size,
            block_size: u32::try_from(self.cluster_size).unwrap_or(u32::MAX),
            notes: Vec::new(),
        }
    }
}

/// Bytes of a sector, by `BytesPerSectorShift`; `None` for what cannot be.
fn sector_size(boot: &[u8]) -> Option<u64> {
    let shift = u8_at(boot, 108).filter(|shift| (9..=12).contains(shift))?;
    1_u64.checked_shl(shift.into())
}

/// Compares a region's checksum [3.4], which its twelfth sector repeats.
fn check(volume: &Arc<dyn ReadAt>, start: u64, sector: u64) -> Result<()> {
    let covered = usize::try_from(sector.saturating_mul(COVERED)).unwrap_or_default();
    let mut region = vec![0; covered.saturating_add(4)];
    if volume.size().0 < start.saturating_add(sector.saturating_mul(BACKUP)) {
        return Err(Error::corrupt("boot region", "12 sectors", "the volume's end"));
    }
    volume.read_exact_at(ByteOffset(start), &mut region)?;
    let (bytes, stored) = region.split_at_checked(covered).unwrap_or_default();
    let expected = le32(stored, 0).unwrap_or_default();
    // VolumeFlags and PercentInUse change without the checksum.
    let is_covered = |at: usize| !matches!(at, 106 | 107 | 112);
    let covered = bytes.iter().enumerate().filter(|(at, _)| is_covered(*at));
    let found =
        covered.fold(0_u32, |sum, (_, byte)| sum.rotate_right(1).wrapping_add(u32::from(*byte)));
    if found == expected {
        return Ok(());
    }
    let expected = format!("checksum {expected:#010x}");
    Err(Error::corrupt(format!("boot region at byte {start}"), expected, format!("{found:#010x}")))
}
