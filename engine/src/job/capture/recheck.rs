//! Contents that are stored already are only as good as what is stored: some of them are read back
//! before an image refers to them, and what is damaged counts as not there and is stored again.
//!
//! Which frames are read back is drawn anew in each run. The first few always are, so that small
//! images are checked whole; then one in many. Where damage was ever found, nothing is left to
//! chance: all of that pack, and whatever may be a delta against something in it.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::base::limits::MAX_RECHECKED;
use crate::base::{BlockIndex, ByteRange, Error, ErrorKind, Result};
use crate::store::damage::{BadPlaces, may_be_delta};
use crate::store::frame::Frame;
use crate::store::index::Index;
use crate::store::tree::TreeVisitor;
use crate::store::{
    Digest, FrameKind, FrameReader, ImageReader, PackId, Place, Repository, StoredEntry, TreeRun,
};

/// Frames that are read back in any case,
const ALWAYS: usize = 32;
/// and one in so many of all others.
const SAMPLE: u64 = 64;

/// Finds contents in the index. Shared by all workers.
pub struct Recheck<'a> {
    index: &'a Index,
    frames: FrameReader,
    /// The packs that were there when the run began: its own are not finished.
    packs: HashSet<PackId>,
    seed: RandomState,
    /// Frames that were looked at, and whether each is sound.
    seen: Mutex<HashMap<(PackId, u32), bool>>,
    count: AtomicUsize,
}

impl<'a> Recheck<'a> {
    /// A check of what `index` finds in the packs that `repository` holds now.
    ///
    /// # Errors
    /// `Io` when those cannot be listed.
    pub fn new(repository: &Repository, index: &'a Index) -> Result<Self> {
        let packs = repository.packs()?.finished.into_keys().collect();
        let (seed, seen, count) = (RandomState::new(), Mutex::default(), AtomicUsize::new(0));
        Ok(Self { index, frames: repository.frames(), packs, seed, seen, count })
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
        if !self.packs.contains(&place.pack) {
            return Ok(());
        }
        let frame = (place.pack, place.offset);
        let seen = self.lock().get(&frame).copied();
        match seen {
            Some(true) => return Ok(()),
            Some(false) => return Err(Error::corrupt(place, "a sound frame", "a damaged one")),
            None if !self.is_wanted(place, length) => return Ok(()),
            None => {}
        }
        let outcome = self.read(stored);
        let mut seen = self.lock();
        if seen.len() >= MAX_RECHECKED {
            seen.clear();
        }
        seen.insert(frame, outcome.is_ok());
        outcome
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<(PackId, u32), bool>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_wanted(&self, place: &Place, length: u64) -> bool {
        let bad = self.index.bad();
        if !bad.is_empty() && (bad.touches(place.pack) || may_be_delta(place, length)) {
            return true;
        }
        drop(bad);
        let drawn = self.seed.hash_one((place.pack, place.offset));
        self.count.load(Ordering::Relaxed) < ALWAYS
            && self.count.fetch_add(1, Ordering::Relaxed) < ALWAYS
            || drawn.is_multiple_of(SAMPLE)
    }

    /// Compares stored bytes with their checksums: what was stored was right.
    fn read(&self, stored: &StoredEntry) -> Result<()> {
        let mut bytes = Vec::new();
        let base = self.open(stored, &mut bytes)?;
        let Some(base) = base else { return Ok(()) };
        let outcome = self.open(&base, &mut bytes).map(drop);
        if matches!(&outcome, Err(error) if error.kind() == ErrorKind::Corrupt) {
            self.index.distrust(&base.place);
            self.frames.mark_damaged(&stored.place);
        }
        outcome
    }

    fn open(&self, stored: &StoredEntry, bytes: &mut Vec<u8>) -> Result<Option<StoredEntry>> {
        self.frames.checked(FrameKind::Block, stored, bytes).map(|frame| frame.base)
    }
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
