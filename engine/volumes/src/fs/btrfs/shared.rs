//! Whether a file has its extents for itself.
//!
//! By the kernel's own rule for writing in place, `can_nocow_extent` and `check_committed_ref` in
//! `fs/btrfs`: all references to an extent are one file's, and it is younger than the last snapshot
//! of its subvolume, which has the file's tree in common with it.

use super::Btrfs;
use super::node::Item;
use super::root::{RootItem, Subvolume};
use super::tree::Tree;
use super::units::{Key, kinds, objects};
use crate::base::Result;
use crate::base::fields::{le32, le64, u8_at};

/// Bytes of an extent's item with one inline reference.
const ONE_REFERENCE: usize = 24 + 1 + 28;

impl Btrfs {
    /// Whether other files may have some of the extents of inode `number`.
    ///
    /// # Errors
    /// `Corrupt`; the devices' own.
    pub(super) fn shares_extents(&self, subvolume: &Subvolume, number: u64) -> Result<bool> {
        // What the log changes is in no tree of extents yet.
        let root = RootItem::find(&self.pool, self.root_tree, subvolume.id)?;
        let (Some(root), None) = (root, &subvolume.replay) else { return Ok(true) };
        let extents = RootItem::find(&self.pool, self.root_tree, objects::EXTENT_TREE)?;
        let Some(extents) = extents.map(|root| root.tree) else { return Ok(true) };
        let key = Key::new(number, kinds::EXTENT_DATA, 0);
        let mut cursor = subvolume.tree.from(&self.pool, key);
        while let Some(item) = cursor.next()? {
            if !item.key.is_of(number, kinds::EXTENT_DATA) {
                break;
            }
            if !self.is_own(&item, extents, (subvolume.id, root.last_snapshot))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether the extent of the file extent `item` is certainly its file's alone.
    fn is_own(
        &self,
        item: &Item,
        extents: Tree,
        (subvolume, last_snapshot): (u64, u64),
    ) -> Result<bool> {
        let data = item.data();
        let (disk, disk_bytes) = match (u8_at(data, 0x14), le64(data, 0x15), le64(data, 0x1d)) {
            // Inline content, and a hole.
            (Some(0), ..) | (_, Some(0), _) => return Ok(true),
            (_, Some(disk), Some(disk_bytes)) => (disk, disk_bytes),
            _ => return Ok(false),
        };
        let key = Key::new(disk, kinds::EXTENT_ITEM, disk_bytes);
        let Some(extent) = extents.find(&self.pool, key)? else { return Ok(false) };
        let fields = extent.data();
        // `refs` and `generation`; then the reference, with the tree, the inode and a count.
        let is_young = le64(fields, 0x8).is_some_and(|generation| generation > last_snapshot);
        let is_ours = fields.len() == ONE_REFERENCE
            && u8_at(fields, 0x18) == Some(kinds::EXTENT_DATA_REF)
            && le64(fields, 0x19) == Some(subvolume)
            && le64(fields, 0x21) == Some(item.key.objectid)
            && le32(fields, 0x31).map(u64::from) == le64(fields, 0x0);
        Ok(is_young && is_ours)
    }
}
