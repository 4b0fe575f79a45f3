//! What each structure of version 5 says of itself: checksum, filesystem, place and owner.
//!
//! The kernel's documentation, `filesystems/xfs/xfs-self-describing-metadata.rst`; offsets from
//! `fs/xfs/libxfs/xfs_format.h` and `xfs_da_format.h`.

use super::units::{BlockNumber, bytes};
use super::{Geometry, Xfs};
use crate::base::fields::{array, be32, be64, le32};
use crate::base::{Error, Result};

/// Where a structure says what it is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stamp {
    crc: usize,
    blkno: usize,
    uuid: usize,
    owner: Owner,
}

#[derive(Debug, Clone, Copy)]
enum Owner {
    /// An inode.
    Wide(usize),
    /// An allocation group.
    Narrow(usize),
}

/// Block maps' btrees.
pub(super) const LONG_BTREE: Stamp =
    Stamp { crc: 0x40, blkno: 0x18, uuid: 0x28, owner: Owner::Wide(0x38) };
/// Allocation groups' btrees.
pub(super) const SHORT_BTREE: Stamp =
    Stamp { crc: 0x34, blkno: 0x10, uuid: 0x20, owner: Owner::Narrow(0x30) };
/// Blocks of entries of folders.
pub(super) const FOLDER: Stamp =
    Stamp { crc: 0x4, blkno: 0x8, uuid: 0x18, owner: Owner::Wide(0x28) };
/// Indexes of folders, and attributes.
pub(super) const INDEX: Stamp =
    Stamp { crc: 0xc, blkno: 0x10, uuid: 0x20, owner: Owner::Wide(0x30) };
/// Targets of links, and attributes' values, that have blocks of their own.
pub(super) const REMOTE: Stamp =
    Stamp { crc: 0xc, blkno: 0x28, uuid: 0x10, owner: Owner::Wide(0x20) };

/// CRC32C of `structure`, whose own four bytes at `at` count as zeros.
pub(super) fn checksum(structure: &[u8], at: usize) -> u32 {
    let (before, rest) = structure.split_at_checked(at).unwrap_or((structure, &[]));
    let sum = crc32c::crc32c_append(crc32c::crc32c(before), &[0; 4]);
    crc32c::crc32c_append(sum, rest.get(4..).unwrap_or_default())
}

/// What was expected and found at `at`, if that is not the checksum of `structure`.
pub(super) fn wrong_checksum(structure: &[u8], at: usize) -> Option<(u32, u32)> {
    // Alone among the fields, checksums are little-endian.
    let found = le32(structure, at).unwrap_or_default();
    let expected = checksum(structure, at);
    (found != expected).then_some((expected, found))
}

/// Verifies a checksum that stands alone.
pub(super) fn check_sum(structure: &[u8], at: usize) -> Result<()> {
    match wrong_checksum(structure, at) {
        None => Ok(()),
        Some((expected, found)) => {
            let expected = format!("checksum {expected:#010x}");
            Err(Error::corrupt("metadata", expected, format!("{found:#010x}")))
        }
    }
}

impl Geometry {
    /// The number of the 512-byte sector that `block` starts with: metadata says its place so.
    pub(super) fn sector(&self, block: BlockNumber) -> u64 {
        self.offset(block) / 512
    }
}

impl Xfs {
    /// Checks that `structure`, read from `block`, is sound and belongs to `owner`; nothing can
    /// be told in version 4.
    ///
    /// # Errors
    /// `Corrupt` where one of the four is wrong.
    pub(super) fn check_stamp(
        &self,
        structure: &[u8],
        stamp: &Stamp,
        block: BlockNumber,
        owner: u64,
    ) -> Result<()> {
        if !self.superblock.is_v5() {
            return Ok(());
        }
        check_sum(structure, stamp.crc)?;
        if array(structure, stamp.uuid) != Some(self.superblock.metadata_uuid()) {
            return Err(Error::corrupt("metadata", "this filesystem's UUID", "another"));
        }
        let (place, found) = (self.geometry().sector(block), be64(structure, stamp.blkno));
        if found != Some(place) {
            let found = format!("that of sector {}", found.unwrap_or_default());
            return Err(Error::corrupt("metadata", format!("that of sector {place}"), found));
        }
        let found = match stamp.owner {
            Owner::Wide(at) => be64(structure, at),
            Owner::Narrow(at) => be32(structure, at).map(u64::from),
        };
        if found == Some(owner) {
            return Ok(());
        }
        let found = format!("owner {}", found.unwrap_or_default());
        Err(Error::corrupt("metadata", format!("owner {owner}"), found))
    }

    /// Bytes of the header of something that has a bigger one in version 5.
    pub(super) fn header_size(&self, v4: usize, v5: usize) -> usize {
        if self.superblock.is_v5() { v5 } else { v4 }
    }
}

/// Damage of `structure`: it is not as long as it should be.
pub(super) fn cut(structure: &[u8]) -> Error {
    Error::corrupt("metadata", "more bytes", bytes(structure.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checksum_counts_as_zeros_in_its_own_sum() {
        assert_eq!(checksum(b"abcdexxxxf", 5), crc32c::crc32c(b"abcde\0\0\0\0f"));
        assert_eq!(wrong_checksum(&[0; 3], 5).map(|(_, found)| found), Some(0));
    }
}
