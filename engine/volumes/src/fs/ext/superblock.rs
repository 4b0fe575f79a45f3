//! The superblock as it is on the disk, 1024 bytes, not yet checked against anything.
//!
//! Kernel documentation, `filesystems/ext4/super.rst`, whose field names and offsets stand here.

use super::checksum::Checksum;
use super::features::{compat, incompat, ro_compat};
use super::units::{InodeNumber, ROOT_INODE, join};
use crate::base::fields::{array, le16, le32, u8_at};
use crate::content::Content;
use crate::kind::Kind;
use crate::text::{label, uuid};

/// Bytes of a superblock.
pub(super) const SUPERBLOCK_SIZE: usize = 1024;
/// Where the first one is, in bytes.
pub(super) const SUPERBLOCK_OFFSET: u64 = 1024;
/// What `s_magic` says.
pub(super) const MAGIC: u16 = 0xef53;
/// Largest `s_log_block_size`: 64 KiB.
pub(super) const MAX_LOG_BLOCK_SIZE: u32 = 6;

/// `s_first_ino` before it was a field.
const OLD_FIRST_INODE: u32 = 11;

/// Bit of `s_state`: cleanly unmounted.
const STATE_VALID: u16 = 0x1;
/// Bit of `s_state`: the kernel found errors.
const STATE_ERRORS: u16 = 0x2;
/// Bit of `s_flags`: names are hashed as unsigned characters.
const FLAG_UNSIGNED_HASH: u32 = 0x2;

/// The superblock's fields that a reader needs, by their names in the specification.
#[derive(Debug, Clone)]
pub(super) struct Superblock {
    pub s_inodes_count: u32,
    pub s_blocks_count_lo: u32,
    pub s_first_data_block: u32,
    pub s_log_block_size: u32,
    pub s_log_cluster_size: u32,
    pub s_blocks_per_group: u32,
    pub s_clusters_per_group: u32,
    pub s_inodes_per_group: u32,
    pub s_state: u16,
    pub s_rev_level: u32,
    pub s_first_ino: u32,
    pub s_inode_size: u16,
    pub s_block_group_nr: u16,
    pub s_feature_compat: u32,
    pub s_feature_incompat: u32,
    pub s_feature_ro_compat: u32,
    pub s_uuid: [u8; 16],
    pub s_volume_name: [u8; 16],
    pub s_reserved_gdt_blocks: u16,
    pub s_journal_inum: u32,
    pub s_hash_seed: [u8; 16],
    pub s_desc_size: u16,
    pub s_first_meta_bg: u32,
    pub s_blocks_count_hi: u32,
    pub s_flags: u32,
    pub s_log_groups_per_flex: u8,
    pub s_checksum_type: u8,
    pub s_usr_quota_inum: u32,
    pub s_grp_quota_inum: u32,
    pub s_backup_bgs: [u32; 2],
    pub s_prj_quota_inum: u32,
    pub s_checksum_seed: u32,
    pub s_orphan_file_inum: u32,
    pub s_checksum: u32,
    /// What the checksum of its bytes is.
    computed_checksum: u32,
}

impl Superblock {
    /// The superblock in `block`; `None` if the magic number is not there, or bytes are missing.
    pub(super) fn parse(block: &[u8]) -> Option<Self> {
        let block = block.get(..SUPERBLOCK_SIZE)?;
        if le16(block, 0x38)? != MAGIC {
            return None;
        }
        Some(Self {
            s_inodes_count: le32(block, 0x0)?,
            s_blocks_count_lo: le32(block, 0x4)?,
            s_first_data_block: le32(block, 0x14)?,
            s_log_block_size: le32(block, 0x18)?,
            s_log_cluster_size: le32(block, 0x1c)?,
            s_blocks_per_group: le32(block, 0x20)?,
            s_clusters_per_group: le32(block, 0x24)?,
            s_inodes_per_group: le32(block, 0x28)?,
            s_state: le16(block, 0x3a)?,
            s_rev_level: le32(block, 0x4c)?,
            s_first_ino: le32(block, 0x54)?,
            s_inode_size: le16(block, 0x58)?,
            s_block_group_nr: le16(block, 0x5a)?,
            s_feature_compat: le32(block, 0x5c)?,
            s_feature_incompat: le32(block, 0x60)?,
            s_feature_ro_compat: le32(block, 0x64)?,
            s_uuid: array(block, 0x68)?,
            s_volume_name: array(block, 0x78)?,
            s_reserved_gdt_blocks: le16(block, 0xce)?,
            s_journal_inum: le32(block, 0xe0)?,
            s_hash_seed: array(block, 0xec)?,
            s_desc_size: le16(block, 0xfe)?,
            s_first_meta_bg: le32(block, 0x104)?,
            s_blocks_count_hi: le32(block, 0x150)?,
            s_flags: le32(block, 0x160)?,
            s_log_groups_per_flex: u8_at(block, 0x174)?,
            s_checksum_type: u8_at(block, 0x175)?,
            s_usr_quota_inum: le32(block, 0x240)?,
            s_grp_quota_inum: le32(block, 0x244)?,
            s_backup_bgs: [le32(block, 0x24c)?, le32(block, 0x250)?],
            s_prj_quota_inum: le32(block, 0x26c)?,
            s_checksum_seed: le32(block, 0x270)?,
            s_orphan_file_inum: le32(block, 0x280)?,
            s_checksum: le32(block, 0x3fc)?,
            computed_checksum: Checksum::START.add(block.get(..0x3fc)?).value(),
        })
    }

    /// As [`parse`](Self::parse), of where a filesystem begins: `None` for a copy as well, which is
    /// no filesystem's start, wherever a partition table has it begin.
    pub(super) fn parse_first(block: &[u8]) -> Option<Self> {
        Self::parse(block).filter(|superblock| superblock.s_block_group_nr == 0)
    }

    /// Whether `s_feature_compat` has `bit`.
    pub(super) fn has_compat(&self, bit: u32) -> bool {
        self.s_feature_compat & bit != 0
    }

    /// Whether `s_feature_incompat` has `bit`.
    pub(super) fn has_incompat(&self, bit: u32) -> bool {
        self.s_feature_incompat & bit != 0
    }

    /// Whether `s_feature_ro_compat` has `bit`.
    pub(super) fn has_ro_compat(&self, bit: u32) -> bool {
        self.s_feature_ro_compat & bit != 0
    }

    /// Whether metadata carries CRC32C checksums.
    pub(super) fn has_checksums(&self) -> bool {
        self.has_ro_compat(ro_compat::METADATA_CSUM)
    }

    /// What was expected and found, if it has a checksum and that is wrong.
    pub(super) fn wrong_checksum(&self) -> Option<(u32, u32)> {
        let wrong = self.has_checksums() && self.computed_checksum != self.s_checksum;
        wrong.then_some((self.computed_checksum, self.s_checksum))
    }

    /// Whether its checksums are of the one type there is, CRC32C.
    pub(super) fn has_known_checksums(&self) -> bool {
        !self.has_checksums() || self.s_checksum_type == 1
    }

    /// What every other checksum starts with.
    pub(super) fn checksum_seed(&self) -> Checksum {
        match self.has_incompat(incompat::CSUM_SEED) {
            true => Checksum::from_seed(self.s_checksum_seed),
            false => Checksum::START.add(&self.s_uuid),
        }
    }

    /// Whether an inode is the filesystem's own, which no folder may name.
    pub(super) fn is_own(&self, inode: InodeNumber) -> bool {
        let first = if self.s_rev_level == 0 { OLD_FIRST_INODE } else { self.s_first_ino };
        let named = [
            self.s_usr_quota_inum,
            self.s_grp_quota_inum,
            self.s_prj_quota_inum,
            self.s_orphan_file_inum,
        ];
        inode != ROOT_INODE && (inode.0 < first || named.contains(&inode.0))
    }

    /// Whether the kernel noted errors in it.
    pub(super) fn has_errors(&self) -> bool {
        self.s_state & STATE_ERRORS != 0
    }

    /// Whether it was unmounted, or has a journal that stands in for that.
    pub(super) fn is_settled(&self) -> bool {
        self.s_state & STATE_VALID != 0 || self.has_compat(compat::HAS_JOURNAL)
    }

    /// Whether folder indexes hash names as unsigned characters.
    pub(super) fn hashes_unsigned(&self) -> bool {
        self.s_flags & FLAG_UNSIGNED_HASH != 0
    }

    /// Blocks of the filesystem. The upper half counts only with the 64-bit feature.
    pub(super) fn block_count(&self) -> u64 {
        let wide = self.has_incompat(incompat::SIXTY_FOUR_BIT);
        join(self.s_blocks_count_lo, if wide { self.s_blocks_count_hi } else { 0 })
    }

    /// What it says of itself, whether or not it makes sense otherwise.
    pub(super) fn content(&self) -> Content {
        let log = Some(self.s_log_block_size).filter(|log| *log <= MAX_LOG_BLOCK_SIZE);
        let block_size = log.and_then(|log| 1024_u64.checked_shl(log));
        Content {
            kind: self.kind(),
            label: label(&self.s_volume_name),
            uuid: uuid(&self.s_uuid),
            size: block_size.and_then(|size| self.block_count().checked_mul(size)),
        }
    }

    /// ext2, ext3 or ext4, by the features that each driver accepts, as blkid tells them; or an
    /// external journal of the latter two.
    fn kind(&self) -> Kind {
        let beyond = |incompat: u32| {
            self.s_feature_incompat & !incompat != 0
                || self.s_feature_ro_compat & !ro_compat::OF_EXT3 != 0
        };
        match self.has_compat(compat::HAS_JOURNAL) {
            _ if self.has_incompat(incompat::JOURNAL_DEV) => Kind::ExtJournal,
            true if !beyond(incompat::OF_EXT3) => Kind::Ext3,
            false if !beyond(incompat::OF_EXT2) => Kind::Ext2,
            _ => Kind::Ext4,
        }
    }
}
