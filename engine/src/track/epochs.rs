//! The epochs of one disk: which were recorded, and whether their maps are still there.
//!
//! The page lists all epochs since the last image, each with the kernel's number of its map, which
//! no other map had since boot. A map is believed only as far as this list goes without a gap and
//! each pin is the very map that was recorded: pins that were removed, exchanged or put in
//! another order are noticed.

use super::bitmap::Bitmap;
use super::installation::Installation;
use super::page::{EpochEnd, Own, Page, Record};
use crate::base::limits::MAX_OPEN_EPOCHS;
use crate::base::{ByteCount, ChangeMap, Error, ErrorKind, Granule, Result};
use crate::sys::bpf::BpfFolder;

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

/// The pins of a slot's bitmaps.
///
/// # Errors
/// `Io`.
pub fn pins_of(folder: &BpfFolder, slot: u32) -> Result<Vec<String>> {
    let (carry, prefix) = (carry_pin(slot), format!("{EPOCH}{slot}_"));
    let names = folder.names()?.into_iter();
    Ok(names.filter(|name| *name == carry || name.starts_with(&prefix)).collect())
}

/// A map that is wanted.
pub enum Pinned {
    /// It is there.
    Map(Bitmap),
    /// It is not, for this reason.
    Lost(&'static str),
}

/// The epochs of a slot.
pub struct Epochs<'a> {
    installation: &'a Installation,
    slot: u32,
    size: ByteCount,
    granule: Granule,
}

impl<'a> Epochs<'a> {
    /// Those of `slot`.
    ///
    /// # Errors
    /// `Invalid` for a page that says nonsense.
    pub fn of(installation: &'a Installation, slot: u32) -> Result<Self> {
        let page = installation.page(slot);
        let granule = Granule::new(page.get(Own::Granule))?;
        Ok(Self { installation, slot, size: ByteCount(page.get(Own::Size)), granule })
    }

    fn page(&self) -> Page<'a> {
        self.installation.page(self.slot)
    }

    fn folder(&self) -> &'a BpfFolder {
        self.installation.folder()
    }

    /// Begins the first one; no program marks in it yet.
    ///
    /// # Errors
    /// The kernel's.
    pub fn begin(&self, first: u64) -> Result<()> {
        let map = self.add(first)?;
        self.page().set(Own::Epoch, first);
        self.installation.switch(self.slot, map.map.descriptor())
    }

    /// Ends the running one and begins the next; says which ended. Once this returned, no program
    /// marks in it any more.
    ///
    /// # Errors
    /// The kernel's.
    pub fn switch(&self) -> Result<u64> {
        self.tidy()?;
        let page = self.page();
        let epoch = page.get(Own::Epoch);
        // There is room then, however many checkpoints were cut short.
        self.join(epoch.saturating_sub(1))?;
        // In this order: killed anywhere between, what the programs mark in is pinned and
        // recorded, and the next checkpoint finds a number that is free.
        let next = self.add(epoch + 1)?;
        page.set(Own::Epoch, epoch + 1);
        if let Err(error) = self.installation.switch(self.slot, next.map.descriptor()) {
            page.set(Own::Epoch, epoch);
            page.drop_record(epoch + 1);
            self.folder().unpin(&epoch_pin(self.slot, epoch + 1))?;
            return Err(error);
        }
        Ok(epoch)
    }

    /// Makes, pins and records the map of an epoch.
    fn add(&self, epoch: u64) -> Result<Bitmap> {
        let map = Bitmap::create(self.size, self.granule)?;
        let pin = epoch_pin(self.slot, epoch);
        // One that was left there when a process was killed.
        self.folder().unpin(&pin)?;
        self.folder().pin(&pin, map.map.descriptor())?;
        let id = map.map.facts()?.id;
        let record = Record { first: epoch, last: epoch, map: id, end: None, image: None };
        if self.page().put_record(&record) {
            return Ok(map);
        }
        self.folder().unpin(&pin)?;
        Err(Error::new(ErrorKind::Limit, "more epochs than a page has room for"))
    }

    /// The record of the last epoch whose image was stored.
    #[must_use]
    pub fn committed(&self) -> Option<Record> {
        let committed = self.page().get(Own::Committed);
        self.page().records().into_iter().find(|record| record.last == committed)
    }

    /// Those of epochs after `since` and up to `last` of which no image was stored, in order.
    #[must_use]
    pub fn open(&self, since: u64, last: u64) -> Vec<Record> {
        let since = since.max(self.page().get(Own::Committed));
        let records = self.page().records().into_iter();
        records.filter(|record| record.last > since && record.last <= last).collect()
    }

    /// What epochs after `copied` are judged by: what was counted then, if it is known, or when
    /// the last image was stored.
    #[must_use]
    pub fn start(&self, copied: Option<u64>) -> EpochEnd {
        let records = self.page().records();
        let then = records.iter().find(|record| Some(record.last) == copied);
        let then = then.and_then(|record| record.end).filter(|end| end.base.is_some());
        then.or_else(|| self.committed()?.end).unwrap_or_default()
    }

    /// Notes what was counted when the epoch ended.
    pub fn end(&self, epoch: u64, end: EpochEnd) {
        let records = self.page().records();
        if let Some(record) = records.iter().find(|record| record.last == epoch) {
            self.page().put_record(&Record { end: Some(end), ..*record });
        }
    }

    /// The last epoch up to `epoch` at whose end nothing was in flight; zero if none is open.
    #[must_use]
    pub fn quiet(&self, epoch: u64) -> u64 {
        let open = self.open(0, epoch).into_iter().rev();
        let mut quiet = open.filter(|record| record.end.is_some_and(|end| end.is_quiet));
        quiet.next().map_or(0, |record| record.last)
    }

    /// Why the maps of the epochs after `since` and up to `last` are not all that was marked, if
    /// they are not.
    ///
    /// # Errors
    /// The kernel's.
    pub fn gap(&self, since: u64, last: u64) -> Result<Option<&'static str>> {
        let mut next = since.max(self.page().get(Own::Committed)) + 1;
        for record in self.open(since, last) {
            // What was joined is in the one before.
            if record.last < next {
                continue;
            }
            if record.first > next {
                break;
            }
            if let Pinned::Lost(why) = self.map(&record)? {
                return Ok(Some(why));
            }
            next = record.last + 1;
        }
        Ok((next <= last).then_some("an epoch's record was removed"))
    }

    /// What the epochs after `since` and up to `last` marked, as far as it is there.
    ///
    /// # Errors
    /// The kernel's.
    pub fn marked(&self, since: u64, last: u64) -> Result<ChangeMap> {
        let mut changes = ChangeMap::new(self.size, self.granule)?;
        for record in self.open(since, last) {
            if let Pinned::Map(map) = self.map(&record)? {
                changes.union(&map.read()?)?;
            }
        }
        Ok(changes)
    }

    fn map(&self, record: &Record) -> Result<Pinned> {
        self.pinned(&epoch_pin(self.slot, record.first), record.map)
    }

    fn pinned(&self, pin: &str, id: u32) -> Result<Pinned> {
        match self.folder().get(pin) {
            Ok(descriptor) => {
                let found = Bitmap::adopt(descriptor, self.size, self.granule);
                // What is no map at all cannot be asked.
                let is_it = found.map.facts().is_ok_and(|facts| facts.id == id);
                Ok(if is_it { Pinned::Map(found) } else { Pinned::Lost("a pin was exchanged") })
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {
                Ok(Pinned::Lost("an epoch's pin was removed"))
            }
            Err(error) => Err(error),
        }
    }

    /// What was marked since nothing was last in flight before the last image.
    ///
    /// # Errors
    /// The kernel's.
    pub fn carry(&self) -> Result<Pinned> {
        let page = self.page();
        if page.is(Own::CarryLost) {
            return Ok(Pinned::Lost("what was in flight when an image was stored is not known"));
        }
        match u32::try_from(page.get(Own::CarryMap)).unwrap_or(0) {
            0 => Bitmap::create(self.size, self.granule).map(Pinned::Map),
            id => self.pinned(&carry_pin(self.slot), id),
        }
    }

    /// Joins the first of too many.
    ///
    /// # Errors
    /// The kernel's.
    pub fn join(&self, last: u64) -> Result<()> {
        let open = self.open(0, last);
        let surplus = open.len().saturating_sub(MAX_OPEN_EPOCHS);
        let Some((mut first, others)) = open.split_first().map(|(first, rest)| (*first, rest))
        else {
            return Ok(());
        };
        for record in &others[..surplus.min(others.len())] {
            if let (Pinned::Map(to), Pinned::Map(from)) = (self.map(&first)?, self.map(record)?) {
                to.add(&from)?;
                (first.last, first.end) = (record.last, record.end);
                self.page().put_record(&first);
            }
            // A map that is lost leaves a gap.
            self.page().drop_record(record.first);
            self.folder().unpin(&epoch_pin(self.slot, record.first))?;
        }
        Ok(())
    }

    /// The image `id` is stored, which lacks nothing up to the end of `epoch`: what comes next
    /// starts from there. Killed within, the next checkpoint only tells more.
    ///
    /// # Errors
    /// `Conflict` if the epoch is not open any more; the kernel's.
    pub fn commit(&self, epoch: u64, id: [u8; 16]) -> Result<()> {
        let page = self.page();
        let open = self.open(0, epoch);
        let record = open.last().filter(|record| record.last == epoch);
        let Some((record, end)) = record.and_then(|record| record.end.map(|end| (record, end)))
        else {
            let context = "another capture took over what was marked meanwhile";
            return Err(Error::new(ErrorKind::Conflict, context));
        };
        if !end.is_quiet {
            self.carry_over(&open, epoch)?;
        }
        page.put_record(&Record { image: Some(id), ..*record });
        page.set(Own::Committed, epoch);
        if end.is_quiet {
            // Every completion since was of a write that was queued since.
            page.set(Own::CarryMap, 0);
            page.set(Own::CarryLost, 0);
            self.folder().unpin(&carry_pin(self.slot))?;
        }
        self.tidy()
    }

    /// Adds what the epochs up to `last` marked to what is carried over.
    fn carry_over(&self, open: &[Record], last: u64) -> Result<()> {
        let page = self.page();
        if self.gap(0, last)?.is_some() {
            page.set(Own::CarryLost, 1);
        }
        let kept = match self.carry()? {
            Pinned::Map(kept) => kept,
            Pinned::Lost(_) => {
                page.set(Own::CarryLost, 1);
                return Ok(());
            }
        };
        if !page.is(Own::CarryMap) {
            let pin = carry_pin(self.slot);
            self.folder().unpin(&pin)?;
            self.folder().pin(&pin, kept.map.descriptor())?;
            page.set(Own::CarryMap, kept.map.facts()?.id.into());
        }
        for record in open {
            if let Pinned::Map(map) = self.map(record)? {
                kept.add(&map)?;
            }
        }
        Ok(())
    }

    /// Lets go of what an image is stored of.
    fn tidy(&self) -> Result<()> {
        let committed = self.page().get(Own::Committed);
        for record in self.page().records() {
            if record.last <= committed {
                self.folder().unpin(&epoch_pin(self.slot, record.first))?;
            }
            if record.last < committed {
                self.page().drop_record(record.first);
            }
        }
        Ok(())
    }
}
