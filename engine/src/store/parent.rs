//! The image that a new one starts from: what did not change is shared with it, and what did is
//! stored as what changed.

use std::sync::Arc;

use super::node::{Entry, Node, StoredEntry};
use super::reader::{FrameReader, ImageReader};
use super::tree::{TakeEntries, TreeBuilder, child_span, node_at};
use super::writer::StoreWriter;
use crate::base::{BlockIndex, Error, ErrorKind, Result};

/// An image as a parent.
pub struct Parent {
    image: ImageReader,
    blocks: u64,
}

impl Parent {
    /// `image` as a parent.
    #[must_use]
    pub fn new(image: ImageReader) -> Self {
        let blocks = image.manifest().blocks().0;
        Self { image, blocks }
    }

    /// The image.
    #[must_use]
    pub fn image(&self) -> &ImageReader {
        &self.image
    }

    /// What its frames are read with.
    #[must_use]
    pub fn frames(&self) -> &FrameReader {
        self.image.frames()
    }

    /// What it says of a block; nothing of one beyond its end.
    ///
    /// # Errors
    /// `Corrupt` when a node on the way is damaged; `Io`.
    pub fn block(&self, block: BlockIndex) -> Result<Option<Entry>> {
        self.at(0, block.0)
    }

    /// Its node of `level` that begins at block `first`, if it has one.
    ///
    /// # Errors
    /// As [`block`](Self::block).
    pub fn node(&self, level: u8, first: BlockIndex) -> Result<Option<StoredEntry>> {
        let entry = self.at(level.saturating_add(1), first.0)?;
        Ok(entry.and_then(|entry| entry.stored().copied()))
    }

    /// What it says of the block `first`, whose `height` is 0, or of the node of the level below
    /// `height` that begins there.
    fn at(&self, height: u8, first: u64) -> Result<Option<Entry>> {
        let (top, mut entry) = self.image.manifest().root();
        if first >= self.blocks || height > top + 1 {
            return Ok(None);
        }
        let mut start = 0;
        for level in (height..=top).rev() {
            let Entry::Stored(stored) = &entry else { break };
            let number = (first - start) / child_span(level);
            let node = self.read(stored, level, start)?;
            let child = u16::try_from(number).ok().and_then(|number| node.child(number).cloned());
            entry = child.ok_or_else(|| Error::corrupt("tree node", "a child", number))?;
            start += number * child_span(level);
        }
        Ok(Some(entry))
    }

    fn read(&self, stored: &StoredEntry, level: u8, first: u64) -> Result<Arc<Node>> {
        node_at(self.frames(), stored, level, self.blocks - first)
    }

    /// Adds the next `count` blocks to `tree` as they are here: whole subtrees are not read, let
    /// alone the blocks.
    ///
    /// # Errors
    /// `Invalid` beyond its end or the tree's; `Corrupt` when a node on the way is damaged; `Io`.
    pub fn share(
        &self,
        tree: &mut TreeBuilder,
        count: u64,
        writer: &mut StoreWriter,
    ) -> Result<()> {
        let start = tree.next();
        let end = start.saturating_add(count);
        if end > self.blocks {
            let context =
                format!("parent of {} blocks: block {end} is beyond its end", self.blocks);
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let (top, root) = self.image.manifest().root();
        Share { parent: self, tree, writer, start, end }.below(&root, top + 1, 0)
    }
}

/// Blocks that are being shared.
struct Share<'a> {
    parent: &'a Parent,
    tree: &'a mut TreeBuilder,
    writer: &'a mut StoreWriter,
    start: u64,
    end: u64,
}

impl Share<'_> {
    /// Adds what is wanted of the blocks below `entry`, which begins at block `first`.
    fn below(&mut self, entry: &Entry, height: u8, first: u64) -> Result<()> {
        let behind = first.saturating_add(child_span(height)).min(self.parent.blocks);
        let (from, to) = (first.max(self.start), behind.min(self.end));
        if from >= to {
            return Ok(());
        }
        let (Entry::Stored(stored), Some(level)) = (entry, height.checked_sub(1)) else {
            return self.tree.push(entry, to - from, self.writer);
        };
        // A node that ends with its disk is no other disk's.
        let is_alike =
            behind - first == child_span(height) || self.tree.blocks() == self.parent.blocks;
        if (from, to) == (first, behind) && is_alike && height < self.tree.height() {
            return self.tree.push_node(level, stored, to - from, self.writer);
        }
        let node = self.parent.read(stored, level, first)?;
        let mut at = first;
        for run in node.runs() {
            let span = child_span(level);
            let behind = at + span * u64::from(run.count);
            if level == 0 || run.entry.is_uniform() {
                let (from, to) = (at.max(self.start), behind.min(self.end));
                if from < to {
                    self.tree.push(&run.entry, to - from, self.writer)?;
                }
            } else {
                for number in 0..u64::from(run.count) {
                    self.below(&run.entry, level, at + number * span)?;
                }
            }
            at = behind;
        }
        Ok(())
    }
}
