//! Captures of disks in use: copied while it is tracked what is written meanwhile, copied again
//! where it was, in rounds, until little is left; then the mounted filesystems are frozen, that
//! little is read into memory, and they are thawed. The image is the disk at that instant.
//!
//! Nothing is written while something is frozen, neither to the repository nor to a terminal, so
//! that it does not matter which of the filesystems holds them. A watchdog
//! ([`freeze`](crate::sys::freeze)) thaws whatever becomes of this process.

use std::path::Path;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use super::changes::{ChangeTracker, Findings, usable};
use super::hooks::with_hooks;
use crate::base::limits::{MAX_HELD, MAX_IO_SIZE, MAX_ROUNDS};
use crate::base::{ByteRange, Error, ErrorKind, Event, Observer, Result, Silent};
use crate::block::{BufferPool, Chunk, Disk, ReadRequest};
use crate::job::pipeline::{ChunkSource, DEPTH, chunk_for};
use crate::job::tracked::Ebpf;
use crate::store::repository::Image;
use crate::sys::freeze::Freezer;
use crate::sys::mounts::{self, Mount};
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
        let hook_failure = OnceLock::new();
        Ok(Some(Self { options, mounts, hook_failure, _started: started }))
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
    pub fn run(
        &self,
        rounds: &mut dyn Rounds,
        disk: &Disk,
        observer: &dyn Observer,
    ) -> Result<Moment> {
        let mut told = Moment::default();
        let (pre, post) = (self.options.hook_pre.clone(), self.options.hook_post.clone());
        let freezer = Freezer::with_hooks(&self.mounts, Hooks { pre, post })?;
        catch_up(&freezer, rounds, disk, &mut told)?;
        // Now, so that nothing waits for it while anything is frozen; a freeze tells its failure.
        let _started = freezer.exposed();
        let freeze = || self.freeze(&freezer, rounds, disk, &mut told);
        let done = with_hooks(&freezer, observer, freeze)?;
        told.doubt = done.work.err();
        if let Some(failure) = done.failure {
            observer.event(&Event::Warning { message: &failure });
            self.hook_failure.get_or_init(|| failure);
        }
        Ok(told)
    }

    /// Copies the last blocks while everything is frozen; or says why that could not be done.
    fn freeze(
        &self,
        freezer: &Freezer,
        rounds: &mut dyn Rounds,
        disk: &Disk,
        told: &mut Moment,
    ) -> Result<std::result::Result<(), String>> {
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
            let held = match rounds.changes() {
                Ok(Ok(ranges)) => Held::read(disk, ranges).map(Ok),
                Ok(Err(unknown)) => Ok(Err(unknown)),
                Err(error) => Err(error),
            };
            let is_whole = frozen.thaw();
            told.frozen_milliseconds =
                u64::try_from(clock.elapsed().as_millis()).unwrap_or(u64::MAX);
            let held = match held? {
                Ok(held) => held,
                Err(unknown) => {
                    doubt = unknown;
                    continue;
                }
            };
            let (ranges, bytes) = (held.ranges.clone(), held.bytes());
            told.rounds.push(bytes);
            // Whatever was held: it is what the next round starts from, and it is the disk's.
            if held.is_all {
                rounds.copy(&held, ranges)?;
            } else {
                rounds.copy(disk, ranges)?;
                doubt = format!("more than {MAX_HELD} bytes were written in the last round");
                catch_up(freezer, rounds, disk, told)?;
                continue;
            }
            if is_whole {
                match rounds.settle(disk)? {
                    Ok(()) => return Ok(Ok(())),
                    Err(late) => doubt = late,
                }
                continue;
            }
            let limit = self.options.limit.as_millis();
            doubt = format!("the filesystems were frozen for {limit} ms, and that did not suffice");
        }
        Ok(Err(doubt))
    }

    /// Why the hook after the freeze did not do what it should, if it did not.
    pub fn hook_failure(&self) -> Option<&str> {
        self.hook_failure.get().map(String::as_str)
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
        let Ok(ranges) = rounds.changes()? else { break };
        let left = ranges.iter().map(ByteRange::len).sum();
        rounds.copy(disk, ranges)?;
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
    /// What was written since this was told before; or why that cannot be told.
    ///
    /// # Errors
    /// `Io`.
    fn changes(&mut self) -> Result<std::result::Result<Vec<ByteRange>, String>>;

    /// Reads these blocks from `source`; all else is as it was.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    fn copy(&mut self, source: &dyn ChunkSource, ranges: Vec<ByteRange>) -> Result<()>;

    /// Reads what was left out so far though the state that was frozen uses it; or says why what
    /// is there now need not be what was there then.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    fn settle(&mut self, disk: &Disk) -> Result<std::result::Result<(), String>>;
}

/// What a tracker's findings say was written since its checkpoint before, in blocks, and what of
/// `before` could not be read.
pub fn recent(before: &Image, findings: Findings) -> std::result::Result<Vec<ByteRange>, String> {
    usable(Some(before), findings.recent).map_err(Option::unwrap_or_default)
}

/// Blocks of a disk in memory.
pub struct Held {
    ranges: Vec<ByteRange>,
    chunks: Mutex<Vec<Chunk>>,
    /// Whether there was room for all of them.
    is_all: bool,
}

impl Held {
    /// Reads `ranges`, if there is room for them.
    fn read(disk: &Disk, ranges: Vec<ByteRange>) -> Result<Self> {
        let bytes: u64 = ranges.iter().map(ByteRange::len).sum();
        let mut chunks = Vec::new();
        let is_all = bytes <= MAX_HELD;
        if is_all && bytes > 0 {
            let chunk = chunk_for(&ranges);
            let cut = |range: &ByteRange| range.len() / chunk as u64 + 2;
            let most = usize::try_from(ranges.iter().map(cut).sum::<u64>()).unwrap_or(MAX_IO_SIZE);
            let pool = BufferPool::new(most, chunk)?;
            let request = ReadRequest { ranges: ranges.clone(), chunk, depth: DEPTH };
            disk.stream(&request, &pool, &Silent, &mut |chunk| {
                chunks.push(chunk);
                Ok(())
            })?;
            chunks.sort_by_key(|chunk| chunk.index);
        }
        Ok(Self { ranges, chunks: Mutex::new(chunks), is_all })
    }

    fn bytes(&self) -> u64 {
        self.ranges.iter().map(ByteRange::len).sum()
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
