//! The boot sector, and its copy in the last sector of the volume.

use std::sync::Arc;

use super::units::{Lcn, index};
use crate::base::fields::{array, has, le16, le64, u8_at};
use crate::base::limits::MAX_DISK_SIZE;
use crate::base::{ByteOffset, Error, ReadAt, Result};

/// Bytes of the sector that are looked at, and of its smallest, which has all the fields.
const LENGTH: usize = 512;
const LEAST: usize = 256;
/// The OEM name, at byte 3.
const NAME: &[u8] = b"NTFS    ";
/// Sector sizes that there are.
const SECTORS: [u64; 5] = [256, 512, 1024, 2048, 4096];
/// Largest cluster, bytes.
const MAX_CLUSTER: u64 = 2 << 20;
/// Largest record of the master file table, bytes; 1,024 and 4,096 are usual.
const MAX_RECORD: u64 = 64 << 10;

/// A boot sector that makes sense.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// Bytes of all sectors but the last, which is the copy.
    pub size: u64,
    pub sector_size: u64,
    pub cluster_size: u64,
    /// Whole clusters of the volume.
    pub clusters: u64,
    /// Start of the master file table, and of the copy of its first records.
    pub mft: Lcn,
    pub mirror: Lcn,
    pub record_size: usize,
    pub serial: u64,
}

/// What was found of a volume's boot sectors.
pub(super) enum Found {
    /// The first sector is no boot sector of NTFS.
    Nothing,
    /// The first one is sound.
    First(Boot),
    /// The first one is damaged; the copy is sound.
    Copy(Boot),
}

impl Boot {
    /// Reads the first boot sector of `volume`, or the copy if that is damaged.
    ///
    /// # Errors
    /// `Corrupt` if both are damaged.
    pub(super) fn read(volume: &Arc<dyn ReadAt>) -> Result<Found> {
        let Some(sector) = sector_at(volume, 0)? else { return Ok(Found::Nothing) };
        if !has(&sector, 3, NAME) {
            return Ok(Found::Nothing);
        }
        match Self::parse(&sector) {
            Ok(boot) => Ok(Found::First(boot)),
            Err(error) => Self::read_copy(volume)?.map(Found::Copy).ok_or(error),
        }
    }

    /// The boot sector at the end of `volume`, if it is that of a filesystem that ends there.
    ///
    /// # Errors
    /// The volume's own.
    pub(super) fn read_copy(volume: &Arc<dyn ReadAt>) -> Result<Option<Self>> {
        let size = volume.size().0;
        for sector_size in SECTORS {
            let end = size.checked_rem(sector_size).and_then(|rest| size.checked_sub(rest));
            let Some(start) = end.and_then(|end| end.checked_sub(sector_size)) else { continue };
            let Some(sector) = sector_at(volume, start)? else { continue };
            if !has(&sector, 3, NAME) {
                continue;
            }
            match Self::parse(&sector) {
                Ok(boot) if boot.size == start => return Ok(Some(boot)),
                _ => {}
            }
        }
        Ok(None)
    }

    /// Whether it leads to other places than `other`.
    pub(super) fn differs(&self, other: &Self) -> bool {
        self.cluster_size != other.cluster_size
            || self.record_size != other.record_size
            || self.mft != other.mft
            || self.mirror != other.mirror
    }

    fn parse(sector: &[u8]) -> Result<Self> {
        // Behind the last sector of 256 bytes there is none.
        let is_short = sector.len() == LEAST && le16(sector, 0x0b) == Some(256);
        if !is_short && !has(sector, 510, &[0x55, 0xaa]) {
            return Err(Error::corrupt("boot sector", "its signature", "something else"));
        }
        let expected = "sizes of sectors, clusters and records within limits";
        let boot = Self::fields(sector).filter(Self::is_sound);
        boot.ok_or_else(|| Error::corrupt("boot sector", expected, "others"))
    }

    /// Whether its tables are where they can be.
    fn is_sound(&self) -> bool {
        let inside = 1..self.clusters;
        self.size <= MAX_DISK_SIZE
            && inside.contains(&self.mft.0)
            && inside.contains(&self.mirror.0)
            && self.mft != self.mirror
    }

    /// The boot sector that `sector` is by its name and its sizes, whether or not it is sound.
    pub(super) fn identify(sector: &[u8]) -> Option<Self> {
        // Of what FAT has there, NTFS has none (ReservedSectors).
        let is_named = has(sector, 3, NAME) && le16(sector, 0x0e) == Some(0);
        Self::fields(sector).filter(|_| is_named)
    }

    /// The serial number as text, as blkid has it; `None` if it is zero.
    pub(super) fn uuid(&self) -> Option<String> {
        (self.serial != 0).then(|| format!("{:016X}", self.serial))
    }

    fn fields(sector: &[u8]) -> Option<Self> {
        let sector_size = u64::from(le16(sector, 0x0b)?); // BytesPerSector
        let per_cluster = sectors_per_cluster(u8_at(sector, 0x0d)?)?; // SectorsPerCluster
        let sectors = le64(sector, 0x28)?; // NumberSectors
        let mft = Lcn(le64(sector, 0x30)?); // MftStartLcn
        let mirror = Lcn(le64(sector, 0x38)?); // Mft2StartLcn
        let [per_record] = array::<1>(sector, 0x40)?; // ClustersPerFileRecordSegment
        let serial = le64(sector, 0x48)?; // SerialNumber
        let cluster_size = sector_size.checked_mul(per_cluster)?;
        let size = sectors.checked_mul(sector_size)?;
        let record_size = record_size(per_record, cluster_size)?;
        let clusters = size.checked_div(cluster_size)?;
        let has_sizes = SECTORS.contains(&sector_size) && cluster_size <= MAX_CLUSTER;
        has_sizes.then(|| Self {
            size,
            sector_size,
            cluster_size,
            clusters,
            mft,
            mirror,
            record_size: index(record_size),
            serial,
        })
    }
}

/// Whether `sector` is a boot sector of NTFS, sound or not.
pub(in crate::fs) fn is_boot_sector(sector: &[u8]) -> bool {
    Boot::identify(sector).is_some()
}

/// Above 128, it is a power of two with the negative exponent.
fn sectors_per_cluster(field: u8) -> Option<u64> {
    match field {
        0x81.. => 1_u64.checked_shl(u32::from(field.wrapping_neg())),
        _ => Some(u64::from(field)).filter(|count| count.is_power_of_two()),
    }
}

/// In clusters if positive, else the negative exponent of a power of two, in bytes.
fn record_size(field: u8, cluster_size: u64) -> Option<u64> {
    let size = match field {
        0x80.. => 1_u64.checked_shl(u32::from(field.wrapping_neg()))?,
        _ => u64::from(field).checked_mul(cluster_size)?,
    };
    Some(size).filter(|size| size.is_power_of_two() && (512..=MAX_RECORD).contains(size))
}

/// The sector at byte `start`; `None` beyond the volume's end.
fn sector_at(volume: &Arc<dyn ReadAt>, start: u64) -> Result<Option<Vec<u8>>> {
    let length = match volume.size().0.checked_sub(start).map(index) {
        Some(LENGTH..) => LENGTH,
        Some(LEAST) => LEAST,
        _ => return Ok(None),
    };
    let mut sector = vec![0; length];
    volume.read_exact_at(ByteOffset(start), &mut sector)?;
    Ok(Some(sector))
}
