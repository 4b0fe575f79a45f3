//! Threads, as many as the system gives: limits of processes and of address space (setrlimit(2)),
//! and control groups, refuse some or all. Everything that starts threads does it by this page, and
//! has an answer to getting fewer than it asked for, or none.
#![allow(unsafe_code)]

use std::fs;
use std::num::NonZeroUsize;
use std::panic::resume_unwind;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::{self, Builder, JoinHandle, Scope, ScopedJoinHandle};
use std::time::Duration;

use nix::libc;
use nix::sys::resource::{Resource, getrlimit};
use rayon::prelude::*;
use rayon::{ThreadPool, ThreadPoolBuilder};

use crate::base::{Error, ErrorKind, Result};

/// Address space that a thread has to find: its stack, and what it works with.
const ROOM: u64 = 32 * 1024 * 1024;

/// How often a thread that is needed is asked for, and after what time each.
const STARTS: usize = 50;
const NAP: Duration = Duration::from_millis(1);

/// Processors of this machine that this process may use.
#[must_use]
pub fn processors() -> usize {
    thread::available_parallelism().map_or(1, NonZeroUsize::get)
}

/// Starts up to `count` threads that each do what `make` makes, and returns how many there are.
pub fn crew<'scope, W: FnOnce() + Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    count: usize,
    make: impl Fn() -> W,
) -> usize {
    let begin = || Builder::new().spawn_scoped(scope, make());
    (0..affordable(count)).take_while(|_| begin().is_ok()).count()
}

/// Starts a thread that is needed.
///
/// # Errors
/// `Limit` where the system starts none.
pub fn start<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    work: impl FnOnce() -> T + Send + 'scope,
) -> Result<ScopedJoinHandle<'scope, T>> {
    let slot = Arc::new(Mutex::new(Some(work)));
    let mut refusal = None;
    for _ in 0..STARTS {
        if affordable(1) == 0 {
            break;
        }
        let slot = Arc::clone(&slot);
        let take = move || slot.lock().unwrap_or_else(PoisonError::into_inner).take();
        let run = move || take().expect("one thread alone is started")();
        match Builder::new().spawn_scoped(scope, run) {
            Ok(started) => return Ok(started),
            Err(error) => refusal = Some(error),
        }
        // One that was joined counts until the kernel is done with it.
        thread::sleep(NAP);
    }
    let why = refusal.map(|error| format!(": {error}")).unwrap_or_default();
    let context = format!("the system starts no more threads for this user or process{why}");
    Err(Error::new(ErrorKind::Limit, context))
}

/// Makes sure that `count` threads can be started, for work that must not end halfway for want of
/// them.
///
/// # Errors
/// `Limit` where they cannot.
pub fn need(count: usize) -> Result<()> {
    let gate = Mutex::new(());
    thread::scope(|scope| {
        // They wait for one another.
        let closed = gate.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = || drop(gate.lock().unwrap_or_else(PoisonError::into_inner));
        let started: Vec<_> = (0..count).map(|_| start(scope, wait)).collect();
        drop(closed);
        started.into_iter().try_for_each(|one| one.map(drop))
    })
}

/// Makes sure that there is room for a job's memory, before it begins: for want of it later, the
/// process would end at once.
///
/// # Errors
/// `Limit` where there is not.
pub fn need_room() -> Result<()> {
    if affordable(1) > 0 {
        return Ok(());
    }
    let context = "the limit of this process's address space leaves too little room";
    Err(Error::new(ErrorKind::Limit, context))
}

/// Does `one` in a thread of its own beside `other`, or after it where there is none.
pub fn beside<A: Send, B>(one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B) -> (A, B) {
    let one = Mutex::new(Some(one));
    let take = || one.lock().unwrap_or_else(PoisonError::into_inner).take();
    thread::scope(|scope| {
        let started = start(scope, || take().map(|one| one()));
        let other = other();
        let done = match started {
            Ok(handle) => handle.join().unwrap_or_else(|panic| resume_unwind(panic)),
            Err(_) => take().map(|one| one()),
        };
        (done.expect("whoever took it has done it"), other)
    })
}

/// Work that goes on in a thread of its own, or was done already where there is none.
pub enum Task<T> {
    /// It goes on.
    Running(JoinHandle<Option<T>>),
    /// It was done.
    Done(T),
}

impl<T: Send + 'static> Task<T> {
    /// Begins `work`.
    pub fn begin(name: &str, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let work = Arc::new(Mutex::new(Some(work)));
        let taken = {
            let work = Arc::clone(&work);
            move || work.lock().unwrap_or_else(PoisonError::into_inner).take()
        };
        let builder = Builder::new().name(name.to_owned());
        let run = move || taken().map(|work| work());
        match (affordable(1) > 0).then(|| builder.spawn(run)) {
            Some(Ok(handle)) => Self::Running(handle),
            _ => {
                let work = work.lock().unwrap_or_else(PoisonError::into_inner).take();
                Self::Done(work.expect("no thread took it")())
            }
        }
    }

    /// Waits for it.
    pub fn join(self) -> T {
        match self {
            Self::Done(done) => done,
            Self::Running(handle) => {
                let done = handle.join().unwrap_or_else(|panic| resume_unwind(panic));
                done.expect("the thread that was started took it")
            }
        }
    }
}

/// What `work` makes of each item, in order, by all processors.
pub fn map<T: Sync, U: Send>(items: &[T], work: impl Fn(&T) -> U + Sync + Send) -> Vec<U> {
    match pool() {
        Some(pool) => pool.install(|| items.par_iter().map(work).collect()),
        None => items.iter().map(work).collect(),
    }
}

/// Whether `work` says so of every item, by all processors.
pub fn all<T: Sync>(items: &[T], work: impl Fn(&T) -> bool + Sync + Send) -> bool {
    match pool() {
        Some(pool) => pool.install(|| items.par_iter().all(work)),
        None => items.iter().all(work),
    }
}

/// What `work` makes of one of the numbers below `count`, whichever is found first.
pub fn find_any<T: Send>(
    count: usize,
    work: impl Fn(usize) -> Option<T> + Sync + Send,
) -> Option<T> {
    match pool() {
        Some(pool) => pool.install(|| (0..count).into_par_iter().find_map_any(work)),
        None => (0..count).find_map(work),
    }
}

/// Does both, at the same time where that is possible.
pub fn join<A: Send, B: Send>(
    one: impl FnOnce() -> A + Send,
    other: impl FnOnce() -> B + Send,
) -> (A, B) {
    match pool() {
        Some(pool) => pool.install(|| rayon::join(one, other)),
        None => (one(), other()),
    }
}

/// Sorts, by all processors.
pub fn sort<T: Ord + Send>(items: &mut [T]) {
    match pool() {
        Some(pool) => pool.install(|| items.par_sort_unstable()),
        None => items.sort_unstable(),
    }
}

/// Threads for short work, one for each processor or as many as there can be; nothing if none can.
fn pool() -> Option<&'static ThreadPool> {
    static POOL: OnceLock<Option<ThreadPool>> = OnceLock::new();
    let make = || {
        let halves = std::iter::successors(Some(affordable(processors())), |n| Some(n / 2));
        let mut counts = halves.take_while(|count| *count > 0);
        counts.find_map(|count| ThreadPoolBuilder::new().num_threads(count).build().ok())
    };
    POOL.get_or_init(make).as_ref()
}

/// Of `count` threads, those that find room in what address space is left to the process. One that
/// starts and finds none would end the process.
fn affordable(count: usize) -> usize {
    static LIMIT: OnceLock<Option<u64>> = OnceLock::new();
    let find = || {
        let (limit, _) = getrlimit(Resource::RLIMIT_AS).ok()?;
        if limit == libc::RLIM_INFINITY {
            return None;
        }
        // Else each thread reserves 64 MiB for what it allocates.
        // SAFETY: a setting of the allocator's, which takes its own lock.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
        Some(limit)
    };
    let Some(limit) = *LIMIT.get_or_init(find) else { return count };
    // proc_pid_statm(5): the first field is the pages that are mapped.
    let statm = fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').next().and_then(|pages| pages.parse::<u64>().ok()).unwrap_or(0);
    let left = limit.saturating_sub(pages.saturating_mul(4096));
    count.min(usize::try_from(left / ROOM).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_beside_is_done_once_and_in_order() {
        let (one, other) = beside(|| 1, || 2);
        assert_eq!((one, other), (1, 2));
        assert_eq!(Task::begin("task", || 3).join(), 3);
        assert_eq!(map(&[1, 2, 3], |n| n * 2), [2, 4, 6]);
        assert!(all(&[1, 2, 3], |n| *n > 0) && !all(&[1, 2, 3], |n| *n > 1));
        let mut items = [3, 1, 2];
        sort(&mut items);
        assert_eq!(items, [1, 2, 3]);
        need(3).expect("there are threads");
    }
}
