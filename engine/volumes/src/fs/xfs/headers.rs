//! Headers of allocation groups, each in a sector of its own behind the superblock's.
//!
//! The kernel's `struct xfs_agf` and `struct xfs_agi` (`fs/xfs/libxfs/xfs_format.h`).

use super::Xfs;
use super::stamp::check_sum;
use super::units::{GroupNumber, index};
use crate::base::fields::{array, be32, has};
use crate::base::{Error, Result};

/// Which of a group's headers.
pub(super) struct Header {
    magic: &'static [u8],
    /// Its sector within the group.
    sector: u64,
    uuid: usize,
    crc: usize,
}

/// That of free space, `xfs_agf`.
pub(super) const FREE_SPACE: Header = Header { magic: b"XAGF", sector: 1, uuid: 0x40, crc: 0xd8 };
/// That of inodes, `xfs_agi`.
pub(super) const INODES: Header = Header { magic: b"XAGI", sector: 2, uuid: 0x128, crc: 0x138 };

impl Xfs {
    /// Reads a header of `group` and verifies it.
    ///
    /// # Errors
    /// `Corrupt` if it is another's or damaged; the volume's own.
    pub(super) fn header(&self, group: GroupNumber, header: &Header) -> Result<Vec<u8>> {
        let geometry = self.geometry();
        let size = u64::from(geometry.sector_size);
        let start = geometry.offset(geometry.group_start(group));
        let mut bytes = vec![0; index(size)];
        let before = header.sector.saturating_mul(size);
        self.blocks.read_bytes(start.saturating_add(before), &mut bytes)?;
        let blocks = geometry.blocks_in(group);
        let field = |at| be32(&bytes, at).unwrap_or_default();
        let (seqno, length) = (field(0x8), field(0xc));
        if !has(&bytes, 0, header.magic) || seqno != group.0 || u64::from(length) != blocks {
            let found = format!("that of group {seqno} with {length}");
            return Err(Error::corrupt("header", format!("one of {blocks} blocks"), found));
        }
        if self.superblock.is_v5() {
            check_sum(&bytes, header.crc)?;
            if array(&bytes, header.uuid) != Some(self.superblock.metadata_uuid()) {
                return Err(Error::corrupt("header", "this filesystem's UUID", "another"));
            }
        }
        Ok(bytes)
    }
}
