//! A member of an array, read with every range checked.

use std::sync::Arc;

use super::superblock::Superblock;
use crate::base::{ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result};

/// A member that is in use.
pub(super) struct Member {
    /// Its number among those that the array was assembled of.
    pub index: usize,
    bytes: Arc<dyn ReadAt>,
    data: ByteRange,
    /// Bytes from the data's start that are valid.
    valid: u64,
    /// Whether `valid` is all there is.
    pub is_whole: bool,
    /// Stretches of the member that are not.
    bad: Vec<ByteRange>,
    pub write_mostly: bool,
}

impl Member {
    /// The member number `index`, whose superblock was checked.
    pub(super) fn new(index: usize, superblock: &Superblock, bytes: Arc<dyn ReadAt>) -> Self {
        let data = superblock.data;
        Self {
            index,
            bytes,
            data,
            valid: superblock.recovered.unwrap_or(data.len()).min(data.len()),
            is_whole: superblock.recovered.is_none(),
            bad: superblock.bad.clone(),
            write_mostly: superblock.write_mostly,
        }
    }

    /// Bytes of its data.
    pub(super) fn length(&self) -> u64 {
        self.data.len()
    }

    /// Where `length` bytes of its data from byte `at` are on it.
    pub(super) fn place(&self, at: u64, length: u64) -> ByteRange {
        ByteRange::new(self.data.start.saturating_add(at), length)
    }

    /// Whether all of these bytes are valid.
    pub(super) fn holds(&self, at: u64, length: u64) -> bool {
        let place = self.place(at, length);
        at.checked_add(length).is_some_and(|end| end <= self.valid)
            && !self.bad.iter().any(|bad| bad.intersection(&place).is_some())
    }

    /// Fills `buffer` from byte `at` of its data.
    ///
    /// # Errors
    /// `Io` where they are not valid; its own.
    pub(super) fn read(&self, at: u64, buffer: &mut [u8]) -> Result<()> {
        let length = u64::try_from(buffer.len()).unwrap_or(u64::MAX);
        if !self.holds(at, length) {
            let place = self.place(at, length);
            let context = format!("RAID member: {place} were never written or rebuilt");
            return Err(Error::new(ErrorKind::Io, context));
        }
        self.bytes.read_exact_at(ByteOffset(self.place(at, length).start), buffer)
    }

    /// Bytes from byte `at` to where a large read had best end.
    pub(super) fn reach(&self, at: u64) -> u64 {
        self.bytes.reach(ByteOffset(self.place(at, 0).start))
    }
}
