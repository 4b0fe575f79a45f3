//! The blocks that groups keep for themselves, which are no file's: bitmaps and inode tables, copies
//! of the superblock and of descriptors.

use std::sync::Arc;

use super::Ext;
use super::features::incompat;
use super::geometry::has_superblock;
use super::units::{BlockNumber, GroupNumber};
use crate::base::{Error, Result};

/// Blocks from the first to before the second.
pub(super) type Area = (u64, u64);

impl Ext {
    /// Checks that `count` blocks from `first` are none of those that the groups keep for
    /// themselves, as the kernel's block validity does: what a group keeps lies among the blocks of
    /// the groups of one flexible group.
    ///
    /// # Errors
    /// `Corrupt` if some are.
    pub(super) fn check_not_own(&self, first: BlockNumber, count: u64) -> Result<()> {
        let geometry = self.geometry();
        let flexible = u64::from(self.flexible_groups());
        let size = u64::from(geometry.group_blocks).saturating_mul(flexible).max(1);
        let number = |block: u64| {
            let within = block.saturating_sub(geometry.first_block.into());
            within.checked_div(size).unwrap_or_default()
        };
        let end = first.0.saturating_add(count);
        for flexible in number(first.0)..=number(end.saturating_sub(1)) {
            let own = self.own_areas(flexible);
            let behind = own.partition_point(|(_, area_end)| *area_end <= first.0);
            if let Some((start, _)) = own.get(behind).filter(|(start, _)| *start < end) {
                let expected = format!("none that a group keeps for itself, as it does {start}");
                let found = format!("{count} from {first}");
                return Err(Error::corrupt("a file's blocks", expected, found));
            }
        }
        Ok(())
    }

    /// Groups of a flexible group.
    fn flexible_groups(&self) -> u32 {
        let most = self.geometry().group_count.max(1);
        match self.superblock.has_incompat(incompat::FLEX_BG) {
            true => {
                let bits = self.superblock.s_log_groups_per_flex.into();
                1_u32.checked_shl(bits).unwrap_or(most).min(most)
            }
            false => 1,
        }
    }

    /// What the groups of flexible group `number` keep, as far as that is known: sorted and apart.
    fn own_areas(&self, number: u64) -> Arc<[Area]> {
        if let Some(known) = self.own.get(number) {
            return known;
        }
        let flexible = self.flexible_groups();
        let first = u32::try_from(number).unwrap_or(u32::MAX).saturating_mul(flexible);
        let end = first.saturating_add(flexible).min(self.geometry().group_count);
        let mut all: Vec<Area> =
            (first..end).flat_map(|group| self.areas_of(GroupNumber(group))).collect();
        all.sort_unstable();
        let mut joined: Vec<Area> = Vec::new();
        for (start, end) in all {
            match joined.last_mut() {
                Some(last) if start <= last.1 => last.1 = last.1.max(end),
                _ => joined.push((start, end)),
            }
        }
        let joined: Arc<[Area]> = joined.into();
        self.own.put(number, Arc::clone(&joined));
        joined
    }

    /// What `group` keeps, as far as that is known.
    fn areas_of(&self, group: GroupNumber) -> Vec<Area> {
        let geometry = self.geometry();
        let area = |first: BlockNumber, count: u64| (first.0, first.0.saturating_add(count));
        let mut areas = Vec::new();
        if has_superblock(&self.superblock, group) {
            let descriptors = match self.superblock.has_incompat(incompat::META_BG) {
                true => 0,
                false => geometry.group_count.div_ceil(geometry.descriptors_per_block()),
            };
            let count = u64::from(descriptors).saturating_add(1);
            areas.push(area(geometry.group_start(group), count));
        }
        if let Ok(descriptor) = self.current_descriptor(group) {
            areas.push(area(descriptor.bg_block_bitmap, 1));
            areas.push(area(descriptor.bg_inode_bitmap, 1));
            areas.push(area(descriptor.bg_inode_table, geometry.inode_table_blocks()));
        }
        areas
    }
}
