//! Comparing a disk with an image, by digest: the image's blocks need not be read.

use std::ops::Range;

use super::only_damage;
use super::runs::Runs;
use crate::base::bytes::is_zero;
use crate::base::{BlockIndex, ByteRange, Error, Event, Observer, Phase, Progress, ReadAt, Result};
use crate::block::{Chunk, Disk, ExtentKind};
use crate::job::pipeline::{Pipeline, worker_threads};
use crate::store::tree::TreeVisitor;
use crate::store::{Entry, ImageReader, TreeRun};

/// Where a disk differs from an image.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Differences {
    /// Blocks that differ.
    pub blocks: Runs,
    /// Bytes that are the same.
    pub same: u64,
    /// Bytes that were compared.
    pub compared: u64,
}

impl Differences {
    /// Reads `disk`, as far as it is as long as `image`, and compares every block, or `only`
    /// these. Blocks that could not be read at capture should be zero.
    ///
    /// # Errors
    /// `Io`; `Corrupt` when the image's tree cannot be read; `Cancelled`.
    pub fn find(
        (image, disk): (&ImageReader, &Disk),
        only: Option<&Runs>,
        threads: Option<usize>,
        phase: Phase,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let (mut data, mut holes) = split_extents(disk, image)?;
        if let Some(only) = only {
            let manifest = image.manifest();
            let range = |(first, count): &(u64, u64)| manifest.bytes_of(BlockIndex(*first), *count);
            let only: Vec<ByteRange> = only.as_slice().iter().map(range).collect();
            (data, holes) = (common(&data, &only), common(&holes, &only));
        }
        let total = data.iter().chain(&holes).map(ByteRange::len).sum();
        observer.event(&Event::Started { phase, total });
        let pipeline = Pipeline { disk, threads: worker_threads(threads), observer };
        let mut found = Self { compared: total, ..Self::default() };
        let mut progress = Progress { total, ..Progress::default() };
        let make_worker = || |chunk: &Chunk, _queued| compare_chunk(image, chunk);
        pipeline.run(data, &make_worker, &mut |compared: Compared| {
            found.same += compared.same;
            compared.differing.iter().for_each(|run| found.blocks.add(*run));
            progress.done += compared.length;
            progress.moved += compared.length;
            observer.event(&Event::Progress(progress));
            Ok(())
        })?;
        let mut in_holes = Runs::default();
        for hole in holes {
            let blocks = blocks_of(image, hole);
            let only = (BlockIndex(blocks.start), blocks.end - blocks.start);
            let mut holed = Holed { image, blocks, differing: Vec::new(), same: 0 };
            image.walk(Some(only), &mut holed)?;
            found.same += holed.same;
            holed.differing.iter().for_each(|run| in_holes.add(*run));
            progress.done += hole.len();
            observer.event(&Event::Progress(progress));
        }
        found.blocks.merge(in_holes);
        Ok(found)
    }
}

/// The disk's data and holes, as far as the image reaches, cut at block ends: a block that is
/// part data is data.
fn split_extents(disk: &Disk, image: &ImageReader) -> Result<(Vec<ByteRange>, Vec<ByteRange>)> {
    let (size, block) = (image.size().0, image.manifest().block_size.bytes());
    let whole = ByteRange::new(0, size);
    let (mut data, mut holes): (Vec<ByteRange>, Vec<ByteRange>) = (Vec::new(), Vec::new());
    let mut next = 0;
    for extent in disk.extents()? {
        let is_data = extent.kind == ExtentKind::Data;
        let Some(range) = extent.range.intersection(&whole).filter(|_| is_data) else { continue };
        let start = (range.start / block * block).max(next);
        let end = range.end.next_multiple_of(block).min(size);
        if start >= end {
            continue;
        }
        if start > next {
            holes.push(ByteRange { start: next, end: start });
        }
        match data.last_mut() {
            Some(last) if last.end == start => last.end = end,
            _ => data.push(ByteRange { start, end }),
        }
        next = end;
    }
    if next < size {
        holes.push(ByteRange { start: next, end: size });
    }
    Ok((data, holes))
}

/// What both lists, each in order and without overlaps, share.
fn common(ranges: &[ByteRange], others: &[ByteRange]) -> Vec<ByteRange> {
    let mut others = others.iter().peekable();
    let mut found = Vec::new();
    for range in ranges {
        while let Some(other) = others.peek() {
            found.extend(range.intersection(other));
            // One that reaches beyond this range may share something with the next.
            if other.end > range.end {
                break;
            }
            others.next();
        }
    }
    found
}

fn blocks_of(image: &ImageReader, range: ByteRange) -> Range<u64> {
    let block = image.manifest().block_size.bytes();
    range.start / block..range.end.div_ceil(block)
}

struct Compared {
    length: u64,
    same: u64,
    differing: Vec<(u64, u64)>,
}

fn compare_chunk(image: &ImageReader, chunk: &Chunk) -> Result<Compared> {
    let range = ByteRange::new(chunk.offset.0, chunk.buffer.len() as u64);
    let blocks = blocks_of(image, range);
    let mut against = Against { image, chunk, differing: Vec::new(), same: 0 };
    image.walk(Some((BlockIndex(blocks.start), blocks.end - blocks.start)), &mut against)?;
    Ok(Compared { length: range.len(), same: against.same, differing: against.differing })
}

/// Compares what a walk shows with a chunk that was read.
struct Against<'a> {
    image: &'a ImageReader,
    chunk: &'a Chunk,
    differing: Vec<(u64, u64)>,
    same: u64,
}

impl TreeVisitor for Against<'_> {
    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        let manifest = self.image.manifest();
        for index in run.first.0..run.first.0 + run.count {
            let range = manifest.block_size.range(BlockIndex(index), manifest.size);
            let start = usize::try_from(range.start - self.chunk.offset.0).unwrap_or(usize::MAX);
            let length = usize::try_from(range.len()).unwrap_or(usize::MAX);
            let bytes = self.chunk.buffer.get(start..start.saturating_add(length));
            let unread = self.chunk.bad.iter().any(|bad| bad.intersection(&range).is_some());
            let same = bytes.filter(|_| !unread).is_some_and(|bytes| match run.entry {
                Entry::Stored(stored) | Entry::Partial(stored, _) => {
                    self.image.frames().keys().block(bytes) == stored.digest
                }
                _ => is_zero(bytes),
            });
            if same {
                self.same += range.len();
            } else {
                self.differing.push((index, 1));
            }
        }
        Ok(())
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        only_damage(error)?;
        let range = ByteRange::new(self.chunk.offset.0, self.chunk.buffer.len() as u64);
        push_common(&mut self.differing, (first, count), blocks_of(self.image, range));
        Ok(())
    }
}

/// Adds the blocks that a damaged node and a range share: nothing is known of them.
fn push_common(
    differing: &mut Vec<(u64, u64)>,
    (first, count): (BlockIndex, u64),
    range: Range<u64>,
) {
    let (start, end) = (first.0.max(range.start), (first.0 + count).min(range.end));
    if start < end {
        differing.push((start, end - start));
    }
}

/// Compares what a walk shows with a hole.
struct Holed<'a> {
    image: &'a ImageReader,
    blocks: Range<u64>,
    differing: Vec<(u64, u64)>,
    same: u64,
}

impl TreeVisitor for Holed<'_> {
    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        match run.entry {
            Entry::Stored(_) | Entry::Partial(..) => self.differing.push((run.first.0, run.count)),
            _ => self.same += self.image.manifest().bytes_of(run.first, run.count).len(),
        }
        Ok(())
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        only_damage(error)?;
        push_common(&mut self.differing, (first, count), self.blocks.clone());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranges(ends: &[(u64, u64)]) -> Vec<ByteRange> {
        ends.iter().map(|(start, end)| ByteRange { start: *start, end: *end }).collect()
    }

    #[test]
    fn what_two_lists_share_is_what_each_byte_says() {
        let lists = [
            ranges(&[]),
            ranges(&[(0, 100)]),
            ranges(&[(0, 5), (5, 9), (20, 30), (40, 41), (60, 99)]),
            ranges(&[(3, 25), (26, 27), (28, 70)]),
            ranges(&[(5, 20), (30, 40), (41, 60)]),
        ];
        let holds = |list: &[ByteRange], byte: u64| {
            list.iter().any(|range| range.start <= byte && byte < range.end)
        };
        for one in &lists {
            for other in &lists {
                let found = common(one, other);
                for byte in 0..110 {
                    let both = holds(one, byte) && holds(other, byte);
                    assert_eq!(holds(&found, byte), both, "{byte} of {one:?} and {other:?}");
                }
                assert!(found.is_sorted(), "{found:?}");
            }
        }
    }
}
