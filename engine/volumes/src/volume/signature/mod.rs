//! What a volume contains, by its superblock.
//!
//! Detectors read a head of the volume that is already in memory; only labels that lie elsewhere
//! and superblocks at the end cost further reads. Containers (RAID, LVM, LUKS) come before the
//! filesystems that may show through them, weak signatures come last.

mod containers;
mod filesystems;
mod linux;
mod magics;
mod optical;
mod udf;
mod windows;

use std::sync::Arc;

use super::extent::Extent;
use super::layout::Notes;
use crate::base::ReadAt;
use crate::content::Content;
use crate::kind::Kind;

/// Bytes of a volume's head that detectors see: past the btrfs superblock, whose 4 KiB are at
/// 64 KiB, and past the volume descriptors of ISO 9660 and UDF from 32 KiB.
const HEAD: usize = 132 * 1024;

/// A volume while it is being looked at.
pub(super) struct Subject<'a> {
    /// Its first bytes, [`HEAD`] at most.
    pub head: &'a [u8],
    /// All of it.
    pub volume: &'a Arc<dyn ReadAt>,
    /// The same.
    pub extent: Extent<'a>,
    /// What it is called in notes.
    pub name: &'a str,
}

impl Subject<'_> {
    /// `length` bytes at `offset`; `None` if they are outside, or with a note if unreadable.
    fn read(&self, offset: u64, length: usize, notes: &mut Notes) -> Option<Vec<u8>> {
        match self.extent.read(offset, length) {
            Ok(bytes) => bytes,
            Err(error) => {
                notes.add(format!("{}: a part of it cannot be read: {error}", self.name));
                None
            }
        }
    }

    /// `length` bytes, the first of them `from_end` bytes before the volume's end.
    fn read_tail(&self, from_end: u64, length: usize, notes: &mut Notes) -> Option<Vec<u8>> {
        self.read(self.extent.length().checked_sub(from_end)?, length, notes)
    }
}

type Detector = fn(&Subject<'_>, &mut Notes) -> Option<Signature>;

const DETECTORS: &[Detector] = &[
    containers::luks,
    containers::md,
    containers::lvm2,
    containers::bios_raid,
    windows::bitlocker,
    filesystems::xfs,
    filesystems::ext,
    linux::squashfs,
    linux::erofs,
    linux::f2fs,
    filesystems::ntfs,
    filesystems::exfat,
    windows::refs,
    filesystems::fat,
    udf::udf,
    optical::iso9660,
    // Only weak signatures are younger than a LUKS header that shows through them.
    containers::luks_second_header,
    linux::hibernation,
    linux::swap,
    filesystems::btrfs,
    containers::zfs,
    magics::bcache,
];

/// A signature that was found in a stretch of bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signature {
    /// What it says is there.
    pub content: Content,
    /// Where it stands, bytes from the stretch's start.
    pub place: u64,
}

impl Signature {
    /// One that stands at byte `place`, with nothing else known.
    pub(super) fn new(kind: Kind, place: u64) -> Self {
        Self { content: Content::new(kind), place }
    }

    pub(super) fn label(mut self, label: Option<String>) -> Self {
        self.content.label = label;
        self
    }

    pub(super) fn uuid(mut self, uuid: Option<String>) -> Self {
        self.content.uuid = uuid;
        self
    }

    pub(super) fn size(mut self, size: Option<u64>) -> Self {
        self.content.size = size;
        self
    }
}

/// Every signature in `volume`, called `name` in notes, in the order of [`DETECTORS`].
pub(super) fn all(volume: &Arc<dyn ReadAt>, name: &str, notes: &mut Notes) -> Vec<Signature> {
    let extent = Extent::whole(volume.as_ref());
    let (head, error) = extent.head(HEAD);
    if let Some(error) = error {
        notes.add(format!("{name}: its first bytes cannot all be read: {error}"));
    }
    let subject = Subject { head: &head, volume, extent, name };
    let mut found: Vec<Signature> =
        DETECTORS.iter().filter_map(|detector| detector(&subject, notes)).collect();
    // Magic numbers of two bytes mean nothing beside a signature that does.
    if found.is_empty() {
        found.extend(magics::other(&subject, notes));
    }
    found
}
