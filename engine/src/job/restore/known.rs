//! What a target is known to hold, and which parts of it remain in doubt: only those are read.
//!
//! When in doubt, read and compare. In doubt is where the known image and the one to restore
//! differ, what was written since, and all that an image does not say: what was unreadable or
//! unallocated when it was captured, what lies beyond it or beyond the map. Spots outside are read too,
//! and if one is not as it should be, nothing is believed and everything is compared.

use std::collections::BTreeSet;

use super::runs::Runs;
use crate::base::limits::KNOWN_SAMPLES;
use crate::base::{BlockIndex, BlockSize, ByteRange, ChangeMap, Granule, ReadAt, Result, Silent};
use crate::store::difference::Differences;
use crate::store::digest::random_bytes;
use crate::store::memo::Sums;
use crate::store::repository::Image;
use crate::store::tree::{Below, Subtree, TreeVisitor};
use crate::store::{Entry, ImageReader, TreeRun, difference};

/// Draws of a random block before a sample is left smaller than it should be.
const DRAWS: u64 = 16 * KNOWN_SAMPLES;

/// What a target holds: an image, but for what was written since.
#[derive(Debug, Clone)]
pub struct Known {
    /// The image of the same repository that the target held at the start of the map, either
    /// because it was captured from there or because it was restored there.
    pub image: Image,
    /// Everything that was written to the target since, up to now: by others, by imgx moving a
    /// GPT, by a restore that was interrupted.
    pub changes: ChangeMap,
}

/// The parts of a target that have to be compared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Doubt {
    /// What may differ from the image to restore.
    pub open: Runs,
    /// Some blocks outside, to find out whether what is known is true.
    pub sample: Runs,
}

impl Doubt {
    /// What of a target remains in doubt when `image` is restored there.
    ///
    /// # Errors
    /// `Corrupt` or `Io` for a tree that cannot be read; `Invalid`.
    pub fn find(image: &ImageReader, known: &ImageReader, changes: &ChangeMap) -> Result<Self> {
        let (size, block) = (image.size(), image.manifest().block_size);
        let granule = Granule::new(block.bytes())?.max(Granule::for_disk(size));
        let mut open = ChangeMap::new(size, granule)?;
        difference([known, image], &Silent, &mut InDoubt(&mut open))?;
        let within = Some((BlockIndex(0), block.count(size).0));
        known.walk(within, &mut Unsaid { block, open: &mut open, sums: Sums::new() })?;
        changes.runs().for_each(|range| open.set(range));
        if changes.size() < size {
            open.set(ByteRange { start: changes.size().0, end: size.0 });
        }
        let mut runs = Runs::default();
        for range in open.runs() {
            let first = range.start / block.bytes();
            runs.add((first, range.end.div_ceil(block.bytes()) - first));
        }
        let sample = sample(&runs, block.count(size).0)?;
        Ok(Self { open: runs, sample })
    }
}

/// Blocks outside of `open` on a disk of `blocks`: the first and the last, where partition tables
/// are, and a share of the others, by chance.
fn sample(open: &Runs, blocks: u64) -> Result<Runs> {
    let outside = blocks.saturating_sub(open.blocks());
    let wanted = (outside / 16).clamp(2, KNOWN_SAMPLES).min(outside);
    let mut chosen = BTreeSet::new();
    let ends = [0, blocks.saturating_sub(1)];
    chosen.extend(ends.into_iter().filter(|end| *end < blocks && !open.contains(*end)));
    for _ in 0..DRAWS {
        if chosen.len() as u64 >= wanted {
            break;
        }
        let drawn = u64::from_le_bytes(random_bytes()?);
        chosen.extend(Some(drawn % blocks).filter(|index| !open.contains(*index)));
    }
    let mut runs = Runs::default();
    chosen.into_iter().for_each(|index| runs.add((index, 1)));
    Ok(runs)
}

/// Marks what differs; what does so in places, all of it.
struct InDoubt<'a>(&'a mut ChangeMap);

impl Differences for InDoubt<'_> {
    fn range(&mut self, range: ByteRange) -> Result<()> {
        self.0.set(range);
        Ok(())
    }

    fn part(&mut self, within: ByteRange, _bytes: u64) -> Result<bool> {
        self.0.set(within);
        Ok(true)
    }
}

/// Marks what an image says nothing of: the disk may hold anything there.
struct Unsaid<'a> {
    block: BlockSize,
    open: &'a mut ChangeMap,
    /// Blocks of which nothing is said.
    sums: Sums<u64>,
}

impl TreeVisitor for Unsaid<'_> {
    fn enter(&mut self, node: &Subtree<'_>) -> Result<Below> {
        // A node that repeats and says nothing of some blocks is in doubt altogether.
        let Some((unsaid, whole)) = self.sums.known(node) else {
            self.sums.enter();
            return Ok(Below::Shown);
        };
        if unsaid > 0 {
            let block = self.block.bytes();
            self.open.set(ByteRange::new(node.first.0 * block, node.count * block));
        }
        self.sums.add(unsaid);
        Ok(Below::Known(whole))
    }

    fn leave(&mut self, node: &Subtree<'_>, whole: bool) {
        self.sums.leave(node, whole);
    }

    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        if let Entry::Unallocated | Entry::Unreadable | Entry::Partial(..) = run.entry {
            let block = self.block.bytes();
            self.open.set(ByteRange::new(run.first.0 * block, run.count * block));
            self.sums.add(run.count);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{BlockIndex, ByteCount};
    use crate::store::frame::Place;
    use crate::store::{Digest, PackId, StoredEntry};

    fn runs(runs: &[(u64, u64)]) -> Runs {
        let mut all = Runs::default();
        runs.iter().for_each(|run| all.add(*run));
        all
    }

    #[test]
    fn samples_hold_both_ends_and_nothing_that_is_compared_anyway() {
        for (open, blocks) in [(runs(&[]), 1), (runs(&[]), 100_000), (runs(&[(5, 20)]), 1000)] {
            let sample = sample(&open, blocks).expect("drawn");
            assert!(sample.contains(0) && sample.contains(blocks - 1));
            let outside = blocks - open.blocks();
            let wanted = (outside / 16).clamp(2, KNOWN_SAMPLES).min(outside);
            assert_eq!(sample.blocks(), wanted, "{blocks}");
            assert!((5..25).all(|index| !open.contains(index) || !sample.contains(index)));
        }
        assert_eq!(sample(&runs(&[(0, 100)]), 100).map(|all| all.blocks()).ok(), Some(0));
        assert_eq!(sample(&runs(&[]), 0).map(|all| all.blocks()).ok(), Some(0));
    }

    #[test]
    fn what_an_image_says_nothing_of_is_in_doubt() {
        let block = BlockSize::DEFAULT;
        let place = Place { pack: PackId([0; 16]), offset: 0, length: 0, member: 0 };
        let stored = StoredEntry { digest: Digest([0; 32]), place };
        let entries = [
            (Entry::Zero, 3),
            (Entry::Unallocated, 2),
            (Entry::Stored(stored), 4),
            (Entry::Unreadable, 1),
            (Entry::Zero, 1),
            (Entry::Partial(stored, Vec::new()), 1),
        ];
        let size = ByteCount(12 * block.bytes());
        let granule = Granule::new(block.bytes()).expect("a granule");
        let mut open = ChangeMap::new(size, granule).expect("small");
        let mut unsaid = Unsaid { block, open: &mut open, sums: Sums::new() };
        let mut first = 0;
        for (entry, count) in &entries {
            let run = TreeRun { first: BlockIndex(first), count: *count, entry };
            unsaid.run(run).expect("marked");
            first += count;
        }
        let found = open.runs().map(|run| (run.start / block.bytes(), run.len() / block.bytes()));
        assert_eq!(found.collect::<Vec<_>>(), [(3, 2), (9, 1), (11, 1)]);
    }
}
