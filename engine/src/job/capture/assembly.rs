//! Where worked chunks become an image: frames into the store, blocks into the tree.

use super::OnError;
use super::worker::{Block, Content, WorkedChunk};
use crate::base::limits::MAX_UNREADABLE_RANGES;
use crate::base::{BlockSize, ByteCount, ByteRange, Error, ErrorKind, Progress, Result};
use crate::store::manifest::{Cost, UnreadableRange};
use crate::store::{Entry, Place, StoreWriter, StoredEntry, TreeBuilder};

/// Takes chunks in the disk's order; what lies between them is zero.
pub struct Assembly {
    block_size: BlockSize,
    size: ByteCount,
    on_error: OnError,
    tree: TreeBuilder,
    next: u64,
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
    /// An assembly of a disk of `size` bytes.
    #[must_use]
    pub fn new(block_size: BlockSize, size: ByteCount, on_error: OnError) -> Self {
        let tree = TreeBuilder::new(block_size.count(size));
        let (cost, unreadable) = (Cost::default(), Vec::new());
        Self { block_size, size, on_error, tree, next: 0, cost, unreadable }
    }

    /// Stores a chunk.
    ///
    /// # Errors
    /// The store's; `Io` for the first unreadable sector if that is to abort; `Limit` when too
    /// many ranges are unreadable.
    pub fn store(&mut self, chunk: &WorkedChunk, writer: &mut StoreWriter) -> Result<()> {
        self.note_unreadable(&chunk.bad)?;
        self.push_hole(chunk.range.start, writer)?;
        let (places, is_new) = match chunk.frame.as_slice() {
            [] => (Vec::new(), false),
            frame => writer.put(frame)?,
        };
        let mut next_member = 0;
        for block in &chunk.blocks {
            let entry = self.entry(block, &places);
            let length = u64::from(block.length);
            match &block.content {
                Content::New(_, member) if is_new && *member == next_member => {
                    next_member += 1;
                    self.cost.fresh += length;
                }
                Content::New(..) | Content::Known(..) => self.cost.duplicate += length,
                Content::Zero => self.cost.zero += length,
                Content::Unreadable => {}
            }
            self.tree.push(&entry, 1, writer)?;
        }
        self.cost.read += chunk.range.len();
        self.next = chunk.range.end;
        Ok(())
    }

    fn entry(&self, block: &Block, places: &[Place]) -> Entry {
        let stored = match &block.content {
            Content::Zero => return Entry::Zero,
            Content::Unreadable => return Entry::Unreadable,
            Content::Known(digest, place) => StoredEntry { digest: *digest, place: *place },
            Content::New(digest, member) => {
                StoredEntry { digest: *digest, place: places[usize::from(*member)] }
            }
        };
        if block.bad.is_empty() {
            Entry::Stored(stored)
        } else {
            Entry::Partial(stored, block.bad.clone())
        }
    }

    fn push_hole(&mut self, end: u64, writer: &mut StoreWriter) -> Result<()> {
        let blocks =
            end.div_ceil(self.block_size.bytes()) - self.next.div_ceil(self.block_size.bytes());
        self.tree.push(&Entry::Zero, blocks, writer)?;
        self.cost.zero += end - self.next;
        self.next = end;
        Ok(())
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

    /// How far it is.
    #[must_use]
    pub fn progress(&self, writer: &StoreWriter) -> Progress {
        Progress {
            done: self.next,
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
        self.push_hole(self.size.0, writer)?;
        let progress = self.progress(writer);
        let root = self.tree.finish(writer)?;
        let (stored, nodes) = writer.stored();
        let cost = Cost { stored, nodes, ..self.cost };
        let unreadable = self
            .unreadable
            .iter()
            .map(|range| UnreadableRange { offset: range.start, length: range.len() })
            .collect();
        Ok(Assembled { root, cost, unreadable, progress })
    }
}
