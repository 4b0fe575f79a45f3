//! Freezing mounted filesystems for a moment (`FIFREEZE` and `FITHAW` of `linux/fs.h`).
//!
//! A frozen filesystem blocks whoever writes to it, for ever if nobody thaws it, and a process
//! that is killed does not. So another process, forked before the first freeze, waits beside this
//! one, and thaws when this one ends, however it does, or when the time is over.
#![allow(unsafe_code)]

use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
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
    freezer: &'a Freezer,
    count: usize,
    watchdog: Option<Watchdog>,
}

impl Freezer {
    /// Opens the filesystems mounted at `mounts`, to be frozen in this order.
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
            let file = File::open(&mount.point).context(|| format!("open {shown}"))?;
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

    /// Freezes all of them, for `limit` at most.
    ///
    /// # Errors
    /// `Conflict` when another freezes one already; `Io`. Nothing stays frozen then.
    pub fn freeze(&self, limit: Duration) -> Result<Frozen<'_>> {
        let descriptors: Vec<RawFd> =
            self.points.iter().map(|(_, file)| file.as_raw_fd()).collect();
        let watchdog = Watchdog::start(&descriptors, limit)?;
        let mut frozen = Frozen { freezer: self, count: 0, watchdog: Some(watchdog) };
        for (number, (point, file)) in (0_u8..).zip(&self.points) {
            frozen.tell(number)?;
            // SAFETY: the descriptor is open, and the argument is not looked at.
            if let Err(error) = unsafe { raw::fifreeze(file.as_raw_fd(), 0) } {
                frozen.tell(number + NOT_OURS)?;
                let shown = point.display();
                return Err(match error {
                    Errno::EBUSY => {
                        let context = format!("{shown} is frozen by somebody else");
                        Error::new(ErrorKind::Conflict, context)
                    }
                    error => Error::io(format!("freeze {shown}"), error.into()),
                });
            }
            frozen.count += 1;
        }
        Ok(frozen)
    }
}

impl Frozen<'_> {
    fn tell(&self, byte: u8) -> Result<()> {
        let Some(watchdog) = &self.watchdog else { return Ok(()) };
        let written = nix::unistd::write(&watchdog.pipe, &[byte]);
        written.map(drop).context(|| "the watchdog of the freeze is gone")
    }

    /// Thaws everything; says whether all of it was frozen until now.
    #[must_use]
    pub fn thaw(mut self) -> bool {
        self.end()
    }

    fn end(&mut self) -> bool {
        let mut is_whole = true;
        for (_, file) in self.freezer.points.iter().take(self.count).rev() {
            // SAFETY: as for freezing. What the watchdog thawed is no longer frozen (EINVAL).
            is_whole &= unsafe { raw::fithaw(file.as_raw_fd(), 0) }.is_ok();
        }
        self.count = 0;
        if let Some(watchdog) = self.watchdog.take() {
            watchdog.end();
        }
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
    process: Pid,
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
            ForkResult::Parent { child } => Ok(Self { pipe: write, process: child }),
            ForkResult::Child => watch(read.as_raw_fd(), descriptors, &keep, limit),
        }
    }

    fn end(self) {
        // If it is gone, it has nothing more to do either.
        let _told = nix::unistd::write(&self.pipe, &[OVER]);
        drop(self.pipe);
        let _reaped = waitpid(self.process, None);
    }
}

/// What the watchdog does: waits for the pipe to say that all is over, or to end, or for the time
/// to be over, and thaws what is frozen.
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
            let left = (end - milliseconds()).clamp(0, i64::from(i32::MAX));
            let mut poll = libc::pollfd { fd: pipe, events: libc::POLLIN, revents: 0 };
            let ready = libc::poll(&raw mut poll, 1, libc::c_int::try_from(left).unwrap_or(0));
            let mut byte = 0_u8;
            if ready <= 0 || libc::read(pipe, (&raw mut byte).cast(), 1) <= 0 {
                break;
            }
            if byte == OVER {
                libc::_exit(0);
            }
            let number = usize::from(byte % NOT_OURS);
            if let Some(frozen) = is_frozen.get_mut(number) {
                *frozen = byte < NOT_OURS;
            }
        }
        for (descriptor, _) in descriptors.iter().zip(&is_frozen).filter(|(_, frozen)| **frozen) {
            let _not_frozen_any_more = raw::fithaw(*descriptor, 0);
        }
        libc::_exit(0)
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
