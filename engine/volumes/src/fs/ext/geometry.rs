//! Where things are: the sizes and counts of a superblock that has been checked.

use super::features::{self, compat, incompat, ro_compat};
use super::superblock::{MAX_LOG_BLOCK_SIZE, Superblock};
use super::units::{BlockNumber, GroupNumber, InodeNumber, index};
use crate::base::{ByteRange, Error, Result, limits};

/// Largest `s_log_cluster_size`, as the kernel has it: 2^30 bytes.
const MAX_LOG_CLUSTER_SIZE: u32 = 20;
/// `s_inode_size` before it was a field.
const OLD_INODE_SIZE: u16 = 128;
/// Bytes of a group descriptor without the 64-bit feature.
const OLD_DESCRIPTOR_SIZE: u16 = 32;

/// Sizes and counts, consistent with one another: no division by them is one by zero.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    /// Bytes of a block: 1 to 64 KiB.
    pub block_size: u32,
    /// Blocks of the filesystem.
    pub block_count: u64,
    /// Blocks of a cluster, the unit of allocation: 1 without `bigalloc`.
    pub cluster_blocks: u32,
    /// Blocks of a group.
    pub group_blocks: u32,
    /// Groups.
    pub group_count: u32,
    /// Inodes of a group.
    pub group_inodes: u32,
    /// Inodes of the filesystem.
    pub inode_count: u32,
    /// Bytes of an inode.
    pub inode_size: u16,
    /// Bytes of a group descriptor.
    pub descriptor_size: u16,
    /// The first block of group 0.
    pub first_block: u32,
    /// The block after which the group descriptors come: the superblock's own.
    pub superblock_block: BlockNumber,
}

impl Geometry {
    /// What `superblock` says, if it makes sense.
    ///
    /// # Errors
    /// `Unsupported` for features that are not known, by name; `Corrupt` for what cannot be.
    pub(super) fn check(superblock: &Superblock) -> Result<Self> {
        refuse_unknown(superblock)?;
        let block_size =
            power(superblock.s_log_block_size, MAX_LOG_BLOCK_SIZE, "s_log_block_size")?;
        let cluster_blocks = cluster_blocks(superblock)?;
        let wide = superblock.has_incompat(incompat::SIXTY_FOUR_BIT);
        let block_count = superblock.block_count();
        let inode_size = match superblock.s_rev_level {
            0 => OLD_INODE_SIZE,
            _ => superblock.s_inode_size,
        };
        let descriptor_size = if wide { superblock.s_desc_size } else { OLD_DESCRIPTOR_SIZE };
        let first_block = superblock.s_first_data_block;
        let geometry = Self {
            block_size,
            block_count,
            cluster_blocks,
            group_blocks: superblock.s_blocks_per_group,
            group_count: group_count(superblock, block_count)?,
            group_inodes: superblock.s_inodes_per_group,
            inode_count: superblock.s_inodes_count,
            inode_size,
            descriptor_size,
            first_block,
            superblock_block: BlockNumber(u64::from(block_size == 1024)),
        };
        geometry.check_sizes()?;
        Ok(geometry)
    }

    fn check_sizes(&self) -> Result<()> {
        let bits = self.block_size.saturating_mul(8);
        let clusters = self.group_blocks.checked_div(self.cluster_blocks).unwrap_or(0);
        let inode_size = u32::from(self.inode_size);
        let descriptor_size = u32::from(self.descriptor_size);
        let checks = [
            ("s_blocks_count", self.size().is_some_and(|size| size <= limits::MAX_DISK_SIZE)),
            ("s_blocks_per_group", clusters > 0 && clusters <= bits && clusters.is_multiple_of(8)),
            ("s_inodes_per_group", self.group_inodes > 0 && self.group_inodes <= bits),
            (
                "s_inode_size",
                inode_size.is_power_of_two() && (128..=self.block_size).contains(&inode_size),
            ),
            (
                "s_desc_size",
                descriptor_size.is_power_of_two() && (32..=1024).contains(&descriptor_size),
            ),
            ("s_first_data_block", self.first_block <= 1),
        ];
        match checks.iter().find(|(_, sound)| !sound) {
            Some((field, _)) => Err(Error::corrupt("superblock", format!("a valid {field}"), self)),
            None => Ok(()),
        }
    }

    /// Bytes that the filesystem spans; `None` if they are beyond counting.
    fn size(&self) -> Option<u64> {
        self.block_count.checked_mul(u64::from(self.block_size))
    }

    /// Bytes that the filesystem spans.
    pub(super) fn span(&self) -> u64 {
        self.size().unwrap_or(u64::MAX)
    }

    /// The byte at which `block` starts.
    pub(super) fn offset(&self, block: BlockNumber) -> u64 {
        block.0.saturating_mul(u64::from(self.block_size))
    }

    /// The bytes of `count` blocks from `first`.
    pub(super) fn range(&self, first: BlockNumber, count: u64) -> ByteRange {
        let length = count.saturating_mul(u64::from(self.block_size));
        ByteRange::new(self.offset(first), length)
    }

    /// The first block of `group`.
    pub(super) fn group_start(&self, group: GroupNumber) -> BlockNumber {
        let before = u64::from(group.0).saturating_mul(u64::from(self.group_blocks));
        BlockNumber(u64::from(self.first_block).saturating_add(before))
    }

    /// Blocks of `group`: the last may be short.
    pub(super) fn blocks_in(&self, group: GroupNumber) -> u64 {
        let left = self.block_count.saturating_sub(self.group_start(group).0);
        left.min(u64::from(self.group_blocks))
    }

    /// The group of `inode`, and its place among the group's inodes.
    ///
    /// # Errors
    /// `Corrupt` if there is no such inode.
    pub(super) fn locate(&self, inode: InodeNumber) -> Result<(GroupNumber, u32)> {
        let place = inode.0.checked_sub(1).filter(|_| inode.0 <= self.inode_count);
        let (Some(place), inodes) = (place, self.group_inodes.max(1)) else {
            let expected = format!("a number from 1 to {}", self.inode_count);
            return Err(Error::corrupt(inode, expected, inode.0));
        };
        let group = place.checked_div(inodes).unwrap_or(0);
        Ok((GroupNumber(group), place.checked_rem(inodes).unwrap_or(0)))
    }

    /// Blocks of one group's inode table.
    pub(super) fn inode_table_blocks(&self) -> u64 {
        let bytes = u64::from(self.group_inodes).saturating_mul(u64::from(self.inode_size));
        bytes.div_ceil(u64::from(self.block_size))
    }

    /// A block's bytes, to index memory with.
    pub(super) fn block_bytes(&self) -> usize {
        index(self.block_size)
    }

    /// Blocks that hold `length` bytes.
    pub(super) fn blocks_of(&self, length: u64) -> u64 {
        length.div_ceil(u64::from(self.block_size))
    }

    /// Group descriptors that one block holds; never zero.
    pub(super) fn descriptors_per_block(&self) -> u32 {
        self.block_size.checked_div(u32::from(self.descriptor_size)).unwrap_or(1).max(1)
    }

    /// Whether `count` blocks from `first` are all in the filesystem.
    pub(super) fn holds(&self, first: BlockNumber, count: u64) -> bool {
        first.0.checked_add(count).is_some_and(|end| end <= self.block_count)
    }
}

impl std::fmt::Display for Geometry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} blocks of {} bytes from {}, {} blocks and {} inodes a group, inodes of {} and \
             descriptors of {} bytes",
            self.block_count,
            self.block_size,
            self.first_block,
            self.group_blocks,
            self.group_inodes,
            self.inode_size,
            self.descriptor_size
        )
    }
}

fn refuse_unknown(superblock: &Superblock) -> Result<()> {
    if !superblock.has_known_checksums() {
        let context = format!("checksums of type {}", superblock.s_checksum_type);
        return Err(Error::newer(context));
    }
    match superblock.s_feature_incompat & !incompat::KNOWN {
        0 => Ok(()),
        bits => {
            let names = features::describe(bits, &incompat::NAMES);
            let context = format!("the filesystem uses features that are not supported: {names}");
            Err(Error::newer(context))
        }
    }
}

/// 1024 times two to the power `log`.
fn power(log: u32, most: u32, field: &str) -> Result<u32> {
    let size = 1024_u32.checked_shl(log).filter(|_| log <= most);
    size.ok_or_else(|| Error::corrupt(format!("superblock {field}"), format!("up to {most}"), log))
}

fn cluster_blocks(superblock: &Superblock) -> Result<u32> {
    if !superblock.has_ro_compat(ro_compat::BIGALLOC) {
        return Ok(1);
    }
    let log = superblock.s_log_cluster_size;
    let shift =
        log.checked_sub(superblock.s_log_block_size).filter(|_| log <= MAX_LOG_CLUSTER_SIZE);
    let blocks = shift.and_then(|shift| 1_u32.checked_shl(shift));
    let blocks = blocks.filter(|blocks| {
        superblock.s_clusters_per_group.checked_mul(*blocks) == Some(superblock.s_blocks_per_group)
    });
    blocks.ok_or_else(|| Error::corrupt("superblock", "a cluster size that fits the groups", log))
}

fn group_count(superblock: &Superblock, block_count: u64) -> Result<u32> {
    let blocks = block_count.checked_sub(u64::from(superblock.s_first_data_block));
    let size = u64::from(superblock.s_blocks_per_group.max(1));
    let count = blocks.map(|blocks| blocks.div_ceil(size)).filter(|count| *count > 0);
    count.and_then(|count| u32::try_from(count).ok()).ok_or_else(|| {
        let found = format!("{block_count} blocks, {size} a group");
        Error::corrupt("superblock", "a count of groups", found)
    })
}

/// Whether `group` starts with a copy of the superblock and of the group descriptors.
pub(super) fn has_superblock(superblock: &Superblock, group: GroupNumber) -> bool {
    let GroupNumber(group) = group;
    if group == 0 {
        return true;
    }
    if superblock.has_compat(compat::SPARSE_SUPER2) {
        return superblock.s_backup_bgs.contains(&group);
    }
    if group == 1 || !superblock.has_ro_compat(ro_compat::SPARSE_SUPER) {
        return true;
    }
    [3_u32, 5, 7].iter().any(|base| {
        let powers = std::iter::successors(Some(*base), |power| power.checked_mul(*base));
        powers.take_while(|power| *power <= group).any(|power| power == group)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, clippy::as_conversions, reason = "a test may panic")]

    use super::*;
    use crate::base::ErrorKind;

    fn superblock() -> Superblock {
        let mut block = vec![0; 1024];
        block[0x38..0x3a].copy_from_slice(&[0x53, 0xef]);
        block[0x64] = 1;
        Superblock::parse(&block).expect("the magic number is there")
    }

    #[test]
    fn backups_are_at_powers_of_three_five_and_seven() {
        let superblock = superblock();
        let with: Vec<u32> =
            (0..130).filter(|group| has_superblock(&superblock, GroupNumber(*group))).collect();
        assert_eq!(with, [0, 1, 3, 5, 7, 9, 25, 27, 49, 81, 125]);
    }

    #[test]
    fn an_empty_superblock_is_refused_without_a_panic() {
        let error = Geometry::check(&superblock()).expect_err("no blocks at all");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
}
