//! The superblock as it is on the disk, not yet checked against anything.
//!
//! The kernel's `struct xfs_dsb` (`fs/xfs/libxfs/xfs_format.h`), whose field names stand here.

use super::features::{features2, incompat, version};
use super::stamp;
use crate::base::fields::{array, be16, be32, be64, u8_at};
use crate::content::Content;
use crate::kind::Kind;
use crate::text::{label, uuid};

/// What `sb_magicnum` says.
pub(super) const MAGIC: &[u8] = b"XFSB";
/// Where `sb_crc` is.
const CRC_AT: usize = 0xe0;

/// The superblock's fields that a reader needs, by their names in the kernel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Superblock {
    pub sb_blocksize: u32,
    pub sb_dblocks: u64,
    pub sb_uuid: [u8; 16],
    pub sb_logstart: u64,
    pub sb_rootino: u64,
    pub sb_rbmino: u64,
    pub sb_rsumino: u64,
    pub sb_agblocks: u32,
    pub sb_agcount: u32,
    pub sb_logblocks: u32,
    pub sb_versionnum: u16,
    pub sb_sectsize: u16,
    pub sb_inodesize: u16,
    pub sb_inopblock: u16,
    pub sb_fname: [u8; 12],
    pub sb_blocklog: u8,
    pub sb_sectlog: u8,
    pub sb_inodelog: u8,
    pub sb_inopblog: u8,
    pub sb_agblklog: u8,
    pub sb_inprogress: u8,
    pub sb_fdblocks: u64,
    pub sb_uquotino: u64,
    pub sb_gquotino: u64,
    pub sb_dirblklog: u8,
    pub sb_logsectsize: u16,
    pub sb_features2: u32,
    pub sb_bad_features2: u32,
    pub sb_features_ro_compat: u32,
    pub sb_features_incompat: u32,
    pub sb_features_log_incompat: u32,
    pub sb_pquotino: u64,
    pub sb_meta_uuid: [u8; 16],
}

impl Superblock {
    /// The superblock in `sector`; `None` if the magic number is not there, or bytes are missing.
    pub(super) fn parse(sector: &[u8]) -> Option<Self> {
        if !sector.starts_with(MAGIC) {
            return None;
        }
        Some(Self {
            sb_blocksize: be32(sector, 0x4)?,
            sb_dblocks: be64(sector, 0x8)?,
            sb_uuid: array(sector, 0x20)?,
            sb_logstart: be64(sector, 0x30)?,
            sb_rootino: be64(sector, 0x38)?,
            sb_rbmino: be64(sector, 0x40)?,
            sb_rsumino: be64(sector, 0x48)?,
            sb_agblocks: be32(sector, 0x54)?,
            sb_agcount: be32(sector, 0x58)?,
            sb_logblocks: be32(sector, 0x60)?,
            sb_versionnum: be16(sector, 0x64)?,
            sb_sectsize: be16(sector, 0x66)?,
            sb_inodesize: be16(sector, 0x68)?,
            sb_inopblock: be16(sector, 0x6a)?,
            sb_fname: array(sector, 0x6c)?,
            sb_blocklog: u8_at(sector, 0x78)?,
            sb_sectlog: u8_at(sector, 0x79)?,
            sb_inodelog: u8_at(sector, 0x7a)?,
            sb_inopblog: u8_at(sector, 0x7b)?,
            sb_agblklog: u8_at(sector, 0x7c)?,
            sb_inprogress: u8_at(sector, 0x7e)?,
            sb_fdblocks: be64(sector, 0x90)?,
            sb_uquotino: be64(sector, 0xa0)?,
            sb_gquotino: be64(sector, 0xa8)?,
            sb_dirblklog: u8_at(sector, 0xc0)?,
            sb_logsectsize: be16(sector, 0xc2)?,
            sb_features2: be32(sector, 0xc8)?,
            sb_bad_features2: be32(sector, 0xcc)?,
            sb_features_ro_compat: be32(sector, 0xd4)?,
            sb_features_incompat: be32(sector, 0xd8)?,
            sb_features_log_incompat: be32(sector, 0xdc)?,
            sb_pquotino: be64(sector, 0xe8)?,
            sb_meta_uuid: array(sector, 0xf8)?,
        })
    }

    /// What it says of itself, whether or not it makes sense otherwise.
    pub(super) fn content(&self) -> Content {
        Content {
            kind: Kind::Xfs,
            label: label(&self.sb_fname),
            uuid: uuid(&self.sb_uuid),
            size: self.sb_dblocks.checked_mul(self.sb_blocksize.into()),
        }
    }

    /// Whether a block has a size that there is.
    pub(super) fn has_known_blocks(&self) -> bool {
        self.sb_blocksize.is_power_of_two() && (512..=65536).contains(&self.sb_blocksize)
    }

    /// The version of the whole format: 5 has checksums, 4 has none.
    pub(super) fn version(&self) -> u16 {
        self.sb_versionnum & version::NUMBER
    }

    /// Whether metadata carries checksums and says whose it is.
    pub(super) fn is_v5(&self) -> bool {
        self.version() == 5
    }

    /// Whether `sb_features_incompat` has `bit`, which means something in version 5 only.
    pub(super) fn has_incompat(&self, bit: u32) -> bool {
        self.is_v5() && self.sb_features_incompat & bit != 0
    }

    fn has_features2(&self, bit: u32) -> bool {
        // Compilers once disagreed where the field is, so there are two.
        let both = self.sb_features2 | self.sb_bad_features2;
        self.sb_versionnum & version::MORE != 0 && both & bit != 0
    }

    /// Whether entries of folders tell the file's type.
    pub(super) fn has_ftype(&self) -> bool {
        match self.is_v5() {
            true => self.has_incompat(incompat::FTYPE),
            false => self.has_features2(features2::FTYPE),
        }
    }

    /// Whether unwritten extents are told apart.
    pub(super) fn has_unwritten(&self) -> bool {
        self.is_v5() || self.sb_versionnum & version::EXTFLG != 0
    }

    /// Whether chunks of inodes may have gaps.
    pub(super) fn has_sparse_inodes(&self) -> bool {
        self.has_incompat(incompat::SPINODES)
    }

    /// Files of the filesystem's own, which no folder names; numbers that are none among them.
    pub(super) fn own_files(&self) -> [u64; 5] {
        let of_version_5 = if self.is_v5() { self.sb_pquotino } else { 0 };
        [self.sb_rbmino, self.sb_rsumino, self.sb_uquotino, self.sb_gquotino, of_version_5]
    }

    /// Whether names are compared without regard to case.
    pub(super) fn ignores_case(&self) -> bool {
        self.sb_versionnum & version::BORG != 0
    }

    /// Whether `sb_fdblocks` is kept up to date by unmounting only.
    pub(super) fn counts_lazily(&self) -> bool {
        self.is_v5() || self.has_features2(features2::LAZYSBCOUNT)
    }

    /// What identifies the filesystem in its metadata.
    pub(super) fn metadata_uuid(&self) -> [u8; 16] {
        match self.has_incompat(incompat::META_UUID) {
            true => self.sb_meta_uuid,
            false => self.sb_uuid,
        }
    }

    /// What was expected and found, if `sector`, which it was parsed from, has a checksum that is
    /// wrong.
    pub(super) fn wrong_checksum(&self, sector: &[u8]) -> Option<(u32, u32)> {
        if !self.is_v5() {
            return None;
        }
        stamp::wrong_checksum(sector, CRC_AT)
    }
}
