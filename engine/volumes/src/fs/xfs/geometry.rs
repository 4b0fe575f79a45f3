//! Where things are: the sizes and counts of a superblock that has been checked.

use std::fmt;

use super::features::{self, incompat, version};
use super::superblock::Superblock;
use super::units::{BlockNumber, GroupNumber, InodeNumber, index};
use crate::base::{ByteRange, Error, ErrorKind, Result, limits};

/// Bytes of an allocation group at least, as mkfs makes them; but for the last.
const MIN_GROUP_BLOCKS: u32 = 64;

/// Sizes and counts, consistent with one another.
#[derive(Debug, Clone)]
pub(super) struct Geometry {
    /// Bytes of a block: 512 to 64 KiB.
    pub block_size: u32,
    /// Bytes of a sector, which headers of allocation groups take each.
    pub sector_size: u32,
    /// Blocks of the filesystem.
    pub block_count: u64,
    /// Blocks of an allocation group; the last may have fewer.
    pub group_blocks: u32,
    /// Allocation groups.
    pub group_count: u32,
    /// Bits of a block's number within its group.
    group_bits: u32,
    /// Bytes of an inode.
    pub inode_size: u16,
    /// Bits of an inode's number within its block.
    inode_bits: u32,
    /// Blocks of the filesystem in a block of a folder.
    pub folder_blocks: u32,
}

impl Geometry {
    /// What `superblock` says, if it makes sense.
    ///
    /// # Errors
    /// `Unsupported` for features that are not known, by name; `Corrupt` for what cannot be.
    pub(super) fn check(superblock: &Superblock) -> Result<Self> {
        refuse_unknown(superblock)?;
        let geometry = Self {
            block_size: superblock.sb_blocksize,
            sector_size: u32::from(superblock.sb_sectsize),
            block_count: superblock.sb_dblocks,
            group_blocks: superblock.sb_agblocks,
            group_count: superblock.sb_agcount,
            group_bits: u32::from(superblock.sb_agblklog),
            inode_size: superblock.sb_inodesize,
            inode_bits: u32::from(superblock.sb_inopblog),
            folder_blocks: 1_u32.checked_shl(superblock.sb_dirblklog.into()).unwrap_or(0),
        };
        geometry.check_fields(superblock)?;
        Ok(geometry)
    }

    fn check_fields(&self, superblock: &Superblock) -> Result<()> {
        let power = |log: u8, value: u32| 1_u32.checked_shl(log.into()) == Some(value);
        let (block, inode) = (self.block_size, u32::from(self.inode_size));
        let least_block = if superblock.is_v5() { 1024 } else { 512 };
        let groups = u64::from(self.group_count);
        let full = groups.saturating_mul(u64::from(self.group_blocks));
        let fewer = groups.saturating_sub(1).saturating_mul(u64::from(self.group_blocks));
        let group_bits = self.group_blocks.checked_next_power_of_two().map(u32::trailing_zeros);
        let size = self.block_count.checked_mul(u64::from(block));
        let folder = self.folder_blocks.checked_mul(block);
        let (inodes, sector) = (u32::from(superblock.sb_inopblock), self.sector_size);
        let checks = [
            (
                "sb_blocksize",
                power(superblock.sb_blocklog, block) && (least_block..=65536).contains(&block),
            ),
            (
                "sb_sectsize",
                power(superblock.sb_sectlog, sector) && (512..=32768).contains(&sector),
            ),
            ("sb_sectsize", sector <= block),
            ("sb_inodesize", power(superblock.sb_inodelog, inode) && (256..=2048).contains(&inode)),
            (
                "sb_inopblock",
                power(superblock.sb_inopblog, inodes) && inodes.checked_mul(inode) == Some(block),
            ),
            ("sb_agblocks", self.group_blocks >= MIN_GROUP_BLOCKS),
            ("sb_agblklog", group_bits == Some(self.group_bits)),
            ("sb_agcount", groups > 0 && self.block_count > fewer && self.block_count <= full),
            ("sb_dblocks", size.is_some_and(|size| size <= limits::MAX_DISK_SIZE)),
            ("sb_dirblklog", folder.is_some_and(|size| (block..=65536).contains(&size))),
        ];
        match checks.iter().find(|(_, sound)| !sound) {
            Some((field, _)) => Err(Error::corrupt("superblock", format!("a valid {field}"), self)),
            None => Ok(()),
        }
    }

    /// Bytes that the filesystem spans.
    pub(super) fn span(&self) -> u64 {
        self.block_count.saturating_mul(u64::from(self.block_size))
    }

    /// Bytes of a block, in memory.
    pub(super) fn block_bytes(&self) -> usize {
        index(self.block_size)
    }

    /// Bytes of a block of a folder, in memory.
    pub(super) fn folder_bytes(&self) -> usize {
        index(self.block_size.saturating_mul(self.folder_blocks))
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

    /// Blocks that hold `size` bytes.
    pub(super) fn blocks_of(&self, size: u64) -> u64 {
        size.div_ceil(u64::from(self.block_size).max(1))
    }

    /// Blocks of `group`.
    pub(super) fn blocks_in(&self, group: GroupNumber) -> u64 {
        let before = self.group_start(group).0;
        self.block_count.saturating_sub(before).min(u64::from(self.group_blocks))
    }

    /// The first block of `group`.
    pub(super) fn group_start(&self, group: GroupNumber) -> BlockNumber {
        BlockNumber(u64::from(group.0).saturating_mul(u64::from(self.group_blocks)))
    }

    /// Block `within` of `group`.
    ///
    /// # Errors
    /// `Corrupt` if there are no `count` blocks there.
    pub(super) fn block_in(
        &self,
        group: GroupNumber,
        within: u64,
        count: u64,
    ) -> Result<BlockNumber> {
        let blocks = self.blocks_in(group);
        let end = within.checked_add(count);
        if group.0 < self.group_count && end.is_some_and(|end| end <= blocks) {
            return Ok(BlockNumber(self.group_start(group).0.saturating_add(within)));
        }
        let expected = format!("{count} blocks below {blocks}");
        Err(Error::corrupt(format!("a block's number in {group}"), expected, within))
    }

    /// The block that the number `fsbno` of the disk means.
    ///
    /// # Errors
    /// `Corrupt` if there are no `count` blocks there in one group.
    pub(super) fn block(&self, fsbno: u64, count: u64) -> Result<BlockNumber> {
        let (group, within) = split(fsbno, self.group_bits);
        let group = u32::try_from(group).unwrap_or(u32::MAX);
        self.block_in(GroupNumber(group), within, count)
    }

    /// The block of inode `number`, and the byte where it starts there.
    ///
    /// # Errors
    /// `Corrupt` if there is no such block.
    pub(super) fn locate(&self, number: InodeNumber) -> Result<(BlockNumber, usize)> {
        let (fsbno, within) = split(number.0, self.inode_bits);
        let block = self.block(fsbno, 1).map_err(|error| error.within(number))?;
        Ok((block, index(within.saturating_mul(u64::from(self.inode_size)))))
    }

    /// The group of inode `number`, and its number there.
    pub(super) fn split_inode(&self, number: InodeNumber) -> (GroupNumber, u64) {
        let (group, within) = split(number.0, self.group_bits.saturating_add(self.inode_bits));
        (GroupNumber(u32::try_from(group).unwrap_or(u32::MAX)), within)
    }

    /// The inode that is number `within` of `group`.
    ///
    /// # Errors
    /// `Corrupt` if no group has so many.
    pub(super) fn inode_in(&self, group: GroupNumber, within: u64) -> Result<InodeNumber> {
        let bits = self.group_bits.saturating_add(self.inode_bits);
        let number = InodeNumber(u64::from(group.0).wrapping_shl(bits) | within);
        if self.split_inode(number) == (group, within) {
            return Ok(number);
        }
        Err(Error::corrupt("an inode's number in its group", format!("{bits} bits"), within))
    }

    /// The number of the first inode of `block`.
    pub(super) fn inode_at(&self, group: GroupNumber, within: u64) -> u64 {
        let fsbno = u64::from(group.0).wrapping_shl(self.group_bits) | within;
        fsbno.wrapping_shl(self.inode_bits)
    }
}

impl fmt::Display for Geometry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} blocks of {} bytes, {} groups of {}, sectors of {}, inodes of {}, folders' blocks \
             of {}",
            self.block_count,
            self.block_size,
            self.group_count,
            self.group_blocks,
            self.sector_size,
            self.inode_size,
            self.folder_blocks
        )
    }
}

/// The bits of `number` from `bits` on, and those below.
fn split(number: u64, bits: u32) -> (u64, u64) {
    let high = number.checked_shr(bits).unwrap_or(0);
    (high, number ^ high.wrapping_shl(bits))
}

fn refuse_unknown(superblock: &Superblock) -> Result<()> {
    match superblock.version() {
        4 if superblock.sb_versionnum & version::DIRV2 == 0 => {
            return Err(Error::new(ErrorKind::Unsupported, "folders of version 1"));
        }
        4 => {}
        5 => {
            let unknown = superblock.sb_features_incompat & !incompat::KNOWN;
            if unknown != 0 {
                let names = features::describe(unknown, &incompat::NAMES);
                return Err(Error::newer(format!("features that are not known: {names}")));
            }
        }
        other => return Err(Error::newer(format!("version {other} of XFS"))),
    }
    Ok(())
}
