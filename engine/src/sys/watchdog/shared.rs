//! What the watchdog and the process that it watches share: orders over a line, and a page of
//! memory that says of each filesystem whether it is frozen.

use std::num::NonZeroUsize;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, Ordering};

use nix::libc::{self, c_void, pid_t};
use nix::sys::mman::{MapFlags, ProtFlags, mmap_anonymous, munmap};

use crate::base::{ErrorContext, Result};

/// Filesystems that are frozen at once at most.
pub const MOST: usize = 100;

/// Orders, and the answers to them: what an order gives is told in its own name.
pub(super) const FREEZE: i64 = 1;
pub(super) const THAW: i64 = 2;
pub(super) const THAWED_ALL: i64 = 3;
pub(super) const PRE: i64 = 4;
pub(super) const POST: i64 = 5;
/// End the hook that runs.
pub(super) const STOP: i64 = 6;
/// The hook before has run, under an earlier watchdog.
pub(super) const OWE: i64 = 7;
/// Told once, when it is ready.
pub(super) const READY: i64 = 8;
/// Beside a hook's status: it was made to end.
pub(super) const STOPPED: i64 = 1 << 32;
/// Instead of a hook's status: there is no such hook, or it could not be started.
pub(super) const NONE: i32 = -1;
pub(super) const NOT_STARTED: i32 = -2;

/// Milliseconds that a hook has to end after it was asked to, and again after it was made to.
pub(super) const GRACE: i64 = 3000;
/// Milliseconds that the hook after has where nobody waits for it any more.
pub(super) const HASTE: i64 = 60_000;

/// What a filesystem's state is; below zero, why it could not be frozen.
pub(super) const WAITING: i32 = 1;
/// Being frozen, or just frozen.
pub(super) const ASKED: i32 = 2;
pub(super) const FROZEN: i32 = 3;
pub(super) const THAWING: i32 = 4;
pub(super) const THAWED: i32 = 5;
/// Somebody else thawed it.
pub(super) const LOST: i32 = 6;

/// A kind and a value.
pub(super) type Message = [u8; 16];

pub(super) fn encode(kind: i64, value: i64) -> Message {
    let mut message = [0; 16];
    let (first, second) = message.split_at_mut(8);
    first.copy_from_slice(&kind.to_le_bytes());
    second.copy_from_slice(&value.to_le_bytes());
    message
}

pub(super) fn decode(message: Message) -> (i64, i64) {
    let number = |bytes: &[u8]| {
        let mut number = [0; 8];
        number.copy_from_slice(bytes);
        i64::from_le_bytes(number)
    };
    let (first, second) = message.split_at(8);
    (number(first), number(second))
}

/// The memory that both see.
pub(super) struct Shared {
    /// Opens for those that freeze, so that all begin at once.
    pub gate: AtomicU32,
    /// Whether the hook after was started.
    pub has_ended: AtomicBool,
    pub states: [AtomicI32; MOST],
}

impl Shared {
    /// Waits until the gate is no longer as `closed`; returns false if the watchdog ended.
    pub fn pass(&self, closed: u32, watchdog: pid_t) -> bool {
        while self.gate.load(Ordering::SeqCst) == closed {
            let second = libc::timespec { tv_sec: 1, tv_nsec: 0 };
            // SAFETY: a number that lives as long as the process, and a time of this function's.
            unsafe {
                let (wait, none) = (libc::FUTEX_WAIT, std::ptr::null_mut::<c_void>());
                let gate = self.gate.as_ptr();
                libc::syscall(libc::SYS_futex, gate, wait, closed, &raw const second, none, 0);
                if libc::getppid() != watchdog {
                    return false;
                }
            }
        }
        true
    }

    /// Opens the gate that was `closed`.
    pub fn open(&self, closed: u32) {
        self.gate.store(closed.wrapping_add(1), Ordering::SeqCst);
        // SAFETY: as for waiting.
        unsafe {
            let (wake, none) = (libc::FUTEX_WAKE, std::ptr::null_mut::<c_void>());
            libc::syscall(libc::SYS_futex, self.gate.as_ptr(), wake, i32::MAX, none, none, 0);
        }
    }
}

/// The page that holds it.
pub(super) struct SharedPage(NonNull<c_void>);

// SAFETY: all that it holds is atomic, and the mapping stays until the page is dropped.
unsafe impl Send for SharedPage {}
// SAFETY: as above.
unsafe impl Sync for SharedPage {}

impl SharedPage {
    const LENGTH: NonZeroUsize = NonZeroUsize::new(size_of::<Shared>()).expect("it holds states");

    pub fn new() -> Result<Self> {
        // SAFETY: a new mapping that overlaps nothing.
        let page = unsafe {
            let access = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
            mmap_anonymous(None, Self::LENGTH, access, MapFlags::MAP_SHARED)
        };
        Ok(Self(page.context(|| "memory to share with the watchdog")?))
    }

    pub fn get(&self) -> &Shared {
        // SAFETY: the mapping is aligned to pages, long enough and zeroed, which is a value of
        // every atomic; it lives as long as `self`.
        unsafe { self.0.cast::<Shared>().as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: mapped by `new` with this length, and no longer borrowed.
        let _unmapped = unsafe { munmap(self.0, Self::LENGTH.get()) };
    }
}

/// A clock that only goes forward.
pub(super) fn milliseconds() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in the structure that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
