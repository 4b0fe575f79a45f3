//! The disklabel of BSD: partitions of a slice, which is a partition of an MBR or a whole disk.
//!
//! Layout: FreeBSD's `sys/disklabel.h`; in the second sector of the slice, or (as parted and
//! Digital have it) at byte 64 of the first. Linux reads them the same way
//! (`block/partitions/msdos.c`, `parse_bsd`; `osf.c`). Partitions are called by their letters, as a
//! BSD calls them, after the volume that the label is in: `p1/a`, or `disk/a` where that is the
//! whole disk. What is all of the slice is not listed, as it is there already.
//!
//! Places count from the start of the disk that the slice is a partition of. The third partition
//! stands for the whole slice, so that it tells where that was when the label was written; FreeBSD
//! has it begin at 0, and counts from the slice's start.

use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::signature::Signature;
use super::types::bsd_type_name;
use crate::base::fields::{le16, le32, u8_at};
use crate::base::limits::MAX_BSD_ENTRIES;
use crate::kind::Kind;

/// Where a label may be.
const PLACES: [u64; 2] = [512, 64];
/// Bytes of what it is in: one sector.
const SECTOR: u64 = 512;
/// `d_magic` and `d_magic2`.
const MAGIC: u32 = 0x8256_4557;
/// Where `d_partitions` begins, and the bytes of one.
const ENTRIES_AT: usize = 148;
const ENTRY: usize = 16;
/// The partition that stands for the whole slice.
const WHOLE: usize = 2;

/// Where a slice begins on the disk that its label counts from, and its type there.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Slice<'a> {
    /// First byte.
    pub start: u64,
    /// Its type: `0xa6` and the like.
    pub partition_type: Option<&'a str>,
}

impl Slice<'_> {
    /// Whether it is one of OpenBSD or NetBSD, whose labels always count from the disk's start.
    fn counts_from_disk(self) -> bool {
        matches!(self.partition_type, Some("0xa6" | "0xa9"))
    }
}

/// One partition, in sectors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    size: u32,
    offset: u32,
    kind: u8,
}

/// A label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Label {
    /// Where it is.
    place: u64,
    /// Bytes of a sector, in which it counts.
    sector: u32,
    entries: Vec<Entry>,
    /// Partitions that it says it has.
    count: u16,
    /// Whether its checksum is right.
    is_sound: bool,
}

impl Label {
    /// The label of a slice; `None` if there is none.
    pub(super) fn find(slice: &Extent<'_>) -> Option<Self> {
        PLACES.into_iter().find_map(|place| {
            let length = SECTOR.checked_sub(place.checked_rem(SECTOR)?)?;
            let bytes = slice.read(place, usize::try_from(length).ok()?).ok()??;
            Self::parse(place, &bytes)
        })
    }

    /// The label that is all of `bytes`, and stands at byte `place`.
    fn parse(place: u64, bytes: &[u8]) -> Option<Self> {
        let count = le16(bytes, 138)?; // d_npartitions
        if le32(bytes, 0)? != MAGIC || le32(bytes, 132)? != MAGIC || count == 0 {
            return None;
        }
        let listed = usize::from(count).min(MAX_BSD_ENTRIES);
        let entries = bytes.get(ENTRIES_AT..)?.chunks_exact(ENTRY).take(listed);
        let entry = |entry: &[u8]| {
            let (size, offset) = (le32(entry, 0)?, le32(entry, 4)?); // p_size, p_offset
            Some(Entry { size, offset, kind: u8_at(entry, 12)? }) // p_fstype
        };
        let entries = entries.map(entry).collect::<Option<Vec<_>>>()?;
        let end = entries.len().checked_mul(ENTRY)?.checked_add(ENTRIES_AT)?;
        let words = bytes.get(..end)?.as_chunks::<2>().0.iter();
        let sum = words.fold(0, |sum, word| sum ^ u16::from_le_bytes(*word)); // d_checksum
        let sector = le32(bytes, 40).filter(|size| matches!(size, 1024 | 2048 | 4096)); // d_secsize
        // parted, which alone writes the first place today, does not keep the checksum up to date.
        let is_sound = (sum == 0 || place < SECTOR) && usize::from(count) == entries.len();
        Some(Self { place, sector: sector.unwrap_or(512), entries, count, is_sound })
    }

    /// The signature of a volume that it is in.
    pub(super) fn signature(&self) -> Signature {
        Signature::new(Kind::BsdDisklabel, self.place)
    }

    /// The partitions within a slice of `length` bytes, by their letters, from its start.
    pub(super) fn volumes(&self, slice: Slice<'_>, length: u64, notes: &mut Notes) -> Vec<Volume> {
        if !self.is_sound {
            let count = self.count;
            notes.add(format!("the checksum of the disklabel, of {count} partitions, is wrong"));
        }
        let base = self.base(slice, length);
        let mut volumes = Vec::new();
        for (letter, entry) in ('a'..).zip(&self.entries) {
            let is_used = entry.size > 0 && entry.kind != 0;
            let (from, size) = (self.bytes(entry.offset), self.bytes(entry.size));
            let start = from.checked_sub(base);
            let is_all = start == Some(0) && size == length;
            if !is_used || is_all {
                continue;
            }
            let inside = start.filter(|start| start.saturating_add(size) <= length);
            let Some(start) = inside else {
                notes.add(format!("partition {letter} of the disklabel lies outside of it"));
                continue;
            };
            let mut volume = Volume::new(letter, start, size);
            volume.partition_type = Some(format!("{:#04x}", entry.kind));
            volume.type_name = bsd_type_name(entry.kind).map(str::to_owned);
            volumes.push(volume);
        }
        volumes
    }

    /// What places count from, in bytes before the slice's start.
    fn base(&self, slice: Slice<'_>, length: u64) -> u64 {
        match self.entries.get(WHOLE) {
            Some(whole) if self.bytes(whole.size) == length => self.bytes(whole.offset),
            Some(whole) if whole.offset == 0 && !slice.counts_from_disk() => 0,
            _ => slice.start,
        }
    }

    fn bytes(&self, sectors: u32) -> u64 {
        u64::from(sectors).saturating_mul(self.sector.into())
    }
}
