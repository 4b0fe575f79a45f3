//! The four checksums that a filesystem can have, one for all of its metadata and data.
//!
//! The kernel's `fs/btrfs/fs.c` (`btrfs_csums`) and `include/uapi/linux/btrfs_tree.h`
//! (`enum btrfs_csum_type`).

use blake2::Blake2b;
use blake2::digest::consts::U32;
use sha2::{Digest, Sha256};
use xxhash_rust::xxh64::xxh64;

use crate::base::bytes::to_hex;
use crate::base::{Error, Result};

/// Bytes that headers have room for.
pub(super) const CSUM_ROOM: usize = 32;

/// Which checksum a filesystem uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Checksum {
    Crc32c,
    Xxhash64,
    Sha256,
    Blake2b,
}

impl Checksum {
    /// The one that `csum_type` says.
    ///
    /// # Errors
    /// `Unsupported` for others.
    pub(super) fn of_type(csum_type: u16) -> Result<Self> {
        Ok(match csum_type {
            0 => Self::Crc32c,
            1 => Self::Xxhash64,
            2 => Self::Sha256,
            3 => Self::Blake2b,
            other => {
                let context = format!("btrfs with checksums of type {other}");
                return Err(Error::newer(context));
            }
        })
    }

    /// Bytes of one.
    pub(super) fn size(self) -> usize {
        match self {
            Self::Crc32c => 4,
            Self::Xxhash64 => 8,
            Self::Sha256 | Self::Blake2b => 32,
        }
    }

    /// That of `bytes`, with zeros behind it.
    pub(super) fn of(self, bytes: &[u8]) -> [u8; CSUM_ROOM] {
        let mut sum = [0; CSUM_ROOM];
        let mut put = |bytes: &[u8]| {
            for (place, byte) in sum.iter_mut().zip(bytes) {
                *place = *byte;
            }
        };
        match self {
            Self::Crc32c => put(&crc32c::crc32c(bytes).to_le_bytes()),
            Self::Xxhash64 => put(&xxh64(bytes, 0).to_le_bytes()),
            Self::Sha256 => put(&Sha256::digest(bytes)),
            Self::Blake2b => put(&Blake2b::<U32>::digest(bytes)),
        }
        sum
    }

    /// Whether that of `bytes` is `stored`.
    pub(super) fn is(self, bytes: &[u8], stored: &[u8]) -> bool {
        let size = self.size();
        self.of(bytes).get(..size) == stored.get(..size)
    }

    /// Checks the sum that stands before everything else in `block`.
    ///
    /// # Errors
    /// `Corrupt`, at `place`, when it is wrong.
    pub(super) fn check(self, block: &[u8], place: impl std::fmt::Display) -> Result<()> {
        let (stored, rest) = block.split_at_checked(CSUM_ROOM).unwrap_or((block, &[]));
        if self.is(rest, stored) {
            return Ok(());
        }
        let shown = |sum: &[u8]| to_hex(sum.get(..self.size()).unwrap_or_default());
        Err(Error::corrupt(place, format!("checksum {}", shown(&self.of(rest))), shown(stored)))
    }
}

/// The hash by which names stand in folders: CRC32C without inversions, from `!1`.
pub(super) fn name_hash(name: &[u8]) -> u64 {
    u64::from(!crc32c::crc32c_append(1, name))
}

/// The hash of a name together with its folder, by which `INODE_EXTREF` items stand.
pub(super) fn extref_hash(parent: u64, name: &[u8]) -> u64 {
    let [low, ..] = [parent & u64::from(u32::MAX)];
    u64::from(!crc32c::crc32c_append(!u32::try_from(low).unwrap_or_default(), name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_published_examples() {
        let check = |kind: Checksum, text: &[u8], hex: &str| {
            let sum = kind.of(text);
            assert_eq!(to_hex(sum.split_at(kind.size()).0), hex, "{kind:?}");
        };
        check(Checksum::Crc32c, b"123456789", "839206e3");
        check(Checksum::Xxhash64, b"", "99e9d85137db46ef");
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        check(Checksum::Sha256, b"abc", sha);
        let blake = "0e5751c026e543b2e8ab2eb06099daa1d1e5df47778f7787faab45cdf12fe3a8";
        check(Checksum::Blake2b, b"", blake);
    }

    #[test]
    fn the_hash_of_a_name_is_the_kernels() {
        // Every filesystem's root tree has its default subvolume by this name, under this key.
        assert_eq!(name_hash(b"default"), 2_378_154_706);
    }
}
