//! What is free: the block bitmaps, where they can be believed.
//!
//! Kernel documentation, `filesystems/ext4/bitmaps.rst` and `group_descr.rst`.

use std::ops::ControlFlow;

use super::Ext;
use super::features::incompat;
use super::geometry::has_superblock;
use super::groups::{BLOCK_UNINIT, GroupDescriptor};
use super::units::{BlockNumber, GroupNumber, index};
use crate::base::{ByteRange, Error, ErrorKind, Result, limits};
use crate::fs::Visit;

/// Blocks from `start` to `end`, the latter excluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Blocks {
    start: u64,
    end: u64,
}

impl Ext {
    /// Calls `visit` for each free range, ascending, merged across groups.
    ///
    /// # Errors
    /// See [`Filesystem::free_space`](crate::fs::Filesystem::free_space).
    pub(super) fn free_ranges(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        if let Some(doubt) = &self.doubt {
            let context = format!("it is not certain what is free: {doubt}");
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        self.free_by_group(&mut Err, visit)
    }

    /// The same, however the filesystem is, without the groups whose bitmaps make no sense.
    ///
    /// # Errors
    /// `Corrupt` when the groups' own places make none.
    pub(super) fn likely_free_ranges(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.free_by_group(&mut |_damage| Ok(()), visit)
    }

    /// Goes on after a damaged group if `on_damage` does.
    fn free_by_group(
        &self,
        on_damage: &mut dyn FnMut(Error) -> Result<()>,
        visit: Visit<'_, ByteRange>,
    ) -> Result<()> {
        let metadata = self.metadata_ranges()?;
        let mut pending: Option<Blocks> = None;
        for group in self.all_groups() {
            let found = self.free_in(group, &metadata);
            let found = found.or_else(|damage| on_damage(damage).map(|()| Vec::new()))?;
            for free in found {
                match &mut pending {
                    Some(last) if last.end == free.start => last.end = free.end,
                    _ => {
                        let done = pending.replace(free);
                        if done.is_some_and(|done| self.visit_blocks(done, visit).is_break()) {
                            return Ok(());
                        }
                    }
                }
            }
        }
        if let Some(last) = pending {
            // There is nothing after it, whatever the visitor says.
            let _ = self.visit_blocks(last, visit);
        }
        Ok(())
    }

    fn visit_blocks(&self, blocks: Blocks, visit: Visit<'_, ByteRange>) -> ControlFlow<()> {
        let count = blocks.end.saturating_sub(blocks.start);
        visit(self.geometry().range(BlockNumber(blocks.start), count))
    }

    fn all_groups(&self) -> impl Iterator<Item = GroupNumber> + use<> {
        (0..self.geometry().group_count).map(GroupNumber)
    }

    /// The bitmaps and inode tables of all groups, sorted: with `flex_bg`, they lie anywhere.
    fn metadata_ranges(&self) -> Result<Vec<Blocks>> {
        let table_blocks = self.geometry().inode_table_blocks();
        let mut ranges: Vec<Blocks> = Vec::new();
        for group in self.all_groups() {
            let descriptor = self.current_descriptor(group)?;
            for (block, count) in [
                (descriptor.bg_block_bitmap, 1),
                (descriptor.bg_inode_bitmap, 1),
                (descriptor.bg_inode_table, table_blocks),
            ] {
                ranges.push(Blocks { start: block.0, end: block.0.saturating_add(count) });
            }
            if ranges.len() > limits::MAX_METADATA_RANGES {
                let context = format!("{} block groups", self.geometry().group_count);
                return Err(Error::new(ErrorKind::Limit, context));
            }
        }
        ranges.sort_unstable();
        let mut pairs = ranges.iter().zip(ranges.iter().skip(1));
        match pairs.find(|(one, other)| one.end > other.start) {
            None => Ok(ranges),
            Some((_, other)) => {
                let place = BlockNumber(other.start);
                Err(Error::corrupt(place, "one use of it", "bitmaps or inode tables twice"))
            }
        }
    }

    /// The free runs of a group, ascending.
    fn free_in(&self, group: GroupNumber, metadata: &[Blocks]) -> Result<Vec<Blocks>> {
        let descriptor = self.current_descriptor(group)?;
        let start = self.geometry().group_start(group).0;
        let end = start.saturating_add(self.geometry().blocks_in(group));
        let first = metadata.partition_point(|range| range.end <= start);
        let metadata = metadata.get(first..).unwrap_or_default();
        let metadata = metadata.iter().take_while(|range| range.start < end);
        if self.has_group_flags() && descriptor.bg_flags & BLOCK_UNINIT != 0 {
            let start = start.saturating_add(self.overhead(group));
            return Ok(without(Blocks { start, end }, metadata));
        }
        let free = self.free_by_bitmap(group, &descriptor)?;
        for used in metadata {
            let after = free.partition_point(|run| run.end <= used.start);
            if free.get(after).is_some_and(|run| run.start < used.end) {
                let place = format!("block bitmap of {group}");
                let found = format!("block {} free", used.start);
                return Err(Error::corrupt(place, "bitmaps and inode tables in use", found));
            }
        }
        Ok(free)
    }

    /// Blocks at the start of a group without a bitmap that may hold copies of the superblock and
    /// the group descriptors; with `meta_bg`, more than they are.
    fn overhead(&self, group: GroupNumber) -> u64 {
        let spread = self.superblock.has_incompat(incompat::META_BG);
        if !spread && !has_superblock(&self.superblock, group) {
            return 0;
        }
        let per_block = self.geometry().descriptors_per_block();
        let descriptors = u64::from(self.geometry().group_count.div_ceil(per_block));
        let reserved = u64::from(self.superblock.s_reserved_gdt_blocks);
        descriptors.saturating_add(reserved).saturating_add(2)
    }

    /// What a group's bitmap says is free, once its checksum and its count are verified.
    fn free_by_bitmap(
        &self,
        group: GroupNumber,
        descriptor: &GroupDescriptor,
    ) -> Result<Vec<Blocks>> {
        let geometry = self.geometry();
        let place = || format!("block bitmap of {group}");
        let block = self.blocks.read(descriptor.bg_block_bitmap)?;
        let cluster = u64::from(geometry.cluster_blocks);
        let all = u64::from(geometry.group_blocks).checked_div(cluster).unwrap_or(0);
        let bitmap = block.get(..index(all / 8)).unwrap_or_default();
        let expected = self.bitmap_checksum(bitmap);
        let found = match self.has_wide_descriptors() {
            true => descriptor.bg_block_bitmap_csum,
            false => descriptor.bg_block_bitmap_csum & u32::from(u16::MAX),
        };
        if self.superblock.has_checksums() && expected != found {
            let (expected, found) = (format!("{expected:#x}"), format!("{found:#x}"));
            return Err(Error::corrupt(place(), format!("checksum {expected}"), found));
        }
        let clusters = geometry.blocks_in(group).div_ceil(cluster.max(1));
        let runs = zero_runs(bitmap, clusters);
        let count = runs
            .iter()
            .fold(0_u64, |count, run| count.saturating_add(run.end.saturating_sub(run.start)));
        if count != u64::from(descriptor.bg_free_blocks_count) {
            let expected = format!("{} clusters free", descriptor.bg_free_blocks_count);
            return Err(Error::corrupt(place(), expected, count));
        }
        let start = geometry.group_start(group).0;
        let end = start.saturating_add(geometry.blocks_in(group));
        let block_of = |bit: u64| bit.saturating_mul(cluster).saturating_add(start).min(end);
        let blocks = |run: Blocks| Blocks { start: block_of(run.start), end: block_of(run.end) };
        Ok(runs.into_iter().map(blocks).collect())
    }
}

/// `whole` without the sorted `holes`.
fn without<'a>(whole: Blocks, holes: impl Iterator<Item = &'a Blocks>) -> Vec<Blocks> {
    let mut left = Vec::new();
    let mut start = whole.start;
    for hole in holes {
        left.push(Blocks { start, end: hole.start.min(whole.end) });
        start = start.max(hole.end);
    }
    left.push(Blocks { start, end: whole.end });
    left.retain(|blocks| blocks.start < blocks.end);
    left
}

/// The runs of clear bits among the first `count` of a bitmap.
fn zero_runs(bitmap: &[u8], count: u64) -> Vec<Blocks> {
    let mut runs: Vec<Blocks> = Vec::new();
    let mut add = |start: u64, length: u64| {
        let end = start.saturating_add(length).min(count);
        match runs.last_mut() {
            Some(last) if last.end == start => last.end = end.max(last.end),
            _ if start < end => runs.push(Blocks { start, end }),
            _ => {}
        }
    };
    for (byte, start) in bitmap.iter().zip((0_u64..).step_by(8)) {
        match byte {
            0xff => {}
            0 => add(start, 8),
            mixed => {
                for bit in (0..8).filter(|bit| mixed >> bit & 1 == 0) {
                    add(start.saturating_add(bit), 1);
                }
            }
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clear_bits_become_runs_that_end_with_the_group() {
        let run = |start, end| Blocks { start, end };
        assert_eq!(
            zero_runs(&[0b1110_0001, 0, 0xff, 0x7f], 32),
            [run(1, 5), run(8, 16), run(31, 32)]
        );
        assert_eq!(zero_runs(&[0x0f, 0, 0, 0], 13), [run(4, 13)]);
        assert_eq!(zero_runs(&[0xff, 0], 8), []);
    }

    #[test]
    fn metadata_is_cut_out_of_what_has_no_bitmap() {
        let run = |start, end| Blocks { start, end };
        let holes = [run(5, 12), run(20, 21), run(29, 40)];
        assert_eq!(without(run(10, 30), holes.iter()), [run(12, 20), run(21, 29)]);
        assert_eq!(without(run(10, 30), [].iter()), [run(10, 30)]);
    }
}
