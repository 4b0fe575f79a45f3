//! Where two trees differ, found from their nodes alone: subtrees with one digest are not read,
//! so that it costs what changed, not what the disks hold.

use super::digest::Digest;
use super::memo::Memo;
use super::node::Entry;
use super::reader::ImageReader;
use super::tree::{child_span, node_at};
use crate::base::limits::{MAX_REPEATED_NODES, NODE_FANOUT};
use crate::base::{BlockIndex, ByteCount, ByteRange, Error, ErrorKind, Observer, Result};

/// Takes what differs, in the disk's order.
pub trait Differences {
    /// These bytes differ.
    ///
    /// # Errors
    /// Its own; it ends the comparison.
    fn range(&mut self, range: ByteRange) -> Result<()>;

    /// Somewhere `within` these, `bytes` differ; true if that is all that needs to be known, and
    /// false to have them shown one by one. It is asked of what repeats, and was shown before.
    ///
    /// # Errors
    /// Its own; it ends the comparison.
    fn part(&mut self, _within: ByteRange, _bytes: u64) -> Result<bool> {
        Ok(false)
    }
}

impl<F: FnMut(ByteRange) -> Result<()>> Differences for F {
    fn range(&mut self, range: ByteRange) -> Result<()> {
        self(range)
    }
}

/// Shows `take` the ranges of bytes in which two images of one repository differ, in order, in
/// whole blocks, neighbours joined. What only the larger disk has counts as different; what was
/// unreadable in both counts as the same, because nothing is known of it.
///
/// # Errors
/// `Invalid` for images of different block sizes; `Corrupt` or `Io` for a tree that cannot be
/// read; `Limit` for trees that repeat so much that they differ in more places than can be told;
/// `Cancelled`; those of `take`.
pub fn difference(
    images: [&ImageReader; 2],
    observer: &dyn Observer,
    take: &mut dyn Differences,
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
        let known = Memo::default();
        let mut walk = Walk { images, observer, common, ranges: &mut ranges, known, repeated: 0 };
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
    /// In how many blocks two nodes differ.
    known: Memo<[Side; 2], u64>,
    /// Nodes that were gone through although that was known.
    repeated: u64,
}

/// What stands on one side of a comparison.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Side {
    Node(Digest),
    Zero,
    Unallocated,
    Unreadable,
}

impl Side {
    fn of(entry: &Entry) -> Self {
        match entry {
            Entry::Stored(stored) | Entry::Partial(stored, _) => Self::Node(stored.digest),
            Entry::Zero => Self::Zero,
            Entry::Unallocated => Self::Unallocated,
            Entry::Unreadable => Self::Unreadable,
        }
    }
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
    /// Returns how many differ.
    fn compare(&mut self, height: u8, first: u64, entries: [&Entry; 2]) -> Result<u64> {
        if entries[0].same_content(entries[1]) {
            return Ok(0);
        }
        let Some(level) = height.checked_sub(1) else {
            self.ranges.add(self.images[0].manifest().bytes_of(BlockIndex(first), 1))?;
            return Ok(1);
        };
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        let key = entries.map(Side::of);
        // Before the last block, which may be a part of one, and beyond which one may have more.
        let is_inside = first.saturating_add(child_span(height)) < self.common;
        let known = self.known.get(level, &key).filter(|_| is_inside);
        if let Some(differing) = known
            && self.show_known(height, first, differing)?
        {
            return Ok(differing);
        }
        let one = self.children(0, entries[0], level, first)?;
        let other = self.children(1, entries[1], level, first)?;
        let span = usize::try_from(child_span(level)).unwrap_or(usize::MAX);
        let firsts = (first..self.common).step_by(span);
        let mut differing = 0;
        for (first, (one, other)) in firsts.zip(one.iter().zip(&other)) {
            differing += self.compare(level, first, [one, other])?;
        }
        if is_inside {
            self.known.keep(level, key, differing);
        }
        Ok(differing)
    }

    /// Shows nodes from block `first` that were compared before, if that can be done at once.
    fn show_known(&mut self, height: u8, first: u64, differing: u64) -> Result<bool> {
        let count = child_span(height);
        let block = self.images[0].manifest().block_size.bytes();
        let within = self.images[0].manifest().bytes_of(BlockIndex(first), count);
        if differing == 0 {
            return Ok(true);
        }
        if differing == count {
            return self.ranges.add(within).map(|()| true);
        }
        if self.ranges.part(within, differing * block)? {
            return Ok(true);
        }
        self.repeated += 1;
        if self.repeated > MAX_REPEATED_NODES {
            let context = "the images' trees repeat, and differ in more places than can be told";
            return Err(Error::new(ErrorKind::Limit, context));
        }
        Ok(false)
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
    take: &'a mut dyn Differences,
}

impl Joined<'_> {
    fn add(&mut self, range: ByteRange) -> Result<()> {
        match &mut self.open {
            Some(open) if open.end >= range.start => open.end = open.end.max(range.end),
            open => {
                if let Some(done) = open.replace(range) {
                    self.take.range(done)?;
                }
            }
        }
        Ok(())
    }

    fn part(&mut self, within: ByteRange, bytes: u64) -> Result<bool> {
        self.finish()?;
        self.take.part(within, bytes)
    }

    fn finish(&mut self) -> Result<()> {
        self.open.take().map_or(Ok(()), |last| self.take.range(last))
    }
}
