//! The numbers that NTFS counts in, each a type, so that none is taken for another.

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
    /// A cluster of the volume (LCN).
    Lcn(u64), "cluster"
}
number! {
    /// A cluster of a stream, counted from its start (VCN).
    Vcn(u64), "stream cluster"
}
number! {
    /// A record of the master file table.
    RecordNumber(u64), "record"
}

/// Bits of a reference that are the record's number; above them is its sequence number.
const NUMBER_BITS: u32 = 48;

/// A file reference: a record, and how often it had been used when the reference was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Reference(pub u64);

impl Reference {
    pub(super) fn new(number: u64, sequence: u16) -> Self {
        Self(number | u64::from(sequence) << NUMBER_BITS)
    }

    pub(super) fn number(self) -> RecordNumber {
        RecordNumber(self.0 & ((1 << NUMBER_BITS) - 1))
    }

    /// Zero where whoever made the reference did not know.
    pub(super) fn sequence(self) -> u16 {
        u16::try_from(self.0 >> NUMBER_BITS).unwrap_or_default()
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.number().fmt(f)
    }
}

/// A number as an index into memory; one that does not fit is beyond any memory.
pub(super) fn index(number: impl TryInto<usize>) -> usize {
    number.try_into().unwrap_or(usize::MAX)
}

/// A length in memory as a number of bytes.
pub(super) fn bytes(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}
