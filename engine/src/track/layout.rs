//! What programs and processes share: the maps' keys and values, and a disk's page of counters.

use crate::base::limits::{MAX_TRACKED_DISKS, MAX_TRACKED_IN_FLIGHT};
use crate::sys::bpf::MapKind;

/// Disks by device number (`major << 20 | minor`).
pub const DISKS: MapKind = MapKind::Hash { key: 4, value: DISK_LENGTH };
/// One page of counters for each slot.
pub const STATS: MapKind = MapKind::Array { value: PAGE_LENGTH };
/// Writes in flight to disks that have no request queue, by the address of their `struct bio`.
pub const IN_FLIGHT: MapKind = MapKind::Hash { key: 8, value: WRITE_LENGTH };

/// Entries of the maps of disks, pages and epochs.
pub const SLOTS: u32 = MAX_TRACKED_DISKS;
/// Entries of the map of writes in flight.
pub const WRITES: u32 = MAX_TRACKED_IN_FLIGHT;

const DISK_LENGTH: u32 = 32;
/// Where a disk's entry has its fields.
pub mod disk {
    /// Its slot, 32 bits.
    pub const SLOT: i16 = 0;
    /// Sectors of a granule, as a power of two, 32 bits.
    pub const SHIFT: i16 = 4;
    /// Its sequence number.
    pub const SEQUENCE: i16 = 8;
    /// The first bit of the coarse part of its maps.
    pub const COARSE: i16 = 16;
    /// Not zero if it has no request queue.
    pub const BIO_BASED: i16 = 24;
}

const WRITE_LENGTH: u32 = 24;
/// Where a write in flight has its fields.
pub mod write {
    /// Its first sector.
    pub const SECTOR: i16 = 0;
    /// Sectors, 32 bits.
    pub const COUNT: i16 = 8;
    /// Its operation, 32 bits.
    pub const OPERATION: i16 = 12;
    /// Its disk's device number, 32 bits.
    pub const DEVICE: i16 = 16;
}

/// Bytes of a page.
pub const PAGE_LENGTH: u32 = 8192;
/// Words of a page.
pub const PAGE_WORDS: usize = 1024;
/// Operations that are told apart; the kernel has less.
pub const OPERATIONS: usize = 64;
/// The byte at which a page counts what was queued: for each operation, how often, and sectors.
pub const QUEUED: i16 = 0;
/// The byte at which a page counts what was completed, likewise.
pub const COMPLETED: i16 = 1024;
/// The byte at which a page counts what was met that must not be passed over.
pub const FLAGS: i16 = 2048;
/// The word from which on a page is the processes' own.
pub const OWN: usize = 288;

/// Granules that one bit of a map's coarse part stands for, as a power of two.
pub const COARSE_SHIFT: u32 = 6;
/// Granules from which on a write is marked in the coarse part: it would take too long.
pub const HUGE: i32 = 64 * 1024;
/// Words that marking one write takes at most: [`HUGE`] granules that begin within a word.
pub const MARKED_WORDS: i32 = HUGE / 64 + 2;

/// Flags that a page counts.
pub const FLAG_COUNT: usize = Flag::ALL.len();

/// What a program may meet that must not be passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flag {
    /// The device number is another disk's by now.
    OtherDisk,
    /// A write beyond the map's end.
    OutOfBounds,
    /// A write of more words than can be marked.
    TooLong,
    /// A write without sectors that is no flush (a zone's reset).
    NoSectors,
    /// A zone append, whose place only its completion knows.
    ZoneAppend,
    /// A command past the block layer, which nobody counts.
    PassThrough,
    /// More writes in flight than can be remembered.
    TooManyInFlight,
    /// A write that failed.
    Failed,
    /// A discard of several ranges, of which the completion shows only one.
    SeveralRanges,
    /// A command past the block layer that moves no data to or from memory: NVMe's Write Zeroes is
    /// one, and so is asking a SCSI disk whether it is ready.
    Control,
}

impl Flag {
    /// All, in their order on the page.
    pub const ALL: [Self; 10] = [
        Self::OtherDisk,
        Self::OutOfBounds,
        Self::TooLong,
        Self::NoSectors,
        Self::ZoneAppend,
        Self::PassThrough,
        Self::TooManyInFlight,
        Self::Failed,
        Self::SeveralRanges,
        Self::Control,
    ];

    /// The byte of its counter on the page.
    #[must_use]
    pub fn offset(self) -> i16 {
        FLAGS + 8 * self as i16
    }

    /// What it means for the map of the disk that the kernel calls `name`: why that may miss
    /// something, if the flag is raised.
    #[must_use]
    pub fn reason(self, name: &str) -> Option<&'static str> {
        match self {
            Self::OtherDisk => Some("another disk got its device number"),
            Self::OutOfBounds => Some("something was written beyond the disk's known end"),
            Self::TooLong => Some("one write was longer than can be marked"),
            Self::NoSectors => Some("zones were reset"),
            Self::ZoneAppend => Some("zone appends were written"),
            Self::PassThrough => {
                Some("commands went past the block layer (SG_IO, NVMe passthrough)")
            }
            Self::Control if name.starts_with("nvme") => {
                Some("commands without data went past the block layer (NVMe passthrough)")
            }
            Self::TooManyInFlight | Self::Failed | Self::SeveralRanges | Self::Control => None,
        }
    }

    /// Whether it says that a completion was not marked, though its queueing was.
    #[must_use]
    pub fn is_missing_completion(self) -> bool {
        matches!(self, Self::TooManyInFlight | Self::SeveralRanges)
    }
}

/// How a disk's bitmap is laid out: a bit for each granule, then one for each 64.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BitmapShape {
    /// Granules of the disk.
    pub granules: u64,
    /// The first coarse bit, at a word's start.
    pub coarse: u64,
    /// Words in all.
    pub words: usize,
}

impl BitmapShape {
    /// That of a disk of so many granules.
    #[must_use]
    pub fn new(granules: u64) -> Self {
        let coarse = granules.next_multiple_of(64);
        let bits = coarse + granules.div_ceil(1 << COARSE_SHIFT);
        let words = usize::try_from(bits.div_ceil(64)).unwrap_or(usize::MAX);
        Self { granules, coarse, words }
    }
}

/// What the programs know of a disk.
#[derive(Debug, Clone, Copy)]
pub struct DiskEntry {
    /// Its slot.
    pub slot: u32,
    /// Sectors of a granule, as a power of two.
    pub shift: u32,
    /// Its sequence number.
    pub sequence: u64,
    /// The first bit of the coarse part of its maps.
    pub coarse: u64,
    /// Whether it has no request queue.
    pub is_bio_based: bool,
}

impl DiskEntry {
    /// Its bytes, in the machine's order, which is the programs'.
    #[must_use]
    #[allow(clippy::host_endian_bytes)]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(self.slot.to_ne_bytes());
        bytes.extend(self.shift.to_ne_bytes());
        bytes.extend(self.sequence.to_ne_bytes());
        bytes.extend(self.coarse.to_ne_bytes());
        bytes.extend(u64::from(self.is_bio_based).to_ne_bytes());
        bytes
    }
}

/// A key or value of 32 bits, in the machine's order.
#[must_use]
#[allow(clippy::host_endian_bytes)]
pub fn word(value: u32) -> [u8; 4] {
    value.to_ne_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fine_and_coarse_bits_do_not_meet() {
        for granules in [1, 63, 64, 65, 4096, 1_000_003] {
            let shape = BitmapShape::new(granules);
            let (fine, last) = (granules - 1, shape.coarse + ((granules - 1) >> COARSE_SHIFT));
            assert!(fine < shape.coarse && shape.coarse <= last);
            assert_eq!(last / 64 + 1, shape.words as u64);
        }
    }
}
