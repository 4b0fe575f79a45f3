//! Restore: an image becomes a disk again.
//!
//! [`Restore::plan`] looks at the target, refuses what would lose data, and says what will be
//! done; [`Restore::run`] does it.

mod behind;
mod compare;
mod known;
mod own;
mod pieces;
mod runs;
mod target;
mod write;

use std::ops::AddAssign;
use std::path::{Path, PathBuf};

use self::behind::Behind;
use self::known::Doubt;
use self::target::Existing;
use super::tracked::distrust;
use crate::base::{BlockIndex, ByteCount, ByteOffset, Error, ErrorKind, Event, ReadAt, WriteAt};
use crate::base::{Observer, Phase, Result};
use crate::block::{Disk, IoMode, OpenOptions, SourceInfo, Target};
use crate::store::lock::ReadLock;
use crate::store::memo::Sums;
use crate::store::node::SECTOR;
use crate::store::repository::Image;
use crate::store::tree::{Below, Subtree, TreeVisitor};
use crate::store::{Entry, ImageReader, Repository, TreeRun};
use crate::sys::threads;
use crate::volume::{GptMove, Leftover, plan_gpt_move};

pub use compare::Differences;
pub use known::Known;
pub use runs::Runs;

/// How much of a target is searched for data.
const SEARCH: ByteCount = ByteCount(64 << 20);

/// How a file's zeros are kept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Space {
    /// As holes.
    #[default]
    Sparse,
    /// In reserved space.
    Preallocate,
}

/// How to restore.
#[derive(Debug, Clone, Default)]
pub struct RestoreOptions {
    /// Whether a target that holds data may be overwritten.
    pub overwrite: bool,
    /// Whether to read the target first, and write only what differs.
    pub only_changed: bool,
    /// What the target is known to hold, with `only_changed`: the rest alone is read then. A
    /// sample is read as well, and if that is wrong, everything.
    pub known: Option<Known>,
    /// Whether to read everything back and compare.
    pub verify: bool,
    /// Whether a GPT's backup stays where it was on the smaller disk.
    pub keep_table: bool,
    /// How zeros are kept in files.
    pub space: Space,
    /// What keeps reads and writes in flight.
    pub io: IoMode,
    /// Threads that decode; by default one for each processor.
    pub threads: Option<usize>,
}

/// What a restore will do.
#[derive(Debug, Clone, Default)]
pub struct RestorePlan {
    /// The target.
    pub target: PathBuf,
    /// What the target is; `None` for a file that will be created.
    pub info: Option<SourceInfo>,
    /// The target's size.
    pub target_size: ByteCount,
    /// Bytes with content.
    pub content: u64,
    /// Bytes that will read as zero.
    pub zero: u64,
    /// Bytes that could not be read when the image was captured.
    pub unreadable: u64,
    /// Bytes of the target that will be read and compared, a sample included, to write only what
    /// differs. Where that sample is wrong, it will be the whole image's size.
    pub compared: u64,
    /// Where the target's first data was found, if it holds any.
    pub held: Option<ByteOffset>,
    /// Bytes of a longer file that will be cut off.
    pub cut: Option<ByteCount>,
    /// Signatures behind the image that will be wiped, since they would be taken for something.
    pub wiped: Vec<Leftover>,
    /// Bytes behind the image that stay as they are, but for those signatures.
    pub stays: ByteCount,
    /// What could not be looked at to find out who uses the target.
    pub unseen: Vec<String>,
    /// Bytes by which the disk grows that the GPT will be moved for.
    pub gpt_grows: Option<ByteCount>,
}

/// What a restore did. All counts are bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RestoreReport {
    /// Written.
    pub written: u64,
    /// Made zero.
    pub zeroed: u64,
    /// Left alone, because it was so already.
    pub unchanged: u64,
    /// Compared with the image, to write only what differs; the sample included.
    pub compared: u64,
    /// Compared as a sample of what was known to be right.
    pub sampled: u64,
    /// Not read, because it was known to be right.
    pub trusted: u64,
    /// Zero in place of what could not be read at capture.
    pub unreadable: u64,
    /// Zero in place of what is damaged in the repository.
    pub damaged: u64,
    /// Read back and found right.
    pub verified: u64,
}

/// A restore that is ready to run. Its target was not touched.
pub struct Restore {
    image: ImageReader,
    path: PathBuf,
    target: Option<Target>,
    gpt: Option<GptMove>,
    behind: Behind,
    options: RestoreOptions,
    plan: RestorePlan,
    doubt: Option<Doubt>,
    /// Why what is known of the target is of no use.
    warning: Option<String>,
    lock: ReadLock,
}

impl Restore {
    /// Plans the restore of `image` to the device or file `path`.
    ///
    /// # Errors
    /// `Conflict` when the target is in use, too small, or has other sectors; `Invalid` when its
    /// content is known, but not to be compared; `Io`.
    pub fn plan(
        repository: &Repository,
        image: &Image,
        path: &Path,
        options: RestoreOptions,
    ) -> Result<Self> {
        if options.known.is_some() && !options.only_changed {
            let context = "a known target is of use only where what differs is written";
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        let lock = repository.lock_to_read("restore")?;
        let reader = repository.bulk_reader(image);
        let existing = target::open(path, image, repository)?;
        let (target, unseen) = match existing {
            Some(Existing { target, unseen }) => (Some(target), unseen),
            None => (None, Vec::new()),
        };
        let mut plan = RestorePlan {
            target: path.to_path_buf(),
            info: target.as_ref().map(|target| target.info().clone()),
            target_size: target.as_ref().map_or(image.manifest.size, ReadAt::size),
            unseen,
            ..RestorePlan::default()
        };
        let mut gpt = plan_gpt(&reader, plan.target_size)?;
        let behind = match &target {
            Some(target) => Behind::plan(target, image.manifest.size, gpt.as_ref())?,
            None => Behind::default(),
        };
        if let Some(target) = &target {
            plan.held = target.first_data(SEARCH)?.or(behind.data);
            // What is looked for at certain places may be between the samples.
            let first = behind.wiped.first().map(|leftover| ByteOffset(leftover.range.start));
            plan.held = plan.held.or(first);
        }
        if behind.cut.is_some() {
            plan.target_size = image.manifest.size;
        }
        if options.keep_table || behind.cut.is_some() {
            gpt = None;
        }
        let behind = behind.without_table(gpt.as_ref());
        (plan.cut, plan.wiped, plan.stays) = (behind.cut, behind.wiped.clone(), behind.stays);
        let mut measure = Measure { image: &reader, sums: Sums::new() };
        reader.walk(None, &mut measure)?;
        let Amounts { zero, unreadable, content } = measure.sums.total();
        (plan.zero, plan.unreadable, plan.content) = (zero, unreadable, content);
        plan.gpt_grows = gpt.as_ref().map(|gpt| gpt.gained);
        let path = path.to_path_buf();
        let (mut doubt, mut warning) = (None, None);
        if options.only_changed && target.is_some() {
            plan.compared = image.manifest.size.0;
            if let Some(known) = &options.known {
                let found = Doubt::find(&reader, &repository.reader(&known.image), &known.changes);
                (doubt, warning) = found.map_or_else(
                    |error| (None, Some(format!("{error}; all of the target is compared"))),
                    |doubt| (Some(doubt), None),
                );
            }
            if let Some(doubt) = &doubt {
                plan.compared = bytes_of(&reader, &doubt.open) + bytes_of(&reader, &doubt.sample);
            }
        }
        let image = reader;
        Ok(Self { image, path, target, gpt, behind, options, plan, doubt, warning, lock })
    }

    /// What will be done.
    #[must_use]
    pub fn describe(&self) -> &RestorePlan {
        &self.plan
    }

    /// Does it: [`begin`](Self::begin) and [`Writable::run`].
    ///
    /// # Errors
    /// Those of both.
    pub fn run(self, observer: &dyn Observer) -> Result<RestoreReport> {
        self.begin()?.run(observer)
    }

    /// Makes the file that is to be made, or finds that the target may be written. It was not
    /// touched if that fails, and no file was made.
    ///
    /// # Errors
    /// `Conflict` when the target holds data that may not be overwritten, or was made meanwhile;
    /// `Io`.
    pub fn begin(mut self) -> Result<Writable> {
        if let (Some(place), false) = (self.plan.held, self.options.overwrite) {
            let path = self.path.display();
            let context =
                format!("{path} holds data (at byte {place}), and may not be overwritten");
            return Err(Error::new(ErrorKind::Conflict, context));
        }
        // Nothing is to be half written for want of threads.
        threads::need(write::THREADS)?;
        let target = match self.target.take() {
            Some(target) => target,
            None => target::create(&self.path, self.image.size(), self.options.space)?,
        };
        Ok(Writable { restore: self, target })
    }

    /// Finds the blocks of the target that differ from the image: among those in doubt, unless
    /// what was known turns out wrong.
    fn compare(&self, report: &mut RestoreReport, observer: &dyn Observer) -> Result<Runs> {
        let disk = reopen(&self.path, &self.options)?;
        let mut find = |only| {
            let (pair, threads) = ((&self.image, &disk), self.options.threads);
            let found = Differences::find(pair, only, threads, Phase::ReadBack, observer)?;
            report.compared += found.compared;
            Ok::<_, Error>(found)
        };
        if let Some(warning) = &self.warning {
            observer.event(&Event::Warning { message: warning });
        }
        if let Some(doubt) = &self.doubt {
            let sampled = find(Some(&doubt.sample))?;
            if sampled.blocks.as_slice().is_empty() {
                let found = find(Some(&doubt.open))?;
                report.sampled = sampled.compared;
                report.unchanged = found.same + sampled.same;
                report.trusted = self.image.size().0.saturating_sub(report.compared);
                return Ok(found.blocks);
            }
            report.sampled = sampled.compared;
            self.warn_of(&sampled.blocks, observer);
            // What it missed may be as the image has it, and is not written then.
            distrust(&self.path)?;
        }
        let found = find(None)?;
        report.unchanged = found.same;
        Ok(found.blocks)
    }

    fn warn_of(&self, differing: &Runs, observer: &dyn Observer) {
        let first = differing.as_slice().first().map_or(0, |(first, _)| *first);
        let start = first * self.image.manifest().block_size.bytes();
        let message = format!(
            "{} at byte {start} is not what it was known to be; all of it is compared",
            self.path.display()
        );
        observer.event(&Event::Warning { message: &message });
    }
}

/// A restore whose target is open, or was just made: from here on it is written.
pub struct Writable {
    restore: Restore,
    target: Target,
}

impl Writable {
    /// Writes the image, and reads it back if that is wanted.
    ///
    /// # Errors
    /// `Io` of the target; `Cancelled`, which leaves the target half written; `Corrupt` when the
    /// target does not read back as it was written. Damage in the repository does not end the
    /// restore: it is reported and counted.
    pub fn run(mut self, observer: &dyn Observer) -> Result<RestoreReport> {
        let (restore, target) = (&self.restore, &mut self.target);
        restore.lock.warn(observer);
        let mut report =
            RestoreReport { unreadable: restore.plan.unreadable, ..RestoreReport::default() };
        let (image, options) = (&restore.image, &restore.options);
        if restore.behind.cut.is_some() {
            target.truncate(image.size())?;
        }
        let target = &*target;
        let job = write::Writing { image, target, options, observer };
        if options.only_changed && !target.is_new() {
            let differing = restore.compare(&mut report, observer)?;
            job.run(differing.as_slice(), &mut report)?;
        } else {
            job.run(&[(0, image.manifest().blocks().0)], &mut report)?;
        }
        restore.behind.wipe(target)?;
        target.sync()?;
        if options.verify {
            report.verified = restore.verify(observer)?;
        }
        if let Some(gpt) = &restore.gpt {
            for (offset, bytes) in &gpt.writes {
                target.write_all_at(*offset, bytes)?;
            }
            target.sync()?;
        }
        // A kernel that keeps the old partitions, because they are in use, was refused before.
        let _kept = target.refresh();
        Ok(report)
    }
}

impl Restore {
    /// Reads everything back.
    fn verify(&self, observer: &dyn Observer) -> Result<u64> {
        let disk = reopen(&self.path, &self.options)?;
        let same = same(&self.image, &disk, (&self.path, &self.options), observer)?;
        Behind::verify(&disk, self.image.size(), self.gpt.as_ref())
            .map_err(|error| error.within(self.path.display()))?;
        Ok(same)
    }
}

/// The bytes of `disk` that are the image's: all, or it is an error.
fn same(
    image: &ImageReader,
    disk: &Disk,
    (path, options): (&Path, &RestoreOptions),
    observer: &dyn Observer,
) -> Result<u64> {
    let pair = (image, disk);
    let found = Differences::find(pair, None, options.threads, Phase::ReadBack, observer)?;
    let Some((first, count)) = found.blocks.as_slice().first() else { return Ok(found.same) };
    let start = first * image.manifest().block_size.bytes();
    Err(Error::corrupt(
        format!("{} at byte {start}, {count} blocks", path.display()),
        "what was written",
        "something else when read back",
    ))
}

/// The bytes of the disk that `runs` cover.
fn bytes_of(image: &ImageReader, runs: &Runs) -> u64 {
    let length =
        |(first, count): &(u64, u64)| image.manifest().bytes_of(BlockIndex(*first), *count).len();
    runs.as_slice().iter().map(length).sum()
}

fn reopen(path: &Path, options: &RestoreOptions) -> Result<Disk> {
    // What was written is the disk's bytes, whatever they look like.
    Disk::open(path, &OpenOptions { io: options.io, raw: true, ..OpenOptions::default() })
}

fn plan_gpt(image: &ImageReader, target_size: ByteCount) -> Result<Option<GptMove>> {
    let layout = &image.manifest().layout;
    let sector = layout.get("sector_size").and_then(serde_json::Value::as_u64);
    let sector = sector.and_then(|size| u32::try_from(size).ok()).unwrap_or(512);
    if target_size <= image.size() { Ok(None) } else { plan_gpt_move(image, sector, target_size) }
}

/// Bytes of an image, by what they are.
#[derive(Debug, Clone, Copy, Default)]
struct Amounts {
    zero: u64,
    unreadable: u64,
    content: u64,
}

impl AddAssign for Amounts {
    fn add_assign(&mut self, more: Self) {
        self.zero += more.zero;
        self.unreadable += more.unreadable;
        self.content += more.content;
    }
}

/// Adds up what an image holds.
struct Measure<'a> {
    image: &'a ImageReader,
    sums: Sums<Amounts>,
}

impl TreeVisitor for Measure<'_> {
    fn enter(&mut self, node: &Subtree<'_>) -> Result<Below> {
        if let Some((amounts, whole)) = self.sums.known(node) {
            self.sums.add(amounts);
            return Ok(Below::Known(whole));
        }
        self.sums.enter();
        Ok(Below::Shown)
    }

    fn leave(&mut self, node: &Subtree<'_>, whole: bool) {
        self.sums.leave(node, whole);
    }

    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        let length = self.image.manifest().bytes_of(run.first, run.count).len();
        let none = Amounts::default();
        self.sums.add(match run.entry {
            Entry::Zero | Entry::Unallocated => Amounts { zero: length, ..none },
            Entry::Unreadable => Amounts { unreadable: length, ..none },
            Entry::Stored(_) => Amounts { content: length, ..none },
            Entry::Partial(_, bad) => {
                let sectors: u64 = bad.iter().map(|bad| u64::from(bad.count)).sum();
                let unreadable = (sectors * SECTOR * run.count).min(length);
                Amounts { zero: 0, unreadable, content: length - unreadable }
            }
        });
        Ok(())
    }

    fn damaged(&mut self, _: BlockIndex, _: u64, error: Error) -> Result<()> {
        // The run reports it, with its place.
        only_damage(error).map(|_reported_later| ())
    }
}

/// Passes on damage, which a restore goes around and reports, and fails with all else: what is
/// out of reach now is not lost.
fn only_damage(error: Error) -> Result<Error> {
    match error.kind() {
        ErrorKind::Corrupt | ErrorKind::Unsupported => Ok(error),
        _ => Err(error),
    }
}
