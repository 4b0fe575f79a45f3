//! The rounds of a capture of a disk in use: each is an image that starts from the one before, and
//! of which only the last is published.
//!
//! What no filesystem uses is left out by a guess, since a filesystem in use cannot say it for
//! certain. The image of the frozen disk can: what it uses and the image lacks was not written
//! since before the first round, or it would have been copied, and is read once all is thawed.

use std::sync::Arc;
use std::time::Instant;

use super::Capture;
use super::changes::{ChangeTracker, Reading, Since};
use super::checkpoint::{Copied, Pending, Told};
use super::doubted::Late;
use super::live::{Live, Outcome, Rounds, Settled};
use super::moment;
use super::unused::{Search, proof};
use crate::base::ranges::{common, joined, touches, without};
use crate::base::{ByteRange, Error, ErrorKind, Observer, ReadAt, Result};
use crate::block::{Cached, Disk};
use crate::job::pipeline::ChunkSource;
use crate::store::Manifest;
use crate::store::index::Index;
use crate::store::manifest::{Moment, VolumeUse};
use crate::store::repository::Image;
use crate::volume::Volume;

/// A capture that goes on in rounds.
struct Copying<'a, 'b> {
    capture: &'a Capture<'b>,
    tracker: &'a mut dyn ChangeTracker,
    before: Image,
    /// The checkpoint up to which `before` lacks nothing.
    copied: Option<Copied>,
    /// All that was read or left out since the parent.
    seen: Vec<ByteRange>,
    /// Blocks of swap files, which no round copies. Should something else use them by the end, they
    /// are missed then.
    swap: Vec<ByteRange>,
    /// Volumes that were looked at for what they do not use, as they were when frozen.
    volumes: Vec<VolumeUse>,
    index: &'a Arc<Index>,
    observer: &'a dyn Observer,
}

impl Capture<'_> {
    /// Goes on in rounds from what the `first` manifest says, to the disk at one instant, if that
    /// can be had. The manifest that comes of it lacks nothing up to the checkpoint beside it.
    ///
    /// # Errors
    /// Those of [`Live::run`].
    pub(super) fn in_rounds(
        &mut self,
        live: &Live,
        first: (Manifest, Option<Copied>),
        reading: &mut Reading,
        (index, observer): (&Arc<Index>, &dyn Observer),
    ) -> Result<(Manifest, Option<Copied>)> {
        let (manifest, copied) = first;
        let none = || Error::new(ErrorKind::Invalid, "a capture in rounds, without a tracker");
        let mut tracker = self.tracker.take().ok_or_else(none)?;
        let before = Image { id: self.repository.keys().image_id(&manifest.encode()), manifest };
        let clock = Instant::now();
        let disk = Arc::clone(&self.disk);
        let seen = match reading.is_incremental {
            true => reading.ranges.iter().chain(&reading.left_out).copied().collect(),
            false => vec![ByteRange { start: 0, end: disk.info().size.0 }],
        };
        let volumes = Vec::new();
        let mut copying = Copying {
            capture: self,
            tracker: &mut *tracker,
            before,
            copied,
            seen,
            swap: reading.swap.clone(),
            volumes,
            index,
            observer,
        };
        let moment = copying.run(live, &disk);
        let Copying { before: Image { mut manifest, .. }, copied, volumes, .. } = copying;
        self.tracker = Some(tracker);
        let moment = moment?;
        reading.volumes = volumes;
        manifest.allocation = self.allocation(reading);
        if let Some(doubt) = &moment.doubt {
            for volume in &mut manifest.allocation {
                volume.keep_all(doubt);
            }
            reading.volumes.clear();
        }
        manifest.live = Some(moment);
        manifest.tracker = reading.tracker.to_owned();
        manifest.tracker_doubt.clone_from(&reading.doubt);
        manifest.parent = self.parent.as_ref().map(|parent| parent.id);
        manifest.cost.milliseconds += u64::try_from(clock.elapsed().as_millis()).unwrap_or(0);
        Ok((manifest, copied))
    }
}

impl Copying<'_, '_> {
    fn run(&mut self, live: &Live, disk: &Disk) -> Result<Moment> {
        let observer = self.observer;
        let (mut moment, outcome) = live.run(self, disk, observer)?;
        let stack = &self.capture.stack;
        match outcome {
            Outcome::OneInstant => moment::tell(&mut moment, stack, &[]),
            Outcome::Torn(torn) => moment::tell(&mut moment, stack, &torn),
            Outcome::Doubt(doubt) => moment::tell_unknown(&mut moment, stack, doubt),
        }
        if moment.doubt.is_some() {
            self.read_all(disk)?;
        }
        Ok(moment)
    }

    /// Reads whatever was left out: of a disk at no instant it is not certain what is in use.
    fn read_all(&mut self, disk: &Disk) -> Result<()> {
        let whole = ByteRange { start: 0, end: disk.info().size.0 };
        let reader = self.capture.repository.reader(&self.before);
        let left_out = proof::unallocated(&reader, &[whole])?;
        match left_out.is_empty() {
            true => Ok(()),
            false => self.read(disk, left_out),
        }
    }

    /// Reads these blocks from `source`; all else is as it was.
    fn read(&mut self, source: &dyn ChunkSource, ranges: Vec<ByteRange>) -> Result<()> {
        self.seen.extend_from_slice(&ranges);
        let Self { capture, before, index, observer, .. } = self;
        let late = Late { ranges, holes: Vec::new() };
        self.before.manifest = capture.read_again(source, before, late, (index, *observer))?;
        Ok(())
    }

    /// What of `ranges` was written since the last checkpoint, by volumes.
    fn ask_what_was_written(&self, ranges: &[ByteRange]) -> Result<Vec<ByteRange>> {
        let is_written = |ranges: &[ByteRange]| match ranges {
            [] => Ok(false),
            some => self.tracker.is_written_since(some),
        };
        if !is_written(ranges)? {
            return Ok(Vec::new());
        }
        // Filesystems are frozen meanwhile: a question for each volume, and none for each range.
        let volumes = &self.capture.layout().volumes;
        let places = |volume: &Volume| self.capture.places(volume);
        let held = joined(volumes.iter().flat_map(places).collect());
        let of_volumes = volumes.iter().map(|volume| common(ranges, &places(volume)));
        let mut written = Vec::new();
        for stretch in of_volumes.chain([without(ranges, &held)]) {
            if is_written(&stretch)? {
                written.extend(stretch);
            }
        }
        Ok(joined(written))
    }

    /// What the image so far lacks, though its own filesystems use it.
    fn lacking(&mut self) -> Result<Vec<ByteRange>> {
        let Capture { repository, options, .. } = self.capture;
        let places = |volume: &Volume| self.capture.places(volume);
        let seen = joined(std::mem::take(&mut self.seen));
        let is_touched = |volume: &Volume| places(volume).iter().any(|place| touches(&seen, place));
        let volumes = &self.capture.layout().volumes;
        let touched = volumes.iter().filter(|volume| is_touched(volume));
        let touched = joined(touched.flat_map(places).collect());
        let reader = repository.reader(&self.before);
        let left_out = proof::unallocated(&reader, &touched)?;
        let disk: Arc<dyn ReadAt> = Arc::new(Cached::new(Arc::new(reader)));
        let block = self.before.manifest.block_size;
        let (stack, skip_swap) = (&self.capture.stack_on(&disk)?, options.skip_swap);
        let size = disk.size();
        let search = Search { stack, size, block, is_in_use: false, skip_swap };
        let unused = search.run(is_touched);
        let lacking = without(&left_out, &unused.ranges);
        self.volumes = unused.volumes;
        self.seen = seen;
        Ok(lacking)
    }
}

impl Rounds for Copying<'_, '_> {
    fn changes(&mut self) -> Result<Told> {
        let Some(copied) = &self.copied else {
            return Ok(Told::failed("no checkpoint came before the disk was read".to_owned()));
        };
        let told = match self.tracker.checkpoint(Since::Copied(copied)) {
            Ok(findings) => Told::of(Some(&self.before), findings),
            Err(error) => Told::failed(error.to_string()),
        };
        Ok(match told {
            Told::Known(pending) => {
                self.seen.extend_from_slice(pending.ranges());
                Told::Known(pending.leaving_out(&self.swap))
            }
            doubt @ Told::Doubt(_) => doubt,
        })
    }

    fn copy(&mut self, source: &dyn ChunkSource, pending: Pending) -> Result<()> {
        let copied = pending.copied(|ranges| self.read(source, ranges))?;
        self.copied = Some(copied);
        Ok(())
    }

    fn written_since(&self, ranges: &[ByteRange]) -> Vec<ByteRange> {
        // Of a tracker that does not answer nothing else is asked: filesystems are frozen.
        self.ask_what_was_written(ranges).unwrap_or_else(|_silent| ranges.to_vec())
    }

    fn settle(&mut self, disk: &Disk) -> Result<Settled> {
        if self.capture.options.all_blocks {
            return Ok(Settled::AsFrozen);
        }
        let lacking = self.lacking()?;
        if lacking.is_empty() {
            return Ok(Settled::AsFrozen);
        }
        self.read(disk, lacking.clone())?;
        // Room that was reserved then may be written to by now.
        let Self { capture, observer, .. } = *self;
        let reader = capture.repository.reader(&self.before);
        let is_late = self.tracker.is_written_since(&lacking).unwrap_or(true)
            && proof::is_reached(reader, |disk| capture.stack_on(disk), lacking, observer)?;
        let late = "what came into use unwritten was written as soon as all was thawed";
        Ok(if is_late { Settled::Late(late.to_owned()) } else { Settled::AsFrozen })
    }
}
