//! What an older content of a larger disk leaves behind a restored image, and would be taken for
//! something: superblocks that are looked for at a disk's end, or so far from its start that a
//! small image does not reach them.
//!
//! Places and magic numbers are those of util-linux's `libblkid/src/superblocks`, and of the
//! formats' own documents: md's `include/uapi/linux/raid/md_p.h`, the UEFI specification's 5.3.2,
//! chapter 1 of the "ZFS On-Disk Specification".

use super::extent::Extent;
use crate::base::fields::has;
use crate::base::{ByteOffset, ByteRange, ReadAt, Result};

/// A signature that another content left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leftover {
    /// What it is of.
    pub what: &'static str,
    /// Bytes that have to be zero for it to be gone.
    pub range: ByteRange,
}

/// What it is of; where its superblock begins: so many bytes before the end of the disk's whole
/// units of so many bytes; the magic's place in it; the magic.
type AtEnd = (&'static str, (u64, u64), u64, &'static [u8]);

/// What it is of; places of the magic; the magic.
type AtStart = (&'static str, &'static [u64], &'static [u8]);

/// Bytes around a magic that are wiped.
const SECTOR: u64 = 512;
const KIB: u64 = 1024;

const MD_MAGIC: &[u8] = &[0xfc, 0x4e, 0x2b, 0xa9];
const MD_MAGIC_BIG: &[u8] = &[0xa9, 0x2b, 0x4e, 0xfc];

const AT_END: &[AtEnd] = &[
    ("backup GPT", (512, 512), 0, b"EFI PART"),
    ("backup GPT", (4 * KIB, 4 * KIB), 0, b"EFI PART"),
    ("md raid superblock 1.0", (8 * KIB, 4 * KIB), 0, MD_MAGIC),
    ("md raid superblock 0.90", (64 * KIB, 64 * KIB), 0, MD_MAGIC),
    ("md raid superblock 0.90", (64 * KIB, 64 * KIB), 0, MD_MAGIC_BIG),
    ("intel raid member", (1024, 512), 0, b"Intel Raid ISM Cfg Sig. "),
    ("intel raid member", (8 * KIB, 4 * KIB), 0, b"Intel Raid ISM Cfg Sig. "),
    ("ddf raid member", (512, 512), 0, &[0xde, 0x11, 0xde, 0x11]),
    ("ddf raid member", (257 * 512, 512), 0, &[0xde, 0x11, 0xde, 0x11]),
    ("lsi raid member", (512, 512), 0, b"$XIDE$"),
    ("nvidia raid member", (1024, 512), 0, b"NVIDIA"),
    ("silicon raid member", (512, 512), 0x60, &[0, 0, 0, 0x2f]),
    ("adaptec raid member", (512, 512), 0, &[0x90, 0x07, 0x65, 0xc4]),
    ("highpoint raid member", (11 * 512, 512), 32, &[0xf3, 0x16, 0x78, 0x5a]),
    ("highpoint raid member", (11 * 512, 512), 32, &[0xfd, 0x16, 0x78, 0x5a]),
    ("jmicron raid member", (512, 512), 0, b"JM"),
    ("via raid member", (512, 512), 0, &[0x55, 0xaa]),
    ("drbd metadata", (4 * KIB, 512), 60, &[0x83, 0x74, 0x02, 0x6b]),
    ("drbd metadata", (4 * KIB, 512), 60, &[0x83, 0x74, 0x02, 0x6d]),
    ("nilfs2 superblock", (4 * KIB, 512), 0, &[2, 0, 0, 0, 0, 0, 0x34, 0x34]),
];

/// Sectors before the end where Promise's firmware may keep its own.
const PROMISE: &[u64] = &[63, 255, 256, 16, 399, 591, 675, 735, 911, 974, 991, 951, 3087];
const PROMISE_MAGIC: &[u8] = b"Promise Technology, Inc.";

const ZFS_LABEL: u64 = 256 * KIB;
const ZFS_MAGIC: u64 = 0x00ba_b10c;

const AT_START: &[AtStart] = &[
    ("GPT", &[512, 4096], b"EFI PART"),
    ("lvm2 physical volume", &[512, 1024, 1536], b"LABELONE"),
    ("ext filesystem", &[0x438], &[0x53, 0xef]),
    ("hfs+ filesystem", &[0x400], b"H+"),
    ("f2fs filesystem", &[0x400], &[0x10, 0x20, 0xf5, 0xf2]),
    ("erofs filesystem", &[0x400], &[0xe2, 0xe1, 0xf5, 0xe0]),
    ("nilfs2 filesystem", &[0x406], &[0x34, 0x34]),
    ("ocfs2 filesystem", &[0x400, 0x800, 0x1000, 0x2000], b"OCFSV2"),
    ("swap", &[0xff6, 0x1ff6, 0x3ff6, 0x7ff6, 0xfff6], b"SWAPSPACE2"),
    ("md raid superblock 1.2", &[0x1000], MD_MAGIC),
    ("bcache device", &[0x1018], &[0xc6, 0x85, 0x73, 0xf6, 0x4e, 0x1a, 0x45, 0xca]),
    ("bcachefs filesystem", &[0x1018], &[0xc6, 0x85, 0x73, 0xf6, 0x66, 0xce, 0x90, 0xa9]),
    ("iso9660 filesystem", &[0x8001], b"CD001"),
    ("udf filesystem", &[0x8001], b"BEA01"),
    ("udf filesystem", &[0x8801, 0x9001], b"NSR0"),
    ("jfs filesystem", &[0x8000], b"JFS1"),
    ("reiserfs filesystem", &[0x2034, 0x10034], b"ReIsEr"),
    ("gfs2 filesystem", &[0x10000], &[0x01, 0x16, 0x19, 0x70]),
    ("btrfs filesystem", &[0x10040], b"_BHRfS_M"),
    ("luks header", &[0x4000, 0x8000, 0x10000, 0x20000, 0x40000, 0x80000], b"SKUL\xba\xbe"),
    ("luks header", &[0x0010_0000, 0x0020_0000, 0x0040_0000], b"SKUL\xba\xbe"),
    ("vmfs volume", &[0x0010_0000], &[0x0d, 0xd0, 0x01, 0xc0]),
    ("vmfs filesystem", &[0x0020_0000], &[0x5e, 0xf1, 0xab, 0x2f]),
];

/// The signatures on `disk` at byte `from` or later, where an image of so many bytes leaves what
/// was there: each once, in the disk's order.
///
/// # Errors
/// The disk's own.
pub fn leftovers(disk: &dyn ReadAt, from: ByteOffset) -> Result<Vec<Leftover>> {
    let search = Search { extent: Extent::whole(disk), from: from.0 };
    let mut found = Vec::new();
    for (what, (bytes, unit), at, magic) in AT_END {
        found.extend(search.near_end((*bytes, *unit), *at, (*what, *magic))?);
    }
    for sectors in PROMISE {
        let bytes = sectors.saturating_mul(SECTOR);
        found.extend(search.near_end(
            (bytes, SECTOR),
            0,
            ("promise raid member", PROMISE_MAGIC),
        )?);
    }
    for (what, places, magic) in AT_START {
        for place in *places {
            found.extend(search.at(*place, (*what, *magic))?);
        }
    }
    for label in [2, 1] {
        found.extend(search.zfs_label(label)?);
    }
    found.sort_by_key(|leftover| leftover.range);
    found.dedup_by(|later, before| later.range == before.range);
    Ok(found)
}

struct Search<'a> {
    extent: Extent<'a>,
    from: u64,
}

impl Search<'_> {
    /// Where what is looked for so many bytes before the end of the disk's whole units begins.
    fn place(&self, (bytes, unit): (u64, u64)) -> Option<u64> {
        let over = self.extent.length().checked_rem(unit)?;
        self.extent.length().checked_sub(over)?.checked_sub(bytes)
    }

    fn near_end(
        &self,
        place: (u64, u64),
        at: u64,
        signature: (&'static str, &[u8]),
    ) -> Result<Option<Leftover>> {
        match self.place(place).and_then(|place| place.checked_add(at)) {
            Some(place) => self.at(place, signature),
            None => Ok(None),
        }
    }

    /// The signature whose magic is at `place`, if it is there.
    fn at(&self, place: u64, (what, magic): (&'static str, &[u8])) -> Result<Option<Leftover>> {
        if place < self.from {
            return Ok(None);
        }
        let bytes = self.extent.read(place, magic.len())?;
        let is_there = bytes.is_some_and(|bytes| bytes == magic);
        let sector = place.checked_rem(SECTOR).and_then(|over| place.checked_sub(over));
        let start = sector.unwrap_or(place).max(self.from);
        let end = sector.unwrap_or(place).saturating_add(SECTOR).min(self.extent.length());
        Ok(is_there.then_some(Leftover { what, range: ByteRange { start, end } }))
    }

    /// The label of a ZFS device, so many before the end, if an uberblock is in its second half.
    fn zfs_label(&self, before: u64) -> Result<Option<Leftover>> {
        let place = self.place((ZFS_LABEL.saturating_mul(before), ZFS_LABEL));
        let Some(start) = place.filter(|start| *start >= self.from) else { return Ok(None) };
        let half = ZFS_LABEL / 2;
        let ring = self.extent.read(start.saturating_add(half), 128 << 10)?.unwrap_or_default();
        let (little, big) = (ZFS_MAGIC.to_le_bytes(), ZFS_MAGIC.to_be_bytes());
        let is_one = |slot: &[u8; 1024]| has(slot, 0, &little) || has(slot, 0, &big);
        let is_there = ring.as_chunks::<1024>().0.iter().any(is_one);
        let range = ByteRange::new(start, ZFS_LABEL);
        Ok(is_there.then_some(Leftover { what: "zfs label", range }))
    }
}
