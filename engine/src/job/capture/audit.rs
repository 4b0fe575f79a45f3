//! The audit of a change tracker: blocks that it says did not change are read and compared.

use super::changes::ChangeTracker;
use super::recheck::Recheck;
use crate::base::bytes::is_zero;
use crate::base::ranges::touches;
use crate::base::{BlockIndex, ByteRange, Error, ErrorKind, Observer, Result};
use crate::block::{Chunk, Disk};
use crate::job::pipeline::Pipeline;
use crate::store::{Entry, Parent};

/// Bytes that are read where nothing else is asked for: this much,
const LEAST: u64 = 64 << 20;
/// or this part of the disk, the larger.
const PART: u64 = 1000;

/// What an audit found.
#[derive(Debug)]
pub enum Audited {
    /// The blocks there are not as in the parent, though the tracker does not say so.
    Differing(Vec<ByteRange>),
    /// The parent's tree cannot be read.
    ParentDamaged(Error),
}

/// Why a tracker's map is of no use after all.
#[derive(Debug)]
pub struct Objection {
    /// The reason.
    pub doubt: String,
    /// What the tracker was caught at, if it was.
    pub alarm: Option<String>,
}

impl Objection {
    /// The parent, which the map starts from, cannot be read.
    #[must_use]
    pub fn damaged_parent(error: &Error) -> Self {
        Self { doubt: format!("the parent is damaged: {error}"), alarm: None }
    }

    /// The tracker does not answer any more.
    fn silent(error: &Error) -> Self {
        Self { doubt: error.to_string(), alarm: None }
    }
}

impl Audited {
    /// What this says against `tracker`, which is distrusted from now on where it was wrong.
    ///
    /// # Errors
    /// The tracker's.
    pub fn objection(&self, tracker: &mut dyn ChangeTracker) -> Result<Option<Objection>> {
        let differing = match self {
            Self::Differing(ranges) => ranges,
            Self::ParentDamaged(error) => return Ok(Some(Objection::damaged_parent(error))),
        };
        for range in differing {
            let is_written = match tracker.is_written_since(&[*range]) {
                Ok(is_written) => is_written,
                // Whether it was wrong cannot be told any more.
                Err(error) => return Ok(Some(Objection::silent(&error))),
            };
            // What was written after the checkpoint is told with the next.
            if !is_written {
                tracker.distrust()?;
                let doubt = "the audit found a change that it missed".to_owned();
                let alarm = Some(format!(
                    "{range} changed, and the {} tracker did not notice: its maps are not \
                     believed any more, and the whole disk is read",
                    tracker.name()
                ));
                return Ok(Some(Objection { doubt, alarm }));
            }
        }
        Ok(None)
    }
}

/// An audit of what a tracker says of a disk.
pub struct Audit<'a> {
    /// What is stored already, some of which is read back.
    pub stored: &'a Recheck<'a>,
    /// The disk.
    pub disk: &'a Disk,
    /// How much to read, by default a thousandth or 64 MiB.
    pub bytes: Option<u64>,
    /// Who listens.
    pub observer: &'a dyn Observer,
}

impl Audit<'_> {
    /// Reads random places of the disk beside those `changed`, and compares them with the parent.
    ///
    /// # Errors
    /// `Io` of the disk; `Cancelled`.
    pub fn run(&self, parent: &Parent, changed: &[ByteRange], threads: usize) -> Result<Audited> {
        let manifest = parent.image().manifest();
        let (size, block) = (manifest.size, manifest.block_size.bytes());
        let bytes = self.bytes.unwrap_or_else(|| LEAST.max(size.0 / PART));
        let sample = sample(manifest.blocks().0, bytes.div_ceil(block))?
            .map(|block| manifest.bytes_of(BlockIndex(block), 1))
            .filter(|range| !touches(changed, range))
            .collect();
        let (mut differing, mut damage) = (Vec::new(), None);
        let stored = self.stored;
        let make_worker = || |chunk: &Chunk, _queued| Ok(differences(parent, stored, chunk));
        let pipeline = Pipeline { disk: self.disk, threads, observer: self.observer };
        pipeline.run(sample, &make_worker, &mut |compared| {
            match compared {
                Ok(ranges) => differing.extend(ranges),
                Err(error) => damage = Some(error),
            }
            Ok(())
        })?;
        Ok(damage.map_or(Audited::Differing(differing), Audited::ParentDamaged))
    }
}

/// The blocks of a chunk that are not as in the parent; of those that are, some are read back from
/// where they are `stored`.
fn differences(parent: &Parent, stored: &Recheck<'_>, chunk: &Chunk) -> Result<Vec<ByteRange>> {
    let manifest = parent.image().manifest();
    let block = manifest.block_size;
    let mut differing = Vec::new();
    for (number, bytes) in (0_u64..).zip(chunk.buffer.chunks(block.usize())) {
        let range = ByteRange::new(chunk.offset.0 + number * block.bytes(), bytes.len() as u64);
        if chunk.bad.iter().any(|bad| bad.intersection(&range).is_some()) {
            // It cannot be read any more; the parent's content is all there is.
            continue;
        }
        let is_same = match parent.block(BlockIndex(range.start / block.bytes()))? {
            Some(Entry::Stored(entry)) => {
                let is_same = entry.digest == parent.frames().keys().block(bytes);
                if is_same {
                    stored.check(&entry, range.len())?;
                }
                is_same
            }
            Some(Entry::Zero) => is_zero(bytes),
            // These are read again, or were never read.
            Some(Entry::Unallocated | Entry::Unreadable | Entry::Partial(..)) => true,
            None => return Err(Error::new(ErrorKind::Corrupt, "the parent ends before its disk")),
        };
        if !is_same {
            differing.push(range);
        }
    }
    Ok(differing)
}

/// Up to `wanted` of `blocks` blocks, in order, one at random from each of as many stretches.
fn sample(blocks: u64, wanted: u64) -> Result<impl Iterator<Item = u64>> {
    let mut seed = [0; 32];
    getrandom::fill(&mut seed)
        .map_err(|error| Error::new(ErrorKind::Io, format!("random numbers: {error}")))?;
    let mut stream = blake3::Hasher::new_keyed(&seed).finalize_xof();
    let wanted = wanted.min(blocks);
    let bound = move |number: u64| {
        // A product of two 64-bit numbers; the quotient is at most `blocks`.
        u64::try_from(u128::from(number) * u128::from(blocks) / u128::from(wanted.max(1)))
            .unwrap_or(blocks)
    };
    Ok((0..wanted).map(move |number| {
        let (start, end) = (bound(number), bound(number + 1));
        let mut random = [0; 8];
        stream.fill(&mut random);
        start + u64::from_le_bytes(random) % (end - start).max(1)
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_in_order_within_the_disk_and_never_twice_the_same() {
        for (blocks, wanted) in [(0, 5), (1, 5), (10, 10), (1000, 7), (u64::MAX / 2, 100)] {
            let taken: Vec<u64> = sample(blocks, wanted).expect("random").collect();
            assert_eq!(taken.len() as u64, wanted.min(blocks));
            assert!(taken.iter().all(|block| *block < blocks));
            assert!(taken.is_sorted_by(|a, b| a < b));
        }
        let draw = || sample(1 << 40, 64).expect("random").collect::<Vec<_>>();
        assert_ne!(draw(), draw());
    }
}
