//! What is free: what no chunk holds, and within chunks what no extent holds, where all that is
//! said about it agrees.
//!
//! The kernel's `struct btrfs_dev_extent`, `btrfs_block_group_item` and `btrfs_extent_item` in
//! `include/uapi/linux/btrfs_tree.h`.

use std::ops::ControlFlow;

use super::Btrfs;
use super::chunk::{Chunk, Layout};
use super::features::compat_ro;
use super::root::RootItem;
use super::superblock::PLACES;
use super::tree::Tree;
use super::units::{Key, Logical, kinds, objects};
use crate::base::fields::le64;
use crate::base::{ByteRange, Error, ErrorKind, Result, limits};
use crate::fs::Visit;

/// The start of each device, where nothing is allocated.
const RESERVED: u64 = 1 << 20;
/// Bytes around each superblock that are never allocated.
const AROUND_SUPERBLOCK: u64 = 64 * 1024;

/// A stripe of a chunk as it lies on the device.
struct Allocated<'a> {
    range: ByteRange,
    chunk: &'a Chunk,
}

/// The trees that say what is used.
struct Trees {
    extents: Tree,
    groups: Tree,
}

impl Btrfs {
    /// Calls `visit` for each free range of the device, ascending.
    ///
    /// # Errors
    /// See [`Filesystem::free_space`](crate::fs::Filesystem::free_space).
    pub(super) fn free_ranges(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        if let Some(doubt) = self.why_uncertain() {
            let context = format!("it is not certain what is free: {doubt}");
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let allocated = self.allocated()?;
        self.check_device_tree(&allocated)?;
        let trees = Trees { extents: self.tree(objects::EXTENT_TREE)?, groups: self.group_tree()? };
        self.check_groups(&trees)?;
        self.free_by_stripe(&allocated, &trees, visit)
    }

    /// The same, however the filesystem is, and whether or not all that is said about it agrees.
    ///
    /// # Errors
    /// `Corrupt` when a tree is damaged, or was changed meanwhile.
    pub(super) fn likely_free_ranges(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        let allocated = self.allocated()?;
        let trees = Trees { extents: self.tree(objects::EXTENT_TREE)?, groups: self.group_tree()? };
        self.free_by_stripe(&allocated, &trees, visit)
    }

    fn free_by_stripe(
        &self,
        allocated: &[Allocated<'_>],
        trees: &Trees,
        visit: Visit<'_, ByteRange>,
    ) -> Result<()> {
        let mut free = Merged { pending: None, visit };
        let mut at = RESERVED;
        for stripe in allocated {
            if free.add(ByteRange { start: at, end: stripe.range.start }).is_break() {
                return Ok(());
            }
            at = at.max(stripe.range.end);
            for logical in self.free_in(stripe.chunk, trees)?.1 {
                let offset = logical.start.saturating_sub(stripe.chunk.start.0);
                let length = logical.end.saturating_sub(logical.start);
                let range = ByteRange::new(stripe.range.start.saturating_add(offset), length);
                // How striped data lie is not looked into.
                let is_plain = stripe.chunk.layout == Layout::Mirrored;
                if is_plain && free.add(range).is_break() {
                    return Ok(());
                }
            }
        }
        let _ = free.add(ByteRange { start: at, end: self.info.size });
        free.finish();
        Ok(())
    }

    /// Why it is not certain what is free, if it is not.
    pub(super) fn why_uncertain(&self) -> Option<String> {
        self.doubt.clone().or_else(|| self.late_doubt())
    }

    fn late_doubt(&self) -> Option<String> {
        let first = self.pool.devices.0.first()?;
        let is_cut = first.volume.size().0 < self.info.size;
        if is_cut {
            return Some("it reaches beyond the volume's end".to_owned());
        }
        if self.superblock.place != PLACES.first().copied().unwrap_or_default() {
            return Some("the first superblock is older than a copy".to_owned());
        }
        (self.superblock.num_devices != 1).then(|| "it lies on several devices".to_owned())
    }

    fn tree(&self, id: u64) -> Result<Tree> {
        let root = RootItem::find(&self.pool, self.root_tree, id)?;
        let none = || Error::corrupt("root tree", format!("tree {id}"), "none");
        root.map(|root| root.tree).ok_or_else(none)
    }

    fn group_tree(&self) -> Result<Tree> {
        match self.superblock.compat_ro_flags & compat_ro::BLOCK_GROUP_TREE {
            0 => self.tree(objects::EXTENT_TREE),
            _ => self.tree(objects::BLOCK_GROUP_TREE),
        }
    }

    /// All stripes of all chunks by their place on the device.
    fn allocated(&self) -> Result<Vec<Allocated<'_>>> {
        let mut allocated: Vec<Allocated<'_>> = Vec::new();
        for chunk in self.pool.chunks.all() {
            for stripe in &chunk.stripes {
                let range = ByteRange::new(stripe.offset, chunk.stripe_length());
                if range.end > self.info.size || !self.pool.devices.is_first(stripe) {
                    let place = format!("chunk at {}", chunk.start);
                    return Err(Error::corrupt(place, "a place on the device", range));
                }
                allocated.push(Allocated { range, chunk });
            }
        }
        allocated.sort_by_key(|stripe| stripe.range);
        let mut pairs = allocated.iter().zip(allocated.iter().skip(1));
        match pairs.find(|(one, other)| one.range.end > other.range.start) {
            None => Ok(allocated),
            Some((_, other)) => {
                let place = format!("device byte {}", other.range.start);
                Err(Error::corrupt(place, "one chunk there", "two"))
            }
        }
    }

    /// Checks that the device tree has the same stripes.
    fn check_device_tree(&self, allocated: &[Allocated<'_>]) -> Result<()> {
        let tree = self.tree(objects::DEV_TREE)?;
        let devid = self.superblock.dev_item.devid;
        let mut cursor = tree.from(&self.pool, Key::new(devid, kinds::DEV_EXTENT, 0));
        let mut stripes = allocated.iter();
        while let Some(item) = cursor.next()? {
            if !item.key.is_of(devid, kinds::DEV_EXTENT) {
                break;
            }
            // `chunk_offset` and `length` of a device extent.
            let fields = (le64(item.data(), 0x10), le64(item.data(), 0x18));
            let expected = stripes.next();
            let is_same = expected.is_some_and(|stripe| {
                let (start, length) = (stripe.range.start, stripe.range.len());
                let here = (Some(stripe.chunk.start.0), Some(length));
                item.key.offset == start && fields == here
            });
            if !is_same {
                return Err(item.corrupt("a stripe of a chunk", "another one"));
            }
        }
        match stripes.next() {
            None => Ok(()),
            Some(stripe) => {
                let place = format!("device byte {}", stripe.range.start);
                Err(Error::corrupt(place, "an extent of the device", "none"))
            }
        }
    }

    /// Checks that each chunk is a block group, and that what these say is used is what the
    /// extents take, all in all as the superblock says.
    fn check_groups(&self, trees: &Trees) -> Result<()> {
        let mut all = 0_u64;
        for chunk in self.pool.chunks.all() {
            let place = || format!("block group at {}", chunk.start);
            let key = Key::new(chunk.start.0, kinds::BLOCK_GROUP_ITEM, chunk.length);
            let none = || Error::corrupt(place(), "one for each chunk", "none");
            let item = trees.groups.find(&self.pool, key)?.ok_or_else(none)?;
            let (used, flags) = (le64(item.data(), 0x0), le64(item.data(), 0x10));
            if flags != Some(chunk.group) {
                let expected = format!("the chunk's type {:#x}", chunk.group);
                return Err(item.corrupt(expected, format!("{:#x}", flags.unwrap_or_default())));
            }
            let counted = self.free_in(chunk, trees)?.0;
            if used != Some(counted) {
                let expected = format!("{} bytes used", used.unwrap_or_default());
                return Err(Error::corrupt(place(), expected, counted));
            }
            all = all.saturating_add(counted);
        }
        if all != self.superblock.bytes_used {
            let expected = format!("{} bytes used", self.superblock.bytes_used);
            return Err(Error::corrupt("superblock", expected, all));
        }
        Ok(())
    }

    /// How many bytes of a chunk extents take, and the stretches of its addresses that none does.
    fn free_in(&self, chunk: &Chunk, trees: &Trees) -> Result<(u64, Vec<ByteRange>)> {
        let (mut used, mut free) = (0_u64, Vec::new());
        let mut at = chunk.start;
        let mut cursor = trees.extents.from(&self.pool, Key::new(chunk.start.0, 0, 0));
        cursor.limit(Key::new(chunk.end().0, 0, 0));
        while let Some(item) = cursor.next()? {
            let start = Logical(item.key.objectid);
            if start >= chunk.end() {
                break;
            }
            let length = match item.key.kind {
                kinds::EXTENT_ITEM => item.key.offset,
                kinds::METADATA_ITEM => u64::from(self.superblock.nodesize),
                _ => continue,
            };
            if start < at || start.after(length) > chunk.end() || length == 0 {
                let found = format!("{length} bytes, {at} being in use before");
                return Err(item.corrupt("an extent of its own within one chunk", found));
            }
            if start > at {
                free.push(ByteRange { start: at.0, end: start.0 });
            }
            if free.len() > limits::MAX_FREE_STRETCHES {
                let context = format!("chunk at {}: too many free stretches", chunk.start);
                return Err(Error::new(ErrorKind::Limit, context));
            }
            used = used.saturating_add(length);
            at = start.after(length);
        }
        if at < chunk.end() {
            free.push(ByteRange { start: at.0, end: chunk.end().0 });
        }
        Ok((used, free))
    }
}

/// Ranges that are joined where they touch, without what is around superblocks.
struct Merged<'a> {
    pending: Option<ByteRange>,
    visit: Visit<'a, ByteRange>,
}

impl Merged<'_> {
    fn add(&mut self, range: ByteRange) -> ControlFlow<()> {
        // Early versions put a chunk there too.
        let mut start = range.start.max(RESERVED);
        for place in PLACES {
            let around = ByteRange::new(place, AROUND_SUPERBLOCK);
            if around.end > start && around.start < range.end {
                self.join(ByteRange { start, end: around.start })?;
                start = around.end;
            }
        }
        self.join(ByteRange { start, end: range.end })
    }

    fn join(&mut self, range: ByteRange) -> ControlFlow<()> {
        if range.is_empty() {
            return ControlFlow::Continue(());
        }
        match &mut self.pending {
            Some(last) if last.end == range.start => {
                last.end = range.end;
                ControlFlow::Continue(())
            }
            _ => self
                .pending
                .replace(range)
                .map_or(ControlFlow::Continue(()), |done| (self.visit)(done)),
        }
    }

    fn finish(mut self) {
        if let Some(last) = self.pending.take() {
            // There is nothing after it, whatever the visitor says.
            let _ = (self.visit)(last);
        }
    }
}
