//! What is free: the allocation groups' trees of free blocks, where they can be believed.
//!
//! The kernel's `fs/xfs/libxfs/xfs_format.h` (`struct xfs_agf`) and `xfs_alloc_btree.c`.

use std::ops::ControlFlow;

use super::Xfs;
use super::btree::{self, Node};
use super::headers::FREE_SPACE;
use super::stamp::SHORT_BTREE;
use super::units::{BlockNumber, GroupNumber};
use crate::base::fields::be32;
use crate::base::{ByteRange, Error, ErrorKind, Result};
use crate::fs::Visit;

/// Levels of a tree of free blocks at most: more than 2^32 blocks need.
const MAX_LEVELS: u32 = 9;
/// Sectors of headers that each group starts with: superblock, free space, inodes, free list.
const HEADER_SECTORS: u64 = 4;

/// The fields of a group's header (`xfs_agf`) that a reader needs.
#[derive(Debug, Clone, Copy)]
struct GroupHeader {
    agf_bno_root: u32,
    agf_bno_level: u32,
    agf_flcount: u32,
    agf_freeblks: u32,
    agf_longest: u32,
    agf_btreeblks: u32,
}

impl GroupHeader {
    fn parse(bytes: &[u8]) -> Self {
        let field = |at| be32(bytes, at).unwrap_or_default();
        Self {
            agf_bno_root: field(0x10),
            agf_bno_level: field(0x1c),
            agf_flcount: field(0x30),
            agf_freeblks: field(0x34),
            agf_longest: field(0x38),
            agf_btreeblks: field(0x3c),
        }
    }
}

/// Free blocks of one group, counted as they are visited.
struct Walk<'a> {
    group: GroupNumber,
    /// Blocks at the start that are never free.
    headers: u64,
    /// The block of the group where the next run may start.
    next: u64,
    free: u64,
    longest: u64,
    /// Blocks of the tree itself.
    nodes: u64,
    visit: &'a mut dyn FnMut(BlockNumber, u64) -> ControlFlow<()>,
    flow: ControlFlow<()>,
}

impl Xfs {
    /// Calls `visit` for each free range, ascending, merged across groups. What is in the groups'
    /// short lists of spare blocks (`xfs_agfl`) is left out: they are as good as in use.
    ///
    /// # Errors
    /// See [`Filesystem::free_space`](crate::fs::Filesystem::free_space).
    pub(super) fn free_ranges(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        if let Some(doubt) = &self.doubt {
            let context = format!("it is not certain what is free: {doubt}");
            return Err(Error::new(ErrorKind::Unsupported, context));
        }
        let counted = self.free_by_group(&mut Err, visit)?;
        counted.map_or(Ok(()), |counted| self.check_count(counted))
    }

    /// The same, however the filesystem is, without what makes no sense.
    ///
    /// # Errors
    /// None; damage only costs what is damaged.
    pub(super) fn likely_free_ranges(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.free_by_group(&mut |_damage| Ok(()), visit).map(|_counted| ())
    }

    /// Goes on after a damaged group if `on_damage` does. Returns how many free blocks the
    /// superblock should count, or `None` when the visitor wants no more.
    fn free_by_group(
        &self,
        on_damage: &mut dyn FnMut(Error) -> Result<()>,
        visit: Visit<'_, ByteRange>,
    ) -> Result<Option<u64>> {
        let mut pending: Option<(u64, u64)> = None;
        let mut counted = 0_u64;
        for group in (0..self.geometry().group_count).map(GroupNumber) {
            let mut add = |first: BlockNumber, count: u64| {
                let end = first.0.saturating_add(count);
                match &mut pending {
                    Some(last) if last.1 == first.0 => last.1 = end,
                    _ => {
                        if let Some((start, end)) = pending.replace((first.0, end)) {
                            return visit(self.blocks_range(start, end));
                        }
                    }
                }
                ControlFlow::Continue(())
            };
            match self.free_in(group, &mut add) {
                Ok(Some(free)) => counted = counted.saturating_add(free),
                Ok(None) => return Ok(None),
                Err(error) => on_damage(error.within(group))?,
            }
        }
        if let Some((start, end)) = pending {
            // There is nothing after it, whatever the visitor says.
            let _ = visit(self.blocks_range(start, end));
        }
        Ok(Some(counted))
    }

    fn blocks_range(&self, start: u64, end: u64) -> ByteRange {
        self.geometry().range(BlockNumber(start), end.saturating_sub(start))
    }

    /// Compares what was counted with what the superblock says.
    fn check_count(&self, counted: u64) -> Result<()> {
        let expected = self.superblock.sb_fdblocks;
        // Before an unmount, and in old filesystems, the superblock counts otherwise.
        if counted == expected || !self.is_clean || !self.superblock.counts_lazily() {
            return Ok(());
        }
        Err(Error::corrupt("superblock", format!("{counted} blocks free"), expected))
    }

    /// Visits the free runs of a group, ascending; returns how many blocks the superblock should
    /// count for it, or `None` when the visitor wants no more.
    fn free_in(
        &self,
        group: GroupNumber,
        visit: &mut dyn FnMut(BlockNumber, u64) -> ControlFlow<()>,
    ) -> Result<Option<u64>> {
        let geometry = self.geometry();
        let header = GroupHeader::parse(&self.header(group, &FREE_SPACE)?);
        if header.agf_bno_level == 0 || header.agf_bno_level > MAX_LEVELS {
            return Err(Error::corrupt("agf_level", "1 to 9", header.agf_bno_level));
        }
        let headers =
            geometry.blocks_of(HEADER_SECTORS.saturating_mul(geometry.sector_size.into()));
        let flow = ControlFlow::Continue(());
        let (next, free, longest, nodes) = (headers, 0, 0, 0);
        let mut walk = Walk { group, headers, next, free, longest, nodes, visit, flow };
        let level = u16::try_from(header.agf_bno_level).unwrap_or(0).saturating_sub(1);
        self.walk_tree(&mut walk, header.agf_bno_root.into(), level)?;
        if walk.flow.is_break() {
            return Ok(None);
        }
        let (free, longest) = (walk.free, walk.longest);
        if (free, longest) != (header.agf_freeblks.into(), header.agf_longest.into()) {
            let expected = format!(
                "{} blocks free, {} in the longest run",
                header.agf_freeblks, header.agf_longest
            );
            return Err(Error::corrupt("free blocks", expected, format!("{free}, {longest}")));
        }
        let spare = u64::from(header.agf_flcount).saturating_add(header.agf_btreeblks.into());
        Ok(Some(free.saturating_add(spare)))
    }

    /// Walks the tree below block `within` of the group.
    fn walk_tree(&self, walk: &mut Walk<'_>, within: u64, level: u16) -> Result<()> {
        let geometry = self.geometry();
        walk.nodes = walk.nodes.saturating_add(1);
        // A tree that leads in circles would have more nodes than the group has blocks.
        if within < walk.headers || walk.nodes > geometry.blocks_in(walk.group) {
            return Err(Error::corrupt("tree of free blocks", "a node", format!("block {within}")));
        }
        let block = geometry.block_in(walk.group, within, 1)?;
        let bytes = self.blocks.read(block)?;
        let shape = btree::free_by_block(self.superblock.is_v5());
        let node = Node::parse(&bytes, &shape, level)
            .and_then(|node| {
                self.check_stamp(&bytes, &SHORT_BTREE, block, walk.group.0.into())?;
                Ok(node)
            })
            .map_err(|error| error.within(block))?;
        for place in 0..node.count() {
            if walk.flow.is_break() {
                break;
            }
            match (level.checked_sub(1), node.child(place), node.free_blocks(place)) {
                (Some(below), Some(child), _) => self.walk_tree(walk, child, below)?,
                (None, _, Some((start, count))) => {
                    self.add_run(walk, start, count).map_err(|error| error.within(block))?;
                }
                _ => return Err(super::stamp::cut(&bytes).within(block)),
            }
        }
        Ok(())
    }

    fn add_run(&self, walk: &mut Walk<'_>, start: u64, count: u64) -> Result<()> {
        let first = self.geometry().block_in(walk.group, start, count)?;
        // Runs that touch would be one.
        if start < walk.next || count == 0 {
            let expected = format!("a run after block {}", walk.next);
            return Err(Error::corrupt("free blocks", expected, format!("{count} at {start}")));
        }
        if let Some((log, blocks)) = self.log_place()
            && first.0 < log.0.saturating_add(blocks)
            && log.0 < first.0.saturating_add(count)
        {
            return Err(Error::corrupt("free blocks", "the log in use", first));
        }
        walk.next = start.saturating_add(count).saturating_add(1);
        walk.free = walk.free.saturating_add(count);
        walk.longest = walk.longest.max(count);
        walk.flow = (walk.visit)(first, count);
        Ok(())
    }
}
