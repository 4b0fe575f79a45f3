//! Capture: a whole disk becomes an image.
//!
//! [`Capture::plan`] opens the source, looks at what it holds and finds its parent;
//! [`Capture::run`] reads it and commits the image. A run that fails, is stopped or killed leaves
//! no image, and the blocks that it stored are used by the next.

mod assembly;
mod audit;
mod changes;
mod checkpoint;
mod delta;
mod doubted;
mod effort;
mod history;
mod holes;
mod hooks;
mod lanes;
mod live;
mod moment;
mod recheck;
mod rounds;
mod source;
mod stillness;
mod unused;
mod worker;

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use self::assembly::{Assembled, Assembly};
use self::audit::{Audit, Objection};
use self::changes::Reading;
use self::checkpoint::Told;
use self::delta::{Bases, Deltas};
use self::effort::Governor;
use self::history::changes_of_disk;
use self::lanes::Lanes;
use self::live::{Live, not_frozen};
use self::recheck::Recheck;
use self::source::{check_apart, check_has_bytes};
use self::stillness::{Stillness, Written};
use self::unused::{Search, Unused};
use self::worker::Worker;
use super::bitmaps::Bitmaps;
use super::pipeline::{ChunkSource, Pipeline, reading_threads, worker_threads};
use super::tracked::Ebpf;
use crate::base::limits::{MAX_DISK_SIZE, NODE_FANOUT};
use crate::base::ranges::{self, touches};
use crate::base::{ByteRange, Error, ErrorKind, Event, Observer, Phase, ReadAt, Result};
use crate::block::{Cached, Chunk, Disk, IoMode, OpenOptions, SourceInfo};
use crate::store::index::Index;
use crate::store::lock::host_name;
use crate::store::manifest::{Moment, MountedFilesystem, TreeRoot, VolumeUse};
use crate::store::repository::Image;
use crate::store::tree::disk_digest;
use crate::store::{ImageId, LockKind, Manifest, Parent, Repository, StoreWriter, salvage};
use crate::sys::holders::Holders;
use crate::sys::threads;
use crate::volume::{DiskLayout, Keys, Stack, Volume};

pub use changes::{ChangeTracker, Findings, Since};
pub use checkpoint::Copied;
pub use effort::Effort;
pub use live::LiveOptions;

/// Which image a capture is compared with, and recorded as the successor of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ParentChoice {
    /// The newest image of the same name, if there is one.
    #[default]
    Auto,
    /// None.
    None,
    /// This one, as [`Repository::resolve`] understands it.
    Image(String),
}

/// What to do about sectors that cannot be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum OnError {
    /// Record them in the image and go on.
    #[default]
    Record,
    /// Give up at the first.
    Abort,
}

/// How to find what changed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum TrackerChoice {
    /// By the disk's tracker if it has one that can be trusted, else by comparing.
    #[default]
    Auto,
    /// By reading everything.
    Compare,
    /// By the disk's eBPF tracker, which must run; by comparing where it cannot be trusted.
    Ebpf,
    /// By a dirty bitmap of QEMU's, of an export; by comparing where it cannot be trusted.
    Qemu,
}

/// How to capture.
#[derive(Debug, Clone, Default)]
pub struct CaptureOptions {
    /// The name of the disk's history; by default the host and the disk's serial number, or the
    /// file's name.
    pub name: Option<String>,
    /// What to compare with.
    pub parent: ParentChoice,
    /// How hard to compress.
    pub effort: Effort,
    /// What keeps reads in flight.
    pub io: IoMode,
    /// Sectors that cannot be read.
    pub on_error: OnError,
    /// How to find what changed.
    pub tracker: TrackerChoice,
    /// How to capture a disk that is in use as it is at one instant; by default it is not.
    pub live: Option<LiveOptions>,
    /// Whether to read what no filesystem uses as well.
    pub all_blocks: bool,
    /// Whether to leave out the contents of swap, paging and hibernation files.
    pub skip_swap: bool,
    /// Whether a file's bytes are the disk's, even if they look like an image of another format.
    pub raw: bool,
    /// Bytes that are read to audit a tracker of changes, at random places that it says did not
    /// change; by default 64 MiB or a thousandth of the disk, the larger.
    pub audit: Option<u64>,
    /// Worker threads; by default one for each processor.
    pub threads: Option<usize>,
    /// Keys of encrypted volumes: what their contents do not use need not be read.
    pub keys: Arc<Keys>,
}

/// A capture that is ready to run.
pub struct Capture<'a> {
    repository: &'a Repository,
    disk: Arc<Disk>,
    name: String,
    /// Its place in the order of images.
    ordinal: u64,
    /// The marks of damage that it refers to none of.
    avoids: Option<String>,
    parent: Option<Image>,
    /// What is on the disk, as it was when this was planned.
    stack: Stack,
    tracker: Option<Box<dyn ChangeTracker>>,
    /// Why there is no tracker, though there should be one.
    doubt: Option<String>,
    /// Who uses the disk, so that what it says of itself may change at any time.
    holders: Holders,
    /// Whether somebody does.
    is_in_use: bool,
    live: Option<Live>,
    /// What is mounted from it, where it cannot be captured at one instant, with the reason.
    mounted: Vec<MountedFilesystem>,
    options: CaptureOptions,
    #[cfg(feature = "fault-injection")]
    leave_out: Vec<ByteRange>,
}

/// What a capture made.
#[derive(Debug, Clone)]
pub struct CaptureReport {
    /// The image's id.
    pub id: ImageId,
    /// Its manifest.
    pub manifest: Manifest,
    /// What kept reads in flight.
    pub io_engine: &'static str,
    /// What a tracker of changes was caught at; the image is right nonetheless.
    pub alarm: Option<String>,
    /// Why the hook after the freeze did not do what it should, if it did not: what the one before
    /// locked may still be so.
    pub hook_failure: Option<String>,
}

impl<'a> Capture<'a> {
    /// Opens the device, file or export `source` and plans its capture into `repository`.
    ///
    /// # Errors
    /// `NotFound` or `Invalid` for a wrong source, name or parent; `Io`.
    pub fn plan(
        repository: &'a Repository,
        source: &Path,
        options: CaptureOptions,
        observer: &dyn Observer,
    ) -> Result<Self> {
        repository.config().check_writable()?;
        let open = OpenOptions { io: options.io, raw: options.raw, ..OpenOptions::default() };
        let disk = Arc::new(Disk::open_watched(source, &open, observer)?);
        let plan = || Self::plan_of(repository, source, Arc::clone(&disk), options, observer);
        disk.watched(observer, plan)
    }

    fn plan_of(
        repository: &'a Repository,
        source: &Path,
        disk: Arc<Disk>,
        options: CaptureOptions,
        observer: &dyn Observer,
    ) -> Result<Self> {
        let info = disk.info();
        if info.size.0 > MAX_DISK_SIZE {
            return Err(Error::new(
                ErrorKind::Limit,
                format!("{}: {} bytes, at most {MAX_DISK_SIZE}", source.display(), info.size),
            ));
        }
        check_has_bytes(&disk, source)?;
        let holders = match disk.export() {
            // What holds an export is for its server to know.
            Some(_) => Holders::default(),
            None => Holders::of(source)?,
        };
        check_apart(repository, &disk, &holders)?;
        for message in disk.warnings() {
            observer.event(&Event::Warning { message });
        }
        let name = match &options.name {
            Some(name) => history::checked_name(name)?,
            None => history::default_name(info),
        };
        let images = repository.images()?;
        let parent = history::find_parent(&images, &name, &options.parent, observer)?;
        let now = jiff::Timestamp::now();
        if let Some(message) = history::odd_clock(now, &images, &name, parent.as_ref()) {
            observer.event(&Event::Warning { message: &message });
        }
        let bytes = Arc::clone(&disk) as Arc<dyn ReadAt>;
        let stack = Stack::open(&bytes, info.logical_sector_size, &options.keys)?;
        options.keys.check_used(stack.layout())?;
        let changes = |parent| changes_of_disk(info, stack.layout(), parent);
        for line in parent.iter().flat_map(changes) {
            let message = format!("{line}; the image continues the history of {name}");
            observer.event(&Event::Warning { message: &message });
        }
        let (mut tracker, doubt) = open_tracker(&disk, parent.as_ref(), options.tracker)?;
        let wanted = options.live.clone().filter(|_| disk.facts().is_some());
        let prepare = |wanted| Live::prepare((source, &holders), wanted, &mut tracker);
        let (live, mounted) = match wanted.map(prepare) {
            Some(Ok(live)) => (live, Vec::new()),
            Some(Err(error)) => (None, not_frozen(&holders, &error.to_string())),
            None => (None, not_frozen(&holders, "that was not wanted")),
        };
        if live.is_none() {
            warn_of_use(&holders, &mounted, observer);
        }
        let is_in_use = !holders.is_empty();
        if options.skip_swap && is_in_use && live.is_none() {
            let message = "swap files are kept: the disk is in use, and the image no one instant";
            observer.event(&Event::Warning { message });
        }
        Ok(Self {
            repository,
            disk,
            name,
            ordinal: images.next_ordinal(),
            avoids: None,
            parent,
            stack,
            tracker,
            doubt,
            holders,
            is_in_use,
            live,
            mounted,
            options,
            #[cfg(feature = "fault-injection")]
            leave_out: Vec::new(),
        })
    }

    /// The same, reading only what `tracker` says changed, where that can be believed.
    #[must_use]
    pub fn with_tracker(mut self, tracker: Box<dyn ChangeTracker>) -> Self {
        self.tracker = Some(tracker);
        self
    }

    /// The same, with its tracker wrapped in another: something happens when it is asked.
    #[cfg(feature = "fault-injection")]
    #[must_use]
    pub fn meddling(
        mut self,
        wrap: impl FnOnce(Box<dyn ChangeTracker>) -> Box<dyn ChangeTracker>,
    ) -> Self {
        self.tracker = self.tracker.map(wrap);
        self
    }

    /// The same, leaving `ranges` out as if no filesystem used them: a fault that must be noticed.
    #[cfg(feature = "fault-injection")]
    #[must_use]
    pub fn leaving_out(mut self, ranges: Vec<ByteRange>) -> Self {
        self.leave_out = ranges;
        self
    }

    /// What the disk is.
    #[must_use]
    pub fn source(&self) -> &SourceInfo {
        self.disk.info()
    }

    /// The name of its history.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What holds the disk, or held it when this was planned.
    #[must_use]
    pub fn holders(&self) -> &Holders {
        &self.holders
    }

    /// What it will be compared with.
    #[must_use]
    pub fn parent(&self) -> Option<&Image> {
        self.parent.as_ref()
    }

    /// Reads the disk and commits the image.
    ///
    /// # Errors
    /// `Conflict` when the repository is locked; `Cancelled`; `Io` of source or repository. There
    /// is no image then.
    pub fn run(self, observer: &dyn Observer) -> Result<CaptureReport> {
        let disk = Arc::clone(&self.disk);
        let report = disk.watched(observer, || self.run_watched(observer))?;
        let renewed = disk.export().map_or(0, |export| export.renewed());
        if renewed > 0 {
            let source = disk.info().path.display();
            let message = format!("{source}: lost connections that were made again: {renewed}");
            observer.event(&Event::Warning { message: &message });
        }
        Ok(report)
    }

    fn run_watched(mut self, observer: &dyn Observer) -> Result<CaptureReport> {
        let created = jiff::Timestamp::now();
        let clock = Instant::now();
        let lock = self.repository.lock(LockKind::Shared, "capture")?;
        salvage::adopt_unfinished(self.repository, &lock, observer)?;
        let index = Arc::new(self.repository.index(observer)?);
        self.avoids = index.bad().digest();
        let mut writer = self.writer(&index, self.parent.as_ref())?;
        let stillness = Stillness::begin(&self.disk);
        let (mut reading, told) = self.decide(&index)?;
        if self.options.skip_swap {
            reading.tell_kept(observer);
        }
        let assembled = match self.read_changes(&reading, &index, &mut writer, observer)? {
            Read::Done(assembled) => assembled,
            // The disk is all there.
            Read::Refused(objection) => {
                let Objection { doubt, alarm } = objection;
                reading = Reading { doubt: Some(doubt), alarm, ..self.everything()? };
                let from = From { source: self.disk.as_ref(), before: self.parent.as_ref() };
                self.read(from, &reading, &index, &mut writer, observer)?
            }
        };
        observer.event(&Event::Progress(assembled.progress));
        // All nine digits, so that text sorts as time does.
        let created = format!("{created:.9}");
        let mut manifest = self.manifest(&created, clock, &assembled, &reading);
        let mut copied = told.and_then(|told| told.copied_by(&reading, &assembled));
        // What was started for it ends with the run, not before the tracker's last word.
        let live = self.live_for(&stillness);
        if let Some(live) = &live {
            writer.end()?;
            let first = (manifest, copied);
            (manifest, copied) = self.in_rounds(live, first, &mut reading, (&index, observer))?;
            writer = self.writer(&index, None)?;
        } else {
            manifest.live = self.moment(&stillness);
        }
        if let Some(doubt) = manifest.live.as_ref().and_then(|moment| moment.doubt.as_ref()) {
            let message = format!(
                "the image is not one instant ({doubt}): what was written meanwhile may be half \
                 in it, half not"
            );
            observer.event(&Event::Warning { message: &message });
        }
        manifest.tracking = copied.as_ref().map(|copied| copied.evidence().clone());
        let id = self.publish(writer, (&mut manifest, &reading), (&index, observer))?;
        if let (Some(tracker), Some(copied)) = (&mut self.tracker, &copied)
            && let Err(error) = tracker.commit(copied, id)
        {
            let message = format!("the next image will have to read more: {error}");
            observer.event(&Event::Warning { message: &message });
        }
        let hook_failure = live.and_then(|live| live.hook_failure().map(str::to_owned));
        let (io_engine, alarm) = (self.disk.io_engine(), reading.alarm);
        Ok(CaptureReport { id, manifest, io_engine, alarm, hook_failure })
    }

    /// What there is to go on in rounds with. A disk that nobody was seen to use, and that was
    /// written to all the same, is followed as well if it is tracked.
    fn live_for(&mut self, stillness: &Stillness) -> Option<Live> {
        let live = self.live.take();
        if live.is_some() || self.tracker.is_none() || self.disk.facts().is_none() {
            return live;
        }
        let options = self.options.live.clone()?;
        (stillness.written() != Written::Nowhere).then(|| Live::without_mounts(options))
    }

    /// What is known of the instant of a disk that was read once; nothing where nobody was seen to
    /// use it or to write to it.
    fn moment(&self, stillness: &Stillness) -> Option<Moment> {
        let mut moment = Moment { filesystems: self.mounted.clone(), ..Moment::default() };
        match stillness.written() {
            Written::Within(torn) => moment::tell(&mut moment, &self.stack, &torn),
            Written::Nowhere if self.is_in_use => moment::tell(&mut moment, &self.stack, &[]),
            Written::Unknown if self.is_in_use => {
                let doubt = "it is in use, and what is written to it is not counted".to_owned();
                moment::tell_unknown(&mut moment, &self.stack, doubt);
            }
            Written::Nowhere | Written::Unknown => return None,
        }
        Some(moment)
    }

    fn writer(&self, index: &Arc<Index>, before: Option<&Image>) -> Result<StoreWriter> {
        let writer = StoreWriter::new(self.repository, Arc::clone(index))?;
        Ok(match before {
            Some(before) => writer.after(self.as_parent(before)),
            None => writer,
        })
    }

    /// An image to start from, with a reader of its own.
    fn as_parent(&self, image: &Image) -> Parent {
        Parent::new(self.repository.reader(image))
    }

    /// All data of the disk, but what no filesystem uses.
    fn everything(&self) -> Result<Reading> {
        let data = self.data()?;
        let unused = self.unused(|_all| true)?;
        let ranges = ranges::without(&data, &unused.ranges);
        let Unused { ranges: left_out, volumes, swap, .. } = unused;
        Ok(Reading { left_out, volumes, swap, ..Reading::all(ranges) })
    }

    /// Whether what no filesystem uses is left out: of a disk in use if it can be made sure of
    /// once all is frozen.
    fn may_leave_out(&self) -> bool {
        !self.options.all_blocks && (!self.is_in_use || self.live.is_some())
    }

    /// What no filesystem uses of the volumes that `is_wanted`.
    fn unused(&self, is_wanted: impl Fn(&Volume) -> bool) -> Result<Unused> {
        if !self.may_leave_out() {
            return Ok(Unused::default());
        }
        let disk: Arc<dyn ReadAt> = Arc::clone(&self.disk) as Arc<dyn ReadAt>;
        let disk: Arc<dyn ReadAt> = Arc::new(Cached::new(disk));
        let block = self.repository.config().block_size;
        let stack = &self.stack_on(&disk)?;
        let (is_in_use, skip_swap) = (self.is_in_use, self.options.skip_swap);
        let size = disk.size();
        let unused = Search { stack, size, block, is_in_use, skip_swap }.run(is_wanted);
        #[cfg(feature = "fault-injection")]
        let unused = unused.leaving_out(&self.leave_out);
        Ok(unused)
    }

    /// What lies in the disk's volumes by what is on `disk` now: the disk, or an image of it.
    fn stack_on(&self, disk: &Arc<dyn ReadAt>) -> Result<Stack> {
        Stack::over(disk, self.layout().clone(), &self.options.keys)
    }

    fn layout(&self) -> &DiskLayout {
        self.stack.layout()
    }

    /// Where a volume lies on the disk.
    fn places(&self, volume: &Volume) -> Vec<ByteRange> {
        unused::places(&self.stack, volume)
    }

    /// What is to be read, and the checkpoint that came before.
    fn decide(&mut self, index: &Index) -> Result<(Reading, Option<Told>)> {
        if let Some(live) = &self.live {
            live.sync()?;
        }
        let parent = self.parent.as_ref();
        let since = Since::parent(parent);
        let told = self.tracker.as_mut().map(|tracker| match tracker.checkpoint(since) {
            Err(error) => Told::failed(error.to_string()),
            // It only follows what is written while the disk is copied.
            Ok(findings) if self.options.tracker == TrackerChoice::Compare => {
                Told::unasked(findings)
            }
            Ok(findings) => Told::of(parent, findings),
        });
        let told = told.map(|told| told.unless(|changes| self.contradiction(changes)));
        let reading = match (&told, parent, &self.tracker) {
            (Some(Told::Known(pending)), Some(parent), Some(tracker)) => {
                let damaged = match parent.manifest.avoids == self.avoids {
                    true => Ok(Vec::new()),
                    false => recheck::damaged(&self.repository.reader(parent), &index.bad()),
                };
                let reading = damaged.and_then(|damaged| {
                    let changes = ranges::joined([pending.ranges(), &damaged].concat());
                    self.read_of_changes(parent, &changes)
                });
                reading.map(|reading| Reading { tracker: tracker.name(), ..reading })
            }
            (Some(Told::Doubt(unknown)), ..) => {
                let doubt = unknown.reason().map(str::to_owned);
                self.everything().map(|all| Reading { doubt, ..all })
            }
            _ => self.everything().map(|all| Reading { doubt: self.doubt.clone(), ..all }),
        };
        let reading = match reading {
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let Objection { doubt, .. } = Objection::damaged_parent(&error);
                Reading { doubt: Some(doubt), ..self.everything()? }
            }
            reading => reading?,
        };
        Ok((reading, told))
    }

    /// Why `changes` lack some, if the holes of the file behind a loop device show that.
    fn contradiction(&self, changes: &[ByteRange]) -> Option<String> {
        if changes.is_empty() {
            // Then the file's times are evidence, and they were looked at.
            return None;
        }
        let reader = self.repository.reader(self.parent.as_ref()?);
        match holes::contradiction(&self.disk, &reader, changes) {
            Ok(None) => None,
            Ok(Some(range)) => Some(format!(
                "the file behind the loop device has a hole at {range}, where it was not written: \
                 it was changed past the device"
            )),
            Err(error) => Some(error.to_string()),
        }
    }

    /// What is to be read where only `changes` are not as in the parent, or are damaged there:
    /// these, and what no filesystem used then and one uses now, written or not.
    fn read_of_changes(&self, parent: &Image, changes: &[ByteRange]) -> Result<Reading> {
        let before = serde_json::from_value::<DiskLayout>(parent.manifest.layout.clone()).ok();
        let is_same_layout = before.is_some_and(|before| before.volumes == self.layout().volumes);
        // What the parent lacks is wanted now.
        let mut had_skipped = parent.manifest.allocation.iter().flat_map(|before| &before.skipped);
        let lacks_nothing = self.options.skip_swap || had_skipped.next().is_none();
        let is_alike = is_same_layout && self.may_leave_out() && lacks_nothing;
        // What a volume uses is as it was where nothing of it was written.
        let is_touched = |volume: &Volume| {
            !is_alike || self.places(volume).iter().any(|place| touches(changes, place))
        };
        let unused = self.unused(is_touched)?;
        let looked_at = match is_alike {
            true => {
                let touched = self.layout().volumes.iter().filter(|volume| is_touched(volume));
                ranges::joined(touched.flat_map(|volume| self.places(volume)).collect())
            }
            false => vec![ByteRange { start: 0, end: parent.manifest.size.0 }],
        };
        let reader = self.repository.reader(parent);
        let was_unused = unused::proof::unallocated(&reader, &looked_at)?;
        let wanted = changes.iter().chain(&was_unused).copied();
        let wanted = ranges::joined(wanted.collect());
        let ranges = ranges::without(&wanted, &unused.ranges);
        let fresh = ranges::without(&unused.swap, &was_unused);
        let unwanted = ranges::joined(changes.iter().copied().chain(fresh).collect());
        let left_out = ranges::common(&unwanted, &unused.ranges);
        let Unused { volumes, swap, .. } = unused;
        let reading = Reading { ranges, left_out, volumes, swap, ..Reading::all(Vec::new()) };
        Ok(Reading { is_incremental: true, ..reading })
    }

    /// Reads what is to be read, while the tracker that says so is audited; or says why that
    /// will not do.
    fn read_changes(
        &mut self,
        reading: &Reading,
        index: &Index,
        writer: &mut StoreWriter,
        observer: &dyn Observer,
    ) -> Result<Read> {
        let stored = &Recheck::new(self.repository, index, recheck::OF_CHANGES);
        let (disk, bytes) = (self.disk.as_ref(), self.options.audit);
        let audit = Audit { stored, disk, bytes, observer };
        let parent = self.parent.as_ref().filter(|_| reading.is_incremental);
        let parent = parent.map(|parent| self.as_parent(parent));
        let threads = worker_threads(self.options.threads);
        // What was left out is not as in the parent either.
        let changed = reading.ranges.iter().chain(&reading.left_out).copied();
        let changed = &ranges::joined(changed.collect());
        let from = From { source: self.disk.as_ref(), before: self.parent.as_ref() };
        let mut read = || self.read(from, reading, index, writer, observer);
        let (audited, read) = match parent {
            Some(parent) => {
                let audit = || audit.run(&parent, changed, threads);
                let (audited, read) = threads::beside(audit, read);
                (Some(audited), read)
            }
            None => (None, read()),
        };
        if let (Some(tracker), Some(Ok(audited))) = (&mut self.tracker, &audited)
            && let Some(objection) = audited.objection(&mut **tracker)?
        {
            if let Some(message) = &objection.alarm {
                observer.event(&Event::Warning { message });
            }
            return Ok(Read::Refused(objection));
        }
        audited.transpose()?;
        match read {
            Err(error) if reading.is_incremental && error.kind() == ErrorKind::Corrupt => {
                let objection = Objection::damaged_parent(&error);
                observer.event(&Event::Warning { message: &objection.doubt });
                Ok(Read::Refused(objection))
            }
            read => read.map(Read::Done),
        }
    }

    /// Reads what is to be read, and builds the tree of the whole disk.
    fn read(
        &self,
        from: From<'_>,
        reading: &Reading,
        index: &Index,
        writer: &mut StoreWriter,
        observer: &dyn Observer,
    ) -> Result<Assembled> {
        let size = self.disk.info().size;
        let block_size = self.repository.config().block_size;
        observer.event(&Event::Started { phase: Phase::Capture, total: size.0 });
        // What changed here and there mostly waits for the parent's versions to be read.
        let threads = match reading.is_incremental {
            true => reading_threads(self.options.threads),
            false => worker_threads(self.options.threads),
        };
        let pipeline = Pipeline { disk: from.source, threads, observer };
        let governor = Governor::new(self.options.effort);
        let bases = from.before.filter(|_| self.options.effort != Effort::Off);
        let bases = bases.map(|parent| Parent::new(self.repository.bulk_reader(parent)));
        let bases = bases.map(|parent| Bases::new(parent, block_size, threads));
        let always = if reading.is_incremental { recheck::OF_CHANGES } else { recheck::OF_A_DISK };
        let stored = Recheck::new(self.repository, index, always);
        let make_worker = || {
            let deltas = bases.as_ref().map(Deltas::new);
            let mut worker = Worker::new(self.repository.keys(), &stored, block_size, deltas);
            let governor = &governor;
            move |chunk: &Chunk, queued| worker.work(chunk, governor.setting(queued))
        };
        let leaf = block_size.bytes() * u64::from(NODE_FANOUT);
        let shared = from.before.filter(|_| reading.is_incremental);
        let shared = shared.map(|before| self.as_parent(before));
        let lanes = match shared {
            Some(_) => Lanes { split: size.0, ranges: reading.ranges.clone() },
            None => Lanes::divide(reading.ranges.clone(), size.0, leaf),
        };
        let mut assembly = Assembly::new(block_size, size, lanes.split, self.options.on_error);
        assembly = assembly.leaving_out(&reading.left_out, &reading.holes);
        if let Some(parent) = shared {
            assembly = assembly.after(parent);
        }
        pipeline.run(lanes.ranges, &make_worker, &mut |chunk| {
            assembly.store(&chunk, writer)?;
            observer.event(&Event::Progress(assembly.progress(writer)));
            Ok(())
        })?;
        assembly.finish(writer)
    }

    /// What volumes do not use, those that were not looked at again as in the parent.
    fn allocation(&self, reading: &Reading) -> Vec<VolumeUse> {
        let is_inherited = reading.is_incremental && !self.options.all_blocks;
        let before = self.parent.iter().filter(|_| is_inherited);
        let before = before.flat_map(|parent| &parent.manifest.allocation).filter(|before| {
            let is_it = |volume: &VolumeUse| volume.volume == before.volume;
            !reading.volumes.iter().any(is_it) && self.layout().volume(&before.volume).is_some()
        });
        before.chain(&reading.volumes).cloned().collect()
    }

    fn manifest(
        &self,
        created: &str,
        clock: Instant,
        assembled: &Assembled,
        reading: &Reading,
    ) -> Manifest {
        let config = self.repository.config();
        let (level, root) = &assembled.root;
        let (size, block_size) = (self.disk.info().size, config.block_size);
        let mut cost = assembled.cost;
        cost.milliseconds = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        Manifest {
            imgx: Manifest::mark(),
            format: config.format,
            repository: config.id,
            name: self.name.clone(),
            created: created.to_owned(),
            ordinal: self.ordinal,
            avoids: self.avoids.clone(),
            host: host_name(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            size,
            block_size,
            content: disk_digest(&self.repository.keys(), (size, block_size), (*level, root)),
            tree: TreeRoot::new(*level, root),
            parent: self.parent.as_ref().map(|parent| parent.id),
            tracker: reading.tracker.to_owned(),
            tracker_doubt: reading.doubt.clone(),
            tracking: None,
            live: None,
            source: as_json(self.disk.info()),
            layout: as_json(self.layout()),
            allocation: self.allocation(reading),
            unreadable: assembled.unreadable.clone(),
            cost,
        }
    }
}

/// Where blocks are read, and what holds all others.
#[derive(Clone, Copy)]
struct From<'a> {
    source: &'a dyn ChunkSource,
    before: Option<&'a Image>,
}

/// What came of reading what a tracker named.
enum Read {
    /// The disk, whole.
    Done(Assembled),
    /// The tracker's map is of no use after all.
    Refused(Objection),
}

/// A tracker, and why there is none though there should be one.
type Opened = (Option<Box<dyn ChangeTracker>>, Option<String>);

/// The tracker that is asked for; or why it is of no use.
fn open_tracker(disk: &Disk, parent: Option<&Image>, choice: TrackerChoice) -> Result<Opened> {
    if choice == TrackerChoice::Compare {
        return Ok((None, None));
    }
    let source = disk.info().path.as_path();
    if let Some(export) = disk.export().filter(|_| choice != TrackerChoice::Ebpf) {
        let bitmaps = Bitmaps::new(Arc::clone(export), parent.map(|parent| parent.id));
        return Ok((Some(Box::new(bitmaps)), None));
    }
    if choice == TrackerChoice::Qemu {
        let context = format!("{}: no export, and so without dirty bitmaps", source.display());
        return Err(Error::new(ErrorKind::Invalid, context));
    }
    match Ebpf::open(source) {
        Ok(Some(tracker)) => Ok((Some(Box::new(tracker)), None)),
        Ok(None) if choice == TrackerChoice::Ebpf => {
            let shown = source.display();
            let context = format!("{shown} is not tracked; `imgx track start {shown}` begins it");
            Err(Error::new(ErrorKind::NotFound, context))
        }
        Ok(None) => Ok((None, None)),
        Err(error) => Ok((None, Some(error.to_string()))),
    }
}

/// A manifest's part that a lower layer describes.
fn as_json(part: &impl serde::Serialize) -> serde_json::Value {
    serde_json::to_value(part).expect("descriptions of disks are plain JSON")
}

/// Warns that a disk is used that cannot be captured at one instant.
fn warn_of_use(holders: &Holders, mounted: &[MountedFilesystem], observer: &dyn Observer) {
    let Some(first) = holders.iter().next() else { return };
    let why = mounted.first().and_then(|filesystem| filesystem.not_frozen.as_ref());
    let why = why.map(|why| format!(" ({why})")).unwrap_or_default();
    let message = format!("{first}: what is written meanwhile may be half in the image{why}");
    observer.event(&Event::Warning { message: &message });
}
