//! Where worked chunks become an image: frames into the store, blocks into the tree.

use super::OnError;
use super::worker::{Block, Content, WorkedChunk};
use crate::base::limits::MAX_UNREADABLE_RANGES;
use crate::base::{BlockSize, ByteCount, ByteRange, Error, ErrorKind, Progress, Result};
use crate::store::manifest::{Cost, UnreadableRange};
use crate::store::writer::Put;
use crate::store::{Entry, LeafBuilder, StoreWriter, StoredEntry, TakeEntries, TreeBuilder};

/// Takes the chunks of a disk's two lanes, each in the disk's order; what lies between them is
/// zero.
pub struct Assembly {
    size: ByteCount,
    split: u64,
    on_error: OnError,
    front: Lane<TreeBuilder>,
    back: Lane<LeafBuilder>,
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
        let tree = TreeBuilder::new(block_size.count(size));
        let front = Lane { block: block_size.bytes(), next: 0, tree };
        let back = Lane { block: block_size.bytes(), next: split, tree: LeafBuilder::new() };
        let (cost, unreadable) = (Cost::default(), Vec::new());
        Self { size, split, on_error, front, back, cost, unreadable }
    }

    /// Stores a chunk.
    ///
    /// # Errors
    /// The store's; `Io` for the first unreadable sector if that is to abort; `Limit` when too
    /// many ranges are unreadable.
    pub fn store(&mut self, chunk: &WorkedChunk, writer: &mut StoreWriter) -> Result<()> {
        self.note_unreadable(&chunk.bad)?;
        let members = match chunk.frame.as_slice() {
            [] => Vec::new(),
            frame => writer.put(frame)?,
        };
        self.count(chunk, &members);
        if chunk.range.start < self.split {
            self.front.push(chunk, &members, writer)
        } else {
            self.back.push(chunk, &members, writer)
        }
    }

    fn count(&mut self, chunk: &WorkedChunk, members: &[Put]) {
        let mut seen = 0;
        for block in &chunk.blocks {
            let length = u64::from(block.length);
            match &block.content {
                Content::New(_, member) if usize::from(*member) == seen => {
                    let is_new = members[seen].is_new;
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
        self.front.push_hole(self.split, writer)?;
        self.back.push_hole(self.size.0, writer)?;
        let progress = self.progress(writer);
        let mut tree = self.front.tree;
        tree.append(self.back.tree, writer)?;
        let root = tree.finish(writer)?;
        let (stored, nodes) = writer.stored();
        // What was not read was a hole.
        let holes = self.size.0 - self.cost.read;
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
        members: &[Put],
        writer: &mut StoreWriter,
    ) -> Result<()> {
        self.push_hole(chunk.range.start, writer)?;
        for block in &chunk.blocks {
            self.tree.push(&entry(block, members), 1, writer)?;
        }
        self.next = chunk.range.end;
        Ok(())
    }

    fn push_hole(&mut self, end: u64, writer: &mut StoreWriter) -> Result<()> {
        let blocks = end.div_ceil(self.block) - self.next.div_ceil(self.block);
        self.tree.push(&Entry::Zero, blocks, writer)?;
        self.next = end;
        Ok(())
    }
}

/// What the tree says of a block of a chunk whose new blocks were put as `members`.
fn entry(block: &Block, members: &[Put]) -> Entry {
    let stored = match &block.content {
        Content::Zero => return Entry::Zero,
        Content::Unreadable => return Entry::Unreadable,
        Content::Known(digest, place) => StoredEntry { digest: *digest, place: *place },
        Content::New(digest, member) => {
            StoredEntry { digest: *digest, place: members[usize::from(*member)].place }
        }
    };
    if block.bad.is_empty() {
        Entry::Stored(stored)
    } else {
        Entry::Partial(stored, block.bad.clone())
    }
}

/// Sorts ranges and joins neighbours: the lanes met theirs in turn.
fn in_order(mut ranges: Vec<ByteRange>) -> Vec<UnreadableRange> {
    ranges.sort_unstable();
    let mut joined: Vec<UnreadableRange> = Vec::new();
    for range in ranges {
        match joined.last_mut() {
            Some(last) if last.offset + last.length == range.start => last.length += range.len(),
            _ => joined.push(UnreadableRange { offset: range.start, length: range.len() }),
        }
    }
    joined
}
