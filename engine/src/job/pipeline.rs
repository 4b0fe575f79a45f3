//! The threads of a job that reads a disk: one reads, one for each processor works, the caller's
//! takes the results in the disk's order.
//!
//! ```text
//! disk -> reader -> [chunks] -> workers -> [results] -> in order -> caller
//! ```
//!
//! Buffers are bounded by their pool, queues by their capacity, and the results that wait for an
//! earlier one by the gate, so that memory follows from the settings and never from the disk.

use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::base::{ByteRange, Error, Observer, Result, limits};
use crate::block::{BufferPool, Chunk, Disk, ReadRequest};
use crate::sys::threads;

/// Reads or writes in flight.
pub const DEPTH: usize = 16;
/// Pieces of work that wait between two kinds of threads.
pub const QUEUE: usize = 16;
/// Chunks that wait for a worker. Disks alternate between stretches that cost much work and
/// stretches of zeros that cost none; this many MiB are read ahead of the work meanwhile.
const BACKLOG: usize = 192;
/// Results that wait to be taken, so that the workers go on while a pack is written to.
const RESULTS: usize = 64;
/// How often a waiting thread looks whether it is to stop.
pub const PATIENCE: Duration = Duration::from_millis(100);

/// The threads to use where the user says nothing: one for each processor.
#[must_use]
pub fn worker_threads(choice: Option<usize>) -> usize {
    choice.unwrap_or_else(threads::processors).max(1)
}

/// As [`worker_threads`], for work that mostly waits for reads of its own: fewer would leave the
/// disk without enough of them in flight.
#[must_use]
pub fn reading_threads(choice: Option<usize>) -> usize {
    choice.unwrap_or_else(|| (worker_threads(None) * 4).min(64)).max(1)
}

/// Where chunks come from.
pub trait ChunkSource: Sync {
    /// As [`Disk::stream`].
    ///
    /// # Errors
    /// As that.
    fn stream(
        &self,
        request: &ReadRequest,
        pool: &BufferPool,
        observer: &dyn Observer,
        sink: &mut dyn FnMut(Chunk) -> Result<()>,
    ) -> Result<()>;
}

impl ChunkSource for Disk {
    fn stream(
        &self,
        request: &ReadRequest,
        pool: &BufferPool,
        observer: &dyn Observer,
        sink: &mut dyn FnMut(Chunk) -> Result<()>,
    ) -> Result<()> {
        Self::stream(self, request, pool, observer, sink)
    }
}

/// Reads a disk with all processors.
pub struct Pipeline<'a> {
    /// The disk to read.
    pub disk: &'a dyn ChunkSource,
    /// Worker threads.
    pub threads: usize,
    /// Who listens.
    pub observer: &'a dyn Observer,
}

impl Pipeline<'_> {
    /// Reads `ranges` in chunks of up to 1 MiB, has each worked on, and hands the results to
    /// `take`, in order. A worker is told how many chunks wait behind its own.
    ///
    /// # Errors
    /// The disk's, the workers', those of `take`; `Cancelled`.
    pub fn run<T: Send, W: FnMut(&Chunk, usize) -> Result<T>>(
        &self,
        ranges: Vec<ByteRange>,
        make_worker: &(impl Fn() -> W + Sync),
        take: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let chunk = chunk_for(&ranges);
        let chunks = |range: &ByteRange| range.len() / chunk as u64 + 2;
        let chunks = ranges.iter().map(chunks).fold(1, u64::saturating_add);
        let most = DEPTH + BACKLOG + self.threads;
        let pool = BufferPool::new(usize::try_from(chunks).map_or(most, |n| n.min(most)), chunk)?;
        threads::need_room()?;
        // The reader is never further ahead of its slowest read than the pool's buffers, so a
        // gate at least that wide opens for every chunk in the end.
        let gate = Gate::new((pool.count() + 2 * RESULTS) as u64);
        let (work_in, work_out) = bounded::<Chunk>(BACKLOG);
        let (done_in, done_out) = bounded::<(u64, Result<T>)>(RESULTS);
        let request = &ReadRequest { ranges, chunk, depth: DEPTH };
        thread::scope(|scope| {
            let (gate, pool) = (&gate, &pool);
            let workers = threads::crew(scope, self.threads, || {
                let (work, done) = (work_out.clone(), done_in.clone());
                move || run_worker(make_worker(), &work, &done)
            });
            drop((work_out, done_in));
            let read = || threads::start(scope, move || self.read(request, pool, gate, &work_in));
            let Some(reader) = (workers > 0).then(read).and_then(Result::ok) else {
                return self.run_alone(request, pool, &mut make_worker(), take);
            };
            let taken = self.take_in_order(&done_out, gate, take);
            gate.close();
            drop(done_out);
            let read = reader.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            // When taking failed, that the reader was stopped is only a consequence.
            taken.and(read)
        })
    }

    /// The same without any other thread.
    fn run_alone<T>(
        &self,
        request: &ReadRequest,
        pool: &BufferPool,
        worker: &mut impl FnMut(&Chunk, usize) -> Result<T>,
        take: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let (mut early, mut next) = (BTreeMap::new(), 0);
        self.disk.stream(request, pool, self.observer, &mut |chunk| {
            if self.observer.cancelled() {
                return Err(Error::cancelled());
            }
            early.insert(chunk.index, worker(&chunk, 0)?);
            while let Some(result) = early.remove(&next) {
                take(result)?;
                next += 1;
            }
            Ok(())
        })
    }

    fn read(
        &self,
        request: &ReadRequest,
        pool: &BufferPool,
        gate: &Gate,
        work: &Sender<Chunk>,
    ) -> Result<()> {
        self.disk.stream(request, pool, self.observer, &mut |chunk| {
            gate.pass(chunk.index)?;
            work.send(chunk).map_err(|_all_workers_ended| Error::cancelled())
        })
    }

    fn take_in_order<T>(
        &self,
        done: &Receiver<(u64, Result<T>)>,
        gate: &Gate,
        take: &mut dyn FnMut(T) -> Result<()>,
    ) -> Result<()> {
        let mut early = BTreeMap::new();
        let mut next = 0;
        loop {
            if self.observer.cancelled() {
                return Err(Error::cancelled());
            }
            let (index, result) = match done.recv_timeout(PATIENCE) {
                Ok(result) => result,
                Err(RecvTimeoutError::Timeout) => continue,
                Err(RecvTimeoutError::Disconnected) => return Ok(()),
            };
            early.insert(index, result?);
            while let Some(result) = early.remove(&next) {
                take(result)?;
                next += 1;
                gate.advance(next);
            }
        }
    }
}

/// The size of chunks for `ranges`: no larger than the longest asks for, since buffers are made
/// for reading at once, and short ranges here and there would leave most of them empty.
pub fn chunk_for(ranges: &[ByteRange]) -> usize {
    let longest = ranges.iter().map(ByteRange::len).max().unwrap_or(0);
    let longest = usize::try_from(longest).unwrap_or(limits::MAX_IO_SIZE);
    longest.min(limits::MAX_IO_SIZE).next_power_of_two().max(limits::MIN_BLOCK_SIZE as usize)
}

fn run_worker<T>(
    mut worker: impl FnMut(&Chunk, usize) -> Result<T>,
    work: &Receiver<Chunk>,
    done: &Sender<(u64, Result<T>)>,
) {
    for chunk in work {
        let (index, result) = (chunk.index, worker(&chunk, work.len()));
        drop(chunk);
        let is_last = result.is_err();
        if done.send((index, result)).is_err() || is_last {
            return;
        }
    }
}

/// Lets a chunk pass only when it is less than `width` ahead of what was stored.
struct Gate {
    width: u64,
    stored: Mutex<Option<u64>>,
    moved: Condvar,
}

impl Gate {
    fn new(width: u64) -> Self {
        Self { width, stored: Mutex::new(Some(0)), moved: Condvar::new() }
    }

    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        self.stored.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pass(&self, index: u64) -> Result<()> {
        let is_early =
            |stored: &mut Option<u64>| stored.is_some_and(|stored| index >= stored + self.width);
        let stored =
            self.moved.wait_while(self.lock(), is_early).unwrap_or_else(PoisonError::into_inner);
        if stored.is_some() { Ok(()) } else { Err(Error::cancelled()) }
    }

    fn advance(&self, stored: u64) {
        *self.lock() = Some(stored);
        self.moved.notify_all();
    }

    fn close(&self) {
        *self.lock() = None;
        self.moved.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_holds_early_chunks_until_it_moves_or_closes() {
        let gate = Gate::new(2);
        assert!(gate.pass(1).is_ok());
        thread::scope(|scope| {
            let third = scope.spawn(|| gate.pass(2));
            let tenth = scope.spawn(|| gate.pass(10));
            gate.advance(1);
            assert!(third.join().expect("no panic").is_ok());
            gate.close();
            assert!(tenth.join().expect("no panic").is_err());
        });
    }
}
