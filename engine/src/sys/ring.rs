//! io_uring with ownership: a buffer goes into the ring by value and comes back with its
//! completion, so that nobody can touch it while the kernel does.
//!
//! One ring serves one file, which it keeps open by registering it. The pool's buffers are
//! registered as well where the kernel allows it, which spares it pinning them each time.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::time::Duration;

use io_uring::{IoUring, opcode, squeue, types};
use nix::libc;

use super::buffer::{Buffer, BufferPool};

/// Most operations in flight.
const MAX_DEPTH: usize = 1024;
/// Most buffers that the kernel registers (`IORING_MAX_REG_BUFFERS`).
const MAX_REGISTERED: usize = 1 << 14;

/// An operation that ended.
#[derive(Debug)]
pub struct Completion {
    /// The number that it was submitted with.
    pub tag: u64,
    /// Its buffer.
    pub buffer: Buffer,
    /// Bytes moved, which may be fewer than asked for, or the kernel's error.
    pub result: io::Result<usize>,
}

/// A ring for reads and writes of one file.
pub struct Ring {
    ring: IoUring,
    /// Whose buffers are registered, under their own index.
    registered: Option<BufferPool>,
    /// What the kernel holds, by the number it gives back. A buffer in here belongs to the kernel.
    slots: Vec<Option<InFlight>>,
    free_slots: Vec<usize>,
}

struct InFlight {
    tag: u64,
    buffer: Buffer,
}

#[derive(Clone, Copy)]
enum Direction {
    Read,
    Write,
}

impl Ring {
    /// A ring on `file` with room for `depth` operations (1 to 1024), registering the buffers of
    /// `pool`.
    ///
    /// # Errors
    /// The kernel's error if it grants no ring: `ENOSYS` where there is none, `EPERM` where it is
    /// forbidden, `ENOMEM` at a limit. The caller does without then.
    pub fn new(file: &File, depth: usize, pool: &BufferPool) -> io::Result<Self> {
        let depth = depth.clamp(1, MAX_DEPTH);
        let entries = u32::try_from(depth).map_err(io::Error::other)?;
        // Without interrupting this thread for each completion (Linux 5.19).
        let ring = match IoUring::builder().setup_coop_taskrun().build(entries) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => IoUring::new(entries)?,
            other => other?,
        };
        ring.submitter().register_files(&[file.as_raw_fd()])?;
        let mut this = Self {
            ring,
            registered: None,
            slots: (0..depth).map(|_| None).collect(),
            free_slots: (0..depth).rev().collect(),
        };
        if this.register(pool).is_ok() {
            this.registered = Some(pool.clone());
        }
        Ok(this)
    }

    /// Whether the kernel grants rings at all.
    ///
    /// # Errors
    /// Its reason if not.
    pub fn probe() -> io::Result<()> {
        IoUring::new(1).map(drop)
    }

    /// Whether the pool's buffers are registered.
    #[must_use]
    pub fn has_registered_buffers(&self) -> bool {
        self.registered.is_some()
    }

    /// How many more operations can be queued now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.free_slots.len()
    }

    /// Operations queued or in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.slots.len() - self.free_slots.len()
    }

    /// Queues reading `buffer.len()` bytes from `offset` into `buffer`.
    ///
    /// # Panics
    /// Without [`room`](Self::room).
    pub fn read(&mut self, offset: u64, buffer: Buffer, tag: u64) {
        self.push(Direction::Read, offset, buffer, tag);
    }

    /// Queues writing all of `buffer` at `offset`.
    ///
    /// # Panics
    /// Without [`room`](Self::room).
    pub fn write(&mut self, offset: u64, buffer: Buffer, tag: u64) {
        self.push(Direction::Write, offset, buffer, tag);
    }

    /// Hands what is queued to the kernel, waits until at least `want` operations (of those in
    /// flight) have ended, and returns all that have.
    ///
    /// # Errors
    /// The kernel's error; what is in flight stays so.
    pub fn submit_and_wait(&mut self, want: usize) -> io::Result<Vec<Completion>> {
        let want = want.min(self.in_flight());
        let mut ended = Vec::new();
        loop {
            let outcome = self.ring.submit_and_wait(want.saturating_sub(ended.len()));
            self.reap(&mut ended);
            match outcome {
                Ok(_) if ended.len() >= want => return Ok(ended),
                Ok(_) => {}
                Err(error) => match error.raw_os_error() {
                    Some(libc::EINTR) => {}
                    // Short of memory, or of room for completions: they must be taken first.
                    Some(libc::EAGAIN | libc::EBUSY) if !ended.is_empty() => return Ok(ended),
                    Some(libc::EAGAIN | libc::EBUSY) => {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    _ if !ended.is_empty() => return Ok(ended),
                    _ => return Err(error),
                },
            }
        }
    }

    fn register(&self, pool: &BufferPool) -> io::Result<()> {
        let addresses = pool.addresses();
        if addresses.len() > MAX_REGISTERED {
            return Err(io::Error::from_raw_os_error(libc::E2BIG));
        }
        let regions: Vec<_> = addresses
            .iter()
            .map(|address| libc::iovec {
                iov_base: std::ptr::with_exposed_provenance_mut(*address),
                iov_len: pool.size(),
            })
            .collect();
        // SAFETY: the regions are the pool's mappings, which stay valid while any handle on the
        // pool lives; `self.registered` keeps one until after the ring is closed. The kernel
        // touches a registered buffer only for an operation that names it.
        unsafe { self.ring.submitter().register_buffers(&regions) }
    }

    fn push(&mut self, direction: Direction, offset: u64, mut buffer: Buffer, tag: u64) {
        let slot = self.free_slots.pop().expect("the caller keeps to the ring's room");
        let length = u32::try_from(buffer.len()).expect("a buffer is far below 4 GiB");
        let index = self.registered_index(&buffer);
        let memory = buffer.whole_mut().as_mut_ptr();
        self.slots[slot] = Some(InFlight { tag, buffer });
        let entry = entry(direction, (memory, length), index, offset).user_data(slot as u64);
        // SAFETY: the entry points into the buffer that `slots` now owns, at most as long as its
        // capacity; nobody else can reach it until `reap` sees its completion, and `drop` waits
        // for that. The file is registered, so that the ring itself keeps it open.
        unsafe { self.ring.submission().push(&entry) }
            .expect("the queue has at least as many entries as there are slots");
    }

    fn registered_index(&self, buffer: &Buffer) -> Option<u16> {
        let pool = self.registered.as_ref().filter(|pool| pool.owns(buffer))?;
        debug_assert!(buffer.index() < pool.count());
        u16::try_from(buffer.index()).ok()
    }

    fn reap(&mut self, ended: &mut Vec<Completion>) {
        for entry in self.ring.completion() {
            let slot = usize::try_from(entry.user_data()).ok();
            let held = slot.and_then(|slot| Some((slot, self.slots.get_mut(slot)?.take()?)));
            let Some((slot, InFlight { tag, buffer })) = held else { continue };
            self.free_slots.push(slot);
            let result = usize::try_from(entry.result())
                .map_err(|_| io::Error::from_raw_os_error(-entry.result()));
            ended.push(Completion { tag, buffer, result });
        }
    }
}

/// The operation on the registered file, on a registered buffer where there is an `index`.
fn entry(
    direction: Direction,
    (memory, length): (*mut u8, u32),
    index: Option<u16>,
    at: u64,
) -> squeue::Entry {
    let file = types::Fixed(0);
    match (direction, index) {
        (Direction::Read, None) => opcode::Read::new(file, memory, length).offset(at).build(),
        (Direction::Read, Some(index)) => {
            opcode::ReadFixed::new(file, memory, length, index).offset(at).build()
        }
        (Direction::Write, None) => opcode::Write::new(file, memory, length).offset(at).build(),
        (Direction::Write, Some(index)) => {
            opcode::WriteFixed::new(file, memory, length, index).offset(at).build()
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        while self.in_flight() > 0 {
            if self.submit_and_wait(1).is_err() {
                // The kernel may still write to them, so they must never be used again.
                std::mem::forget(std::mem::take(&mut self.slots));
                return;
            }
        }
        // The kernel takes a ring apart in its own time, after this process has ended even. Until
        // then it would keep the file open, and its filesystem from being unmounted.
        let _ = self.ring.submitter().unregister_files();
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::base::Result;

    const SIZE: usize = 4096;

    /// A file of 16 pages, each filled with its number, and a ring on it; `None` without rings.
    fn set_up(depth: usize, pool: &BufferPool) -> Option<(File, Ring)> {
        let file = tempfile::tempfile().ok()?;
        for page in 0..16 {
            file.write_all_at(&[page; SIZE], u64::from(page) * SIZE as u64).ok()?;
        }
        match Ring::new(&file, depth, pool) {
            Ok(ring) => Some((file, ring)),
            Err(error) => {
                println!("skipped: no io_uring here ({error})");
                None
            }
        }
    }

    #[test]
    fn buffers_of_any_pool_come_back_with_what_was_read() -> Result<()> {
        let own = BufferPool::new(4, SIZE)?;
        let foreign = BufferPool::new(4, SIZE)?;
        let Some((_file, mut ring)) = set_up(8, &own) else { return Ok(()) };
        let pools = [&own, &foreign];
        for page in 0..8 {
            let buffer = pools[page % 2].take(&|| false)?;
            ring.read((page * SIZE) as u64, buffer, page as u64 + 100);
        }
        assert_eq!((ring.room(), ring.in_flight()), (0, 8));
        let mut ended = ring.submit_and_wait(8).map_err(|e| crate::base::Error::io("wait", e))?;
        ended.sort_by_key(|completion| completion.tag);
        for (page, completion) in (0..8).zip(ended) {
            assert_eq!(completion.tag, u64::from(page) + 100);
            assert_eq!(completion.result.ok(), Some(SIZE));
            assert!(completion.buffer.iter().all(|byte| *byte == page));
            let pool = pools[usize::from(page) % 2];
            assert!(pool.owns(&completion.buffer));
        }
        assert_eq!(ring.in_flight(), 0);
        Ok(())
    }

    #[test]
    fn dropping_a_ring_ends_what_is_in_flight_and_frees_its_buffers() -> Result<()> {
        let pool = BufferPool::new(4, SIZE)?;
        let Some((file, mut ring)) = set_up(4, &pool) else { return Ok(()) };
        for page in 0..4 {
            let mut buffer = pool.take(&|| false)?;
            buffer.fill(77);
            ring.write(page * SIZE as u64, buffer, page);
        }
        drop(ring);
        let all: Vec<_> = std::iter::from_fn(|| pool.try_take()).collect();
        assert_eq!(all.len(), 4);
        let mut found = [0; 4 * SIZE];
        assert!(file.read_exact_at(&mut found, 0).is_ok());
        assert!(found.iter().all(|byte| *byte == 77));
        Ok(())
    }

    #[test]
    fn the_kernels_errors_come_with_their_operation() -> Result<()> {
        let pool = BufferPool::new(1, SIZE)?;
        let Ok(folder) = File::open("/") else { return Ok(()) };
        let Ok(mut ring) = Ring::new(&folder, 1, &pool) else { return Ok(()) };
        ring.read(0, pool.take(&|| false)?, 5);
        let ended = ring.submit_and_wait(1).map_err(|e| crate::base::Error::io("wait", e))?;
        assert_eq!(ended[0].tag, 5);
        let error = ended[0].result.as_ref().err().and_then(io::Error::raw_os_error);
        assert_eq!(error, Some(libc::EISDIR));
        Ok(())
    }
}
