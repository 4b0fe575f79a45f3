//! RAID10: chunks in turns, each on several members.
//!
//! Copies are either near one another or far from one another. The kernel knows both at once, but
//! mdadm makes no such arrays, and where they take turns on an odd number of members the kernel's
//! two ways of counting differ: they are refused.
//!
//! Source: Linux, `setup_geo`, `calc_sectors` and `__raid10_find_phys` in `drivers/md/raid10.c`.

use super::geometry::{Piece, Turns};
use super::superblock::Superblock;
use crate::base::{ByteRange, Error, ErrorKind, Result};

/// An array with copies near one another or far from one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mirrors {
    disks: usize,
    /// Copies on members that follow one another.
    near: usize,
    /// Copies further back on other members.
    far: usize,
    /// Far copies are in the rows that follow, and not in another part of the member.
    is_offset: bool,
    /// Members among which far copies take turns.
    set: usize,
    chunk: u64,
    /// Bytes on a member from one far copy to the next.
    stride: u64,
    size: u64,
}

impl Mirrors {
    /// The mirrors of the array that `superblock` describes.
    ///
    /// # Errors
    /// `Unsupported` for layouts that are not known, `Corrupt` where it makes no sense.
    pub(super) fn new(superblock: &Superblock, disks: usize) -> Result<Self> {
        let Superblock { level, layout, chunk, used, .. } = superblock;
        if layout >> 19 != 0 {
            return Err(Error::newer(format!("{level} of layout {layout:#x}")));
        }
        let byte = |shift: u32| usize::try_from((layout >> shift) & 255).unwrap_or(0);
        let (near, far) = (byte(0), byte(8));
        let copies = near.saturating_mul(far);
        let set = match layout >> 17 {
            0 => Some(disks),
            1 => disks.checked_div(far),
            2 => Some(copies),
            _ => None,
        };
        let set = set.ok_or_else(|| Error::newer(format!("{level} of layout {layout:#x}")))?;
        if copies < 2 || copies > disks || set == 0 || set > disks {
            let found = format!("layout {layout:#x} of {disks} members");
            return Err(Error::corrupt(level, "two copies or more on as many members", found));
        }
        if near > 1 && far > 1 {
            let context = format!("{level} with {near} near and {far} far copies is not read");
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        if !chunk.is_power_of_two() || *chunk < 4096 {
            return Err(Error::corrupt(level, "chunks of a power of two from 4 KiB", chunk));
        }
        let is_offset = layout & (1 << 16) != 0;
        let mirrors = Self { disks, near, far, is_offset, set, chunk: *chunk, stride: 0, size: 0 };
        let sized = mirrors.sized(*used);
        sized.ok_or_else(|| Error::corrupt(level, "a size within 64 bits", used))
    }

    /// The same, on members of `used` bytes.
    fn sized(self, used: u64) -> Option<Self> {
        let number = |count: usize| u64::try_from(count).ok();
        let (disks, near, far) = (number(self.disks)?, number(self.near)?, number(self.far)?);
        let chunks = |used: u64| used.checked_div(far)?.checked_mul(disks)?.checked_div(near);
        let copies = near.checked_mul(far)?;
        // Chunks of each member that the array needs, rounded up.
        let needed = chunks(used.checked_div(self.chunk)?)?.checked_mul(copies)?.div_ceil(disks);
        let stride = if self.is_offset { 1 } else { needed.checked_div(far)? };
        let size = chunks(needed)?.checked_mul(self.chunk)?;
        let stride = stride.checked_mul(self.chunk)?;
        Some(Self { stride, size, ..self })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn copies(&self) -> usize {
        self.near.saturating_mul(self.far)
    }

    /// Copies of one chunk are on these members.
    pub(super) fn roles(&self, chunk: u64) -> impl Iterator<Item = usize> {
        let at = chunk.saturating_mul(self.chunk);
        (0..self.copies()).filter_map(move |copy| Some(self.locate(at, copy)?.role))
    }

    pub(super) fn locate(&self, at: u64, copy: usize) -> Option<Piece> {
        let number = |count: usize| u64::try_from(count).ok();
        let (chunk, within) = (at.checked_div(self.chunk)?, at.checked_rem(self.chunk)?);
        let (near, far) = (copy.checked_rem(self.near)?, copy.checked_div(self.near)?);
        let turn = chunk.checked_mul(number(self.near)?)?.checked_add(number(near)?)?;
        let disks = number(self.disks)?;
        let row = turn.checked_div(disks)?;
        let row = if self.is_offset { row.checked_mul(number(self.far)?)? } else { row };
        let first = usize::try_from(turn.checked_rem(disks)?).ok()?;
        let role = (0..far).try_fold(first, |role, _| self.next_far(role))?;
        let at = row.checked_mul(self.chunk)?.checked_add(within)?;
        let at = number(far)?.checked_mul(self.stride)?.checked_add(at)?;
        Some(Piece { role, at, length: self.chunk.checked_sub(within)? })
    }

    /// The member of the copy that is far from the one on `role`.
    fn next_far(&self, role: usize) -> Option<usize> {
        let set = role.checked_div(self.set)?;
        let next = role.checked_add(self.near)?;
        let rest = self.disks.checked_rem(self.set)?;
        // Members that make no set of their own belong to the last one.
        let sets = self.disks.checked_div(self.set)?;
        let last = sets.checked_sub(1)?.checked_mul(self.set)?;
        if rest > 0 && next > last {
            let size = self.set.checked_add(rest)?;
            return next.checked_sub(last)?.checked_rem(size)?.checked_add(last);
        }
        next.checked_rem(self.set)?.checked_add(self.set.checked_mul(set)?)
    }

    pub(super) fn turns(&self, at: u64, most: u64) -> Option<Turns> {
        let number = |count: usize| u64::try_from(count).ok();
        // As many chunks as there are members fill whole rows, as many as there are near copies.
        let turn = number(self.disks)?.checked_mul(self.chunk)?;
        let count = most.checked_div(turn)?;
        if count == 0 || at.checked_rem(turn)? != 0 {
            return None;
        }
        let in_rows = if self.is_offset { number(self.far)? } else { 1 };
        let row = number(self.near)?.checked_mul(in_rows)?.checked_mul(self.chunk)?;
        let start = at.checked_div(turn)?.checked_mul(row)?;
        let length = count.checked_mul(row)?;
        let parts = if self.is_offset { 1 } else { number(self.far)? };
        let mut stretches = Vec::new();
        for part in 0..parts {
            let start = part.checked_mul(self.stride)?.checked_add(start)?;
            stretches.extend((0..self.disks).map(|role| (role, ByteRange::new(start, length))));
        }
        Some(Turns { length: count.checked_mul(turn)?, stretches })
    }
}
