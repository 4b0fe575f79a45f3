//! The names of an inode, as `INODE_REF` and `INODE_EXTREF` items say them.
//!
//! The kernel's `struct btrfs_inode_ref` and `btrfs_inode_extref` in
//! `include/uapi/linux/btrfs_tree.h`.

use super::super::node::Item;
use super::super::units::kinds;
use crate::base::Result;
use crate::base::fields::{le16, le64, slice};

/// A name of an inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RefName {
    pub parent: u64,
    pub index: u64,
    pub name: Vec<u8>,
}

impl RefName {
    /// The names that `item`, of either kind, holds.
    ///
    /// # Errors
    /// `Corrupt` where they do not fill it.
    pub(super) fn all(item: &Item) -> Result<Vec<Self>> {
        let bytes = item.data();
        let (mut found, mut at) = (Vec::new(), 0);
        while at < bytes.len() {
            let parsed = match item.key.kind {
                kinds::INODE_REF => plain(bytes, at, item.key.offset),
                _ => extended(bytes, at),
            };
            let Some((name, next)) = parsed.filter(|(name, _)| !name.name.is_empty()) else {
                return Err(item.corrupt(format!("a name at byte {at}"), "something else"));
            };
            found.push(name);
            at = next;
        }
        Ok(found)
    }

    /// Whether it is `name` in `parent`.
    pub(super) fn is(&self, parent: u64, name: &[u8]) -> bool {
        self.parent == parent && self.name == name
    }
}

fn plain(bytes: &[u8], at: usize, parent: u64) -> Option<(RefName, usize)> {
    let header = slice(bytes, at, 10)?;
    let (name, next) = name(bytes, at.checked_add(10)?, le16(header, 0x8)?)?;
    Some((RefName { parent, index: le64(header, 0x0)?, name }, next))
}

fn extended(bytes: &[u8], at: usize) -> Option<(RefName, usize)> {
    let header = slice(bytes, at, 18)?;
    let (name, next) = name(bytes, at.checked_add(18)?, le16(header, 0x10)?)?;
    Some((RefName { parent: le64(header, 0x0)?, index: le64(header, 0x8)?, name }, next))
}

fn name(bytes: &[u8], at: usize, length: u16) -> Option<(Vec<u8>, usize)> {
    let length = usize::from(length);
    Some((slice(bytes, at, length)?.to_vec(), at.checked_add(length)?))
}
