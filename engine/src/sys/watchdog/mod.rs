//! The watchdog: a process beside a capture that freezes and thaws filesystems and runs the hooks
//! around that, when it is asked to. When the capture ends, however it does, the watchdog thaws
//! what is frozen, ends a hook that hangs, and runs the hook after if the one before ran.
//!
//! What has to be undone is known where it was done: the process that knows that a freeze succeeded
//! is the one that has to thaw. Should the watchdog be killed, the capture thaws, by the page
//! that both see.
#![allow(unsafe_code)]

mod process;
mod shared;
mod shelter;

use std::env;
use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, fork};

use self::process::{Program, Setup};
use self::shared::{ASKED, FREEZE, FROZEN, NONE, OWE, POST, PRE, READY, STOP, THAW, THAWED_ALL};
use self::shared::{SharedPage, THAWING, decode, encode};
use self::shelter::Groups;
use crate::base::{Error, ErrorContext, ErrorKind, Result};

pub use self::shared::MOST;
pub use self::shelter::Exposed;

/// How often a waiting process looks whether it is still to wait.
const TICK: Duration = Duration::from_millis(50);
/// How much later than it has to the watchdog may answer.
const SLACK: Duration = Duration::from_secs(10);

/// The lines to the watchdogs of this process.
static LINES: Mutex<Vec<(Pid, UnixStream)>> = Mutex::new(Vec::new());

/// Commands that the shell runs around a freeze.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hooks {
    /// The one before.
    pub pre: Option<String>,
    /// The one after, which is run if the one before was started.
    pub post: Option<String>,
}

/// One of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// The one before.
    Pre,
    /// The one after.
    Post,
}

/// How a hook ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookEnd {
    /// By itself.
    Exited(ExitStatus),
    /// It was made to, because it took too long or was no longer wanted.
    Stopped,
    /// The shell could not be started.
    NotStarted,
}

/// A process beside this one. Dropped, it does what it owes and ends.
pub struct Watchdog {
    line: UnixStream,
    process: Pid,
    is_reaped: AtomicBool,
    page: SharedPage,
    points: Vec<RawFd>,
    exposed: Option<Exposed>,
}

impl Watchdog {
    /// Starts one for the filesystems of these descriptors, which must stay open as long as it is
    /// there. `owes` says that the hook before has run already.
    ///
    /// # Errors
    /// `Limit` for too many; `Io`; `Invalid` for a hook with a zero in it.
    pub fn start(points: Vec<RawFd>, hooks: &Hooks, owes: bool) -> Result<Self> {
        if points.len() > MOST {
            let context = format!("{} mounted filesystems, at most {MOST}", points.len());
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let (line, other) = UnixStream::pair().context(|| "a line to the watchdog")?;
        line.set_read_timeout(Some(TICK)).context(|| "a line to the watchdog")?;
        let null = File::open("/dev/null").context(|| "open /dev/null")?;
        let page = SharedPage::new()?;
        let groups = Groups::find();
        let homes = groups.homes();
        let home_descriptors: Vec<RawFd> = homes.iter().map(AsRawFd::as_raw_fd).collect();
        let ordinary = shelter::ordinary_score();
        let environment: Vec<CString> = env::vars_os()
            .filter_map(|(name, value)| {
                CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()
            })
            .collect();
        let commands = [&hooks.pre, &hooks.post].map(|hook| hook.as_deref().map(command));
        let [pre, post] = commands;
        let commands = [pre.transpose()?, post.transpose()?];
        let programs =
            commands.each_ref().map(|one| one.as_ref().map(|one| program(one, &environment)));
        let setup = Setup {
            line: other.as_raw_fd(),
            null: null.as_raw_fd(),
            points: &points,
            homes: &home_descriptors,
            ordinary: ordinary.as_bytes(),
            shared: page.get(),
            hooks: programs.each_ref().map(Option::as_ref),
        };
        // Standard error is the hooks'.
        let mut keep = vec![2, setup.line, setup.null];
        keep.extend(points.iter().chain(&home_descriptors));
        keep.sort_unstable();
        // SAFETY: the child does nothing but async-signal-safe calls on memory that it has, and
        // ends by _exit: no lock that another thread held, and no allocation, is met there.
        let process = match unsafe { fork() }.context(|| "fork a watchdog")? {
            ForkResult::Parent { child } => child,
            ForkResult::Child => process::run(&setup, &keep),
        };
        drop(other);
        let exposed = groups.leave(process).err();
        if let Ok(line) = line.try_clone() {
            lines().push((process, line));
        }
        let this = Self { line, process, is_reaped: AtomicBool::new(false), page, points, exposed };
        if owes {
            this.tell(OWE, 0)?;
        }
        // No freeze is to wait for that.
        this.hear(READY, Some(SLACK), &mut || {})?;
        Ok(this)
    }

    /// What could kill it together with this process; nothing if it is safe.
    #[must_use]
    pub fn exposed(&self) -> Option<&Exposed> {
        self.exposed.as_ref()
    }

    /// Whether it was killed.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        if self.is_reaped.load(Ordering::Relaxed) {
            return true;
        }
        let waited = waitpid(self.process, Some(WaitPidFlag::WNOHANG));
        let is_gone = !matches!(waited, Ok(WaitStatus::StillAlive));
        self.is_reaped.store(is_gone, Ordering::Relaxed);
        is_gone
    }

    /// Freezes all filesystems, for `limit` at most, and says of each, in order, whether it did.
    ///
    /// # Errors
    /// `Unsupported` where the watchdog is [exposed](Self::exposed); `Io` if it was killed; `Limit`
    /// where a filesystem has not yet become frozen when the time is over. Nothing stays frozen.
    pub fn freeze(&self, limit: Duration) -> Result<Vec<std::result::Result<(), Errno>>> {
        if let Some(exposed) = &self.exposed {
            return Err(Error::new(ErrorKind::Unsupported, exposed.to_string()));
        }
        let milliseconds = i64::try_from(limit.as_millis()).unwrap_or(i64::MAX / 2);
        self.tell(FREEZE, milliseconds)?;
        let answer = self.hear(FREEZE, Some(limit.saturating_add(SLACK)), &mut || {});
        let Ok(is_done) = answer else {
            self.thaw_itself();
            return answer.map(|_| Vec::new());
        };
        let states = self.page.get().states.iter().take(self.points.len());
        let states: Vec<i32> = states.map(|state| state.load(Ordering::SeqCst)).collect();
        if is_done == 0 || states.iter().any(|state| matches!(*state, shared::WAITING | ASKED)) {
            self.thaw();
            let context = format!("a filesystem was not frozen within {} ms", limit.as_millis());
            return Err(Error::new(ErrorKind::Limit, context));
        }
        // What was thawed already will be told by the thaw.
        let outcome = |state: i32| if state < 0 { Err(Errno::from_raw(-state)) } else { Ok(()) };
        Ok(states.into_iter().map(outcome).collect())
    }

    /// Thaws what is frozen; says whether all of it was frozen until now.
    pub fn thaw(&self) -> bool {
        let told = self.tell(THAW, 0);
        let answer = told.and_then(|()| self.hear(THAWED_ALL, Some(SLACK), &mut || {}));
        answer.map_or_else(
            |_gone| {
                self.thaw_itself();
                false
            },
            |is_whole| is_whole != 0,
        )
    }

    /// Thaws without the watchdog, which was killed.
    fn thaw_itself(&self) {
        let since = Instant::now();
        loop {
            let mut is_freezing = false;
            for (state, point) in self.page.get().states.iter().zip(&self.points) {
                match state.load(Ordering::SeqCst) {
                    ASKED => is_freezing = true,
                    FROZEN | THAWING if process::thaw(*point) != Err(Errno::EINTR) => {
                        state.store(shared::THAWED, Ordering::SeqCst);
                    }
                    FROZEN | THAWING => is_freezing = true,
                    _ => {}
                }
            }
            if !is_freezing || since.elapsed() > SLACK {
                return;
            }
            thread::sleep(TICK);
        }
    }

    /// Runs a hook until it ends, for `limit` at most, and while it `is_wanted`: then it is made to
    /// end. Without such a hook nothing is run, but the other is owed as if it had.
    ///
    /// # Errors
    /// `Io` if the watchdog was killed.
    pub fn run_hook(
        &self,
        hook: Hook,
        limit: Duration,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<HookEnd>> {
        let order = if hook == Hook::Pre { PRE } else { POST };
        self.tell(order, i64::try_from(limit.as_millis()).unwrap_or(i64::MAX / 2))?;
        let mut is_told = false;
        let status = self.hear(order, None, &mut || {
            if !is_told && !is_wanted() {
                // If it is gone, that is heard.
                is_told = self.tell(STOP, 0).is_ok();
            }
        })?;
        Ok(match i32::try_from(status) {
            Ok(NONE) => None,
            Ok(status) if status >= 0 => Some(HookEnd::Exited(ExitStatus::from_raw(status))),
            Ok(_) => Some(HookEnd::NotStarted),
            Err(_) => Some(HookEnd::Stopped),
        })
    }

    /// Has it do what it owes and end, and waits for that, though not for ever.
    pub fn end(&self) {
        finish(&self.line, Duration::from_millis(shared::HASTE.unsigned_abs()) + SLACK);
    }

    /// Whether the hook after was started, be it by this process's wish or not.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.page.get().has_ended.load(Ordering::SeqCst)
    }

    fn tell(&self, order: i64, value: i64) -> Result<()> {
        (&self.line).write_all(&encode(order, value)).context(gone)
    }

    /// Waits for the answer to an order; now and then `meanwhile` is called.
    fn hear(
        &self,
        order: i64,
        limit: Option<Duration>,
        meanwhile: &mut dyn FnMut(),
    ) -> Result<i64> {
        let since = Instant::now();
        loop {
            let mut message = [0; 16];
            match (&self.line).read_exact(&mut message) {
                Ok(()) => match decode(message) {
                    (kind, value) if kind == order => return Ok(value),
                    // To an order whose answer was late.
                    _ => continue,
                },
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(Error::io(gone(), error)),
            }
            if limit.is_some_and(|limit| since.elapsed() > limit) {
                return Err(Error::io(
                    "the watchdog of the freeze",
                    io::ErrorKind::TimedOut.into(),
                ));
            }
            meanwhile();
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let limit = Duration::from_millis(shared::HASTE.unsigned_abs()) + SLACK;
        let is_over = finish(&self.line, limit);
        lines().retain(|(process, _)| *process != self.process);
        if is_over {
            if !self.is_reaped.load(Ordering::Relaxed) {
                let _reaped = waitpid(self.process, None);
            }
            // If it was killed.
            self.thaw_itself();
        }
    }
}

/// Has the watchdogs of this process do at once what they owe, as if it had ended, and waits for
/// them, `limit` at most. For who ends the process without going back.
pub fn abandon(limit: Duration) {
    let since = Instant::now();
    let lines: Vec<UnixStream> =
        lines().iter().filter_map(|(_, line)| line.try_clone().ok()).collect();
    for line in lines {
        finish(&line, limit.saturating_sub(since.elapsed()));
    }
}

/// Ends the line to a watchdog and waits until it has ended; returns whether it did within `limit`.
fn finish(line: &UnixStream, limit: Duration) -> bool {
    // A second time, and if it is gone already, there is nothing to be told.
    let _told = line.shutdown(Shutdown::Write);
    let since = Instant::now();
    loop {
        match (&*line).read(&mut [0; 16]) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if is_timeout(&error) => {}
            Err(_) => return true,
        }
        if since.elapsed() > limit {
            return false;
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), WouldBlock | TimedOut | Interrupted)
}

fn gone() -> &'static str {
    "the watchdog of the freeze is gone"
}

fn lines() -> MutexGuard<'static, Vec<(Pid, UnixStream)>> {
    LINES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The shell's arguments.
fn command(hook: &str) -> Result<[CString; 3]> {
    let invalid = |_| Error::new(ErrorKind::Invalid, "a hook with a zero byte in it");
    Ok([c"sh".to_owned(), c"-c".to_owned(), CString::new(hook).map_err(invalid)?])
}

fn program(arguments: &[CString], environment: &[CString]) -> Program {
    let pointers = |texts: &[CString]| {
        let pointers = texts.iter().map(|text| text.as_ptr());
        pointers.chain([std::ptr::null()]).collect()
    };
    Program { arguments: pointers(arguments), environment: pointers(environment) }
}
