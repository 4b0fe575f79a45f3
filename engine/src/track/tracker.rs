//! One disk's tracking: checkpoints, and what becomes of epochs.

use std::time::Duration;

use super::epochs::{Epochs, Found};
use super::evidence::Evidence;
use super::installation::Installation;
use super::page::Own;
use super::verdict::{Judge, Verdict};
use crate::base::bytes::to_hex;
use crate::base::limits::{MAX_TRACKER_WAIT, MAX_TRACKER_WAIT_FROZEN};
use crate::base::{ByteCount, ByteRange, ChangeMap, Error, ErrorKind, Result};
use crate::sys::bpf::BpfFolder;
use crate::sys::device::{DeviceFacts, boot_id};
use crate::sys::identity::{backing_state, identity};

/// The tracker of one disk. It holds nothing but names: tracking goes on without it.
#[derive(Debug)]
pub struct Tracker {
    folder: String,
    facts: DeviceFacts,
    size: ByteCount,
    slot: u32,
    /// The id of the tracking that this is.
    id: String,
    /// The epoch that its last checkpoint ended; the one before the running one at first.
    last: u64,
}

/// What a tracker says when an epoch ends.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Everything that was marked since what was asked for, if the verdict allows to believe so.
    pub changes: ChangeMap,
    /// Whether it does.
    pub verdict: Verdict,
    /// The same, for the manifest.
    pub evidence: Evidence,
}

impl Tracker {
    pub(super) fn new(
        folder: String,
        facts: DeviceFacts,
        size: ByteCount,
        slot: u32,
        id: String,
        last: u64,
    ) -> Self {
        Self { folder, facts, size, slot, id, last }
    }

    /// What is installed now, if the tracking is still this one.
    fn installation(&self, wait: Duration) -> Result<(Installation, impl Drop + use<>)> {
        let ended = || {
            let context = format!("the tracking of {} was stopped meanwhile", self.facts.name);
            Error::new(ErrorKind::Unsupported, context)
        };
        let folder = BpfFolder::existing(&self.folder)?.closed()?.ok_or_else(ended)?;
        let lock = folder.lock(wait)?;
        let installation = Installation::existing(&folder)?.ok_or_else(ended)?;
        if super::id_of(&installation, self.slot) != self.id {
            return Err(ended());
        }
        Ok((installation, lock))
    }

    /// Ends the running epoch and begins the next. Blocks are to be read only after this
    /// returned. Tells what was marked since the last image that was stored; it may be called
    /// again and again.
    ///
    /// # Errors
    /// `Unsupported` when the tracking was stopped or broken off; `Conflict` when another process
    /// holds the installation for too long; the kernel's.
    pub fn checkpoint(&mut self) -> Result<Checkpoint> {
        self.end_epoch(None)
    }

    /// The same, but tells only what was marked since the checkpoint that ended the epoch
    /// `copied`, whoever ended epochs meanwhile. Filesystems may be frozen: it waits for nobody
    /// for long.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn checkpoint_since(&mut self, copied: u64) -> Result<Checkpoint> {
        self.end_epoch(Some(copied))
    }

    fn end_epoch(&mut self, copied: Option<u64>) -> Result<Checkpoint> {
        let wait = if copied.is_some() { MAX_TRACKER_WAIT_FROZEN } else { MAX_TRACKER_WAIT };
        let (installation, _lock) = self.installation(wait)?;
        let page = installation.page(self.slot);
        let epochs = Epochs::of(&installation, self.slot)?;
        let epoch = epochs.switch()?;
        self.last = epoch;
        let (misses, is_bio_based) = (installation.misses()?, page.is(Own::BioBased));
        let judge = Judge { name: &self.facts.name, page, misses, is_bio_based };
        let mut judgement = judge.judge(&epochs.start(copied))?;
        epochs.end(epoch, judgement.end);

        let committed = page.get(Own::Committed);
        let is_carried = judgement.verdict == Verdict::Carried;
        let mut since = copied.map_or(committed, |copied| copied.max(committed));
        if is_carried {
            // A completion that was missed is one of a write that was queued since it was quiet.
            since = epochs.quiet(since);
        }
        let mut changes = epochs.marked(since, epoch)?;
        let mut lost = epochs.gap(since, epoch)?;
        if is_carried && since <= committed {
            match epochs.carry()? {
                Found::Map(carry) => changes.union(&carry.read()?)?,
                Found::Lost(why) => lost = lost.or(Some(why)),
            }
        }
        if copied.is_some_and(|copied| copied < committed || copied >= epoch) {
            lost = Some("another capture took over what was marked meanwhile");
        }
        if let Some(why) = lost {
            judgement.verdict = Verdict::Tainted(why.to_owned());
        }
        epochs.join(epoch)?;
        let (verdict, reason) = Evidence::judge(&judgement.verdict);
        let evidence = Evidence {
            tracker: self.id.clone(),
            boot_id: boot_id()?,
            device: self.facts.number.clone(),
            disk_sequence: page.get(Own::Sequence),
            size: self.size,
            identity: identity(&self.facts.name),
            backing: backing_state(&self.facts.name),
            granule: page.get(Own::Granule),
            image: epochs.committed().and_then(|record| record.image).map(|id| to_hex(&id)),
            since: committed + 1,
            epoch,
            verdict,
            reason,
            kernel: judgement.kernel,
            completed: judgement.completed,
            queued: judgement.queued,
            misses,
        };
        Ok(Checkpoint { changes, verdict: judgement.verdict, evidence })
    }

    /// Whether anything in one of `ranges` was marked since the last checkpoint of this tracker;
    /// also where that cannot be told any more.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn is_marked(&self, ranges: &[ByteRange]) -> Result<bool> {
        let (installation, _lock) = self.installation(MAX_TRACKER_WAIT)?;
        let epochs = Epochs::of(&installation, self.slot)?;
        let page = installation.page(self.slot);
        let running = page.get(Own::Epoch);
        if page.get(Own::Committed) > self.last || epochs.gap(self.last, running)?.is_some() {
            return Ok(true);
        }
        let marked = epochs.marked(self.last, running)?;
        Ok(ranges.iter().any(|range| marked.touches(*range)))
    }

    /// The image with this `id` is stored, which lacks nothing up to the checkpoint that ended
    /// `epoch`: the next map starts from there, and is good for that image only. Without this,
    /// or killed anywhere within it, the next checkpoint only tells more.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint); `Conflict` if another image took over the epoch.
    pub fn commit(&mut self, epoch: u64, id: [u8; 16]) -> Result<()> {
        let (installation, _lock) = self.installation(MAX_TRACKER_WAIT)?;
        Epochs::of(&installation, self.slot)?.commit(epoch, id)
    }

    /// An audit found a change that was missed: no map is believed until tracking is stopped and
    /// started again.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn distrust(&mut self) -> Result<()> {
        let (installation, _lock) = self.installation(MAX_TRACKER_WAIT)?;
        installation.page(self.slot).set(Own::Distrusted, 1);
        Ok(())
    }
}
