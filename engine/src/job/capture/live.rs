//! Captures of disks in use: copied while it is tracked what is written meanwhile, copied again
//! where it was, in rounds, until little is left; then the mounted filesystems are frozen, that
//! little is read into memory, and they are thawed. The image is the disk at that instant.
//!
//! Nothing is written while something is frozen, neither to the repository nor to a terminal, so
//! that it does not matter which of the filesystems holds them. A watchdog
//! ([`freeze`](crate::sys::freeze)) thaws whatever becomes of this process.

use std::path::Path;
use std::process::Command;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::changes::ChangeTracker;
use super::checkpoint::{Pending, Told};
use crate::base::limits::{MAX_HELD, MAX_IO_SIZE, MAX_ROUNDS};
use crate::base::{ByteRange, Error, ErrorContext, ErrorKind, Observer, Result, Silent};
use crate::block::{BufferPool, Chunk, Disk, ReadRequest};
use crate::job::pipeline::{ChunkSource, DEPTH, chunk_for};
use crate::job::tracked::Ebpf;
use crate::sys::freeze::Freezer;
use crate::sys::mounts::{self, Mount};
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
    /// One that it runs after they are thawed, if the other ran, whatever became of the freeze.
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
    /// What makes that possible for the disk `source`, with its tracker, which is started where
    /// there is none; nothing if it has no mounted filesystem.
    ///
    /// # Errors
    /// Why it is not possible.
    pub fn prepare(
        source: &Path,
        options: LiveOptions,
        tracker: &mut Option<Box<dyn ChangeTracker>>,
    ) -> Result<Option<Self>> {
        let mounts = mounts::mounted_from(source)?;
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
        Ok(Some(Self { options, mounts, _started: started }))
    }

    /// The filesystems that are frozen, with their types.
    pub fn filesystems(&self) -> impl Iterator<Item = String> {
        let name = |mount: &Mount| format!("{} ({})", mount.point.display(), mount.kind);
        self.mounts.iter().map(name)
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
    /// from being one instant is no error, but a doubt that is recorded.
    pub fn run(&self, rounds: &mut dyn Rounds, disk: &Disk) -> Result<Moment> {
        let mut told = Moment::default();
        let freezer = Freezer::open(&self.mounts)?;
        catch_up(&freezer, rounds, disk, &mut told)?;
        let outcome = self.with_hooks(|| self.freeze(&freezer, rounds, disk, &mut told))?;
        told.doubt = match outcome {
            Outcome::OneInstant => None,
            Outcome::Doubt(doubt) => Some(doubt),
        };
        Ok(told)
    }

    /// Copies the last blocks while everything is frozen; or says why that could not be done.
    fn freeze(
        &self,
        freezer: &Freezer,
        rounds: &mut dyn Rounds,
        disk: &Disk,
        told: &mut Moment,
    ) -> Result<Outcome> {
        let mut doubt = String::new();
        for _ in 0..TRIES {
            freezer.sync()?;
            let clock = Instant::now();
            let frozen = match freezer.freeze(self.options.limit) {
                Ok(frozen) => frozen,
                Err(error) => {
                    doubt = error.to_string();
                    continue;
                }
            };
            let held = rounds.changes().and_then(|changes| Holding::of(disk, changes));
            let is_whole = frozen.thaw();
            told.frozen_milliseconds =
                u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
            // Whatever was held: it is what the next round starts from, and it is the disk's.
            match held? {
                Holding::All(held, pending) => {
                    told.rounds.push(pending.bytes());
                    rounds.copy(&held, pending)?;
                }
                Holding::TooMuch(pending) => {
                    told.rounds.push(pending.bytes());
                    rounds.copy(disk, pending)?;
                    doubt = format!("more than {MAX_HELD} bytes were written in the last round");
                    catch_up(freezer, rounds, disk, told)?;
                    continue;
                }
                Holding::Nothing(unknown) => {
                    doubt = unknown;
                    continue;
                }
            }
            if is_whole {
                match rounds.settle(disk)? {
                    Settled::AsFrozen => return Ok(Outcome::OneInstant),
                    Settled::Late(late) => doubt = late,
                }
                continue;
            }
            let limit = self.options.limit.as_millis();
            doubt = format!("the filesystems were frozen for {limit} ms, and that did not suffice");
        }
        Ok(Outcome::Doubt(doubt))
    }

    fn with_hooks<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        run_hook(self.options.hook_pre.as_deref())?;
        let outcome = work();
        let after = run_hook(self.options.hook_post.as_deref());
        let outcome = outcome?;
        after.map(|()| outcome)
    }
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

fn run_hook(command: Option<&str>) -> Result<()> {
    let Some(command) = command else { return Ok(()) };
    let status = Command::new("sh").args(["-c", command]).status();
    let status = status.context(|| format!("run the hook '{command}'"))?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Invalid, format!("the hook '{command}' failed: {status}")))
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
enum Outcome {
    OneInstant,
    Doubt(String),
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
