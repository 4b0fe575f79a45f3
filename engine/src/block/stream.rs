//! Reading much of a disk: many large reads in flight, chunks handed on as they arrive.

use std::collections::BTreeMap;

use super::Disk;
use super::files::{Files, index};
use super::origin::Origin;
use super::queue::{IoMode, Queue, is_medium_error};
use super::recover::read_around;
use crate::base::{ByteOffset, ByteRange, Error, ErrorKind, Observer, Result, limits};
use crate::sys::{Buffer, BufferPool, Completion};

/// What to read, and how.
#[derive(Debug, Clone)]
pub struct ReadRequest {
    /// What to read, in this order: disjoint, within the disk. Fast where the ends are multiples of
    /// `chunk`, correct anywhere.
    pub ranges: Vec<ByteRange>,
    /// Bytes of a chunk, at most those of a buffer; chunks end at multiples of it.
    pub chunk: usize,
    /// Reads in flight.
    pub depth: usize,
}

impl ReadRequest {
    /// A request for `ranges` in chunks of 1 MiB, 16 in flight.
    #[must_use]
    pub fn new(ranges: Vec<ByteRange>) -> Self {
        Self { ranges, chunk: limits::MAX_IO_SIZE, depth: 16 }
    }
}

/// A piece of a disk that was read.
#[derive(Debug)]
pub struct Chunk {
    /// Its number in the order of the request, from zero.
    pub index: u64,
    /// Where it starts on the disk.
    pub offset: ByteOffset,
    /// Its bytes.
    pub buffer: Buffer,
    /// The bytes, by their place on the disk, that could not be read; they are zero in `buffer`.
    /// Sorted, disjoint, not adjoining.
    pub bad: Vec<ByteRange>,
}

impl Disk {
    /// Reads all of `request`, handing each chunk to `sink`, on this thread, until all is read or
    /// something fails.
    ///
    /// Chunks come in the order in which their reads end, but never does chunk `n + pool.count()`
    /// come before chunk `n`, so that a caller who wants them in order needs no more buffers than
    /// there are. While `sink` blocks, reads in flight go on; when it holds all buffers, reading
    /// waits for one to be given back (by another thread, or by `sink` itself).
    ///
    /// Sectors that cannot be read are retried, zeroed, and listed with the chunk and as
    /// [`Event::Unreadable`](crate::base::Event::Unreadable); whether to go on is up to `sink`.
    ///
    /// # Errors
    /// `Invalid` for a request that makes no sense; `Io` when the disk is gone, shrank, or fails
    /// in a way that is not its medium's; `Cancelled`; whatever `sink` returns.
    pub fn stream(
        &self,
        request: &ReadRequest,
        pool: &BufferPool,
        observer: &dyn Observer,
        sink: &mut dyn FnMut(Chunk) -> Result<()>,
    ) -> Result<()> {
        check(request, self.origin.size(), pool)?;
        let depth = request.depth.clamp(1, pool.count());
        let queue = match &self.origin {
            Origin::Files(files) => Queue::new(files, self.queue_mode(files), depth, pool)?,
            Origin::Nbd(export) => Queue::of_export(export),
        };
        let reader = Reader {
            origin: &self.origin,
            pool,
            observer,
            depth,
            queue,
            plan: Plan::new(request),
            reading: BTreeMap::new(),
            in_flight: 0,
        };
        self.watched(observer, || reader.run(sink))
    }

    /// A ring that worked on opening may still be refused by a limit, which `Auto` gets around.
    fn queue_mode(&self, files: &Files) -> IoMode {
        if self.mode == IoMode::Ring && files.direct.is_some() { IoMode::Auto } else { self.mode }
    }
}

struct Reader<'a> {
    origin: &'a Origin,
    pool: &'a BufferPool,
    observer: &'a dyn Observer,
    depth: usize,
    queue: Queue,
    plan: Plan<'a>,
    /// Chunks that were begun and not yet handed on, by their number.
    reading: BTreeMap<u64, ByteRange>,
    /// Those of them that the queue has.
    in_flight: usize,
}

impl Reader<'_> {
    fn run(mut self, sink: &mut dyn FnMut(Chunk) -> Result<()>) -> Result<()> {
        loop {
            self.fill()?;
            if self.reading.is_empty() {
                return Ok(());
            }
            let ended = self.queue.wait(1)?;
            self.in_flight -= ended.len();
            for completion in ended {
                // Before the sink, which may block: the disk must not wait for it.
                self.top_up()?;
                let chunk = self.complete(completion)?;
                sink(chunk)?;
            }
        }
    }

    /// Begins at least one read, waiting for a buffer if none is in flight, unless all is read.
    fn fill(&mut self) -> Result<()> {
        if self.observer.cancelled() {
            return Err(Error::cancelled());
        }
        self.top_up()?;
        if self.reading.is_empty() && self.plan.peek().is_some() {
            let observer = self.observer;
            let buffer = self.pool.take(&|| observer.cancelled())?;
            self.begin(buffer);
            self.top_up()?;
        }
        Ok(())
    }

    /// Begins as many reads as depth and free buffers allow.
    fn top_up(&mut self) -> Result<()> {
        let mut begun = false;
        while self.in_flight < self.depth {
            let window = self.pool.count() as u64;
            let oldest =
                self.reading.first_key_value().map_or(self.plan.index, |(index, _)| *index);
            if self.plan.index >= oldest + window || self.plan.peek().is_none() {
                break;
            }
            let Some(buffer) = self.pool.try_take() else { break };
            self.begin(buffer);
            begun = true;
        }
        if begun { self.queue.submit() } else { Ok(()) }
    }

    fn begin(&mut self, mut buffer: Buffer) {
        let Some((number, range)) = self.plan.next() else { return };
        buffer.set_len(index(range.len()));
        self.reading.insert(number, range);
        self.in_flight += 1;
        self.queue.read(range.start, buffer, number);
    }

    fn complete(&mut self, completion: Completion) -> Result<Chunk> {
        let Completion { tag, mut buffer, result } = completion;
        let range = self.reading.remove(&tag).ok_or_else(|| {
            Error::new(ErrorKind::Io, format!("the kernel ended a read that was not begun ({tag})"))
        })?;
        let offset = ByteOffset(range.start);
        let bad = match result {
            Ok(done) if done == buffer.len() => Vec::new(),
            // Short, refused, interrupted or failed: once more, with care.
            Ok(_) => read_around(self.origin, range.start, &mut buffer, self.observer)?,
            Err(error) if is_worth_another_try(&error) => {
                read_around(self.origin, range.start, &mut buffer, self.observer)?
            }
            Err(error) => return Err(self.origin.reading(range.start, error)),
        };
        Ok(Chunk { index: tag, offset, buffer, bad })
    }
}

fn is_worth_another_try(error: &std::io::Error) -> bool {
    use nix::libc::{EAGAIN, EINTR, EINVAL, ENOMEM, EOVERFLOW};
    is_medium_error(error)
        || matches!(error.raw_os_error(), Some(EAGAIN | EINTR | EINVAL | ENOMEM | EOVERFLOW))
}

/// The chunks of a request, one after another.
struct Plan<'a> {
    ranges: &'a [ByteRange],
    chunk: u64,
    /// The next chunk's number.
    index: u64,
    /// Bytes of the first of `ranges` that are done.
    done: u64,
}

impl<'a> Plan<'a> {
    fn new(request: &'a ReadRequest) -> Self {
        let mut plan =
            Self { ranges: &request.ranges, chunk: request.chunk as u64, index: 0, done: 0 };
        plan.skip_finished();
        plan
    }

    fn peek(&self) -> Option<ByteRange> {
        let range = self.ranges.first()?;
        let start = range.start + self.done;
        let boundary = (start / self.chunk + 1).saturating_mul(self.chunk);
        Some(ByteRange { start, end: boundary.min(range.end) })
    }

    fn next(&mut self) -> Option<(u64, ByteRange)> {
        let chunk = self.peek()?;
        let index = self.index;
        self.index += 1;
        self.done += chunk.len();
        self.skip_finished();
        Some((index, chunk))
    }

    fn skip_finished(&mut self) {
        while let [first, rest @ ..] = self.ranges {
            if self.done < first.len() {
                break;
            }
            self.ranges = rest;
            self.done = 0;
        }
    }
}

fn check(request: &ReadRequest, size: u64, pool: &BufferPool) -> Result<()> {
    let invalid = |message: String| Err(Error::new(ErrorKind::Invalid, message));
    if request.chunk == 0 || request.chunk > pool.size() {
        return invalid(format!("chunks of {} bytes: buffers have {}", request.chunk, pool.size()));
    }
    let mut sorted = request.ranges.clone();
    sorted.sort_unstable();
    let mut known = 0;
    for range in sorted {
        if range.start < known || range.end < range.start || range.end > size {
            return invalid(format!("{range}: expected disjoint ranges within {size} bytes"));
        }
        known = range.end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_cuts_ranges_at_multiples_of_the_chunk() {
        let range = |start, end| ByteRange { start, end };
        let ranges = vec![range(0, 0), range(0, 20), range(25, 31), range(31, 31), range(38, 45)];
        let request = ReadRequest { ranges, chunk: 10, depth: 1 };
        let mut plan = Plan::new(&request);
        let chunks: Vec<_> = std::iter::from_fn(|| plan.next()).collect();
        let expected = [
            (0, range(0, 10)),
            (1, range(10, 20)),
            (2, range(25, 30)),
            (3, range(30, 31)),
            (4, range(38, 40)),
            (5, range(40, 45)),
        ];
        assert_eq!(chunks, expected);
    }

    #[test]
    fn requests_that_make_no_sense_are_refused() -> Result<()> {
        let pool = BufferPool::new(1, 4096)?;
        let range = |start, end| ByteRange { start, end };
        for (ranges, chunk) in [
            (vec![range(0, 10)], 4097),
            (vec![range(0, 10)], 0),
            (vec![range(0, 101)], 512),
            (vec![range(10, 20), range(19, 30)], 512),
        ] {
            let request = ReadRequest { ranges, chunk, depth: 1 };
            let error = check(&request, 100, &pool).err();
            assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Invalid), "{request:?}");
        }
        Ok(())
    }
}
