//! Where two trees differ, found from their nodes alone: subtrees with one digest are not read,
//! so that it costs what changed, not what the disks hold.

use super::node::Entry;
use super::reader::ImageReader;
use super::tree::{child_span, node_at};
use crate::base::limits::NODE_FANOUT;
use crate::base::{BlockIndex, ByteCount, ByteRange, Error, ErrorKind, Observer, Result};

/// Shows `take` the ranges of bytes in which two images of one repository differ, in order, in
/// whole blocks, neighbours joined. What only the larger disk has counts as different; what was
/// unreadable in both counts as the same, because nothing is known of it.
///
/// # Errors
/// `Invalid` for images of different block sizes; `Corrupt` or `Io` for a tree that cannot be
/// read; `Cancelled`; those of `take`.
pub fn difference(
    images: [&ImageReader; 2],
    observer: &dyn Observer,
    take: &mut dyn FnMut(ByteRange) -> Result<()>,
) -> Result<()> {
    let [before, after] = images.map(ImageReader::manifest);
    if before.block_size != after.block_size {
        return Err(Error::new(ErrorKind::Invalid, "images of different block sizes"));
    }
    let block = before.block_size;
    let (smaller, larger) = (before.size.0.min(after.size.0), before.size.0.max(after.size.0));
    // A last block that only one of them has whole differs as what lies behind it does.
    let shared = if smaller == larger { larger } else { smaller / block.bytes() * block.bytes() };
    let common = block.count(ByteCount(shared)).0;
    let mut ranges = Joined { open: None, take };
    if common > 0 {
        let mut walk = Walk { images, observer, common, ranges: &mut ranges };
        let roots = [before.root(), after.root()];
        let level = roots[0].0.min(roots[1].0);
        let one = walk.first_at(0, &roots[0], level)?;
        let other = walk.first_at(1, &roots[1], level)?;
        walk.compare(level + 1, 0, [&one, &other])?;
    }
    if shared < larger {
        ranges.add(ByteRange { start: shared, end: larger })?;
    }
    ranges.finish()
}

struct Walk<'a, 'b> {
    images: [&'a ImageReader; 2],
    observer: &'a dyn Observer,
    common: u64,
    ranges: &'a mut Joined<'b>,
}

impl Walk<'_, '_> {
    /// The entry of the first node of `level`: of a taller tree, no other has common blocks.
    fn first_at(&self, image: usize, (own, root): &(u8, Entry), level: u8) -> Result<Entry> {
        (level..*own).rev().try_fold(root.clone(), |entry, below| {
            let first = self.children(image, &entry, below + 1, 0)?.into_iter().next();
            Ok(first.expect("a node that spans blocks has a child"))
        })
    }

    /// Compares what two entries say of the blocks from `first`; `height` is 0 for a block's.
    fn compare(&mut self, height: u8, first: u64, entries: [&Entry; 2]) -> Result<()> {
        if entries[0].same_content(entries[1]) {
            return Ok(());
        }
        let Some(level) = height.checked_sub(1) else {
            return self.ranges.add(self.images[0].manifest().bytes_of(BlockIndex(first), 1));
        };
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        let one = self.children(0, entries[0], level, first)?;
        let other = self.children(1, entries[1], level, first)?;
        let span = usize::try_from(child_span(level)).unwrap_or(usize::MAX);
        let firsts = (first..self.common).step_by(span);
        for (first, (one, other)) in firsts.zip(one.iter().zip(&other)) {
            self.compare(level, first, [one, other])?;
        }
        Ok(())
    }

    /// What is below `entry`, which stands for a node of `level` that begins at block `first`.
    fn children(&self, image: usize, entry: &Entry, level: u8, first: u64) -> Result<Vec<Entry>> {
        let Entry::Stored(stored) = entry else {
            return Ok(vec![entry.clone(); usize::from(NODE_FANOUT)]);
        };
        let image = self.images[image];
        let node = node_at(image.frames(), stored, level, image.manifest().blocks().0 - first)?;
        let runs = node.runs().iter();
        Ok(runs.flat_map(|run| vec![run.entry.clone(); run.count.into()]).collect())
    }
}

/// Joins ranges that touch or overlap.
struct Joined<'a> {
    open: Option<ByteRange>,
    take: &'a mut dyn FnMut(ByteRange) -> Result<()>,
}

impl Joined<'_> {
    fn add(&mut self, range: ByteRange) -> Result<()> {
        match &mut self.open {
            Some(open) if open.end >= range.start => open.end = open.end.max(range.end),
            open => {
                if let Some(done) = open.replace(range) {
                    (self.take)(done)?;
                }
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<()> {
        self.open.take().map_or(Ok(()), |last| (self.take)(last))
    }
}
