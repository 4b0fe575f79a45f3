//! An image's block map: a Merkle tree, built as the disk streams by and walked on demand.
//!
//! Every node has 512 children; the root is the lowest level that spans the disk. A child whose
//! blocks are all zero (or unallocated, or unreadable) has no node: its parent's run says so.
//! The shape follows from the disk's content and size alone.

use std::sync::Arc;

use super::digest::{Digest, DigestKeys};
use super::node::{Entry, Node, StoredEntry};
use crate::base::limits::{MAX_TREE_LEVEL, NODE_FANOUT};
use crate::base::{BlockCount, BlockIndex, BlockSize, ByteCount, Error, ErrorKind, Result};

const FANOUT: u64 = NODE_FANOUT as u64;

/// Blocks that one child of a node at `level` spans.
#[must_use]
pub fn child_span(level: u8) -> u64 {
    FANOUT.saturating_pow(u32::from(level))
}

/// The level of the root over `blocks` blocks.
#[must_use]
pub fn root_level(blocks: BlockCount) -> u8 {
    (0..MAX_TREE_LEVEL).find(|level| child_span(level + 1) >= blocks.0).unwrap_or(MAX_TREE_LEVEL)
}

/// The digest of a whole disk: its size, and everything below its tree's root.
#[must_use]
pub fn disk_digest(
    keys: &DigestKeys,
    (size, block): (ByteCount, BlockSize),
    (level, root): (u8, &Entry),
) -> Digest {
    let mut canonical = b"disk".to_vec();
    canonical.extend_from_slice(&size.0.to_le_bytes());
    canonical.extend_from_slice(&block.bytes().to_le_bytes());
    canonical.push(level);
    root.canonical(&mut canonical);
    keys.node(&canonical)
}

/// Takes finished nodes and says where they are stored.
pub trait NodeSink {
    /// Stores `node`, whose first block is `first`, or finds it stored.
    ///
    /// # Errors
    /// The store's own.
    fn put_node(&mut self, node: &Node, first: BlockIndex) -> Result<StoredEntry>;
}

/// Finds nodes by digest and place.
pub trait NodeSource {
    /// The node of `stored`, checked against its digest.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged or missing; `Io`.
    fn node(&self, stored: &StoredEntry) -> Result<Arc<Node>>;
}

/// Builds a tree from a disk's entries in order, holding one node of each level.
#[derive(Debug)]
pub struct TreeBuilder {
    levels: Vec<Node>,
    blocks: BlockCount,
    next: u64,
}

impl TreeBuilder {
    /// A builder for a disk of `blocks` blocks.
    #[must_use]
    pub fn new(blocks: BlockCount) -> Self {
        Self { levels: (0..=root_level(blocks)).map(Node::new).collect(), blocks, next: 0 }
    }

    /// The first block that was not added yet.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Blocks of the whole disk.
    #[must_use]
    pub fn blocks(&self) -> u64 {
        self.blocks.0
    }

    /// Levels that the tree has.
    #[must_use]
    pub fn height(&self) -> u8 {
        u8::try_from(self.levels.len()).unwrap_or(u8::MAX)
    }

    /// Adds the next `blocks` blocks, which are all that the stored node of `level` spans.
    ///
    /// # Errors
    /// `Invalid` when no such node begins there, or it reaches beyond the disk's last block; the
    /// sink's own.
    pub fn push_node(
        &mut self,
        level: u8,
        stored: &StoredEntry,
        blocks: u64,
        sink: &mut dyn NodeSink,
    ) -> Result<()> {
        let above = usize::from(level) + 1;
        let is_there = self.next.is_multiple_of(child_span(level + 1)) && above < self.levels.len();
        if !is_there || blocks > child_span(level + 1) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("no node of level {level} begins at block {}", self.next),
            ));
        }
        self.advance(blocks)?;
        self.push_at(above, &Entry::Stored(*stored), 1, sink)
    }

    fn advance(&mut self, count: u64) -> Result<()> {
        let end = self.next.saturating_add(count);
        if end > self.blocks.0 {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("tree of {} blocks: block {end} is beyond its end", self.blocks),
            ));
        }
        self.next = end;
        Ok(())
    }

    /// Adds the blocks of the next stretch of the disk, whose leaves were built apart.
    ///
    /// # Errors
    /// `Invalid` when the blocks so far do not end where a leaf does, or the stretch reaches
    /// beyond the disk's last block; the sink's own.
    pub fn append(&mut self, mut stretch: LeafBuilder, sink: &mut dyn NodeSink) -> Result<()> {
        if stretch.leaf.children() > 0 {
            stretch.seal(sink)?;
        }
        if stretch.blocks > 0 && (self.levels.len() == 1 || self.levels[0].children() > 0) {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("tree of {} blocks: no leaf ends at block {}", self.blocks, self.next),
            ));
        }
        self.advance(stretch.blocks)?;
        stretch.leaves.iter().try_for_each(|(entry, count)| self.push_at(1, entry, *count, sink))
    }

    fn push_at(
        &mut self,
        level: usize,
        entry: &Entry,
        mut count: u64,
        sink: &mut dyn NodeSink,
    ) -> Result<()> {
        let is_root = level + 1 == self.levels.len();
        while count > 0 {
            let node = &mut self.levels[level];
            let whole = count / FANOUT;
            if !is_root && entry.is_uniform() && node.children() == 0 && whole > 0 {
                self.push_at(level + 1, entry, whole, sink)?;
                count -= whole * FANOUT;
                continue;
            }
            let taken = u16::try_from(count).unwrap_or(NODE_FANOUT).min(node.room());
            node.push(entry.clone(), taken);
            count -= u64::from(taken);
            if node.room() == 0 && !is_root {
                self.seal(level, sink)?;
            }
        }
        Ok(())
    }

    /// Hands a level's node to the sink and its entry to the level above.
    fn seal(&mut self, level: usize, sink: &mut dyn NodeSink) -> Result<()> {
        let entry = self.take(level, sink)?;
        self.push_at(level + 1, &entry, 1, sink)
    }

    fn take(&mut self, level: usize, sink: &mut dyn NodeSink) -> Result<Entry> {
        let first = self.first_of(level);
        let empty = Node::new(self.levels[level].level);
        let node = std::mem::replace(&mut self.levels[level], empty);
        match node.uniform() {
            Some(entry) => Ok(entry),
            None => Ok(Entry::Stored(sink.put_node(&node, first)?)),
        }
    }

    /// The first block of the node of `level` that is being built.
    fn first_of(&self, level: usize) -> BlockIndex {
        let above = self.levels[level + 1..].iter();
        BlockIndex(above.map(|node| u64::from(node.children()) * child_span(node.level)).sum())
    }

    /// Completes the tree and returns its root's level and entry.
    ///
    /// # Errors
    /// `Invalid` when blocks are missing; the sink's own.
    pub fn finish(mut self, sink: &mut dyn NodeSink) -> Result<(u8, Entry)> {
        if self.next != self.blocks.0 {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("tree of {} blocks: only {} were given", self.blocks, self.next),
            ));
        }
        let root = self.levels.len() - 1;
        for level in 0..root {
            if self.levels[level].children() > 0 {
                self.seal(level, sink)?;
            }
        }
        let level = self.levels[root].level;
        if self.levels[root].children() == 0 {
            return Ok((level, Entry::Zero));
        }
        Ok((level, self.take(root, sink)?))
    }
}

/// Builds the leaves of a stretch of a disk that begins where a leaf does, so that several
/// stretches can be built side by side; [`TreeBuilder::append`] takes them in order.
#[derive(Debug)]
pub struct LeafBuilder {
    /// The first block of the leaf.
    first: u64,
    leaf: Node,
    leaves: Vec<(Entry, u64)>,
    blocks: u64,
}

impl LeafBuilder {
    /// A builder of the leaves from block `first` on.
    #[must_use]
    pub fn new(first: BlockIndex) -> Self {
        Self { first: first.0, leaf: Node::new(0), leaves: Vec::new(), blocks: 0 }
    }

    fn seal(&mut self, sink: &mut dyn NodeSink) -> Result<()> {
        let leaf = std::mem::replace(&mut self.leaf, Node::new(0));
        let entry = match leaf.uniform() {
            Some(entry) => entry,
            None => Entry::Stored(sink.put_node(&leaf, BlockIndex(self.first))?),
        };
        self.add(entry, 1);
        Ok(())
    }

    fn add(&mut self, entry: Entry, count: u64) {
        self.first += count * FANOUT;
        match self.leaves.last_mut() {
            Some((last, leaves)) if *last == entry => *leaves += count,
            _ => self.leaves.push((entry, count)),
        }
    }
}

/// Takes a disk's entries in order.
pub trait TakeEntries {
    /// Adds the next `count` blocks. Long runs cost no more than short ones.
    ///
    /// # Errors
    /// `Invalid` beyond the disk's last block; the sink's own.
    fn push(&mut self, entry: &Entry, count: u64, sink: &mut dyn NodeSink) -> Result<()>;
}

impl TakeEntries for LeafBuilder {
    fn push(&mut self, entry: &Entry, mut count: u64, sink: &mut dyn NodeSink) -> Result<()> {
        self.blocks += count;
        while count > 0 {
            let whole = count / FANOUT;
            if entry.is_uniform() && self.leaf.children() == 0 && whole > 0 {
                self.add(entry.clone(), whole);
                count -= whole * FANOUT;
                continue;
            }
            let taken = u16::try_from(count).unwrap_or(NODE_FANOUT).min(self.leaf.room());
            self.leaf.push(entry.clone(), taken);
            count -= u64::from(taken);
            if self.leaf.room() == 0 {
                self.seal(sink)?;
            }
        }
        Ok(())
    }
}

impl TakeEntries for TreeBuilder {
    fn push(&mut self, entry: &Entry, count: u64, sink: &mut dyn NodeSink) -> Result<()> {
        self.advance(count)?;
        self.push_at(0, entry, count, sink)
    }
}

/// Blocks of which a tree says the same.
#[derive(Debug, Clone, Copy)]
pub struct TreeRun<'a> {
    /// The first.
    pub first: BlockIndex,
    /// How many.
    pub count: u64,
    /// What it says of each.
    pub entry: &'a Entry,
}

/// A node where a walk meets it, with all below.
#[derive(Debug, Clone, Copy)]
pub struct Subtree<'a> {
    /// The node.
    pub stored: &'a StoredEntry,
    /// Its level.
    pub level: u8,
    /// Its first block.
    pub first: BlockIndex,
    /// Blocks of the disk below it.
    pub count: u64,
    /// Whether the disk's last block is among them: elsewhere the same node may stand for more.
    pub is_last: bool,
}

/// What a walk does about a subtree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Below {
    /// It is read and shown.
    Shown,
    /// It is passed over, because all is known; with whether no damage is there.
    Known(bool),
}

/// Sees a tree in the disk's order.
///
/// The same node may be met any number of times, also without its disk being large: whoever sees
/// a whole tree passes over what is [`Known`](Below::Known).
pub trait TreeVisitor {
    /// A node is about to be read.
    ///
    /// # Errors
    /// The visitor's own; it ends the walk.
    fn enter(&mut self, _node: &Subtree<'_>) -> Result<Below> {
        Ok(Below::Shown)
    }

    /// Everything below a node that was shown was seen; `whole` if no damage was met there.
    fn leave(&mut self, _node: &Subtree<'_>, _whole: bool) {}

    /// A run of blocks.
    ///
    /// # Errors
    /// The visitor's own; it ends the walk.
    fn run(&mut self, run: TreeRun<'_>) -> Result<()>;

    /// A node could not be read, so nothing is known of these blocks.
    ///
    /// # Errors
    /// By default the damage itself, which ends the walk.
    fn damaged(&mut self, _first: BlockIndex, _count: u64, error: Error) -> Result<()> {
        Err(error)
    }
}

/// A walk over a tree, or over a part of it.
pub struct TreeWalk<'a> {
    source: &'a dyn NodeSource,
    start: u64,
    end: u64,
    total: u64,
}

impl<'a> TreeWalk<'a> {
    /// A walk over all `blocks` blocks.
    #[must_use]
    pub fn new(source: &'a dyn NodeSource, blocks: BlockCount) -> Self {
        Self { source, start: 0, end: blocks.0, total: blocks.0 }
    }

    /// Narrows the walk to `count` blocks from `first`; only nodes on their way are read.
    #[must_use]
    pub fn only(mut self, first: BlockIndex, count: u64) -> Self {
        self.start = first.0.min(self.total);
        self.end = first.0.saturating_add(count).min(self.total);
        self
    }

    /// Shows everything to `visitor`.
    ///
    /// # Errors
    /// The visitor's own.
    pub fn run(&self, (level, root): (u8, &Entry), visitor: &mut dyn TreeVisitor) -> Result<()> {
        match root {
            Entry::Stored(stored) => {
                self.descend(stored, level, 0, visitor)?;
                Ok(())
            }
            uniform => self.show(0, self.total, uniform, visitor),
        }
    }

    /// Visits a node and all below; says whether no damage was met.
    fn descend(
        &self,
        stored: &StoredEntry,
        level: u8,
        first: u64,
        visitor: &mut dyn TreeVisitor,
    ) -> Result<bool> {
        let span = child_span(level);
        let left = self.total.saturating_sub(first);
        let count = left.min(span.saturating_mul(FANOUT));
        let is_last = count == left;
        let subtree = Subtree { stored, level, first: BlockIndex(first), count, is_last };
        if let Below::Known(whole) = visitor.enter(&subtree)? {
            return Ok(whole);
        }
        let node = match node_at(self.source, stored, level, left) {
            Ok(node) => node,
            Err(error) if error.kind() == ErrorKind::Cancelled => return Err(error),
            Err(error) => {
                visitor.damaged(BlockIndex(first), count, error)?;
                visitor.leave(&subtree, false);
                return Ok(false);
            }
        };
        let mut whole = true;
        let mut at = first;
        for run in node.runs() {
            let end = at.saturating_add(span.saturating_mul(u64::from(run.count))).min(self.total);
            if end > self.start && at < self.end {
                match &run.entry {
                    Entry::Stored(child) if level > 0 => {
                        for number in 0..u64::from(run.count) {
                            let child_first = at + number * span;
                            if child_first < self.end && child_first + span > self.start {
                                whole &= self.descend(child, level - 1, child_first, visitor)?;
                            }
                        }
                    }
                    entry => self.show(at, end, entry, visitor)?,
                }
            }
            at = end;
        }
        visitor.leave(&subtree, whole);
        Ok(whole)
    }

    fn show(
        &self,
        start: u64,
        end: u64,
        entry: &Entry,
        visitor: &mut dyn TreeVisitor,
    ) -> Result<()> {
        let (start, end) = (start.max(self.start), end.min(self.end));
        if start >= end {
            return Ok(());
        }
        visitor.run(TreeRun { first: BlockIndex(start), count: end - start, entry })
    }
}

/// The node of `stored`, checked to be one of `level` when `left` blocks of the disk remain from
/// its first on.
///
/// # Errors
/// `Corrupt` when it is damaged, missing or of another shape; `Io`.
pub fn node_at(
    source: &dyn NodeSource,
    stored: &StoredEntry,
    level: u8,
    left: u64,
) -> Result<Arc<Node>> {
    let node = source.node(stored)?;
    let children = left.div_ceil(child_span(level)).min(FANOUT);
    if node.level != level || u64::from(node.children()) != children {
        return Err(Error::corrupt(
            "tree node",
            format!("level {level} with {children} children"),
            format!("level {} with {}", node.level, node.children()),
        ));
    }
    Ok(node)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::sync::Mutex;

    use super::*;
    use crate::store::digest::PackId;
    use crate::store::frame::Place;

    #[derive(Default)]
    struct Memory(Mutex<HashMap<Digest, Vec<u8>>>);

    impl NodeSink for &Memory {
        fn put_node(&mut self, node: &Node, _first: BlockIndex) -> Result<StoredEntry> {
            let digest = node.digest(&DigestKeys::derive(&[0; 32]));
            self.0.lock().expect("lock").insert(digest, node.encode());
            let place = Place { pack: PackId([0; 16]), offset: 0, length: 0, member: 0 };
            Ok(StoredEntry { digest, place })
        }
    }

    impl NodeSource for Memory {
        fn node(&self, stored: &StoredEntry) -> Result<Arc<Node>> {
            let nodes = self.0.lock().expect("lock");
            let bytes = nodes.get(&stored.digest).ok_or_else(|| {
                Error::new(ErrorKind::NotFound, format!("node {}", stored.digest))
            })?;
            Node::decode(bytes).map(Arc::new)
        }
    }

    #[derive(Default)]
    struct Collect(Vec<(u64, u64, Entry)>);

    impl TreeVisitor for Collect {
        fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
            match self.0.last_mut() {
                Some((first, count, entry))
                    if *entry == *run.entry && *first + *count == run.first.0 =>
                {
                    *count += run.count;
                }
                _ => self.0.push((run.first.0, run.count, run.entry.clone())),
            }
            Ok(())
        }
    }

    fn stored(number: u64) -> Entry {
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&number.to_le_bytes());
        let place = Place { pack: PackId([1; 16]), offset: 48, length: 64, member: 0 };
        Entry::Stored(StoredEntry { digest: Digest(digest), place })
    }

    fn build(runs: &[(u64, Entry)]) -> (Memory, BlockCount, (u8, Entry)) {
        let blocks = BlockCount(runs.iter().map(|(count, _)| count).sum());
        let memory = Memory::default();
        let mut builder = TreeBuilder::new(blocks);
        for (count, entry) in runs {
            builder.push(entry, *count, &mut &memory).expect("within the disk");
        }
        let root = builder.finish(&mut &memory).expect("complete");
        (memory, blocks, root)
    }

    #[test]
    fn a_walk_shows_what_was_pushed() {
        let runs: Vec<(u64, Entry)> = vec![
            (1, stored(1)),
            (700, Entry::Zero),
            (3, Entry::Unreadable),
            (600_000, Entry::Unallocated),
            (1, stored(2)),
            (1, stored(3)),
            (511, Entry::Zero),
        ];
        let (memory, blocks, (level, root)) = build(&runs);
        let mut seen = Collect::default();
        TreeWalk::new(&memory, blocks).run((level, &root), &mut seen).expect("whole");
        let counts: Vec<(u64, Entry)> =
            seen.0.into_iter().map(|(_, n, entry)| (n, entry)).collect();
        assert_eq!(counts, runs);

        let mut part = Collect::default();
        let walk = TreeWalk::new(&memory, blocks).only(BlockIndex(600_704), 2);
        walk.run((level, &root), &mut part).expect("whole");
        assert_eq!(part.0, vec![(600_704, 1, stored(2)), (600_705, 1, stored(3))]);
    }

    #[test]
    fn a_sparse_disk_of_16_tib_has_a_handful_of_nodes() {
        let blocks = 1_u64 << 27;
        let (memory, _, (level, _)) =
            build(&[(blocks / 2, Entry::Zero), (1, stored(1)), (blocks / 2 - 1, Entry::Zero)]);
        assert_eq!(level, 2);
        assert_eq!(memory.0.lock().expect("lock").len(), 3);
        let (memory, _, (_, root)) = build(&[(blocks, Entry::Zero)]);
        assert_eq!(root, Entry::Zero);
        assert!(memory.0.lock().expect("lock").is_empty());
    }

    #[test]
    fn the_same_content_has_the_same_root_however_it_was_pushed() {
        let (_, _, once) = build(&[(2000, Entry::Zero), (100, stored(4))]);
        let mut pieces = vec![(1, Entry::Zero); 2000];
        pieces.extend(vec![(1, stored(4)); 100]);
        let (_, _, piecemeal) = build(&pieces);
        assert_eq!(once, piecemeal);
    }

    #[test]
    fn stretches_built_side_by_side_make_the_same_tree() {
        for tail in [1, 511, 512, 513, 300_000] {
            let front = [(1000, stored(1)), (24, Entry::Zero)];
            let back = [(3000, Entry::Zero), (5, stored(2)), (tail, Entry::Zero)];
            let (_, blocks, expected) = build(&[&front[..], &back[..]].concat());
            let memory = Memory::default();
            let (mut tree, mut stretch) =
                (TreeBuilder::new(blocks), LeafBuilder::new(BlockIndex(1024)));
            for (count, entry) in &back {
                stretch.push(entry, *count, &mut &memory).expect("taken");
            }
            for (count, entry) in &front {
                tree.push(entry, *count, &mut &memory).expect("taken");
            }
            tree.append(stretch, &mut &memory).expect("a leaf ends at block 1024");
            assert_eq!(tree.finish(&mut &memory).expect("complete"), expected);
        }
    }

    #[test]
    fn too_many_or_too_few_blocks_are_refused() {
        let memory = Memory::default();
        let mut builder = TreeBuilder::new(BlockCount(4));
        assert!(builder.push(&Entry::Zero, 5, &mut &memory).is_err());
        let builder = TreeBuilder::new(BlockCount(4));
        assert!(builder.finish(&mut &memory).is_err());
    }
}
