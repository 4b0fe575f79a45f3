//! Storing a block as what differs from its parent's version.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::base::limits::MAX_IO_SIZE;
use crate::base::{BlockIndex, BlockSize};
use crate::store::frame::Member;
use crate::store::{ContentReader, Encoder, FrameKind, Parent};

/// Failures in a row after which only some blocks are tried: reading the parent's version of a
/// block that shares nothing with it is work in vain.
const PATIENCE: i32 = 32;
/// One block in so many is tried then.
const SAMPLE: u64 = 16;

/// An image's blocks, to make deltas against. Shared by all workers.
pub struct Bases {
    parent: Parent,
    block_size: BlockSize,
    /// How well deltas have done so far.
    luck: AtomicI32,
    /// With the stretch of the disk that each was used for last, the latest at the end: blocks
    /// that lie together are mostly in one frame, which is read once though several workers wait.
    readers: Mutex<VecDeque<(u64, Arc<Mutex<ContentReader>>)>>,
    most: usize,
}

impl Bases {
    /// The blocks of `parent`, for so many `workers`.
    #[must_use]
    pub fn new(parent: Parent, block_size: BlockSize, workers: usize) -> Self {
        let (luck, readers) = (AtomicI32::new(PATIENCE), Mutex::default());
        Self { parent, block_size, luck, readers, most: workers }
    }

    fn is_worth_trying(&self, block: BlockIndex) -> bool {
        self.luck.load(Ordering::Relaxed) > 0 || block.0.is_multiple_of(SAMPLE)
    }

    // Lost updates between workers only delay a change of mind.
    fn learn(&self, is_delta: bool) {
        let left = if is_delta { PATIENCE } else { self.luck.load(Ordering::Relaxed) - 1 };
        self.luck.store(left.max(0), Ordering::Relaxed);
    }

    /// The reader that the blocks beside `block` were read with, or one that nobody uses.
    fn reader(&self, block: BlockIndex) -> Arc<Mutex<ContentReader>> {
        let stretch = block.0 / (MAX_IO_SIZE as u64 / self.block_size.bytes());
        let mut readers = lock(&self.readers);
        let found = readers.iter().position(|(of, _)| *of == stretch).or_else(|| {
            let is_idle = |(_, reader): &(_, Arc<_>)| Arc::strong_count(reader) == 1;
            readers.iter().position(is_idle).filter(|_| readers.len() >= self.most)
        });
        let reader = found.and_then(|at| readers.remove(at)).map(|(_, reader)| reader);
        let reader = reader.unwrap_or_else(|| {
            let keys = self.parent.frames().keys().clone();
            Arc::new(Mutex::new(ContentReader::new(FrameKind::Block, keys).sparing()))
        });
        readers.push_back((stretch, Arc::clone(&reader)));
        reader
    }
}

// A reader whose thread panicked holds nothing that is not checked when it is used.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes deltas. One for each worker.
pub struct Deltas<'a> {
    bases: &'a Bases,
    encoder: Encoder,
}

impl<'a> Deltas<'a> {
    /// Deltas against `bases`.
    #[must_use]
    pub fn new(bases: &'a Bases) -> Self {
        Self { bases, encoder: Encoder::new() }
    }

    /// The frame of a block that is new, as a delta; none where that is not smaller. A parent
    /// that cannot be read there is of no use, and no hindrance.
    pub fn encode(&mut self, block: BlockIndex, member: Member, bytes: &[u8]) -> Option<Vec<u8>> {
        let Bases { parent, .. } = self.bases;
        if !self.bases.is_worth_trying(block) {
            return None;
        }
        let before = *parent.block(block).ok()??.stored()?;
        let reader = self.bases.reader(block);
        let mut reader = lock(&reader);
        let base = reader.base(parent.frames(), &before).ok()?;
        let mut frame = Vec::new();
        let made = self.encoder.encode_delta((FrameKind::Block, member), bytes, &base, &mut frame);
        let is_delta = made.unwrap_or(false);
        self.bases.learn(is_delta);
        is_delta.then_some(frame)
    }
}
