//! Contents that are stored already are only as good as what is stored: some of them are read back
//! before an image refers to them, and what is damaged counts as not there and is stored again.
//!
//! Which frames are read back is drawn anew in each run. Some MiB always are, so that small images
//! are checked whole; then one frame in many. Where damage was ever found, nothing is left to
//! chance: all of that pack, and whatever may be a delta against something in it.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::base::limits::MAX_RECHECKED;
use crate::base::{BlockIndex, ByteRange, Error, ErrorKind, Result};
use crate::store::damage::{BadPlaces, may_be_delta};
use crate::store::frame::Frame;
use crate::store::index::Index;
use crate::store::tree::TreeVisitor;
use crate::store::{
    Digest, FrameKind, FrameReader, ImageReader, PackId, Place, Repository, StoredEntry, TreeRun,
};

/// Bytes that are read back in any case by a run that reads the whole disk,
pub const OF_A_DISK: u64 = 64 << 20;
/// and by one that reads what changed;
pub const OF_CHANGES: u64 = 8 << 20;
/// and one in so many of all other frames.
const SAMPLE: u64 = 64;

/// Finds contents in the index. Shared by all workers.
pub struct Recheck<'a> {
    index: &'a Index,
    frames: FrameReader,
    seed: RandomState,
    /// Frames that were looked at, and whether each is sound.
    seen: Mutex<HashMap<(PackId, u32), bool>>,
    /// Bytes that are still to be read back in any case.
    left: AtomicU64,
    /// Buffers for frames, one for each that is being read.
    buffers: Mutex<Vec<Vec<u8>>>,
}

impl<'a> Recheck<'a> {
    /// A check of what `index` finds in the packs that `repository` held, which reads
    /// `always` bytes back in any case.
    #[must_use]
    pub fn new(repository: &Repository, index: &'a Index, always: u64) -> Self {
        let (seen, left, buffers) = (Mutex::default(), AtomicU64::new(always), Mutex::default());
        let (frames, seed) = (repository.frames(), RandomState::new());
        Self { index, frames, seed, seen, left, buffers }
    }

    /// Where a block of `length` bytes is stored, as far as it is known to be sound.
    pub fn look_up(&self, digest: &Digest, length: u64) -> Option<Place> {
        loop {
            let place = self.index.lookup(digest)?;
            let stored = StoredEntry { digest: *digest, place };
            match self.check(&stored, length) {
                Ok(()) => return Some(place),
                Err(error) if error.kind() == ErrorKind::Corrupt => self.index.distrust(&place),
                // Whatever it is, the block is at hand.
                Err(_) => return None,
            }
        }
    }

    /// Reads a block's frame back, if its turn has come.
    ///
    /// # Errors
    /// `Corrupt` when it, or what it is a delta against, is not as it was stored; `Io`.
    pub fn check(&self, stored: &StoredEntry, length: u64) -> Result<()> {
        let place = &stored.place;
        if !self.index.had_pack(place.pack) {
            return Ok(());
        }
        let seen = lock(&self.seen).get(&(place.pack, place.offset)).copied();
        match seen {
            Some(true) => Ok(()),
            Some(false) => Err(Error::corrupt(place, "a sound frame", "a damaged one")),
            None if !self.is_wanted(place, length) => Ok(()),
            None => self.read(stored),
        }
    }

    /// Compares stored bytes with their checksums: what was stored was right.
    fn read(&self, stored: &StoredEntry) -> Result<()> {
        let base = self.base_of(stored);
        let outcome = base.and_then(|base| base.map_or(Ok(()), |base| self.check_base(&base)));
        self.remember(stored, outcome)
    }

    /// The same of what a delta is against.
    fn check_base(&self, stored: &StoredEntry) -> Result<()> {
        if let Some(true) = lock(&self.seen).get(&(stored.place.pack, stored.place.offset)) {
            return Ok(());
        }
        let is_delta = Error::corrupt(stored.place, "no delta", "a delta");
        let base = self.base_of(stored);
        self.remember(stored, base.and_then(|base| base.map_or(Ok(()), |_| Err(is_delta))))
    }

    /// Reads a frame and checks it; what it is a delta against.
    fn base_of(&self, stored: &StoredEntry) -> Result<Option<StoredEntry>> {
        let mut bytes = lock(&self.buffers).pop().unwrap_or_default();
        let frame = self.frames.checked(FrameKind::Block, stored, &mut bytes);
        let base = frame.map(|frame| frame.base);
        lock(&self.buffers).push(bytes);
        base
    }

    fn remember(&self, stored: &StoredEntry, outcome: Result<()>) -> Result<()> {
        let place = &stored.place;
        if matches!(&outcome, Err(error) if error.kind() == ErrorKind::Corrupt) {
            self.index.distrust(place);
            self.frames.mark_damaged(place);
        }
        let mut seen = lock(&self.seen);
        if seen.len() >= MAX_RECHECKED {
            seen.clear();
        }
        seen.insert((place.pack, place.offset), outcome.is_ok());
        outcome
    }

    fn is_wanted(&self, place: &Place, length: u64) -> bool {
        let bad = self.index.bad();
        if !bad.is_empty() && (bad.touches(place.pack) || may_be_delta(place, length)) {
            return true;
        }
        drop(bad);
        let take = |left: u64| (left > 0).then(|| left.saturating_sub(place.length.into()));
        self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
            || self.seed.hash_one((place.pack, place.offset)).is_multiple_of(SAMPLE)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What an image refers to in vain: damaged nodes, and blocks at places that are known to be bad or
/// hold deltas against such. Nothing where nothing is known to be damaged.
///
/// # Errors
/// `Io`.
pub fn damaged(image: &ImageReader, bad: &BadPlaces) -> Result<Vec<ByteRange>> {
    if bad.is_empty() {
        return Ok(Vec::new());
    }
    let mut found = Damaged { image, bad, bytes: Vec::new(), ranges: Vec::new() };
    image.walk(None, &mut found)?;
    Ok(found.ranges)
}

struct Damaged<'a> {
    image: &'a ImageReader,
    bad: &'a BadPlaces,
    bytes: Vec<u8>,
    ranges: Vec<ByteRange>,
}

impl Damaged<'_> {
    fn is_bad(&mut self, stored: &StoredEntry) -> bool {
        if self.bad.holds(&stored.place) {
            return true;
        }
        if !may_be_delta(&stored.place, self.image.manifest().block_size.bytes()) {
            return false;
        }
        let frame = self.image.frames().checked(FrameKind::Block, stored, &mut self.bytes);
        frame.map_or(true, |Frame { base, .. }| base.is_some_and(|b| self.bad.holds(&b.place)))
    }
}

impl TreeVisitor for Damaged<'_> {
    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        if run.entry.stored().is_some_and(|stored| self.is_bad(stored)) {
            self.ranges.push(self.image.manifest().bytes_of(run.first, run.count));
        }
        Ok(())
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Io {
            return Err(error);
        }
        self.ranges.push(self.image.manifest().bytes_of(first, count));
        Ok(())
    }
}
