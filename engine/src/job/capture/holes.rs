//! Holes of the file behind a loop device, against what is said to be unchanged: where the parent
//! holds something, no hole can be unless it was discarded, which is a change. A file that was cut
//! and grew again shows itself so.

use crate::base::{BlockIndex, ByteRange, Result, ranges};
use crate::block::{Disk, ExtentKind};
use crate::store::tree::TreeVisitor;
use crate::store::{Entry, ImageReader, TreeRun};

/// The first blocks that are all hole on `disk`, hold something in `parent`, and are not among
/// `changes`.
///
/// # Errors
/// `Corrupt` when the parent's tree is damaged; `Io`.
pub fn contradiction(
    disk: &Disk,
    parent: &ImageReader,
    changes: &[ByteRange],
) -> Result<Option<ByteRange>> {
    if disk.facts().is_none_or(|facts| facts.loop_backing.is_none()) {
        return Ok(None);
    }
    let manifest = parent.manifest();
    let extents = disk.extents()?.into_iter();
    let holes = extents.filter(|extent| extent.kind == ExtentKind::Hole);
    let holes: Vec<ByteRange> = holes.map(|extent| extent.range).collect();
    let block = manifest.block_size.bytes();
    let holes = ranges::whole_units(&holes, block, manifest.size.0);
    let mut held = Held { image: parent, first: None };
    for range in ranges::without(&ranges::joined(holes), changes) {
        let (first, end) = (range.start / block, range.end.div_ceil(block));
        parent.walk(Some((BlockIndex(first), end - first)), &mut held)?;
        if held.first.is_some() {
            break;
        }
    }
    Ok(held.first)
}

/// Finds the first blocks that hold something.
struct Held<'a> {
    image: &'a ImageReader,
    first: Option<ByteRange>,
}

impl TreeVisitor for Held<'_> {
    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        let is_empty = matches!(run.entry, Entry::Zero | Entry::Unallocated | Entry::Unreadable);
        if !is_empty && self.first.is_none() {
            self.first = Some(self.image.manifest().bytes_of(run.first, run.count));
        }
        Ok(())
    }
}
