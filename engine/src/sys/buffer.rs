//! A fixed number of page-aligned buffers, which bounds the memory of a data path.
//!
//! A [`Buffer`] is owned by whoever holds it and returns to its pool by being dropped. The pool's
//! memory never moves, so that an I/O ring can register it once.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use memmap2::MmapMut;

use crate::base::{Error, ErrorContext, ErrorKind, Result};

/// Buffer sizes are multiples of this many bytes.
const GRANULE: usize = 4096;
/// How long a waiting thread sleeps before it asks again whether it was cancelled.
const PATIENCE: Duration = Duration::from_millis(50);

/// Page-aligned buffers of one size. Cloning gives another handle on the same buffers.
#[derive(Clone)]
pub struct BufferPool {
    shared: Arc<Shared>,
}

struct Shared {
    free: Mutex<Vec<Slot>>,
    freed: Condvar,
    /// Where each buffer lies, by index.
    addresses: Vec<usize>,
    size: usize,
}

struct Slot {
    index: usize,
    memory: MmapMut,
}

impl BufferPool {
    /// A pool of `count` buffers of `size` bytes each (rounded up to 4096). Memory is taken from
    /// the system when a buffer is first written, not here.
    ///
    /// # Errors
    /// `Invalid` if `count` or `size` is zero, `Io` if the address space is exhausted.
    pub fn new(count: usize, size: usize) -> Result<Self> {
        let size = size.checked_next_multiple_of(GRANULE).filter(|size| *size > 0 && count > 0);
        let size = size.ok_or_else(|| {
            Error::new(ErrorKind::Invalid, format!("buffer pool of {count}: expected some bytes"))
        })?;
        let mut free = Vec::with_capacity(count);
        let mut addresses = Vec::with_capacity(count);
        for index in 0..count {
            let memory =
                MmapMut::map_anon(size).context(|| format!("map {count} buffers of {size} B"))?;
            addresses.push(memory.as_ptr().addr());
            free.push(Slot { index, memory });
        }
        // The last is taken first: hand them out in index order.
        free.reverse();
        let shared = Shared { free: Mutex::new(free), freed: Condvar::new(), addresses, size };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// How many buffers there are, free or not.
    #[must_use]
    pub fn count(&self) -> usize {
        self.shared.addresses.len()
    }

    /// Bytes that each buffer can hold.
    #[must_use]
    pub fn size(&self) -> usize {
        self.shared.size
    }

    /// Takes a buffer, waiting for one to become free. Its length is its capacity; what it holds
    /// is whatever its last user left.
    ///
    /// # Errors
    /// `Cancelled` once `cancelled` says so; it is asked at least every 100 ms.
    pub fn take(&self, cancelled: &dyn Fn() -> bool) -> Result<Buffer> {
        let mut free = self.lock();
        loop {
            if let Some(slot) = free.pop() {
                return Ok(self.hand_out(slot));
            }
            if cancelled() {
                return Err(Error::cancelled());
            }
            let waited = self.shared.freed.wait_timeout(free, PATIENCE);
            free = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Takes a buffer if one is free now.
    #[must_use]
    pub fn try_take(&self) -> Option<Buffer> {
        let slot = self.lock().pop()?;
        Some(self.hand_out(slot))
    }

    /// Whether `buffer` is one of this pool's.
    #[must_use]
    pub fn owns(&self, buffer: &Buffer) -> bool {
        Arc::ptr_eq(&self.shared, &buffer.pool.shared)
    }

    /// Where each buffer lies in memory, by [`Buffer::index`]. The memory stays mapped as long as
    /// any handle on the pool.
    pub(super) fn addresses(&self) -> &[usize] {
        &self.shared.addresses
    }

    fn hand_out(&self, slot: Slot) -> Buffer {
        Buffer { length: self.shared.size, slot: Some(slot), pool: self.clone() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.shared.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for BufferPool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BufferPool({} x {} B)", self.count(), self.size())
    }
}

/// One buffer of a pool: page-aligned bytes, as many as its length says.
pub struct Buffer {
    /// Present until the buffer is dropped.
    slot: Option<Slot>,
    length: usize,
    pool: BufferPool,
}

const PRESENT: &str = "a buffer has its memory until it is dropped";

impl Buffer {
    /// Its number within its pool, from zero: under this it is registered with a ring.
    #[must_use]
    pub fn index(&self) -> usize {
        self.slot.as_ref().expect(PRESENT).index
    }

    /// Bytes that it can hold.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.pool.size()
    }

    /// Sets how many bytes it counts as holding, at most its capacity. Bytes are not touched.
    pub fn set_len(&mut self, length: usize) {
        self.length = length.min(self.capacity());
    }

    /// All of its memory, whatever its length.
    pub fn whole_mut(&mut self) -> &mut [u8] {
        &mut self.slot.as_mut().expect(PRESENT).memory
    }
}

impl Deref for Buffer {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.slot.as_ref().expect(PRESENT).memory[..self.length]
    }
}

impl DerefMut for Buffer {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.slot.as_mut().expect(PRESENT).memory[..self.length]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.take() {
            self.pool.lock().push(slot);
            self.pool.shared.freed.notify_one();
        }
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} of {} B)", self.length, self.capacity())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;

    #[test]
    fn buffers_return_to_the_pool_and_are_aligned() -> Result<()> {
        let pool = BufferPool::new(2, 5000)?;
        assert_eq!(pool.size(), 8192);
        let mut first = pool.take(&|| false)?;
        let second = pool.take(&|| false)?;
        assert_eq!(first.as_ptr().addr() % 4096, 0);
        assert!(pool.try_take().is_none());
        first.set_len(3);
        first.copy_from_slice(b"abc");
        assert_eq!(&first[..], b"abc");
        assert!(pool.owns(&second) && !BufferPool::new(1, 1)?.owns(&second));
        drop(first);
        let again = pool.try_take().expect("a buffer is free again");
        assert_eq!((again.len(), again.capacity()), (8192, 8192));
        Ok(())
    }

    #[test]
    fn waiting_for_a_buffer_can_be_cancelled_and_ends_when_one_is_freed() -> Result<()> {
        let pool = BufferPool::new(1, 4096)?;
        let held = pool.take(&|| false)?;
        let started = Instant::now();
        let error = pool.take(&|| started.elapsed() > Duration::from_millis(20)).err();
        assert_eq!(error.map(|e| e.kind()), Some(ErrorKind::Cancelled));
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| pool.take(&|| false).map(|buffer| buffer.len()));
            std::thread::sleep(Duration::from_millis(20));
            drop(held);
            assert_eq!(waiter.join().expect("the waiter does not panic").ok(), Some(4096));
        });
        Ok(())
    }
}
