//! Where worked chunks become an image: frames into the store, blocks into the tree.

use super::OnError;
use super::worker::{Block, Content, WorkedChunk};
use crate::base::limits::MAX_UNREADABLE_RANGES;
use crate::base::ranges::joined;
use crate::base::{
    BlockIndex, BlockSize, ByteCount, ByteRange, Error, ErrorKind, Progress, Result,
};
use crate::store::manifest::{Cost, UnreadableRange};
use crate::store::writer::Put;
use crate::store::{
    Entry, LeafBuilder, Parent, StoreWriter, StoredEntry, TakeEntries, TreeBuilder,
};

/// Takes the chunks of a disk's two lanes, each in the disk's order. What lies between them is
/// zero, or as it was in the parent.
pub struct Assembly {
    size: ByteCount,
    split: u64,
    on_error: OnError,
    front: Lane<TreeBuilder>,
    back: Lane<LeafBuilder>,
    /// What holds whatever is not read.
    unchanged: Option<Parent>,
    /// What is known of what is not read: whole blocks, sorted and apart.
    known: Vec<(ByteRange, Entry)>,
    cost: Cost,
    unreadable: Vec<ByteRange>,
}

/// A disk that was taken in whole.
pub struct Assembled {
    /// The tree's root: level and entry.
    pub root: (u8, Entry),
    /// What it cost, but for the time.
    pub cost: Cost,
    /// What could not be read.
    pub unreadable: Vec<UnreadableRange>,
    /// The last progress.
    pub progress: Progress,
}

impl Assembly {
    /// An assembly of a disk of `size` bytes, whose second lane begins at `split`.
    #[must_use]
    pub fn new(block_size: BlockSize, size: ByteCount, split: u64, on_error: OnError) -> Self {
        let block = block_size.bytes();
        let tree = TreeBuilder::new(block_size.count(size));
        let front = Lane { block, next: 0, tree };
        let tree = LeafBuilder::new(BlockIndex(split / block));
        let back = Lane { block, next: split, tree };
        let (cost, unreadable) = (Cost::default(), Vec::new());
        let known = Vec::new();
        Self { size, split, on_error, front, back, unchanged: None, known, cost, unreadable }
    }

    /// The same, of a disk in one lane on which all that is not read is as in `parent`.
    #[must_use]
    pub fn after(mut self, parent: Parent) -> Self {
        self.unchanged = Some(parent);
        self
    }

    /// The same, of a disk on which whole blocks are not read because no filesystem uses them, and
    /// others because they are `holes`.
    #[must_use]
    pub fn leaving_out(mut self, unused: &[ByteRange], holes: &[ByteRange]) -> Self {
        let unused = unused.iter().map(|range| (*range, Entry::Unallocated));
        self.known = unused.chain(holes.iter().map(|range| (*range, Entry::Zero))).collect();
        self.known.sort_by_key(|(range, _)| range.start);
        self
    }

    /// Stores a chunk.
    ///
    /// # Errors
    /// The store's; `Io` for the first unreadable sector if that is to abort; `Limit` when too
    /// many ranges are unreadable.
    pub fn store(&mut self, chunk: &WorkedChunk, writer: &mut StoreWriter) -> Result<()> {
        self.note_unreadable(&chunk.bad)?;
        let mut contents = vec![None; chunk.contents];
        for frame in &chunk.frames {
            let put = writer.put(&frame.bytes)?;
            for (number, put) in frame.contents.iter().zip(put) {
                contents[usize::from(*number)] = Some(put);
            }
        }
        let contents: Vec<Put> = contents.into_iter().flatten().collect();
        self.count(chunk, &contents);
        if chunk.range.start < self.split {
            self.skip_front(chunk.range.start, writer)?;
            self.front.push(chunk, &contents, writer)
        } else {
            self.skip_back(chunk.range.start, writer)?;
            self.back.push(chunk, &contents, writer)
        }
    }

    /// Goes on behind what was not read of the first lane.
    fn skip_front(&mut self, end: u64, writer: &mut StoreWriter) -> Result<()> {
        let (unchanged, shared) = (&self.unchanged, &mut self.cost.unchanged);
        let mut fill = |tree: &mut TreeBuilder, range: Blocks, writer: &mut StoreWriter| {
            let Some(parent) = unchanged else { return push_hole(tree, range, writer) };
            *shared += range.bytes;
            parent.share(tree, range.count, writer)
        };
        let skipped = self.front.skip(end, &self.known, writer, &mut fill)?;
        self.cost.unallocated += skipped;
        Ok(())
    }

    /// Goes on behind what was not read of the second lane.
    fn skip_back(&mut self, end: u64, writer: &mut StoreWriter) -> Result<()> {
        self.cost.unallocated += self.back.skip(end, &self.known, writer, &mut push_hole)?;
        Ok(())
    }

    fn count(&mut self, chunk: &WorkedChunk, contents: &[Put]) {
        let mut seen = 0;
        for block in &chunk.blocks {
            let length = u64::from(block.length);
            match &block.content {
                Content::New(_, number) if usize::from(*number) == seen => {
                    let is_new = contents[seen].is_new;
                    seen += 1;
                    let cost = &mut self.cost;
                    *(if is_new { &mut cost.fresh } else { &mut cost.duplicate }) += length;
                }
                Content::New(..) | Content::Known(..) => self.cost.duplicate += length,
                Content::Zero => self.cost.zero += length,
                Content::Unreadable => {}
            }
        }
        self.cost.read += chunk.range.len();
    }

    fn note_unreadable(&mut self, bad: &[ByteRange]) -> Result<()> {
        for range in bad {
            if self.on_error == OnError::Abort {
                return Err(Error::new(ErrorKind::Io, format!("source: {range} are unreadable")));
            }
            self.cost.unreadable += range.len();
            let count = self.unreadable.len();
            match self.unreadable.last_mut() {
                Some(last) if last.end == range.start => last.end = range.end,
                _ if count == MAX_UNREADABLE_RANGES => {
                    return Err(Error::new(
                        ErrorKind::Limit,
                        format!("source: more than {MAX_UNREADABLE_RANGES} unreadable ranges"),
                    ));
                }
                _ => self.unreadable.push(*range),
            }
        }
        Ok(())
    }

    /// How far it is: holes count once something behind them, or the end, was reached.
    #[must_use]
    pub fn progress(&self, writer: &StoreWriter) -> Progress {
        Progress {
            done: self.front.next + (self.back.next - self.split),
            total: self.size.0,
            moved: self.cost.read,
            fresh: self.cost.fresh,
            stored: writer.stored().0,
        }
    }

    /// Completes the tree.
    ///
    /// # Errors
    /// The store's.
    pub fn finish(mut self, writer: &mut StoreWriter) -> Result<Assembled> {
        self.skip_front(self.split, writer)?;
        self.skip_back(self.size.0, writer)?;
        let progress = self.progress(writer);
        let mut tree = self.front.tree;
        tree.append(self.back.tree, writer)?;
        let root = tree.finish(writer)?;
        let (stored, nodes) = writer.stored();
        // What was neither read nor shared nor left out was a hole.
        let holes = self.size.0 - self.cost.read - self.cost.unchanged - self.cost.unallocated;
        let cost = Cost { stored, nodes, zero: self.cost.zero + holes, ..self.cost };
        Ok(Assembled { root, cost, unreadable: in_order(self.unreadable), progress })
    }
}

/// A stretch of the disk, taken from front to back.
struct Lane<T> {
    block: u64,
    /// The first byte that was not taken yet.
    next: u64,
    tree: T,
}

impl<T: TakeEntries> Lane<T> {
    fn push(
        &mut self,
        chunk: &WorkedChunk,
        contents: &[Put],
        writer: &mut StoreWriter,
    ) -> Result<()> {
        for block in &chunk.blocks {
            self.tree.push(&entry(block, contents), 1, writer)?;
        }
        self.next = chunk.range.end;
        Ok(())
    }

    /// Goes on to `end`: what is not `known` is up to `fill`. Returns how many bytes are
    /// unallocated.
    fn skip(
        &mut self,
        end: u64,
        known: &[(ByteRange, Entry)],
        writer: &mut StoreWriter,
        fill: &mut dyn FnMut(&mut T, Blocks, &mut StoreWriter) -> Result<()>,
    ) -> Result<u64> {
        let mut unallocated = 0;
        let from = known.partition_point(|(range, _)| range.end <= self.next);
        for (range, entry) in known[from..].iter().take_while(|(range, _)| range.start < end) {
            let before = self.take_to(range.start.max(self.next));
            fill(&mut self.tree, before, writer)?;
            let blocks = self.take_to(range.end.min(end));
            self.tree.push(entry, blocks.count, writer)?;
            if *entry == Entry::Unallocated {
                unallocated += blocks.bytes;
            }
        }
        let rest = self.take_to(end);
        fill(&mut self.tree, rest, writer)?;
        Ok(unallocated)
    }

    /// The blocks up to `end`, which are taken with this.
    fn take_to(&mut self, end: u64) -> Blocks {
        let count = end.div_ceil(self.block) - self.next.div_ceil(self.block);
        let bytes = end - self.next;
        self.next = end;
        Blocks { count, bytes }
    }
}

/// Blocks that follow one another.
#[derive(Clone, Copy)]
struct Blocks {
    count: u64,
    bytes: u64,
}

fn push_hole<T: TakeEntries>(tree: &mut T, hole: Blocks, writer: &mut StoreWriter) -> Result<()> {
    tree.push(&Entry::Zero, hole.count, writer)
}

/// What the tree says of a block of a chunk whose new contents were put as `contents`.
fn entry(block: &Block, contents: &[Put]) -> Entry {
    let stored = match &block.content {
        Content::Zero => return Entry::Zero,
        Content::Unreadable => return Entry::Unreadable,
        Content::Known(digest, place) => StoredEntry { digest: *digest, place: *place },
        Content::New(digest, number) => {
            StoredEntry { digest: *digest, place: contents[usize::from(*number)].place }
        }
    };
    if block.bad.is_empty() {
        Entry::Stored(stored)
    } else {
        Entry::Partial(stored, block.bad.clone())
    }
}

/// Ranges in order, neighbours joined: the lanes met theirs in turn.
fn in_order(ranges: Vec<ByteRange>) -> Vec<UnreadableRange> {
    let told = |range: ByteRange| UnreadableRange { offset: range.start, length: range.len() };
    joined(ranges).into_iter().map(told).collect()
}
