//! Nodes of btrees: block maps' (long, 64-bit pointers) and allocation groups' (short, 32-bit).
//!
//! The kernel's `struct xfs_btree_block` (`fs/xfs/libxfs/xfs_format.h`).

use std::sync::Arc;

use crate::base::fields::{array, be16, be32, be64, has};
use crate::base::{Error, Result};

/// How the blocks of a tree are laid out.
pub(super) struct Shape {
    magic: &'static [u8; 4],
    /// Bytes before the keys or records.
    header: usize,
    /// Bytes of a pointer, of a key and of a record.
    pointer: usize,
    key: usize,
    record: usize,
}

/// The tree of a fork's extents.
pub(super) fn long(is_v5: bool) -> Shape {
    let (magic, header) = if is_v5 { (b"BMA3", 0x48) } else { (b"BMAP", 0x18) };
    Shape { magic, header, pointer: 8, key: 8, record: 16 }
}

/// The tree of free blocks, by their number.
pub(super) fn free_by_block(is_v5: bool) -> Shape {
    let (magic, header) = if is_v5 { (b"AB3B", 0x38) } else { (b"ABTB", 0x10) };
    Shape { magic, header, pointer: 4, key: 8, record: 8 }
}

/// The tree of inodes, in chunks of 64.
pub(super) fn inodes(is_v5: bool) -> Shape {
    let (magic, header) = if is_v5 { (b"IAB3", 0x38) } else { (b"IABT", 0x10) };
    Shape { magic, header, pointer: 4, key: 4, record: 16 }
}

/// A node, its header checked: keys with a pointer for each, or, on level 0, records.
pub(super) struct Node {
    bytes: Arc<[u8]>,
    start: usize,
    count: usize,
    /// Where the pointers are, and the bytes of each.
    pointers: usize,
    pointer: usize,
    key: usize,
}

impl Node {
    /// The root of a tree of extents in an inode: a level and a count instead of a header.
    ///
    /// # Errors
    /// `Corrupt` for more entries than there is room for.
    pub(super) fn root(bytes: &[u8], header: usize, pointer: usize) -> Result<Self> {
        let key = 8_usize;
        let room = bytes.len().saturating_sub(header) / 16;
        let count = usize::from(be16(bytes, 2).unwrap_or_default());
        if count == 0 || count > room {
            return Err(Error::corrupt("root of a tree of extents", "entries in it", count));
        }
        let pointers = room.saturating_mul(key).saturating_add(header);
        let root = Self { bytes: bytes.into(), start: header, count, pointers, pointer, key };
        root.check_order()?;
        Ok(root)
    }

    /// The node in a block.
    ///
    /// # Errors
    /// `Corrupt` unless it is one of `shape`, on `level`.
    pub(super) fn parse(bytes: &Arc<[u8]>, shape: &Shape, level: u16) -> Result<Self> {
        let size = match level {
            0 => shape.record,
            _ => shape.key.saturating_add(shape.pointer),
        };
        let room = bytes.len().saturating_sub(shape.header).checked_div(size).unwrap_or(0);
        let count = usize::from(be16(bytes, 6).unwrap_or_default());
        let found_level = be16(bytes, 4).unwrap_or_default();
        let least = usize::from(level > 0);
        if !has(bytes, 0, shape.magic) || found_level != level || !(least..=room).contains(&count) {
            let magic = bytes.get(..4).unwrap_or_default();
            let found = format!("magic {magic:02x?}, level {found_level}, {count} entries");
            return Err(Error::corrupt("btree", format!("a node of level {level}"), found));
        }
        let pointers = room.saturating_mul(shape.key).saturating_add(shape.header);
        let (start, pointer, key) = (shape.header, shape.pointer, shape.key);
        let node = Self { bytes: Arc::clone(bytes), start, count, pointers, pointer, key };
        if level > 0 {
            node.check_order()?;
        }
        Ok(node)
    }

    /// Checks what the search for a key takes for granted: that keys ascend.
    fn check_order(&self) -> Result<()> {
        let descends = |place: &usize| self.key(*place) <= self.key(place.saturating_sub(1));
        match (1..self.count).find(descends) {
            None => Ok(()),
            Some(place) => {
                let found = format!("{:?} as number {place}", self.key(place));
                Err(Error::corrupt("btree", "ascending keys", found))
            }
        }
    }

    /// Checks that the keys of a node below another lie between those of the entry that leads to
    /// it and of the next one.
    pub(super) fn check_within(&self, low: u64, end: u64) -> Result<()> {
        let (first, last) = (self.key(0), self.key(self.count.saturating_sub(1)));
        if first.is_none_or(|first| first >= low) && last.is_none_or(|last| last < end) {
            return Ok(());
        }
        let found = format!("{first:?} to {last:?}");
        Err(Error::corrupt("btree", format!("keys from {low} and below {end}"), found))
    }

    /// Where the first key or record is.
    pub(super) fn start(&self) -> usize {
        self.start
    }

    /// Keys or records in it.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    pub(super) fn into_bytes(self) -> Arc<[u8]> {
        self.bytes
    }

    /// A key that is one number.
    pub(super) fn key(&self, place: usize) -> Option<u64> {
        let at = place.checked_mul(self.key)?.checked_add(self.start)?;
        let key = match self.key {
            8 => be64(&self.bytes, at),
            _ => be32(&self.bytes, at).map(u64::from),
        };
        key.filter(|_| place < self.count)
    }

    /// The number of the block below.
    pub(super) fn child(&self, place: usize) -> Option<u64> {
        let at = place.checked_mul(self.pointer)?.checked_add(self.pointers)?;
        let child = match self.pointer {
            8 => be64(&self.bytes, at),
            _ => be32(&self.bytes, at).map(u64::from),
        };
        child.filter(|_| place < self.count)
    }

    /// A record of a tree of free blocks: the first, and how many.
    pub(super) fn free_blocks(&self, place: usize) -> Option<(u64, u64)> {
        let at = place.checked_mul(8)?.checked_add(self.start)?;
        let (start, count) = (be32(&self.bytes, at)?, be32(&self.bytes, at.checked_add(4)?)?);
        (place < self.count).then_some((start.into(), count.into()))
    }

    /// A record of a tree of inodes.
    pub(super) fn inodes(&self, place: usize) -> Option<[u8; 16]> {
        let at = place.checked_mul(16)?.checked_add(self.start)?;
        array(&self.bytes, at).filter(|_| place < self.count)
    }

    /// The last entry whose key is `wanted` or less.
    pub(super) fn find(&self, wanted: u64) -> Option<usize> {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle) {
                Some(key) if key <= wanted => low = middle.saturating_add(1),
                _ => high = middle,
            }
        }
        low.checked_sub(1)
    }
}
