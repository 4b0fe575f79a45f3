//! Storing a block as what differs from its parent's version.

use std::sync::atomic::{AtomicI32, Ordering};

use crate::base::BlockIndex;
use crate::store::frame::Member;
use crate::store::{ContentReader, Encoder, FrameKind, Parent};

/// Failures in a row after which only some blocks are tried: reading the parent's version of a
/// block that shares nothing with it is work in vain.
const PATIENCE: i32 = 32;
/// One block in so many is tried then.
const SAMPLE: u64 = 16;

/// How well deltas have done so far. Shared by all workers.
#[derive(Debug)]
pub struct DeltaLuck(AtomicI32);

impl DeltaLuck {
    /// Before the first.
    #[must_use]
    pub fn new() -> Self {
        Self(AtomicI32::new(PATIENCE))
    }

    fn is_worth_trying(&self, block: BlockIndex) -> bool {
        self.0.load(Ordering::Relaxed) > 0 || block.0.is_multiple_of(SAMPLE)
    }

    // Lost updates between workers only delay a change of mind.
    fn learn(&self, is_delta: bool) {
        let left = if is_delta { PATIENCE } else { self.0.load(Ordering::Relaxed) - 1 };
        self.0.store(left.max(0), Ordering::Relaxed);
    }
}

/// Makes deltas against an image's blocks. One for each worker.
pub struct Deltas<'a> {
    parent: &'a Parent,
    contents: ContentReader,
    encoder: Encoder,
    luck: &'a DeltaLuck,
}

impl<'a> Deltas<'a> {
    /// Deltas against the blocks of `parent`.
    #[must_use]
    pub fn new(parent: &'a Parent, luck: &'a DeltaLuck) -> Self {
        let contents = ContentReader::new(FrameKind::Block, parent.frames().keys().clone());
        Self { parent, contents: contents.sparing(), encoder: Encoder::new(), luck }
    }

    /// The frame of a block that is new, as a delta; none where that is not smaller. A parent
    /// that cannot be read there is of no use, and no hindrance.
    pub fn encode(&mut self, block: BlockIndex, member: Member, bytes: &[u8]) -> Option<Vec<u8>> {
        if !self.luck.is_worth_trying(block) {
            return None;
        }
        let before = *self.parent.block(block).ok()??.stored()?;
        let base = self.contents.base(self.parent.frames(), &before).ok()?;
        let mut frame = Vec::new();
        let made = self.encoder.encode_delta((FrameKind::Block, member), bytes, &base, &mut frame);
        let is_delta = made.unwrap_or(false);
        self.luck.learn(is_delta);
        is_delta.then_some(frame)
    }
}
