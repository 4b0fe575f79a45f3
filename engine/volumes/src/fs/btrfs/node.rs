//! Nodes of the trees: leaves with items, and what leads down to them.
//!
//! The kernel's `struct btrfs_header`, `btrfs_item` and `btrfs_key_ptr` in
//! `include/uapi/linux/btrfs_tree.h`.

use std::ops::Range;
use std::sync::Arc;

use super::checksum::Checksum;
use super::superblock::MAX_LEVEL;
use super::units::{KEY_SIZE, Key, Logical, index};
use crate::base::fields::{array, le32, le64, u8_at};
use crate::base::{Error, Result};

/// Bytes of a node before its items or pointers.
const HEADER: usize = 101;
/// Bytes of an item's header, and of a pointer.
const ITEM: usize = 25;
const POINTER: usize = 33;

/// What has to be known of a node before it is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Pointer {
    pub at: Logical,
    pub level: u8,
    pub generation: u64,
}

/// What every node of a filesystem has in common.
#[derive(Debug, Clone)]
pub(super) struct NodeForm {
    pub size: usize,
    pub checksum: Checksum,
    /// Identities that nodes may carry: the filesystem's, and its seeds'.
    pub fsids: Vec<[u8; 16]>,
}

/// A node, sound by itself: its checksum is right, its keys ascend, its items are inside.
#[derive(Debug)]
pub(super) struct Node {
    bytes: Vec<u8>,
    pub level: u8,
    pub generation: u64,
    count: usize,
}

impl Node {
    /// The node in `bytes`, which were read where `pointer` says.
    ///
    /// # Errors
    /// `Corrupt` when it is not the node that is wanted, or not sound.
    pub(super) fn check(bytes: Vec<u8>, pointer: Pointer, form: &NodeForm) -> Result<Self> {
        let place = || format!("tree node at {}", pointer.at);
        form.checksum.check(&bytes, place())?;
        let short = || Error::corrupt(place(), "a header", "less");
        let (level, count) = (u8_at(&bytes, 0x64).ok_or_else(short)?, le32(&bytes, 0x60));
        let node = Self {
            level,
            generation: le64(&bytes, 0x50).ok_or_else(short)?,
            count: index(count.ok_or_else(short)?),
            bytes,
        };
        let fsid = array(&node.bytes, 0x20).ok_or_else(short)?;
        if !form.fsids.contains(&fsid) {
            let other = "that of another one";
            return Err(Error::corrupt(place(), "the filesystem's identity", other));
        }
        let own = le64(&node.bytes, 0x30).ok_or_else(short)?;
        if own != pointer.at.0 {
            return Err(Error::corrupt(place(), "its own place", own));
        }
        node.expect(pointer)?;
        match node.unsound() {
            None => Ok(node),
            Some(found) => Err(Error::corrupt(place(), "sound items in ascending order", found)),
        }
    }

    /// Checks that it is the node that `pointer` leads to.
    ///
    /// # Errors
    /// `Corrupt` if it is not.
    pub(super) fn expect(&self, pointer: Pointer) -> Result<()> {
        let place = || format!("tree node at {}", pointer.at);
        if self.level != pointer.level || self.level >= MAX_LEVEL {
            return Err(Error::corrupt(place(), format!("level {}", pointer.level), self.level));
        }
        if self.generation != pointer.generation {
            let expected = format!("generation {}", pointer.generation);
            return Err(Error::corrupt(place(), expected, self.generation));
        }
        Ok(())
    }

    /// What is wrong with its items or pointers, if anything is.
    fn unsound(&self) -> Option<String> {
        let step = if self.level == 0 { ITEM } else { POINTER };
        let end = self.count.checked_mul(step).and_then(|length| length.checked_add(HEADER));
        if end.is_none_or(|end| end > self.bytes.len()) || (self.level > 0 && self.count == 0) {
            return Some(format!("{} items", self.count));
        }
        let mut before = None;
        // The data of items lie side by side from the node's end on, the first one's last.
        let mut data_end = self.bytes.len();
        for number in 0..self.count {
            let Some(key) = self.key(number) else { return Some(format!("no key {number}")) };
            if before.is_some_and(|before| before >= key) {
                return Some(format!("key {key} as number {number}"));
            }
            before = Some(key);
            if self.level > 0 {
                continue;
            }
            match self.data_range(number) {
                Some(data) if data.start >= end.unwrap_or(0) && data.end == data_end => {
                    data_end = data.start;
                }
                Some(data) => {
                    let found = format!("data at {} to {}", data.start, data.end);
                    return Some(format!("item {key} with {found} instead of up to {data_end}"));
                }
                None => return Some(format!("item {key} outside")),
            }
        }
        None
    }

    /// How many items or pointers it has.
    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The key of an item or pointer.
    pub(super) fn key(&self, number: usize) -> Option<Key> {
        if number >= self.count {
            return None;
        }
        let step = if self.level == 0 { ITEM } else { POINTER };
        Key::parse(&self.bytes, number.checked_mul(step)?.checked_add(HEADER)?)
    }

    /// The key of the last.
    pub(super) fn last_key(&self) -> Option<Key> {
        self.key(self.count.checked_sub(1)?)
    }

    /// Where pointer `number` leads.
    pub(super) fn pointer(&self, number: usize) -> Option<Pointer> {
        let at = number.checked_mul(POINTER)?.checked_add(HEADER)?.checked_add(KEY_SIZE)?;
        Some(Pointer {
            at: Logical(le64(&self.bytes, at)?),
            level: self.level.checked_sub(1)?,
            generation: le64(&self.bytes, at.checked_add(8)?)?,
        })
    }

    /// Where an item's data are; inside the node.
    fn data_range(&self, number: usize) -> Option<Range<usize>> {
        let at = number.checked_mul(ITEM)?.checked_add(HEADER)?.checked_add(KEY_SIZE)?;
        let start = index(le32(&self.bytes, at)?).checked_add(HEADER)?;
        let end = start.checked_add(index(le32(&self.bytes, at.checked_add(4)?)?))?;
        (end <= self.bytes.len()).then_some(start..end)
    }

    /// How many keys are below `key`.
    pub(super) fn below(&self, key: Key) -> usize {
        let (mut low, mut high) = (0, self.count);
        while low < high {
            let middle = low.midpoint(high);
            match self.key(middle) {
                Some(found) if found < key => low = middle.saturating_add(1),
                _ => high = middle,
            }
        }
        low
    }

    /// The number of the last key that is not above `key`, if there is one.
    pub(super) fn at_or_below(&self, key: Key) -> Option<usize> {
        let below = self.below(key);
        match self.key(below) == Some(key) {
            true => Some(below),
            false => below.checked_sub(1),
        }
    }
}

/// An item of a leaf.
#[derive(Debug, Clone)]
pub(super) struct Item {
    pub key: Key,
    leaf: Arc<Node>,
    data: Range<usize>,
}

impl Item {
    pub(super) fn of(leaf: &Arc<Node>, number: usize) -> Option<Self> {
        let (key, data) = (leaf.key(number)?, leaf.data_range(number)?);
        Some(Self { key, leaf: Arc::clone(leaf), data })
    }

    /// What it holds.
    pub(super) fn data(&self) -> &[u8] {
        self.leaf.bytes.get(self.data.clone()).unwrap_or_default()
    }

    /// Damage to this item.
    pub(super) fn corrupt(
        &self,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Error {
        Error::corrupt(format!("item {}", self.key), expected, found)
    }
}
