//! Units as types: a byte offset is not a byte count, and neither is a block number.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::limits;
use super::{Error, ErrorKind, Result};

macro_rules! unit {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize,
            Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

unit! {
    /// A place, in bytes from the start of a disk, image or object.
    ByteOffset
}
unit! {
    /// An amount of bytes.
    ByteCount
}
unit! {
    /// A block's number, counted from zero in blocks of the repository's block size.
    BlockIndex
}
unit! {
    /// An amount of blocks.
    BlockCount
}

impl ByteOffset {
    /// The offset `count` bytes further on, or `None` beyond 64 bits.
    #[must_use]
    pub fn checked_add(self, count: ByteCount) -> Option<Self> {
        self.0.checked_add(count.0).map(Self)
    }
}

impl ByteCount {
    /// All of `sizes` together. Those that a repository claims may be anything: what is beyond 64
    /// bits is not counted.
    #[must_use]
    pub fn total(sizes: impl IntoIterator<Item = u64>) -> Self {
        Self(sizes.into_iter().fold(0, u64::saturating_add))
    }

    /// The amount of a buffer in memory.
    #[must_use]
    pub fn of(buffer: &[u8]) -> Self {
        Self(buffer.len() as u64)
    }
}

/// Bytes from `start` (included) to `end` (excluded).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte; never below `start`.
    pub end: u64,
}

impl ByteRange {
    /// The range of `length` bytes from `start`, ending at the last addressable byte at most.
    #[must_use]
    pub fn new(start: u64, length: u64) -> Self {
        Self { start, end: start.saturating_add(length) }
    }

    /// Its length in bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.end - self.start
    }

    /// Whether it holds no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start >= self.end
    }

    /// The bytes that both hold; `None` if they share none.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        let both = Self { start: self.start.max(other.start), end: self.end.min(other.end) };
        (both.start < both.end).then_some(both)
    }
}

impl fmt::Display for ByteRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "bytes {}..{}", self.start, self.end)
    }
}

/// The size of a repository's blocks: a power of two from 16 KiB to 1 MiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "u32", into = "u32")]
pub struct BlockSize(u32);

impl BlockSize {
    /// 128 KiB: zstd loses little ratio against 1 MiB, and a changed sector costs little.
    pub const DEFAULT: Self = Self(128 * 1024);

    /// The block size of `bytes`.
    ///
    /// # Errors
    /// `Invalid` unless it is a power of two from 16 KiB to 1 MiB.
    pub fn new(bytes: u32) -> Result<Self> {
        let range = limits::MIN_BLOCK_SIZE..=limits::MAX_BLOCK_SIZE;
        if bytes.is_power_of_two() && range.contains(&bytes) {
            Ok(Self(bytes))
        } else {
            Err(Error::new(
                ErrorKind::Invalid,
                format!("block size {bytes}: expected a power of two from 16 KiB to 1 MiB"),
            ))
        }
    }

    /// The size in bytes.
    #[must_use]
    pub fn bytes(self) -> u64 {
        u64::from(self.0)
    }

    /// The size in bytes, to index memory with.
    #[must_use]
    pub fn usize(self) -> usize {
        self.0 as usize
    }

    /// Blocks that cover `size` bytes; the last may be short.
    #[must_use]
    pub fn count(self, size: ByteCount) -> BlockCount {
        BlockCount(size.0.div_ceil(self.bytes()))
    }

    /// The bytes that block `index` covers on a disk of `size` bytes; empty beyond its end.
    #[must_use]
    pub fn range(self, index: BlockIndex, size: ByteCount) -> ByteRange {
        let start = index.0.saturating_mul(self.bytes()).min(size.0);
        ByteRange { start, end: start.saturating_add(self.bytes()).min(size.0) }
    }
}

impl TryFrom<u32> for BlockSize {
    type Error = Error;

    fn try_from(bytes: u32) -> Result<Self> {
        Self::new(bytes)
    }
}

impl From<BlockSize> for u32 {
    fn from(size: BlockSize) -> Self {
        size.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_sizes_are_powers_of_two_within_limits() {
        for good in [16 * 1024, 128 * 1024, 1024 * 1024] {
            assert_eq!(BlockSize::new(good).map(u32::from).ok(), Some(good));
        }
        for bad in [0, 4096, 100_000, 2 * 1024 * 1024] {
            assert!(BlockSize::new(bad).is_err(), "{bad} was accepted");
        }
    }

    #[test]
    fn the_last_block_of_an_odd_disk_is_short() {
        let size = ByteCount(BlockSize::DEFAULT.bytes() * 2 + 77);
        assert_eq!(BlockSize::DEFAULT.count(size), BlockCount(3));
        assert_eq!(BlockSize::DEFAULT.range(BlockIndex(2), size).len(), 77);
        assert!(BlockSize::DEFAULT.range(BlockIndex(3), size).is_empty());
    }

    #[test]
    fn ranges_intersect_only_where_both_hold_bytes() {
        let a = ByteRange::new(10, 10);
        assert_eq!(
            a.intersection(&ByteRange::new(15, 100)),
            Some(ByteRange { start: 15, end: 20 })
        );
        assert_eq!(a.intersection(&ByteRange::new(20, 1)), None);
        assert_eq!(ByteRange::new(u64::MAX, 5).len(), 0);
        assert_eq!(ByteCount::total([1, 2, u64::MAX - 4]), ByteCount(u64::MAX - 1));
        assert_eq!(ByteCount::total([1 << 63; 3]), ByteCount(u64::MAX));
    }
}
