//! What btrfs counts in, and the keys by which everything is found.

use std::fmt;

use crate::base::fields::{le64, u8_at};

/// A byte of the filesystem's own address space, which chunks map to devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Logical(pub u64);

impl Logical {
    /// The address `count` bytes further on; sums beyond 64 bits end in no chunk.
    pub(super) fn after(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

impl fmt::Display for Logical {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "logical byte {}", self.0)
    }
}

/// Object ids: trees, and what is in no tree of files.
pub(super) mod objects {
    pub(crate) const EXTENT_TREE: u64 = 2;
    pub(crate) const DEV_TREE: u64 = 4;
    pub(crate) const FS_TREE: u64 = 5;
    pub(crate) const ROOT_TREE_DIR: u64 = 6;
    pub(crate) const CSUM_TREE: u64 = 7;
    pub(crate) const BLOCK_GROUP_TREE: u64 = 11;
    /// The first of subvolumes, of files, and of chunks.
    pub(crate) const FIRST_FREE: u64 = 256;
    /// The last of subvolumes and files; those above are the filesystem's own.
    pub(crate) const LAST_FREE: u64 = u64::MAX.wrapping_sub(255);
    pub(crate) const EXTENT_CSUM: u64 = u64::MAX.wrapping_sub(9);
    pub(crate) const TREE_LOG: u64 = u64::MAX.wrapping_sub(5);
    pub(crate) const DEV_ITEMS: u64 = 1;
}

/// Types of items.
pub(super) mod kinds {
    pub(crate) const INODE_ITEM: u8 = 1;
    pub(crate) const INODE_REF: u8 = 12;
    pub(crate) const INODE_EXTREF: u8 = 13;
    pub(crate) const XATTR_ITEM: u8 = 24;
    pub(crate) const DIR_LOG_INDEX: u8 = 72;
    pub(crate) const DIR_ITEM: u8 = 84;
    pub(crate) const DIR_INDEX: u8 = 96;
    pub(crate) const EXTENT_DATA: u8 = 108;
    pub(crate) const EXTENT_CSUM: u8 = 128;
    pub(crate) const ROOT_ITEM: u8 = 132;
    pub(crate) const ROOT_BACKREF: u8 = 144;
    pub(crate) const ROOT_REF: u8 = 156;
    pub(crate) const EXTENT_ITEM: u8 = 168;
    pub(crate) const METADATA_ITEM: u8 = 169;
    pub(crate) const EXTENT_DATA_REF: u8 = 178;
    pub(crate) const BLOCK_GROUP_ITEM: u8 = 192;
    pub(crate) const DEV_EXTENT: u8 = 204;
    pub(crate) const DEV_ITEM: u8 = 216;
    pub(crate) const CHUNK_ITEM: u8 = 228;
}

/// Bytes of a key on the disk.
pub(super) const KEY_SIZE: usize = 17;

/// What an item is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Key {
    pub objectid: u64,
    pub kind: u8,
    pub offset: u64,
}

impl Key {
    /// Below every other.
    pub(super) const FIRST: Self = Self::new(0, 0, 0);

    pub(super) const fn new(objectid: u64, kind: u8, offset: u64) -> Self {
        Self { objectid, kind, offset }
    }

    /// The key at byte `at`.
    pub(super) fn parse(bytes: &[u8], at: usize) -> Option<Self> {
        let bytes = bytes.get(at..)?;
        Some(Self {
            objectid: le64(bytes, 0x0)?,
            kind: u8_at(bytes, 0x8)?,
            offset: le64(bytes, 0x9)?,
        })
    }

    /// Whether it is of `objectid` and `kind`, whatever its offset.
    pub(super) fn is_of(&self, objectid: u64, kind: u8) -> bool {
        self.objectid == objectid && self.kind == kind
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({} {} {})", self.objectid, self.kind, self.offset)
    }
}

/// A number as an index into memory; one that does not fit is beyond any memory.
pub(super) fn index(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}

/// A length in memory as a number of bytes.
pub(super) fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// `value` down to a multiple of `unit`, which is not zero.
pub(super) fn round_down(value: u64, unit: u64) -> u64 {
    value.saturating_sub(value.checked_rem(unit).unwrap_or(0))
}

/// `value` up to a multiple of `unit`, which is not zero.
pub(super) fn round_up(value: u64, unit: u64) -> u64 {
    round_down(value.saturating_add(unit.saturating_sub(1)), unit)
}
