//! Captures of disks in use: copied while it is tracked what is written meanwhile, copied again
//! where it was, in rounds, until little is left; then the mounted filesystems are frozen, that
//! little is read into memory, and they are thawed. The image is the disk at that instant.
//!
//! Nothing is written while something is frozen, neither to the repository nor to a terminal, so
//! that it does not matter which of the filesystems holds them. A watchdog
//! ([`freeze`](crate::sys::freeze)) thaws whatever becomes of this process.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::changes::ChangeTracker;
use super::checkpoint::{Pending, Told};
use super::hooks::with_hooks;
use crate::base::limits::{MAX_HELD, MAX_IO_SIZE, MAX_ROUNDS};
use crate::base::{ByteRange, Error, ErrorKind, Event, Observer, Result, Silent};
use crate::block::{BufferPool, Chunk, Disk, ReadRequest};
use crate::job::pipeline::{ChunkSource, DEPTH, chunk_for};
use crate::job::tracked::Ebpf;
use crate::store::manifest::MountedFilesystem;
use crate::sys::freeze::{Freezer, Refused};
use crate::sys::holders::Holders;
use crate::sys::mounts::Mount;
use crate::sys::watchdog::Hooks;
use crate::track::Tracking;

/// Rounds end when no more than this is left to be read while frozen.
const LITTLE: u64 = 16 * 1024 * 1024;
/// How often freezing is tried.
const TRIES: usize = 3;

/// How to capture a disk in use.
#[derive(Debug, Clone)]
pub struct LiveOptions {
    /// How long filesystems may be frozen.
    pub limit: Duration,
    /// A command that the shell runs before they are frozen: it makes databases flush. Its failure
    /// fails the capture.
    pub hook_pre: Option<String>,
    /// One that it runs after they are thawed, if the other was started, whatever became of it, of
    /// the freeze and of this process. Its failure is told with the image.
    pub hook_post: Option<String>,
}

impl Default for LiveOptions {
    fn default() -> Self {
        Self { limit: Duration::from_secs(2), hook_pre: None, hook_post: None }
    }
}

/// A disk in use that can be captured as it is at one instant.
pub struct Live {
    options: LiveOptions,
    mounts: Vec<Mount>,
    /// Why the hook after did not do what it should.
    hook_failure: OnceLock<String>,
    /// Its tracking was started for this capture, and ends with it.
    _started: Option<Started>,
}

struct Started(std::path::PathBuf);

impl Drop for Started {
    fn drop(&mut self) {
        let _reported_by_status = Tracking::default().stop(&self.0);
    }
}

impl Live {
    /// What makes that possible for the disk `source` and what holds it, with its tracker, which is
    /// started where there is none; nothing if it has no mounted filesystem.
    ///
    /// # Errors
    /// Why it is not possible.
    pub fn prepare(
        (source, holders): (&Path, &Holders),
        options: LiveOptions,
        tracker: &mut Option<Box<dyn ChangeTracker>>,
    ) -> Result<Option<Self>> {
        let mounts = holders.mounts();
        if mounts.is_empty() {
            return Ok(None);
        }
        Freezer::open(&mounts)?;
        let mut started = None;
        if tracker.is_none() {
            if Tracking::default().start(source, None)? {
                started = Some(Started(source.to_owned()));
            }
            let opened = Ebpf::open(source)?;
            let gone = || Error::new(ErrorKind::NotFound, "its tracking ended meanwhile");
            *tracker = Some(Box::new(opened.ok_or_else(gone)?));
        }
        let hook_failure = OnceLock::new();
        Ok(Some(Self { options, mounts, hook_failure, _started: started }))
    }

    /// The same for a disk of which no filesystem is mounted, and that is written to nonetheless.
    #[must_use]
    pub fn without_mounts(options: LiveOptions) -> Self {
        let (mounts, hook_failure) = (Vec::new(), OnceLock::new());
        Self { options, mounts, hook_failure, _started: None }
    }

    /// Writes back what is cached of the filesystems.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        Freezer::open(&self.mounts)?.sync()
    }

    /// Goes on from what a whole copy gave: `copy` reads ranges of a disk, or what is held of it,
    /// into a new state, which the next round starts from.
    ///
    /// # Errors
    /// Those of `copy`; `Io` of the disk; `Cancelled`; a hook's failure. Whatever keeps the image
    /// from being one instant is no error, but an outcome that is recorded.
    pub fn run(
        &self,
        rounds: &mut dyn Rounds,
        disk: &Disk,
        observer: &dyn Observer,
    ) -> Result<(Moment, Outcome)> {
        let mut told = Moment::default();
        let (pre, post) = (self.options.hook_pre.clone(), self.options.hook_post.clone());
        let freezer = Freezer::with_hooks(&self.mounts, Hooks { pre, post })?;
        catch_up(&freezer, rounds, disk, &mut told)?;
        // Now, so that nothing waits for it while anything is frozen; a freeze tells its failure.
        let _started = freezer.exposed();
        let work = || self.last_round(&freezer, rounds, disk, &mut told);
        let done = with_hooks(&freezer, observer, work)?;
        if let Some(failure) = done.failure {
            observer.event(&Event::Warning { message: &failure });
            self.hook_failure.get_or_init(|| failure);
        }
        Ok((told, done.work))
    }

    /// Copies the last blocks as they are at one instant, while everything is frozen that can be;
    /// or says why that could not be done.
    ///
    /// The instant is that of the checkpoint: what was written before is in the image, or is read
    /// now, and what is read now was not written since, or it is torn. So it is an instant of the
    /// whole disk, whoever writes to it, and freezing only makes it likely and filesystems clean.
    fn last_round(
        &self,
        freezer: &Freezer,
        rounds: &mut dyn Rounds,
        disk: &Disk,
        told: &mut Moment,
    ) -> Result<Outcome> {
        let mut outcome = Outcome::Doubt(String::new());
        for attempt in 1..=TRIES {
            let instant = self.instant(freezer, rounds, disk)?;
            told.frozen_milliseconds = instant.milliseconds;
            told.filesystems = self.filesystems(&instant);
            // Whatever was held: it is what the next round starts from, and it is the disk's.
            match instant.held? {
                Holding::All(held, pending) => {
                    told.rounds.push(pending.bytes());
                    rounds.copy(&held, pending)?;
                }
                Holding::TooMuch(pending) => {
                    told.rounds.push(pending.bytes());
                    rounds.copy(disk, pending)?;
                    let much = format!("more than {MAX_HELD} bytes were written in the last round");
                    outcome = Outcome::Doubt(much);
                    catch_up(freezer, rounds, disk, told)?;
                    continue;
                }
                Holding::Nothing(unknown) => {
                    outcome = Outcome::Doubt(unknown);
                    continue;
                }
            }
            outcome = match instant.torn {
                torn if !torn.is_empty() => Outcome::Torn(torn),
                _ => match rounds.settle(disk)? {
                    Settled::Late(late) => Outcome::Doubt(late),
                    // Another attempt may find the filesystems clean.
                    Settled::AsFrozen if instant.was_thawed_early && attempt < TRIES => continue,
                    Settled::AsFrozen => return Ok(Outcome::OneInstant),
                },
            };
        }
        Ok(outcome)
    }

    /// Freezes what can be frozen, and reads into memory what was written since the last round.
    fn instant(
        &self,
        freezer: &Freezer,
        rounds: &mut dyn Rounds,
        disk: &Disk,
    ) -> Result<AtOneInstant> {
        freezer.sync()?;
        let clock = Instant::now();
        let frozen = freezer.freeze_what_can_be(self.options.limit);
        let held = rounds.changes().and_then(|changes| Holding::of(disk, changes));
        // Before the thaw: afterwards the filesystems write there again.
        let torn = match &held {
            Ok(Holding::All(_, pending)) => rounds.written_since(pending.ranges()),
            _ => Vec::new(),
        };
        let (not_frozen, is_whole) = match frozen {
            Ok(frozen) => {
                let why = |refused: &Refused| (refused.point.clone(), refused.error.to_string());
                let refused = frozen.refused().iter().map(why).collect();
                (NotFrozen::These(refused), frozen.thaw())
            }
            Err(error) => (NotFrozen::All(error.to_string()), true),
        };
        let milliseconds = u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
        Ok(AtOneInstant { held, torn, not_frozen, was_thawed_early: !is_whole, milliseconds })
    }

    /// The mounted filesystems, and which of them were not frozen.
    fn filesystems(&self, instant: &AtOneInstant) -> Vec<MountedFilesystem> {
        let late = instant.was_thawed_early.then(|| {
            let limit = self.options.limit.as_millis();
            format!("it was thawed after {limit} ms, and those did not suffice")
        });
        let not_frozen = |mount: &Mount| match &instant.not_frozen {
            NotFrozen::All(why) => Some(why.clone()),
            NotFrozen::These(refused) => {
                let refused = refused.iter().find(|(point, _)| *point == mount.path());
                refused.map(|(_, why)| why.clone()).or_else(|| late.clone())
            }
        };
        self.mounts.iter().map(|mount| mounted(mount, not_frozen(mount))).collect()
    }

    /// Why the hook after the freeze did not do what it should, if it did not.
    pub fn hook_failure(&self) -> Option<&str> {
        self.hook_failure.get().map(String::as_str)
    }
}

/// The mounted filesystems among what holds a disk, none of which is frozen: `why` says it.
#[must_use]
pub fn not_frozen(holders: &Holders, why: &str) -> Vec<MountedFilesystem> {
    holders.mounts().iter().map(|mount| mounted(mount, Some(why.to_owned()))).collect()
}

fn mounted(mount: &Mount, not_frozen: Option<String>) -> MountedFilesystem {
    let (point, kind) = (mount.point.display().to_string(), mount.kind.clone());
    MountedFilesystem { mounted: point, kind, not_frozen }
}

/// Copies in rounds what was written meanwhile, until little is left or it does not get less, or
/// cannot be told while so much is in flight: it is told with the next round then.
fn catch_up(
    freezer: &Freezer,
    rounds: &mut dyn Rounds,
    disk: &Disk,
    told: &mut Moment,
) -> Result<()> {
    let mut before = u64::MAX;
    for _ in 0..MAX_ROUNDS {
        freezer.sync()?;
        let Told::Known(pending) = rounds.changes()? else { break };
        let left = pending.bytes();
        rounds.copy(disk, pending)?;
        told.rounds.push(left);
        // What is written while a round lasts does not get less any more.
        if left <= LITTLE || left > before / 4 * 3 {
            break;
        }
        before = left;
    }
    Ok(())
}

/// What became of the rounds.
pub use crate::store::manifest::Moment;

/// The captures that follow one another.
pub trait Rounds {
    /// What was written since the checkpoint up to which all was copied, whatever checkpoints in
    /// doubt came between.
    ///
    /// # Errors
    /// `Io`.
    fn changes(&mut self) -> Result<Told>;

    /// Reads these blocks from `source`; all else is as it was. What is asked for next is what was
    /// written since their checkpoint.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    fn copy(&mut self, source: &dyn ChunkSource, pending: Pending) -> Result<()>;

    /// What of `ranges` was written since the last checkpoint.
    fn written_since(&self, ranges: &[ByteRange]) -> Vec<ByteRange>;

    /// Reads what was left out so far though the state that was frozen uses it; or says why what
    /// is there now need not be what was there then.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    fn settle(&mut self, disk: &Disk) -> Result<Settled>;
}

/// Whether what was read after the thaw is as it was when frozen.
#[derive(Debug)]
pub enum Settled {
    /// It is.
    AsFrozen,
    /// It need not be, for this reason.
    Late(String),
}

/// Whether the image is the disk at one instant.
#[derive(Debug)]
pub enum Outcome {
    /// It is.
    OneInstant,
    /// It is but for these bytes, which were written while they were read.
    Torn(Vec<ByteRange>),
    /// That is not known, for this reason.
    Doubt(String),
}

/// What was read of a disk at one instant.
struct AtOneInstant {
    held: Result<Holding>,
    /// What of it was written meanwhile.
    torn: Vec<ByteRange>,
    not_frozen: NotFrozen,
    /// Whether the time for which filesystems may be frozen did not suffice.
    was_thawed_early: bool,
    milliseconds: u64,
}

/// Which filesystems were not frozen, and why.
enum NotFrozen {
    All(String),
    These(Vec<(PathBuf, String)>),
}

/// What was held of a frozen disk.
enum Holding {
    /// All that was written since the last round.
    All(Held, Pending),
    /// That was more than there is room for.
    TooMuch(Pending),
    /// What was written is not known, for this reason.
    Nothing(String),
}

impl Holding {
    fn of(disk: &Disk, changes: Told) -> Result<Self> {
        Ok(match changes {
            Told::Known(pending) if pending.bytes() <= MAX_HELD => {
                Self::All(Held::read(disk, pending.ranges())?, pending)
            }
            Told::Known(pending) => Self::TooMuch(pending),
            Told::Doubt(unknown) => Self::Nothing(unknown.reason().unwrap_or_default().to_owned()),
        })
    }
}

/// Blocks of a disk in memory.
pub struct Held {
    chunks: Mutex<Vec<Chunk>>,
}

impl Held {
    /// Reads `ranges`, for which there is room.
    fn read(disk: &Disk, ranges: &[ByteRange]) -> Result<Self> {
        let mut chunks = Vec::new();
        if !ranges.is_empty() {
            let chunk = chunk_for(ranges);
            let cut = |range: &ByteRange| range.len() / chunk as u64 + 2;
            let most = usize::try_from(ranges.iter().map(cut).sum::<u64>()).unwrap_or(MAX_IO_SIZE);
            let pool = BufferPool::new(most, chunk)?;
            let request = ReadRequest { ranges: ranges.to_vec(), chunk, depth: DEPTH };
            disk.stream(&request, &pool, &Silent, &mut |chunk| {
                chunks.push(chunk);
                Ok(())
            })?;
            chunks.sort_by_key(|chunk| chunk.index);
        }
        Ok(Self { chunks: Mutex::new(chunks) })
    }
}

impl ChunkSource for Held {
    fn stream(
        &self,
        _request: &ReadRequest,
        _pool: &BufferPool,
        observer: &dyn Observer,
        sink: &mut dyn FnMut(Chunk) -> Result<()>,
    ) -> Result<()> {
        let chunks =
            std::mem::take(&mut *self.chunks.lock().unwrap_or_else(PoisonError::into_inner));
        for chunk in chunks {
            if observer.cancelled() {
                return Err(Error::cancelled());
            }
            sink(chunk)?;
        }
        Ok(())
    }
}
