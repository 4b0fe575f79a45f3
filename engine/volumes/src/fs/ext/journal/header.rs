//! The journal's superblock, and the header that all of its blocks start with.

use super::super::checksum::Checksum;
use crate::base::fields::{array, be32, u8_at};
use crate::base::{Error, Result};

const MAGIC: u32 = 0xc03b_3998;
/// Bytes of the superblock.
const SIZE: usize = 1024;
/// Where its checksum is.
const CHECKSUM_AT: usize = 0xfc;
/// `s_num_fc_blks` where it is zero.
const DEFAULT_FAST_COMMIT_BLOCKS: u32 = 256;

/// `s_feature_incompat`.
mod incompat {
    pub(super) const SIXTY_FOUR_BIT: u32 = 0x2;
    pub(super) const ASYNC_COMMIT: u32 = 0x4;
    pub(super) const CSUM_V2: u32 = 0x8;
    pub(super) const CSUM_V3: u32 = 0x10;
    pub(super) const FAST_COMMIT: u32 = 0x20;
    /// `revoke` and those above.
    pub(super) const KNOWN: u32 = 0x3f;
}
/// `s_feature_compat`: commit blocks carry a CRC32 of their transaction.
const COMPAT_CHECKSUM: u32 = 0x1;

/// What a block of the journal is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BlockType {
    Descriptor,
    Commit,
    Revoke,
}

/// The type and the transaction of a block; `None` if it is not one of the journal's own.
pub(super) fn block_header(block: &[u8]) -> Option<(BlockType, u32)> {
    if be32(block, 0x0)? != MAGIC {
        return None;
    }
    let kind = match be32(block, 0x4)? {
        1 => BlockType::Descriptor,
        2 => BlockType::Commit,
        5 => BlockType::Revoke,
        _ => return None,
    };
    Some((kind, be32(block, 0x8)?))
}

/// The journal's superblock, checked.
#[derive(Debug, Clone)]
pub(super) struct JournalSuperblock {
    /// Blocks of the journal.
    pub s_maxlen: u32,
    /// The first block of the ring.
    pub s_first: u32,
    /// The first transaction in it.
    pub s_sequence: u32,
    /// The block that this starts at; zero if there is nothing to replay.
    pub s_start: u32,
    /// Blocks at the end, after the ring, that fast commits are written to.
    pub fast_commit_blocks: u32,
    features: u32,
    has_commit_sums: bool,
    /// What checksums of its blocks start with.
    pub seed: Checksum,
}

impl JournalSuperblock {
    /// Parses the journal's first block.
    ///
    /// # Errors
    /// `Unsupported` for unknown features; `Corrupt` if it is damaged or is none.
    pub(super) fn parse(block: &[u8], block_size: u32) -> Result<Self> {
        let corrupt =
            |expected, found: u32| Error::corrupt("superblock", expected, format!("{found:#x}"));
        let field = |at| be32(block, at).unwrap_or_default();
        let version = field(0x4);
        if field(0x0) != MAGIC || !matches!(version, 3 | 4) {
            return Err(corrupt("its magic number and type", field(0x0)));
        }
        if field(0xc) != block_size {
            return Err(corrupt("the filesystem's block size", field(0xc)));
        }
        let (compat, features) = if version == 4 { (field(0x24), field(0x28)) } else { (0, 0) };
        if features & !incompat::KNOWN != 0 {
            let context = format!("features that are not supported: {features:#x}");
            return Err(Error::newer(context));
        }
        let fast_commit_blocks = match field(0x54) {
            _ if features & incompat::FAST_COMMIT == 0 => 0,
            0 => DEFAULT_FAST_COMMIT_BLOCKS,
            blocks => blocks,
        };
        let uuid: [u8; 16] = array(block, 0x30).unwrap_or_default();
        let superblock = Self {
            s_maxlen: field(0x10),
            s_first: field(0x14),
            s_sequence: field(0x18),
            s_start: field(0x1c),
            fast_commit_blocks,
            features,
            has_commit_sums: compat & COMPAT_CHECKSUM != 0,
            seed: Checksum::START.add(&uuid),
        };
        superblock.check(block)?;
        Ok(superblock)
    }

    fn check(&self, block: &[u8]) -> Result<()> {
        let bytes = block.get(..SIZE).unwrap_or_default();
        let expected = Checksum::START.add_without(bytes, CHECKSUM_AT, 4).value();
        let found = be32(bytes, CHECKSUM_AT).unwrap_or_default();
        if self.has_checksums() && (expected != found || u8_at(block, 0x50) != Some(4)) {
            let expected = format!("CRC32C {expected:#010x}");
            return Err(Error::corrupt("superblock", expected, format!("{found:#010x}")));
        }
        let ring = self.s_first..self.ring_end();
        if self.s_first == 0
            || ring.is_empty()
            || (self.s_start != 0 && !ring.contains(&self.s_start))
        {
            let found = format!("{ring:?} from {}", self.s_start);
            return Err(Error::corrupt("superblock", "a ring of blocks", found));
        }
        Ok(())
    }

    /// The block after the ring's last.
    pub(super) fn ring_end(&self) -> u32 {
        self.s_maxlen.saturating_sub(self.fast_commit_blocks)
    }

    /// Whether blocks end in checksums of version 2 or 3.
    pub(super) fn has_checksums(&self) -> bool {
        self.features & (incompat::CSUM_V2 | incompat::CSUM_V3) != 0
    }

    /// Whether checksums are of version 3.
    pub(super) fn has_checksums_v3(&self) -> bool {
        self.features & incompat::CSUM_V3 != 0
    }

    /// Whether checksums are of version 2.
    pub(super) fn has_checksums_v2(&self) -> bool {
        self.features & incompat::CSUM_V2 != 0
    }

    /// Whether commit blocks carry a checksum of the whole transaction: version 1.
    pub(super) fn has_commit_sums(&self) -> bool {
        self.has_commit_sums
    }

    /// Whether block numbers have 64 bits.
    pub(super) fn is_64bit(&self) -> bool {
        self.features & incompat::SIXTY_FOUR_BIT != 0
    }

    /// Whether a commit block may have been written before what it commits.
    pub(super) fn is_async(&self) -> bool {
        self.features & incompat::ASYNC_COMMIT != 0
    }

    /// Whether the checksum at the end of a descriptor or revoke block is right, or there is none.
    pub(super) fn tail_is_right(&self, block: &[u8]) -> bool {
        let at = block.len().saturating_sub(4);
        let sum = self.seed.add_without(block, at, 4).value();
        !self.has_checksums() || be32(block, at) == Some(sum)
    }

    /// Whether a commit block's own checksum is right, or there is none.
    pub(super) fn commit_is_right(&self, block: &[u8]) -> bool {
        let sum = self.seed.add_without(block, 0x10, 4).value();
        !self.has_checksums() || be32(block, 0x10) == Some(sum)
    }
}
