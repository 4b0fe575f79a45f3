//! Layers: what is opened on the bytes of others, and read as if it were a disk of its own.

use crate::base::{ByteRange, ReadAt, Result};

/// A layer of a stack: a RAID array on its members, a logical volume on physical ones, what an
/// encrypted volume holds. Its bytes are made of those of the layers below, which are numbered in
/// the order in which it was given them.
pub trait Layer: ReadAt {
    /// Calls `visit` for each stretch below that holds some of the bytes `within`, each copy of
    /// them: with the number of the layer and the bytes there.
    ///
    /// # Errors
    /// `Unsupported`, saying why, where what is below serves other bytes as well (parity, blocks
    /// that a snapshot shares): all of it is needed then, whatever was visited.
    fn each_place(&self, within: ByteRange, visit: &mut dyn FnMut(usize, ByteRange)) -> Result<()>;

    /// The same of the stretches that hold nothing but bytes `within`: whoever leaves these out
    /// changes no others. They are fewer where bytes lie together in sectors.
    ///
    /// # Errors
    /// As [`each_place`](Self::each_place).
    fn each_own_place(
        &self,
        within: ByteRange,
        visit: &mut dyn FnMut(usize, ByteRange),
    ) -> Result<()> {
        self.each_place(within, visit)
    }
}
