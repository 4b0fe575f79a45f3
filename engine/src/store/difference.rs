//! Where two trees differ, found from their nodes alone: subtrees with one digest are not read,
//! so that it costs what changed, not what the disks hold.

use super::node::{Entry, Node};
use super::reader::ImageReader;
use super::tree::{NodeSource, child_span, root_level};
use crate::base::limits::NODE_FANOUT;
use crate::base::{BlockCount, ByteRange, Error, ErrorKind, Observer, Result};

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
    let common = before.blocks().0.min(after.blocks().0);
    let level = before.root().0.max(after.root().0);
    let entries = [before, after].map(|manifest| lift(manifest.root(), manifest.blocks(), level));
    let mut ranges = Joined { open: None, take };
    let mut walk = Walk { images, observer, common, ranges: &mut ranges };
    walk.compare(level + 1, 0, [&entries[0], &entries[1]])?;
    let sizes = [before.size.0, after.size.0];
    let block = before.block_size.bytes();
    // A last block that is short in one image was compared as far as it goes.
    let start = (sizes[0].min(sizes[1]) / block * block).min(sizes[0].max(sizes[1]));
    if sizes[0] != sizes[1] {
        ranges.add(ByteRange { start, end: sizes[0].max(sizes[1]) })?;
    }
    ranges.finish()
}

/// A tree's side of a comparison.
#[derive(Clone)]
enum Side {
    /// What the tree says.
    Tree(Entry),
    /// The first child of nodes that the smaller of two trees does not have.
    Below(Box<Side>),
    /// Beyond the disk's end.
    Beyond,
}

/// The root of a tree, as deep below as if the tree had `level` levels.
fn lift((own, root): (u8, Entry), blocks: BlockCount, level: u8) -> Side {
    debug_assert_eq!(own, root_level(blocks));
    (own..level).fold(Side::Tree(root), |side, _| Side::Below(Box::new(side)))
}

struct Walk<'a, 'b> {
    images: [&'a ImageReader; 2],
    observer: &'a dyn Observer,
    common: u64,
    ranges: &'a mut Joined<'b>,
}

impl Walk<'_, '_> {
    /// Compares what two entries say of the blocks from `first`; `height` is 0 for a block's.
    fn compare(&mut self, height: u8, first: u64, sides: [&Side; 2]) -> Result<()> {
        let count = child_span(height).min(self.common.saturating_sub(first));
        let same = match sides {
            [Side::Tree(one), Side::Tree(other)] => one.same_content(other),
            _ => false,
        };
        if count == 0 || same {
            return Ok(());
        }
        if height == 0 {
            let block = self.images[0].manifest().block_size.bytes();
            let ends = self.images.map(|image| image.manifest().size.0);
            let end = (first + count).saturating_mul(block).min(ends[0].max(ends[1]));
            return self.ranges.add(ByteRange { start: first * block, end });
        }
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        let span = child_span(height - 1);
        let expected = count.div_ceil(span);
        let mut children = [Vec::new(), Vec::new()];
        for (number, side) in sides.into_iter().enumerate() {
            children[number] = self.children(number, side, height - 1)?;
        }
        let [one, other] = &children;
        for (number, sides) in (0..expected).zip(one.iter().zip(other)) {
            self.compare(height - 1, first + number * span, [sides.0, sides.1])?;
        }
        Ok(())
    }

    /// What is below `side`, a node of `level`.
    fn children(&self, image: usize, side: &Side, level: u8) -> Result<Vec<Side>> {
        let fanout = usize::from(NODE_FANOUT);
        let mut children = match side {
            Side::Beyond => Vec::new(),
            Side::Below(child) => vec![(**child).clone()],
            Side::Tree(Entry::Stored(stored)) => {
                let node = self.images[image].frames().node(stored)?;
                if node.level != level {
                    return Err(Error::corrupt("tree node's level", level, node.level));
                }
                expand(&node)
            }
            uniform @ Side::Tree(_) => vec![uniform.clone(); fanout],
        };
        children.resize(fanout, Side::Beyond);
        Ok(children)
    }
}

fn expand(node: &Node) -> Vec<Side> {
    let repeat = |run: &super::node::Run| {
        std::iter::repeat_n(Side::Tree(run.entry.clone()), run.count.into())
    };
    node.runs().iter().flat_map(repeat).collect()
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
