//! The superblock, of which a device has up to three copies.
//!
//! The kernel's `struct btrfs_super_block` in `include/uapi/linux/btrfs_tree.h`, whose field names
//! stand here.

use super::checksum::Checksum;
use super::features::{compat_ro, describe, flags, incompat};
use super::units::{Logical, index};
use crate::base::fields::{array, has, le16, le32, le64, slice, u8_at};
use crate::base::{Error, Result};
use crate::content::Content;
use crate::kind::Kind;
use crate::text::{label, uuid};

/// Bytes of a superblock.
pub(super) const SUPERBLOCK_SIZE: usize = 4096;
/// Where the copies are on each device that is large enough, in bytes.
pub(super) const PLACES: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];
const MAGIC: &[u8] = b"_BHRfS_M";
const MAGIC_AT: usize = 0x40;
/// Bytes of `sys_chunk_array` at most.
const SYS_CHUNK_ARRAY: usize = 2048;
/// Where the roots of the last states are, how many, and the bytes of each.
const ROOT_BACKUPS_AT: usize = 0xb2b;
const ROOT_BACKUPS: usize = 4;
const ROOT_BACKUP: usize = 168;
/// Levels of a tree, from the leaves' zero up to this, excluded.
pub(super) const MAX_LEVEL: u8 = 8;

/// What the superblock says of the device that it is on, and an item of the chunk tree of each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DevItem {
    pub devid: u64,
    pub total_bytes: u64,
    pub bytes_used: u64,
    pub uuid: [u8; 16],
    pub fsid: [u8; 16],
}

impl DevItem {
    pub(super) fn parse(item: &[u8]) -> Option<Self> {
        Some(Self {
            devid: le64(item, 0x0)?,
            total_bytes: le64(item, 0x8)?,
            bytes_used: le64(item, 0x10)?,
            uuid: array(item, 0x42)?,
            fsid: array(item, 0x52)?,
        })
    }
}

/// The superblock's fields that a reader needs.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub fsid: [u8; 16],
    pub flags: u64,
    pub generation: u64,
    pub root: Logical,
    pub chunk_root: Logical,
    pub log_root: Logical,
    pub bytes_used: u64,
    pub num_devices: u64,
    pub sectorsize: u32,
    pub nodesize: u32,
    pub chunk_root_generation: u64,
    pub compat_ro_flags: u64,
    pub incompat_flags: u64,
    pub root_level: u8,
    pub chunk_root_level: u8,
    pub log_root_level: u8,
    pub dev_item: DevItem,
    pub label: [u8; 256],
    pub metadata_uuid: [u8; 16],
    pub sys_chunk_array: Vec<u8>,
    /// The roots of the last states, `super_roots`.
    backups: Vec<RootBackup>,
    pub checksum: Checksum,
    /// The byte of the device that this copy belongs at, `bytenr`.
    pub place: u64,
}

/// A state before, `struct btrfs_root_backup`.
#[derive(Debug, Clone, Copy)]
struct RootBackup {
    root: Logical,
    generation: u64,
    chunk_root: Logical,
    chunk_root_generation: u64,
    /// Of both roots.
    levels: [u8; 2],
}

impl RootBackup {
    fn all(block: &[u8]) -> Vec<Self> {
        let backup = |number: usize| {
            let at = number.checked_mul(ROOT_BACKUP)?.checked_add(ROOT_BACKUPS_AT)?;
            let bytes = slice(block, at, ROOT_BACKUP)?;
            Some(Self {
                root: Logical(le64(bytes, 0x0)?),
                generation: le64(bytes, 0x8)?,
                chunk_root: Logical(le64(bytes, 0x10)?),
                chunk_root_generation: le64(bytes, 0x18)?,
                levels: array(bytes, 0x98)?,
            })
        };
        (0..ROOT_BACKUPS).filter_map(backup).collect()
    }
}

/// Whether `block` has the magic number of a superblock.
pub(super) fn has_magic(block: &[u8]) -> bool {
    has(block, MAGIC_AT, MAGIC)
}

impl Superblock {
    /// The superblock in `block`, which was read from byte `place`.
    ///
    /// # Errors
    /// `Corrupt` when it makes no sense; `Unsupported` when it uses what is not understood.
    pub(super) fn read(block: &[u8], place: u64) -> Result<Self> {
        let title = format!("superblock at byte {place}");
        if !has_magic(block) {
            return Err(Error::corrupt(title, "its magic number", "something else"));
        }
        let short = || Error::corrupt(&title, "4096 bytes", block.len());
        let checksum = Checksum::of_type(le16(block, 0xc4).ok_or_else(short)?)?;
        checksum.check(block, &title)?;
        let superblock = Self::parse(block, checksum).ok_or_else(short)?;
        if superblock.place != place {
            return Err(Error::corrupt(title, format!("its own place {place}"), superblock.place));
        }
        superblock.check_sense().map_err(|error| error.within(title))?;
        superblock.check_features()?;
        Ok(superblock)
    }

    /// What the superblock in `block`, which was read from byte `place`, says that its device is,
    /// whether or not it is sound and understood; `None` if there is none that belongs there.
    pub(super) fn identify(block: &[u8], place: u64) -> Option<Content> {
        // Of what type its checksum is does not matter as long as it is not checked.
        let superblock = Self::parse(block, Checksum::Crc32c).filter(|_| has_magic(block))?;
        (superblock.place == place).then(|| superblock.content())
    }

    /// What it says of the device that it is on.
    pub(super) fn content(&self) -> Content {
        Content {
            kind: Kind::Btrfs,
            label: label(&self.label),
            uuid: uuid(&self.fsid),
            size: Some(self.dev_item.total_bytes),
        }
    }

    fn parse(block: &[u8], checksum: Checksum) -> Option<Self> {
        let array_size = index(le32(block, 0xa0)?).min(SYS_CHUNK_ARRAY);
        Some(Self {
            fsid: array(block, 0x20)?,
            flags: le64(block, 0x38)?,
            generation: le64(block, 0x48)?,
            root: Logical(le64(block, 0x50)?),
            chunk_root: Logical(le64(block, 0x58)?),
            log_root: Logical(le64(block, 0x60)?),
            bytes_used: le64(block, 0x78)?,
            num_devices: le64(block, 0x88)?,
            sectorsize: le32(block, 0x90)?,
            nodesize: le32(block, 0x94)?,
            chunk_root_generation: le64(block, 0xa4)?,
            compat_ro_flags: le64(block, 0xb4)?,
            incompat_flags: le64(block, 0xbc)?,
            root_level: u8_at(block, 0xc6)?,
            chunk_root_level: u8_at(block, 0xc7)?,
            log_root_level: u8_at(block, 0xc8)?,
            dev_item: DevItem::parse(block.get(0xc9..)?)?,
            label: array(block, 0x12b)?,
            metadata_uuid: array(block, 0x23b)?,
            sys_chunk_array: slice(block, 0x32b, array_size)?.to_vec(),
            backups: RootBackup::all(block),
            checksum,
            place: le64(block, 0x30)?,
        })
    }

    fn check_sense(&self) -> Result<()> {
        let is_size = |size: u32| size.is_power_of_two() && (4096..=65_536).contains(&size);
        let wrong =
            |what: &str, expected: &str, found: u64| Err(Error::corrupt(what, expected, found));
        if !is_size(self.sectorsize) {
            return wrong(
                "sectorsize",
                "a power of two from 4096 to 65536",
                self.sectorsize.into(),
            );
        }
        if !is_size(self.nodesize) || self.nodesize < self.sectorsize {
            return wrong("nodesize", "from the sectorsize to 65536", self.nodesize.into());
        }
        let levels = [self.root_level, self.chunk_root_level, self.log_root_level];
        if let Some(level) = levels.into_iter().find(|level| *level >= MAX_LEVEL) {
            return wrong("a root's level", "less than 8", level.into());
        }
        if self.num_devices == 0 {
            return wrong("num_devices", "one at least", 0);
        }
        Ok(())
    }

    fn check_features(&self) -> Result<()> {
        let unknown = self.incompat_flags & !incompat::KNOWN;
        if unknown != 0 {
            let names = describe(unknown, &incompat::NAMES);
            let context = format!("btrfs with features that are not known: {names}");
            return Err(Error::newer(context));
        }
        let unknown = self.flags & !flags::KNOWN;
        if unknown != 0 {
            let context = format!("btrfs with {}", describe(unknown, &flags::NAMES));
            return Err(Error::newer(context));
        }
        Ok(())
    }

    /// Whether `incompat_flags` has `bit`.
    pub(super) fn has_incompat(&self, bit: u64) -> bool {
        self.incompat_flags & bit != 0
    }

    /// The identity that tree blocks carry.
    pub(super) fn block_fsid(&self) -> [u8; 16] {
        match self.has_incompat(incompat::METADATA_UUID) {
            true => self.metadata_uuid,
            false => self.fsid,
        }
    }

    /// Whether what is free can be told by what this reader knows.
    pub(super) fn unknown_compat_ro(&self) -> u64 {
        self.compat_ro_flags & !compat_ro::KNOWN
    }

    /// The same of the states before, the youngest first, as far as their roots are known.
    pub(super) fn earlier(&self) -> Vec<Self> {
        let is_earlier = |backup: &&RootBackup| {
            backup.generation < self.generation && backup.root.0 != 0 && backup.chunk_root.0 != 0
        };
        let is_sound = |backup: &&RootBackup| backup.levels.iter().all(|level| *level < MAX_LEVEL);
        let mut backups: Vec<&RootBackup> =
            self.backups.iter().filter(is_earlier).filter(is_sound).collect();
        backups.sort_by_key(|backup| std::cmp::Reverse(backup.generation));
        let state = |backup: &RootBackup| {
            let [root_level, chunk_root_level] = backup.levels;
            Self {
                generation: backup.generation,
                root: backup.root,
                root_level,
                chunk_root: backup.chunk_root,
                chunk_root_generation: backup.chunk_root_generation,
                chunk_root_level,
                // It goes with the newest state only.
                log_root: Logical(0),
                ..self.clone()
            }
        };
        backups.into_iter().map(state).collect()
    }

    /// Whether both are of one filesystem.
    pub(super) fn is_of_same(&self, other: &Self) -> bool {
        self.fsid == other.fsid && self.block_fsid() == other.block_fsid()
    }
}
