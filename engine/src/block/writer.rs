//! Writing much to a target: many large writes in flight.

use std::collections::BTreeMap;

use super::Target;
use super::files::Files;
use super::queue::{IoMode, Queue, engine_name};
use crate::base::check_range;
use crate::base::{ByteOffset, Error, ErrorKind, Result};
use crate::sys::{Buffer, BufferPool, Completion};

/// Writes buffers to a target, several at once, in any order.
pub struct TargetWriter<'a> {
    target: &'a Target,
    queue: Queue,
    depth: usize,
    /// Writes in flight between calls at most.
    most_held: usize,
    /// Where each write in flight goes, by its tag.
    writing: BTreeMap<u64, u64>,
    next_tag: u64,
    written: u64,
    has_failed: bool,
    io_engine: &'static str,
}

impl<'a> TargetWriter<'a> {
    /// A writer with up to `depth` writes in flight, from buffers of `pool` (others work too, but
    /// are not registered with the kernel). Between calls it holds at most all buffers but one,
    /// so that whoever fills the next one need not wait for the writer.
    ///
    /// # Errors
    /// `Io` if neither a ring nor threads can be had, or a ring is demanded and refused.
    pub fn new(target: &'a Target, pool: &BufferPool, depth: usize, mode: IoMode) -> Result<Self> {
        let depth = depth.clamp(1, 1024);
        let queue = Queue::new(&target.files, mode, depth, pool)?;
        let io_engine = engine_name(mode.resolve(&target.files)?, &target.files);
        Ok(Self {
            target,
            queue,
            depth,
            most_held: depth.min(pool.count() - 1),
            writing: BTreeMap::new(),
            next_tag: 0,
            written: 0,
            has_failed: false,
            io_engine,
        })
    }

    /// What writes really go through: `io_uring` or `threads`, `direct` or `buffered`.
    #[must_use]
    pub fn io_engine(&self) -> &'static str {
        self.io_engine
    }

    /// Begins writing all of `buffer` at `offset`, waiting for an earlier write to end where too
    /// many are in flight. Two writes in flight must not touch the same bytes. The buffer goes
    /// back to its pool when it is written.
    ///
    /// # Errors
    /// `Invalid` beyond the target's end; `Io` if this or an earlier write failed, naming where.
    pub fn write(&mut self, offset: ByteOffset, buffer: Buffer) -> Result<()> {
        let files = &self.target.files;
        check_range(files.info.size, offset, buffer.len())?;
        if buffer.is_empty() {
            return Ok(());
        }
        // A ragged end goes through the page cache, where whole pages count: a direct write to a
        // neighbour meanwhile could be undone. So it goes alone.
        let alone = !files.is_aligned(offset.0, &buffer);
        if alone {
            self.reap(usize::MAX)?;
        } else if self.writing.len() >= self.depth {
            self.reap(self.writing.len() + 1 - self.depth)?;
        }
        let tag = self.next_tag;
        self.next_tag += 1;
        self.writing.insert(tag, offset.0);
        self.queue.write(offset.0, buffer, tag);
        if alone {
            return self.reap(usize::MAX);
        }
        self.queue.submit()?;
        let excess = self.writing.len().saturating_sub(self.most_held);
        self.reap(excess)
    }

    /// Waits for all writes to end. Returns the bytes written in all. Nothing is synced: that is
    /// [`Target::sync`].
    ///
    /// # Errors
    /// `Io` if a write failed, naming where, now or earlier.
    pub fn finish(mut self) -> Result<u64> {
        self.reap(usize::MAX)?;
        if self.has_failed {
            let path = self.target.files.path.display();
            return Err(Error::new(ErrorKind::Io, format!("{path}: an earlier write failed")));
        }
        Ok(self.written)
    }

    fn reap(&mut self, want: usize) -> Result<()> {
        let mut failure = None;
        for ended in self.queue.wait(want)? {
            if let Err(error) = self.complete(ended) {
                self.has_failed = true;
                failure.get_or_insert(error);
            }
        }
        failure.map_or(Ok(()), Err)
    }

    fn complete(&mut self, ended: Completion) -> Result<()> {
        let files: &Files = &self.target.files;
        let Completion { tag, buffer, result } = ended;
        let Some(offset) = self.writing.remove(&tag) else { return Ok(()) };
        let done = match result {
            Ok(done) => done.min(buffer.len()),
            Err(error) if is_worth_another_try(&error) => 0,
            Err(error) => return Err(files.writing(offset, error)),
        };
        if done < buffer.len() {
            // The whole of it again: what is left might not be aligned.
            files.write(offset, &buffer).map_err(|error| files.writing(offset, error))?;
        }
        self.written += buffer.len() as u64;
        Ok(())
    }
}

fn is_worth_another_try(error: &std::io::Error) -> bool {
    use nix::libc::{EAGAIN, EINTR, EINVAL, ENOMEM};
    matches!(error.raw_os_error(), Some(EAGAIN | EINTR | EINVAL | ENOMEM))
}
