//! What a tracker's checkpoint is good for.
//!
//! A checkpoint may be recorded in an image and committed only if the image lacks nothing that was
//! written up to it: if all changes that it told of were copied, or if the whole disk was read
//! after it. [`Copied`] is the proof of that, and there is no other way to come by one than those
//! two. A checkpoint in doubt is a value of its own, [`Unknown`], which a reading of the whole
//! disk alone can use up.

use serde_json::Value;

use super::assembly::Assembled;
use super::changes::{Findings, Reading, usable};
use crate::base::ranges::{joined, without};
use crate::base::{ByteRange, Result};
use crate::store::repository::Image;

/// What a checkpoint says was written up to it.
#[derive(Debug)]
pub enum Told {
    /// These blocks.
    Known(Pending),
    /// It cannot say.
    Doubt(Unknown),
}

/// The blocks that were written up to a checkpoint, which are to be copied.
#[derive(Debug)]
pub struct Pending {
    ranges: Vec<ByteRange>,
    evidence: Value,
}

/// A checkpoint up to which nobody knows what was written.
#[derive(Debug)]
pub struct Unknown {
    reason: Option<String>,
    /// None if the checkpoint itself failed.
    evidence: Option<Value>,
}

/// A checkpoint up to which an image lacks nothing.
#[derive(Debug)]
pub struct Copied {
    evidence: Value,
}

impl Told {
    /// What `findings` say of a disk that else is as in `before`; in doubt without it.
    #[must_use]
    pub fn of(before: Option<&Image>, findings: Findings) -> Self {
        let Findings { changes, evidence } = findings;
        match usable(before, changes) {
            Ok(ranges) => Self::Known(Pending { ranges, evidence }),
            Err(reason) => Self::Doubt(Unknown { reason, evidence: Some(evidence) }),
        }
    }

    /// The same, but in doubt where `objection` has something against the blocks that are known.
    #[must_use]
    pub fn unless(self, objection: impl FnOnce(&[ByteRange]) -> Option<String>) -> Self {
        let Self::Known(Pending { ranges, evidence }) = self else { return self };
        match objection(&ranges) {
            None => Self::Known(Pending { ranges, evidence }),
            reason => Self::Doubt(Unknown { reason, evidence: Some(evidence) }),
        }
    }

    /// A checkpoint whose changes are not wanted, because the whole disk is read anyway.
    #[must_use]
    pub fn unasked(findings: Findings) -> Self {
        Self::Doubt(Unknown { reason: None, evidence: Some(findings.evidence) })
    }

    /// That there is no checkpoint, for this `reason`.
    #[must_use]
    pub fn failed(reason: String) -> Self {
        Self::Doubt(Unknown { reason: Some(reason), evidence: None })
    }

    /// The checkpoint, if an image that was `assembled` from `reading` lacks nothing up to it.
    #[must_use]
    pub fn copied_by(self, reading: &Reading, _assembled: &Assembled) -> Option<Copied> {
        let is_all_read = !reading.is_incremental;
        match self {
            Self::Known(pending) if is_all_read || pending.is_within(reading) => {
                Some(Copied { evidence: pending.evidence })
            }
            Self::Doubt(Unknown { evidence, .. }) if is_all_read => {
                evidence.map(|evidence| Copied { evidence })
            }
            Self::Known(_) | Self::Doubt(_) => None,
        }
    }
}

impl Pending {
    /// The blocks, in the disk's order.
    #[must_use]
    pub fn ranges(&self) -> &[ByteRange] {
        &self.ranges
    }

    /// Bytes of them.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.ranges.iter().map(ByteRange::len).sum()
    }

    /// The same without blocks that the image leaves out on purpose.
    #[must_use]
    pub fn leaving_out(mut self, ranges: &[ByteRange]) -> Self {
        self.ranges = without(&self.ranges, ranges);
        self
    }

    /// The checkpoint, once `copy` has copied the blocks.
    ///
    /// # Errors
    /// Those of `copy`.
    pub fn copied(self, copy: impl FnOnce(Vec<ByteRange>) -> Result<()>) -> Result<Copied> {
        copy(self.ranges)?;
        Ok(Copied { evidence: self.evidence })
    }

    /// Whether all of it is read, or is left out because nothing uses it.
    fn is_within(&self, reading: &Reading) -> bool {
        let done = joined(reading.ranges.iter().chain(&reading.left_out).copied().collect());
        without(&self.ranges, &done).is_empty()
    }
}

impl Unknown {
    /// Why it cannot say, if it was asked.
    #[must_use]
    pub fn reason(&self) -> Option<&str> {
        self.reason.as_deref()
    }
}

impl Copied {
    /// What the tracker said of itself then, as the image's manifest keeps it.
    #[must_use]
    pub fn evidence(&self) -> &Value {
        &self.evidence
    }
}
