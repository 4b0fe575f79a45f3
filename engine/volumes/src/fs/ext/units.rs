//! The numbers that ext counts in, each a type, so that none is taken for another.

use std::fmt;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty), $word:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(super) struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($word, " {}"), self.0)
            }
        }
    };
}

number! {
    /// A block of the volume.
    BlockNumber(u64), "block"
}
impl BlockNumber {
    /// The block `count` blocks after it.
    pub(super) fn after(self, count: u64) -> Self {
        Self(self.0.saturating_add(count))
    }
}

number! {
    /// A block of a file, counted from its start.
    FileBlock(u64), "file block"
}
number! {
    /// A file of the filesystem; they start at 1.
    InodeNumber(u32), "inode"
}
number! {
    /// A block group.
    GroupNumber(u32), "group"
}

/// Inode of the root folder.
pub(super) const ROOT_INODE: InodeNumber = InodeNumber(2);

/// A number as an index into memory; one that does not fit is beyond any memory.
pub(super) fn index(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}

/// A length in memory as a number of bytes.
pub(super) fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

/// The number whose lower and upper halves two 32-bit fields hold.
pub(super) fn join(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

/// As [`join`], of 16-bit fields.
pub(super) fn join16(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}
