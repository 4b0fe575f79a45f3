//! One disk's tracking: checkpoints, and what becomes of epochs.

use super::bitmap::Bitmap;
use super::evidence::Evidence;
use super::installation::Installation;
use super::page::Own;
use super::verdict::{Judge, Verdict};
use crate::base::limits::MAX_OPEN_EPOCHS;
use crate::base::{ByteCount, ByteRange, ChangeMap, Error, ErrorKind, Granule, Result};
use crate::sys::bpf::BpfFolder;
use crate::sys::device::{DeviceFacts, boot_id};
use crate::sys::identity::{backing_state, identity};

const CARRY: &str = "carry_";
const EPOCH: &str = "epoch_";

/// The pin of a slot's epoch.
pub fn epoch_pin(slot: u32, epoch: u64) -> String {
    format!("{EPOCH}{slot}_{epoch}")
}

/// The pin of what a slot's epochs marked since nothing was last in flight.
fn carry_pin(slot: u32) -> String {
    format!("{CARRY}{slot}")
}

/// Whether a slot's pin is that of no single epoch.
pub fn is_carry(pin: &str) -> bool {
    pin.starts_with(CARRY)
}

/// The pins of a slot's bitmaps.
///
/// # Errors
/// `Io`.
pub fn pins_of(folder: &BpfFolder, slot: u32) -> Result<Vec<String>> {
    let (carry, prefix) = (carry_pin(slot), format!("{EPOCH}{slot}_"));
    let names = folder.names()?.into_iter();
    Ok(names.filter(|name| *name == carry || name.starts_with(&prefix)).collect())
}

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
    /// The last epoch that could be told of; the one before the running one at first.
    told: u64,
    /// The last epoch at whose end nothing was in flight, as far as this tracker saw.
    quiet: Option<u64>,
}

/// What a tracker says when an epoch ends.
#[derive(Debug, Clone)]
pub struct Checkpoint {
    /// Everything that was marked since the last image that was stored, if the verdict allows to
    /// believe so.
    pub changes: ChangeMap,
    /// The part of this that was marked since this tracker's checkpoint before whose verdict
    /// allowed that; or why it is not known.
    pub recent: std::result::Result<ChangeMap, String>,
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
        Self { folder, facts, size, slot, id, last, told: last, quiet: None }
    }

    /// What is installed now, if the tracking is still this one.
    fn installation(&self) -> Result<(Installation, impl Drop + use<>)> {
        let ended = || {
            let context = format!("the tracking of {} was stopped meanwhile", self.facts.name);
            Error::new(ErrorKind::Unsupported, context)
        };
        let folder = BpfFolder::existing(&self.folder).ok_or_else(ended)?;
        let lock = folder.lock()?;
        let installation = Installation::existing(&folder)?.ok_or_else(ended)?;
        if super::id_of(&installation, self.slot) != self.id {
            return Err(ended());
        }
        Ok((installation, lock))
    }

    /// Ends the running epoch and begins the next. Blocks are to be read only after this
    /// returned. It may be called again and again: what no image was stored of is told again.
    ///
    /// # Errors
    /// `Unsupported` when the tracking was stopped or broken off; the kernel's.
    pub fn checkpoint(&mut self) -> Result<Checkpoint> {
        let (installation, _lock) = self.installation()?;
        let (folder, page) = (installation.folder(), installation.page(self.slot));
        let granule = Granule::new(page.get(Own::Granule))?;
        let epoch = page.get(Own::Epoch);
        let next = Bitmap::create(self.size, granule)?;
        // In this order: killed anywhere between, what the programs mark in is pinned, and the
        // next checkpoint finds a number that is free.
        page.set(Own::Pending, 0);
        page.set(Own::Epoch, epoch + 1);
        let next_pin = epoch_pin(self.slot, epoch + 1);
        folder.pin(&next_pin, next.map.descriptor())?;
        if let Err(error) = installation.switch(self.slot, next.map.descriptor()) {
            folder.unpin(&next_pin)?;
            return Err(error);
        }
        let misses = installation.misses()?;
        let is_bio_based = page.is(Own::BioBased);
        page.hold_flags();
        let name = &self.facts.name;
        let mut judgement = Judge { name, page, misses, is_bio_based }.judge()?;
        let base = judgement.base;
        page.set(Own::PendingBaseKnown, base.is_some().into());
        page.set_sectors(Own::PendingWritten, Own::PendingDiscarded, base.unwrap_or_default());
        page.set(Own::PendingMisses, misses);
        page.set(Own::PendingQuiet, judgement.is_quiet.into());
        page.set(Own::Pending, epoch);
        self.last = epoch;

        let open = self.open_epochs(&installation, epoch)?;
        if open.first().map(|(first, _)| *first) != Some(page.get(Own::Committed) + 1) {
            judgement.verdict = Verdict::Tainted("an epoch's pin was removed".to_owned());
        }
        let mut changes = ChangeMap::new(self.size, granule)?;
        let mut recent = changes.clone();
        // A completion that was missed is one of a write that was queued since it was quiet.
        let since = match judgement.verdict {
            Verdict::Exact => self.told + 1,
            Verdict::Carried | Verdict::Tainted(_) => {
                self.quiet.map_or(0, |quiet| quiet.min(self.told) + 1)
            }
        };
        let committed = page.get(Own::Committed);
        // Epochs that were joined are in the first of them.
        let is_open = |wanted: u64| open.iter().any(|(number, _)| *number == wanted);
        let since = if (since.max(committed + 1)..=epoch).all(is_open) { since } else { 0 };
        for (number, bitmap) in &open {
            let marked = bitmap.read()?;
            changes.union(&marked)?;
            if *number >= since {
                recent.union(&marked)?;
            }
        }
        if judgement.verdict == Verdict::Carried
            && let Some(carry) = self.bitmap(&installation, &carry_pin(self.slot))?
        {
            let carried = carry.read()?;
            changes.union(&carried)?;
            if self.quiet.is_none_or(|quiet| quiet < committed) {
                recent.union(&carried)?;
            }
        }
        let recent = match committed > self.told {
            true => Err("another capture took over what was marked meanwhile".to_owned()),
            false => Ok(recent),
        };
        if judgement.is_quiet {
            self.quiet = Some(epoch);
        }
        if !matches!(judgement.verdict, Verdict::Tainted(_)) {
            self.told = epoch;
        }
        self.join(folder, open)?;
        let (verdict, reason) = Evidence::judge(&judgement.verdict);
        let evidence = Evidence {
            tracker: self.id.clone(),
            boot_id: boot_id()?,
            device: self.facts.number.clone(),
            disk_sequence: page.get(Own::Sequence),
            size: self.size,
            identity: identity(&self.facts.name),
            backing: backing_state(&self.facts.name),
            granule: granule.bytes(),
            since: page.get(Own::Committed) + 1,
            epoch,
            verdict,
            reason,
            kernel: judgement.kernel,
            completed: judgement.completed,
            queued: judgement.queued,
            misses,
        };
        Ok(Checkpoint { changes, recent, verdict: judgement.verdict, evidence })
    }

    fn bitmap(&self, installation: &Installation, pin: &str) -> Result<Option<Bitmap>> {
        match installation.folder().get(pin) {
            Ok(descriptor) => {
                let granule = Granule::new(installation.page(self.slot).get(Own::Granule))?;
                Ok(Some(Bitmap::adopt(descriptor, self.size, granule)))
            }
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The epochs up to `last` of which no image was stored, in order.
    fn open_epochs(&self, installation: &Installation, last: u64) -> Result<Vec<(u64, Bitmap)>> {
        let prefix = epoch_pin(self.slot, 0);
        let prefix = prefix.trim_end_matches('0');
        let mut open = Vec::new();
        for pin in pins_of(installation.folder(), self.slot)? {
            let number = pin.strip_prefix(prefix).and_then(|number| number.parse::<u64>().ok());
            if let Some(epoch) = number.filter(|epoch| *epoch <= last)
                && let Some(bitmap) = self.bitmap(installation, &pin)?
            {
                open.push((epoch, bitmap));
            }
        }
        open.sort_by_key(|(epoch, _)| *epoch);
        Ok(open)
    }

    /// Joins the first of too many open epochs.
    fn join(&self, folder: &BpfFolder, open: Vec<(u64, Bitmap)>) -> Result<()> {
        let surplus = open.len().saturating_sub(MAX_OPEN_EPOCHS);
        let mut open = open.into_iter();
        let Some((_, first)) = open.next() else { return Ok(()) };
        for (epoch, bitmap) in open.take(surplus) {
            first.add(&bitmap)?;
            folder.unpin(&epoch_pin(self.slot, epoch))?;
        }
        Ok(())
    }

    /// Whether anything in one of `ranges` was marked since the last checkpoint of this tracker; also
    /// where that cannot be told any more, because others ended epochs meanwhile.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn is_marked(&self, ranges: &[ByteRange]) -> Result<bool> {
        let (installation, _lock) = self.installation()?;
        let running = installation.page(self.slot).get(Own::Epoch);
        for epoch in self.last.saturating_add(1)..=running {
            let Some(bitmap) = self.bitmap(&installation, &epoch_pin(self.slot, epoch))? else {
                return Ok(true);
            };
            let marked = bitmap.read()?;
            if ranges.iter().any(|range| marked.touches(*range)) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The image of the checkpoint that ended `epoch` is stored: the next one starts from it.
    /// Without this, or killed anywhere within it, the next checkpoint only tells more.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint); `Conflict` if another checkpoint came between.
    pub fn commit(&mut self, epoch: u64) -> Result<()> {
        let (installation, _lock) = self.installation()?;
        let (folder, page) = (installation.folder(), installation.page(self.slot));
        if page.get(Own::Pending) != epoch {
            let context = "another checkpoint came between";
            return Err(Error::new(ErrorKind::Conflict, context));
        }
        let open = self.open_epochs(&installation, epoch)?;
        let carry = carry_pin(self.slot);
        if page.is(Own::PendingQuiet) {
            // Every completion since was of a write that was queued since.
            folder.unpin(&carry)?;
        } else {
            let granule = Granule::new(page.get(Own::Granule))?;
            let kept = match self.bitmap(&installation, &carry)? {
                Some(kept) => kept,
                None => {
                    let kept = Bitmap::create(self.size, granule)?;
                    folder.pin(&carry, kept.map.descriptor())?;
                    kept
                }
            };
            open.iter().try_for_each(|(_, bitmap)| kept.add(bitmap))?;
        }
        page.set(Own::Committed, epoch);
        if page.is(Own::PendingBaseKnown) {
            let base = page.sectors(Own::PendingWritten, Own::PendingDiscarded);
            // Killed between, nothing is known, which is noticed.
            page.set(Own::BaseKnown, 0);
            page.set_sectors(Own::BaseWritten, Own::BaseDiscarded, base);
            page.set(Own::BaseKnown, 1);
        }
        page.set(Own::Misses, page.get(Own::PendingMisses));
        page.adopt_flags();
        page.set(Own::Pending, 0);
        for (epoch, _) in open {
            folder.unpin(&epoch_pin(self.slot, epoch))?;
        }
        Ok(())
    }

    /// An audit found a change that was missed: no map is believed until tracking is stopped and
    /// started again.
    ///
    /// # Errors
    /// As [`checkpoint`](Self::checkpoint).
    pub fn distrust(&mut self) -> Result<()> {
        let (installation, _lock) = self.installation()?;
        installation.page(self.slot).set(Own::Distrusted, 1);
        Ok(())
    }
}
