//! Freezing mounted filesystems for a moment (`FIFREEZE` and `FITHAW` of `linux/fs.h`).
//!
//! A frozen filesystem blocks whoever writes to it, for ever if nobody thaws it, and a process
//! that is killed does not. So another process, forked before the first freeze, waits beside this
//! one, and thaws when this one ends, however it does, or when the time is over.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::thread::{self, ScopedJoinHandle};
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::libc;
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, Pid, fork, pipe2};

use super::mounts::Mount;
use crate::base::{Error, ErrorContext, ErrorKind, Result};

/// Filesystems that are frozen at once at most: what one byte to the watchdog can name.
const MOST: usize = 100;
/// Added to a filesystem's number: it was not frozen after all.
const NOT_OURS: u8 = 100;
/// Tells the watchdog that everything is thawed.
const OVER: u8 = u8::MAX;
/// Milliseconds between the watchdog's attempts once the time is over.
const AGAIN: i64 = 10;

mod raw {
    nix::ioctl_write_int_bad!(fifreeze, nix::request_code_readwrite!(b'X', 119, size_of::<i32>()));
    nix::ioctl_write_int_bad!(fithaw, nix::request_code_readwrite!(b'X', 120, size_of::<i32>()));
}

/// Filesystems that are about to be frozen: opened, with everything written back.
pub struct Freezer {
    points: Vec<(PathBuf, File)>,
}

/// Filesystems that are frozen, until this is thawed or dropped.
pub struct Frozen<'a> {
    files: Vec<&'a File>,
    watchdog: Watchdog,
}

impl Freezer {
    /// Opens the filesystems mounted at `mounts`.
    ///
    /// # Errors
    /// `Limit` for too many; `Conflict` where another filesystem hides one; `Io`.
    pub fn open(mounts: &[Mount]) -> Result<Self> {
        if mounts.len() > MOST {
            let context = format!("{} mounted filesystems, at most {MOST}", mounts.len());
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let open = |mount: &Mount| {
            let shown = mount.point.display();
            let file = File::open(mount.path()).context(|| format!("open {shown}"))?;
            // proc_pid_fdinfo(5). A filesystem's device number would not do: btrfs has several.
            let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
            let said = said.context(|| format!("look at {shown}"))?;
            let id = said.lines().find_map(|line| line.strip_prefix("mnt_id:"));
            if id.is_none_or(|id| id.trim() != mount.id) {
                let context = format!("{shown} is hidden by another filesystem mounted there");
                return Err(Error::new(ErrorKind::Conflict, context));
            }
            Ok((mount.point.clone(), file))
        };
        Ok(Self { points: mounts.iter().map(open).collect::<Result<_>>()? })
    }

    /// Writes back what is cached of all of them.
    ///
    /// # Errors
    /// `Io`.
    pub fn sync(&self) -> Result<()> {
        self.points.iter().try_for_each(|(point, file)| {
            nix::unistd::syncfs(file).context(|| format!("sync {}", point.display()))
        })
    }

    /// Freezes all of them, for `limit` at most: at the same time, since each takes several of the
    /// kernel's grace periods.
    ///
    /// # Errors
    /// `Conflict` when another freezes one already; `Io`. Nothing stays frozen then.
    pub fn freeze(&self, limit: Duration) -> Result<Frozen<'_>> {
        let descriptors: Vec<RawFd> =
            self.points.iter().map(|(_, file)| file.as_raw_fd()).collect();
        let watchdog = Watchdog::start(&descriptors, limit)?;
        let mut frozen = Frozen { files: Vec::new(), watchdog };
        let numbers = || 0_u8..;
        for (number, _) in numbers().zip(&self.points) {
            frozen.watchdog.tell(number)?;
        }
        let outcomes: Vec<Result<()>> = thread::scope(|scope| {
            let start = |point| thread::Builder::new().spawn_scoped(scope, move || freeze(point));
            let threads: Vec<_> = self.points.iter().map(start).collect();
            let join = |thread: io::Result<ScopedJoinHandle<'_, Result<()>>>| {
                let thread = thread.context(|| "a thread that freezes a filesystem")?;
                thread.join().unwrap_or_else(|panic| resume_unwind(panic))
            };
            threads.into_iter().map(join).collect()
        });
        let mut failure = None;
        for ((number, (_, file)), outcome) in numbers().zip(&self.points).zip(outcomes) {
            match outcome {
                Ok(()) => frozen.files.push(file),
                Err(error) => {
                    frozen.watchdog.tell(number + NOT_OURS)?;
                    failure = failure.or(Some(error));
                }
            }
        }
        failure.map_or(Ok(frozen), Err)
    }
}

fn freeze((point, file): &(PathBuf, File)) -> Result<()> {
    // SAFETY: the descriptor is open, and the argument is not looked at.
    let frozen = unsafe { raw::fifreeze(file.as_raw_fd(), 0) };
    let shown = point.display();
    frozen.map(drop).map_err(|error| match error {
        Errno::EBUSY => {
            Error::new(ErrorKind::Conflict, format!("{shown} is frozen by somebody else"))
        }
        error => Error::io(format!("freeze {shown}"), error.into()),
    })
}

impl Frozen<'_> {
    /// Thaws everything; says whether all of it was frozen until now.
    #[must_use]
    pub fn thaw(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let mut is_whole = true;
        for file in self.files.drain(..) {
            // SAFETY: as for freezing. What the watchdog thawed is no longer frozen (EINVAL).
            is_whole &= unsafe { raw::fithaw(file.as_raw_fd(), 0) }.is_ok();
        }
        self.watchdog.end();
        is_whole
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

/// The process that waits beside this one.
struct Watchdog {
    pipe: OwnedFd,
    /// Until it has ended.
    process: Option<Pid>,
}

impl Watchdog {
    fn start(descriptors: &[RawFd], limit: Duration) -> Result<Self> {
        let (read, write) = pipe2(OFlag::O_CLOEXEC).context(|| "a pipe to the watchdog")?;
        let mut keep: Vec<RawFd> = descriptors.to_vec();
        keep.push(read.as_raw_fd());
        keep.sort_unstable();
        let limit = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX);
        // SAFETY: the child does nothing but async-signal-safe calls on memory that it has, and
        // ends by _exit: no lock that another thread held, and no allocation, is met there.
        match unsafe { fork() }.context(|| "fork a watchdog")? {
            ForkResult::Parent { child } => Ok(Self { pipe: write, process: Some(child) }),
            ForkResult::Child => watch(read.as_raw_fd(), descriptors, &keep, limit),
        }
    }

    fn tell(&self, byte: u8) -> Result<()> {
        let written = nix::unistd::write(&self.pipe, &[byte]);
        written.map(drop).context(|| "the watchdog of the freeze is gone")
    }

    fn end(&mut self) {
        let Some(process) = self.process.take() else { return };
        // If it is gone, it has nothing more to do either.
        let _told = self.tell(OVER);
        let _reaped = waitpid(process, None);
    }
}

/// What the watchdog does: waits for the pipe to say that all is over, or to end, or for the time
/// to be over, and thaws what is frozen. What is only about to be frozen when the time is over it
/// thaws as soon as it is.
fn watch(pipe: RawFd, descriptors: &[RawFd], keep: &[RawFd], limit: i64) -> ! {
    // SAFETY: system calls on this process's own descriptors and memory; each is
    // async-signal-safe, and what fails makes the watchdog no worse.
    unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        libc::setsid();
        libc::mlockall(libc::MCL_CURRENT);
        // Whatever else was open is not to be held open: locks, pipes, this pipe's other end.
        let mut from = 0;
        for descriptor in keep {
            if *descriptor > from {
                libc::close_range(unsigned(from), unsigned(*descriptor - 1), 0);
            }
            from = *descriptor + 1;
        }
        libc::close_range(unsigned(from), libc::c_uint::MAX, 0);
        let end = milliseconds() + limit;
        let mut is_frozen = [false; MOST];
        loop {
            let left = (end - milliseconds()).max(0);
            let wait = if left == 0 { AGAIN } else { left.min(i64::from(i32::MAX)) };
            let mut poll = libc::pollfd { fd: pipe, events: libc::POLLIN, revents: 0 };
            let ready = libc::poll(&raw mut poll, 1, libc::c_int::try_from(wait).unwrap_or(0));
            let mut byte = 0_u8;
            let is_told = ready > 0 && libc::read(pipe, (&raw mut byte).cast(), 1) > 0;
            if is_told && byte == OVER {
                libc::_exit(0);
            }
            if let Some(frozen) = is_frozen.get_mut(usize::from(byte % NOT_OURS))
                && is_told
            {
                *frozen = byte < NOT_OURS;
            }
            let is_alone = ready > 0 && !is_told;
            if is_alone || milliseconds() >= end {
                for (descriptor, frozen) in descriptors.iter().zip(&mut is_frozen) {
                    *frozen = *frozen && raw::fithaw(*descriptor, 0).is_err();
                }
            }
            if is_alone {
                libc::_exit(0)
            }
        }
    }
}

fn unsigned(descriptor: RawFd) -> libc::c_uint {
    libc::c_uint::try_from(descriptor).unwrap_or(0)
}

/// A clock that only goes forward.
fn milliseconds() -> i64 {
    let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the kernel fills in the structure that it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) };
    now.tv_sec * 1000 + now.tv_nsec / 1_000_000
}
