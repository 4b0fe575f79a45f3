//! Which inodes there are: the allocation groups' trees of inodes, in chunks of 64.
//!
//! The kernel's `struct xfs_agi` and `struct xfs_inobt_rec` (`fs/xfs/libxfs/xfs_format.h`).

use std::ops::ControlFlow;

use super::Xfs;
use super::btree::{self, Node};
use super::headers::INODES;
use super::stamp::{SHORT_BTREE, cut};
use super::units::GroupNumber;
use crate::base::fields::{be16, be32, be64};
use crate::base::{Error, Result};

/// Inodes of a chunk.
pub(super) const CHUNK_INODES: u32 = 64;
/// Inodes for each bit of `ir_holemask`.
const HOLE_INODES: u32 = 4;
/// Levels of a tree of inodes at most: more than 2^26 chunks need.
const MAX_LEVELS: u32 = 9;

/// The fields of a group's header (`xfs_agi`) that a reader needs.
struct GroupHeader {
    agi_count: u32,
    agi_root: u32,
    agi_level: u32,
    agi_freecount: u32,
}

/// Inodes whose numbers follow one another.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chunk {
    /// `ir_startino`: the first, by its number within the group.
    pub first: u64,
    /// `ir_holemask`: which do not exist.
    holes: u16,
    /// `ir_free`: which are not in use.
    free: u64,
}

impl Chunk {
    fn parse(record: &[u8], is_sparse: bool) -> Option<Self> {
        Some(Self {
            first: be32(record, 0)?.into(),
            // Of old, the count of free ones takes these bytes as well.
            holes: if is_sparse { be16(record, 4)? } else { 0 },
            free: be64(record, 8)?,
        })
    }

    /// Whether there is an inode at `place`.
    pub(super) fn has(&self, place: u32) -> bool {
        let bit = place.checked_div(HOLE_INODES).unwrap_or(0);
        place < CHUNK_INODES && self.holes.wrapping_shr(bit) & 1 == 0
    }

    /// Whether the inode at `place` is not in use.
    pub(super) fn is_free(&self, place: u32) -> bool {
        self.free.wrapping_shr(place) & 1 == 1
    }

    /// The inodes that there are, and how many of them are free.
    fn count(&self) -> (u64, u64) {
        let all = (0..CHUNK_INODES).filter(|place| self.has(*place));
        all.fold((0, 0), |(count, free): (u64, u64), place| {
            (count.saturating_add(1), free.saturating_add(self.is_free(place).into()))
        })
    }
}

/// What a walk calls for each chunk.
type Visit<'a> = &'a mut dyn FnMut(&Chunk) -> Result<ControlFlow<()>>;

/// A walk of one group's tree.
struct Walk<'a> {
    group: GroupNumber,
    /// The inode that it begins with.
    from: u64,
    /// The inode that the next chunk may start with.
    next: u64,
    visit: Visit<'a>,
}

impl Xfs {
    /// Calls `visit` for each chunk of `group` that does not end before inode `from`, ascending;
    /// if that is zero, only once all are known to be there.
    ///
    /// # Errors
    /// `Corrupt` where the tree is damaged; those of `visit`.
    pub(super) fn each_chunk(
        &self,
        group: GroupNumber,
        from: u64,
        visit: Visit<'_>,
    ) -> Result<ControlFlow<()>> {
        let bytes = self.header(group, &INODES)?;
        let field = |at| be32(&bytes, at).unwrap_or_default();
        let header = GroupHeader {
            agi_count: field(0x10),
            agi_root: field(0x14),
            agi_level: field(0x18),
            agi_freecount: field(0x1c),
        };
        if header.agi_level == 0 || header.agi_level > MAX_LEVELS {
            return Err(Error::corrupt("agi_level", "1 to 9", header.agi_level));
        }
        if from == 0 {
            self.check_counts(group, &header)?;
        }
        self.walk_chunks(&header, Walk { group, from, next: 0, visit })
    }

    /// Compares the tree with what the group's header counts.
    fn check_counts(&self, group: GroupNumber, header: &GroupHeader) -> Result<()> {
        let mut counted = (0_u64, 0_u64);
        let mut visit = |chunk: &Chunk| {
            let (count, free) = chunk.count();
            counted = (counted.0.saturating_add(count), counted.1.saturating_add(free));
            Ok(ControlFlow::Continue(()))
        };
        let _ = self.walk_chunks(header, Walk { group, from: 0, next: 0, visit: &mut visit })?;
        let (count, free) = counted;
        if (count, free) == (header.agi_count.into(), header.agi_freecount.into()) {
            return Ok(());
        }
        let expected = format!("{} inodes, {} free", header.agi_count, header.agi_freecount);
        Err(Error::corrupt("tree of inodes", expected, format!("{count}, {free}")))
    }

    fn walk_chunks(&self, header: &GroupHeader, mut walk: Walk<'_>) -> Result<ControlFlow<()>> {
        let level = u16::try_from(header.agi_level).unwrap_or(0).saturating_sub(1);
        self.chunks_below(&mut walk, header.agi_root.into(), level, 0)
    }

    /// Walks the tree below block `within` of the group, which has at least so many entries.
    fn chunks_below(
        &self,
        walk: &mut Walk<'_>,
        within: u64,
        level: u16,
        least: usize,
    ) -> Result<ControlFlow<()>> {
        let block = self.geometry().block_in(walk.group, within, 1)?;
        let bytes = self.blocks.read(block)?;
        let node = Node::parse(&bytes, &btree::inodes(self.superblock.is_v5()), level)
            .and_then(|node| {
                self.check_stamp(&bytes, &SHORT_BTREE, block, walk.group.0.into())?;
                Ok(node)
            })
            .map_err(|error| error.within(block))?;
        // Each leaf goes further than those before it, so a tree without empty ones ends.
        if node.count() < least {
            return Err(Error::corrupt("tree of inodes", "a leaf of some", 0).within(block));
        }
        let Some(below) = level.checked_sub(1) else {
            return self.chunks_of(walk, &node).map_err(|error| error.within(block));
        };
        for place in node.find(walk.from).unwrap_or(0)..node.count() {
            let child = node.child(place).ok_or_else(|| cut(&bytes).within(block))?;
            // Where the walk begins is searched by keys.
            walk.next = walk.next.max(node.key(place).unwrap_or_default());
            if self.chunks_below(walk, child, below, 1)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn chunks_of(&self, walk: &mut Walk<'_>, leaf: &Node) -> Result<ControlFlow<()>> {
        let is_sparse = self.superblock.has_sparse_inodes();
        for place in 0..leaf.count() {
            let chunk = leaf.inodes(place).and_then(|record| Chunk::parse(&record, is_sparse));
            let chunk = chunk.filter(|chunk| chunk.first >= walk.next).ok_or_else(|| {
                let expected = format!("inode {} of its group or more", walk.next);
                Error::corrupt("tree of inodes", expected, format!("{chunk:?}"))
            })?;
            walk.next = chunk.first.saturating_add(CHUNK_INODES.into());
            if walk.next > walk.from && (walk.visit)(&chunk)?.is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_has_its_gaps_where_the_mask_says() {
        let record = [0, 0, 1, 0, 0x80, 1, 56, 3, 0xff, 0, 0, 0, 0, 0, 0, 0x1f];
        let chunk = Chunk::parse(&record, true).expect("whole");
        let places = |is: &dyn Fn(u32) -> bool| (0..66).filter(|place| is(*place)).count();
        assert_eq!((chunk.first, places(&|place| chunk.has(place))), (256, 56));
        assert!(!chunk.has(3) && chunk.has(4) && chunk.has(59) && !chunk.has(60));
        assert!(chunk.is_free(4) && !chunk.is_free(5) && chunk.is_free(56));
        // Bits of inodes that there are not say nothing.
        assert_eq!(chunk.count(), (56, 5));
        let old = Chunk::parse(&record, false).expect("whole");
        assert_eq!((old.count(), Chunk::parse(&record[..15], true).is_none()), ((64, 13), true));
    }
}
