//! Group descriptors: where each group's bitmaps and inode table are.
//!
//! Kernel documentation, `filesystems/ext4/group_descr.rst`.

use super::Ext;
use super::checksum::{Checksum, crc16};
use super::features::{incompat, ro_compat};
use super::geometry::has_superblock;
use super::units::{BlockNumber, GroupNumber, index, join, join16};
use crate::base::fields::{le16, le32};
use crate::base::{Error, Result};

/// Where `bg_checksum` is.
const CHECKSUM_AT: usize = 0x1e;
/// The backup descriptors that are tried when the first are damaged: those of these groups.
const BACKUP_GROUPS: [u32; 5] = [1, 3, 5, 7, 9];

/// Bit of `bg_flags`: the inode table holds nothing yet.
pub(super) const INODE_UNINIT: u16 = 0x1;
/// Bit of `bg_flags`: the block bitmap is not written; the group holds only its own metadata.
pub(super) const BLOCK_UNINIT: u16 = 0x2;

/// A group descriptor.
#[derive(Debug, Clone, Copy)]
pub(super) struct GroupDescriptor {
    pub bg_block_bitmap: BlockNumber,
    pub bg_inode_bitmap: BlockNumber,
    pub bg_inode_table: BlockNumber,
    pub bg_free_blocks_count: u32,
    pub bg_flags: u16,
    pub bg_itable_unused: u32,
    pub bg_block_bitmap_csum: u32,
}

impl GroupDescriptor {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let is_wide = bytes.len() >= 64;
        let high32 = |at| if is_wide { le32(bytes, at) } else { Some(0) };
        let high16 = |at| if is_wide { le16(bytes, at) } else { Some(0) };
        Some(Self {
            bg_block_bitmap: BlockNumber(join(le32(bytes, 0x0)?, high32(0x20)?)),
            bg_inode_bitmap: BlockNumber(join(le32(bytes, 0x4)?, high32(0x24)?)),
            bg_inode_table: BlockNumber(join(le32(bytes, 0x8)?, high32(0x28)?)),
            bg_free_blocks_count: join16(le16(bytes, 0xc)?, high16(0x2c)?),
            bg_flags: le16(bytes, 0x12)?,
            bg_itable_unused: join16(le16(bytes, 0x1c)?, high16(0x32)?),
            bg_block_bitmap_csum: join16(le16(bytes, 0x18)?, high16(0x38)?),
        })
    }

    /// What of it is the same for ever: copies of the rest are hardly ever updated.
    fn places_only(self) -> Self {
        Self { bg_flags: 0, bg_itable_unused: 0, ..self }
    }
}

/// Whether a descriptor has to have the right checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Checked,
    Unchecked,
}

impl Ext {
    /// The descriptor of `group`, from a backup if need be; or, where all have wrong checksums, the
    /// first one as it is, as the kernel has it where it does not write. Either is told.
    ///
    /// # Errors
    /// `Corrupt` when it names blocks that are not there; the volume's own.
    pub(super) fn group(&self, group: GroupNumber) -> Result<GroupDescriptor> {
        let first = match self.current_descriptor(group) {
            Ok(descriptor) => return Ok(descriptor),
            Err(error) => error,
        };
        let backups = BACKUP_GROUPS.into_iter().map(GroupNumber).filter(|backup| {
            let exists = backup.0 < self.geometry().group_count;
            exists && has_superblock(&self.superblock, *backup)
        });
        let places = backups.map(|backup| self.geometry().group_start(backup));
        for place in std::iter::once(self.superblock_at).chain(places) {
            if let Ok(descriptor) = self.descriptor_in(group, place, Trust::Checked) {
                self.doubts
                    .add(format!("Group descriptors are damaged, copies are used: {first}."));
                return Ok(descriptor.places_only());
            }
        }
        let superblock = self.geometry().superblock_block;
        match self.descriptor_in(group, superblock, Trust::Unchecked) {
            Ok(descriptor) => {
                self.doubts
                    .add(format!("A group descriptor is damaged, and used as it is: {first}."));
                Ok(descriptor.places_only())
            }
            Err(_) => Err(first),
        }
    }

    /// The descriptor of `group` that the kernel keeps up to date.
    ///
    /// # Errors
    /// See [`group`](Self::group).
    pub(super) fn current_descriptor(&self, group: GroupNumber) -> Result<GroupDescriptor> {
        self.descriptor_in(group, self.geometry().superblock_block, Trust::Checked)
    }

    /// The descriptor of `group` that belongs to the superblock in block `copy`.
    fn descriptor_in(
        &self,
        group: GroupNumber,
        copy: BlockNumber,
        trust: Trust,
    ) -> Result<GroupDescriptor> {
        let geometry = self.geometry();
        let per_block = geometry.descriptors_per_block();
        let table_block = group.0.checked_div(per_block).unwrap_or(0);
        let place = group.0.checked_rem(per_block).unwrap_or(0);
        let block = self.blocks.read(self.descriptor_block(table_block, copy))?;
        let size = usize::from(geometry.descriptor_size);
        let start = index(place).saturating_mul(size);
        let bytes = block.get(start..).and_then(|rest| rest.get(..size)).unwrap_or_default();
        if trust == Trust::Checked {
            self.check_descriptor(group, bytes)?;
        }
        let descriptor = GroupDescriptor::parse(bytes)
            .ok_or_else(|| Error::corrupt(group, "a descriptor", "too few bytes"))?;
        for (block, count) in [
            (descriptor.bg_block_bitmap, 1),
            (descriptor.bg_inode_bitmap, 1),
            (descriptor.bg_inode_table, geometry.inode_table_blocks()),
        ] {
            self.blocks.check(block, count).map_err(|error| error.within(group))?;
        }
        Ok(descriptor)
    }

    /// Block number `table_block` of the table of descriptors: after the superblock, or, with
    /// `meta_bg`, in the groups that it describes.
    fn descriptor_block(&self, table_block: u32, copy: BlockNumber) -> BlockNumber {
        let geometry = self.geometry();
        let spread = self.superblock.has_incompat(incompat::META_BG)
            && table_block >= self.superblock.s_first_meta_bg;
        if !spread {
            return BlockNumber(copy.0.saturating_add(u64::from(table_block)).saturating_add(1));
        }
        let first = table_block.saturating_mul(geometry.descriptors_per_block());
        // Copies are in the second and in the last group of those that one block describes.
        let step = u32::from(copy != geometry.superblock_block);
        let group = GroupNumber(first.saturating_add(step));
        let mut skip = u64::from(has_superblock(&self.superblock, group));
        // With blocks of 1 KiB the superblock is in block 1; if clusters made group 0 start at
        // block 0, the boot block precedes it.
        if geometry.block_size == 1024 && group.0 == 0 && geometry.first_block == 0 {
            skip = skip.saturating_add(1);
        }
        BlockNumber(geometry.group_start(group).0.saturating_add(skip))
    }

    fn check_descriptor(&self, group: GroupNumber, bytes: &[u8]) -> Result<()> {
        let number = group.0.to_le_bytes();
        let expected = if self.superblock.has_checksums() {
            self.seed.add(&number).add_without(bytes, CHECKSUM_AT, 2).low()
        } else if self.superblock.has_ro_compat(ro_compat::GDT_CSUM) {
            let (before, rest) = bytes.split_at_checked(CHECKSUM_AT).unwrap_or((bytes, &[]));
            let sum = crc16(crc16(u16::MAX, &self.superblock.s_uuid), &number);
            crc16(crc16(sum, before), rest.get(2..).unwrap_or_default())
        } else {
            return Ok(());
        };
        match le16(bytes, CHECKSUM_AT) {
            Some(found) if found == expected => Ok(()),
            found => {
                let expected = format!("checksum {expected:#06x}");
                let found = format!("{:#06x}", found.unwrap_or_default());
                Err(Error::corrupt(format!("descriptor of {group}"), expected, found))
            }
        }
    }

    /// Whether descriptors carry flags that can be trusted.
    pub(super) fn has_group_flags(&self) -> bool {
        self.superblock.has_checksums() || self.superblock.has_ro_compat(ro_compat::GDT_CSUM)
    }

    /// Inodes of a group's table that were ever used, from its start.
    pub(super) fn inodes_in(&self, group: &GroupDescriptor) -> u32 {
        let all = self.geometry().group_inodes;
        match self.has_group_flags() {
            true if group.bg_flags & INODE_UNINIT != 0 => 0,
            true => all.saturating_sub(group.bg_itable_unused),
            false => all,
        }
    }

    /// Whether descriptors have room for whole checksums.
    pub(super) fn has_wide_descriptors(&self) -> bool {
        self.geometry().descriptor_size >= 64
    }

    /// The checksum of a bitmap's bytes as a descriptor has room for it.
    pub(super) fn bitmap_checksum(&self, bitmap: &[u8]) -> u32 {
        let sum: Checksum = self.seed.add(bitmap);
        if self.has_wide_descriptors() { sum.value() } else { u32::from(sum.low()) }
    }
}
