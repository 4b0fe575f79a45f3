//! What the watchdog does, in a process of its own.
//!
//! It was forked from a process with threads: it may call nothing but what is async-signal-safe,
//! so it takes no memory and no locks, and never panics. What it needs stands ready in [`Setup`].

use std::os::fd::RawFd;
use std::sync::atomic::Ordering;

use nix::libc::{self, c_char, c_int, c_void, pid_t};

use super::shared::{ASKED, FROZEN, GRACE, HASTE, LOST, MOST, Shared, THAWED, THAWING, WAITING};
use super::shared::{
    FREEZE, NONE, NOT_STARTED, OWE, POST, PRE, READY, STOP, STOPPED, THAW, THAWED_ALL,
};
use super::shared::{Message, decode, encode, milliseconds};

/// Milliseconds between attempts to thaw what did not thaw.
const AGAIN: i64 = 10;

mod raw {
    nix::ioctl_write_int_bad!(fifreeze, nix::request_code_readwrite!(b'X', 119, size_of::<i32>()));
    nix::ioctl_write_int_bad!(fithaw, nix::request_code_readwrite!(b'X', 120, size_of::<i32>()));
}

/// Thaws the filesystem behind an open descriptor.
pub(super) fn thaw(descriptor: RawFd) -> nix::Result<()> {
    // SAFETY: the descriptor is open, and the argument is not looked at.
    unsafe { raw::fithaw(descriptor, 0) }.map(drop)
}

/// A command for `execve`: pointers to texts that live as long as the process.
pub(super) struct Program {
    pub arguments: Vec<*const c_char>,
    pub environment: Vec<*const c_char>,
}

/// What was made ready before the fork.
pub(super) struct Setup<'a> {
    /// To the process that it watches.
    pub line: RawFd,
    /// `/dev/null`, the hooks' standard input.
    pub null: RawFd,
    /// On the filesystems.
    pub points: &'a [RawFd],
    /// `cgroup.procs` of the groups that the watched process is in.
    pub homes: &'a [RawFd],
    /// What `oom_score_adj` is for anybody else, as the kernel takes it.
    pub ordinary: &'a [u8],
    pub shared: &'a Shared,
    /// The hook before and the one after.
    pub hooks: [Option<&'a Program>; 2],
}

/// A hook that runs.
#[derive(Clone, Copy)]
struct Running {
    process: pid_t,
    order: i64,
    /// When it is to have ended.
    end: i64,
    /// How often it was told to.
    told: i64,
}

/// The watchdog.
struct Process<'a> {
    setup: &'a Setup<'a>,
    /// Tells that a child ended.
    bell: RawFd,
    /// Those that freeze, by their filesystem.
    freezing: [pid_t; MOST],
    /// When all has to be thawed, while it is not.
    end: Option<i64>,
    /// Whether the time was over before all was thawed.
    is_late: bool,
    /// Whether the other waits for the outcome of a freeze.
    is_awaited: bool,
    hook: Option<Running>,
    /// Whether the hook before ran, and the one after did not.
    owes: bool,
    /// Whether the other has ended.
    is_alone: bool,
}

/// Serves until the other process has ended or closed the line, and all is thawed and done.
pub(super) fn run(setup: &Setup<'_>, keep: &[RawFd]) -> ! {
    // SAFETY: system calls on this process's own descriptors and memory; each is
    // async-signal-safe, and what fails makes the watchdog no worse.
    let bell = unsafe {
        let mut all: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
        // Where it is ignored, children vanish unseen.
        libc::signal(libc::SIGCHLD, libc::SIG_DFL);
        libc::setsid();
        libc::prctl(libc::PR_SET_NAME, c"thaw-watchdog".as_ptr());
        // As it is used: all of it would be a copy of the other process's memory.
        libc::mlockall(libc::MCL_CURRENT | libc::MCL_ONFAULT);
        // Whatever else was open is not to be held open: locks, pipes, the line's other end.
        let mut from = 0;
        for descriptor in keep {
            if *descriptor > from {
                libc::close_range(unsigned(from), unsigned(*descriptor - 1), 0);
            }
            from = *descriptor + 1;
        }
        libc::close_range(unsigned(from), libc::c_uint::MAX, 0);
        let mut child: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut child);
        libc::sigaddset(&raw mut child, libc::SIGCHLD);
        libc::signalfd(-1, &raw const child, libc::SFD_NONBLOCK | libc::SFD_CLOEXEC)
    };
    let mut process = Process {
        setup,
        bell,
        freezing: [0; MOST],
        end: None,
        is_late: false,
        is_awaited: false,
        hook: None,
        owes: false,
        is_alone: false,
    };
    process.answer(READY, 0);
    loop {
        process.wait();
        process.reap();
        process.watch_freeze();
        process.watch_hook();
        let is_idle = process.hook.is_none() && process.end.is_none();
        let is_over = process.is_alone && is_idle;
        if is_over && (!process.owes || process.start_hook(POST, HASTE).is_err()) {
            // SAFETY: ends this process and touches nothing of the other's.
            unsafe { libc::_exit(0) }
        }
    }
}

impl Process<'_> {
    /// Waits for an order, the end of a child or a time that is over, and obeys an order.
    fn wait(&mut self) {
        let again = |end: i64| if end <= milliseconds() { milliseconds() + AGAIN } else { end };
        let next = match (self.end.map(again), self.hook.map(|hook| hook.end)) {
            (Some(one), Some(other)) => Some(one.min(other)),
            (one, other) => one.or(other),
        };
        let most = i64::from(i32::MAX);
        let wait = next.map_or(most, |next| (next - milliseconds()).clamp(0, most));
        // Without a bell, children are looked for now and then.
        let wait = if self.bell < 0 { wait.min(AGAIN) } else { wait };
        let line = if self.is_alone { -1 } else { self.setup.line };
        let poll = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        let mut polled = [poll(line), poll(self.bell)];
        // SAFETY: two structures and two buffers of this function's, each with its length.
        let order = unsafe {
            let wait = c_int::try_from(wait).unwrap_or(c_int::MAX);
            libc::poll(polled.as_mut_ptr(), 2, wait);
            if polled[1].revents != 0 {
                let mut signal = [0_u8; 512];
                libc::read(self.bell, signal.as_mut_ptr().cast(), signal.len());
            }
            if polled[0].revents == 0 {
                return;
            }
            let mut message: Message = [0; 16];
            let length = libc::read(line, message.as_mut_ptr().cast(), message.len());
            usize::try_from(length).is_ok_and(|length| length == message.len()).then_some(message)
        };
        match order.map(decode) {
            Some((FREEZE, limit)) => self.freeze(limit),
            Some((THAW, _)) => {
                let is_whole = self.end.is_some() && !self.is_late;
                self.end = self.end.map(|_| milliseconds());
                let is_whole = self.thaw_all() && is_whole;
                self.answer(THAWED_ALL, i64::from(is_whole));
            }
            Some((order @ (PRE | POST), limit)) => {
                if let Err(why) = self.start_hook(order, limit) {
                    self.answer(order, i64::from(why));
                }
            }
            Some((STOP, _)) => self.stop_hook(milliseconds()),
            Some((OWE, _)) => self.owes = true,
            Some(_) => {}
            None => self.be_alone(),
        }
    }

    /// The other process is no more, or wants no more.
    fn be_alone(&mut self) {
        self.is_alone = true;
        let now = milliseconds();
        self.end = self.end.map(|_| now);
        let is_before = self.hook.is_some_and(|hook| hook.order == PRE);
        self.stop_hook(if is_before { now } else { now + HASTE });
    }

    fn answer(&self, kind: i64, value: i64) {
        let message = encode(kind, value);
        // SAFETY: a buffer with its length. Who is gone needs no answer.
        unsafe {
            let line = self.setup.line;
            libc::send(line, message.as_ptr().cast(), message.len(), libc::MSG_NOSIGNAL);
        }
    }

    /// Has a child for each filesystem freeze it, all at the same time.
    fn freeze(&mut self, limit: i64) {
        let is_busy = self.end.is_some() || self.freezing.iter().any(|child| *child != 0);
        if is_busy {
            return self.answer(FREEZE, 0);
        }
        (self.end, self.is_late, self.is_awaited) = (Some(milliseconds() + limit), false, true);
        let shared = self.setup.shared;
        let gate = shared.gate.load(Ordering::SeqCst);
        // SAFETY: getpid has no preconditions.
        let itself = unsafe { libc::getpid() };
        for (number, point) in self.setup.points.iter().enumerate() {
            let (Some(state), Some(child)) =
                (shared.states.get(number), self.freezing.get_mut(number))
            else {
                continue;
            };
            state.store(WAITING, Ordering::SeqCst);
            match fork_raw() {
                0 => {
                    if shared.pass(gate, itself) {
                        state.store(ASKED, Ordering::SeqCst);
                        // SAFETY: the descriptor is open, and the argument is not looked at.
                        let outcome = unsafe { raw::fifreeze(*point, 0) };
                        let outcome = outcome.map_or_else(|error| -(error as i32), |_| FROZEN);
                        state.store(outcome, Ordering::SeqCst);
                    }
                    // SAFETY: ends this child and touches nothing of the others'.
                    unsafe { libc::_exit(0) }
                }
                process if process > 0 => *child = process,
                _ => state.store(-libc::EAGAIN, Ordering::SeqCst),
            }
        }
        shared.open(gate);
    }

    /// Takes note of children that ended.
    fn reap(&mut self) {
        loop {
            let mut status: c_int = 0;
            // SAFETY: the kernel fills in the number that it is given.
            let process = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
            if process <= 0 {
                return;
            }
            if let Some(hook) = self.hook
                && hook.process == process
            {
                self.hook = None;
                let is_stopped = hook.told > 0;
                if is_stopped {
                    kill_group(process, libc::SIGKILL);
                }
                let stopped = if is_stopped { STOPPED } else { 0 };
                self.answer(hook.order, i64::from(status) | stopped);
                continue;
            }
            let child = self.freezing.iter().position(|child| *child == process);
            let Some(number) = child else { continue };
            if let Some(child) = self.freezing.get_mut(number) {
                *child = 0;
            }
            if let Some(state) = self.setup.shared.states.get(number) {
                // It was killed before it could tell. What is frozen for ever is worse.
                let end =
                    |from, to| state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
                let _ = end(ASKED, FROZEN).or_else(|_| end(WAITING, -libc::ESRCH));
            }
        }
    }

    /// Answers when all is frozen or was refused; thaws when the time is over.
    fn watch_freeze(&mut self) {
        let Some(end) = self.end else { return };
        let is_over = milliseconds() >= end;
        let is_freezing = self.freezing.iter().any(|child| *child != 0);
        if self.is_awaited && (is_over || !is_freezing) {
            self.is_awaited = false;
            self.answer(FREEZE, 1);
        }
        if is_over {
            self.is_late = true;
            let _by_anybody = self.thaw_all();
            let mut states = self.setup.shared.states.iter();
            let is_frozen = states.any(|state| state.load(Ordering::SeqCst) == FROZEN);
            if !is_frozen && !is_freezing {
                self.end = None;
            }
        }
    }

    /// Thaws what is frozen; returns whether nothing was thawed by anybody else.
    fn thaw_all(&self) -> bool {
        let states = self.setup.shared.states.iter();
        let mut is_ours = true;
        for (state, point) in states.zip(self.setup.points) {
            let to =
                |from, to| state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst);
            if to(FROZEN, THAWING).is_err() {
                is_ours &= state.load(Ordering::SeqCst) != LOST;
                continue;
            }
            let after = match thaw(*point) {
                Ok(()) => THAWED,
                Err(nix::errno::Errno::EINVAL) => LOST,
                Err(_) => FROZEN,
            };
            is_ours &= after == THAWED;
            state.store(after, Ordering::SeqCst);
        }
        is_ours
    }

    /// Starts a hook; or says why not.
    fn start_hook(&mut self, order: i64, limit: i64) -> Result<(), i32> {
        let is_before = order == PRE;
        let [first, second] = self.setup.hooks;
        let program = if is_before { first } else { second };
        self.owes = is_before && program.is_none();
        let program = program.ok_or(NONE)?;
        // Before, so that nobody runs it twice.
        self.setup.shared.has_ended.store(!is_before, Ordering::SeqCst);
        match fork_raw() {
            0 => self.become_hook(program, is_before),
            process if process > 0 => {
                // SAFETY: of a child of this process's, before it is reaped. The child does it too:
                // whoever is first.
                unsafe { libc::setpgid(process, process) };
                self.hook = Some(Running { process, order, end: milliseconds() + limit, told: 0 });
                self.owes = is_before;
                Ok(())
            }
            _ => Err(NOT_STARTED),
        }
    }

    fn become_hook(&self, program: &Program, before: bool) -> ! {
        // SAFETY: as for the watchdog; the pointers are to texts that end with a zero, in arrays
        // that end with a null, made before the first fork.
        unsafe {
            libc::setpgid(0, 0);
            let descriptor =
                libc::open(c"/proc/self/oom_score_adj".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
            let ordinary = self.setup.ordinary;
            libc::write(descriptor, ordinary.as_ptr().cast(), ordinary.len());
            // The hook after must not die with the others: it runs because they did.
            for home in self.setup.homes.iter().filter(|_| before) {
                libc::write(*home, c"0".as_ptr().cast::<c_void>(), 1);
            }
            libc::munlockall();
            libc::dup2(self.setup.null, 0);
            libc::dup2(2, 1);
            // Who listened to the one after may be gone: that must not end it.
            libc::signal(libc::SIGPIPE, if before { libc::SIG_DFL } else { libc::SIG_IGN });
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
            libc::execve(
                c"/bin/sh".as_ptr(),
                program.arguments.as_ptr(),
                program.environment.as_ptr(),
            );
            libc::_exit(127)
        }
    }

    /// Has the hook that runs end at `end` at the latest.
    fn stop_hook(&mut self, end: i64) {
        if let Some(hook) = &mut self.hook
            && hook.told == 0
        {
            hook.end = hook.end.min(end);
        }
    }

    /// Ends a hook whose time is over: asks, then insists, then leaves it.
    fn watch_hook(&mut self) {
        let Some(hook) = &mut self.hook else { return };
        if milliseconds() < hook.end {
            return;
        }
        hook.told += 1;
        hook.end = milliseconds() + GRACE;
        match hook.told {
            1 => kill_group(hook.process, libc::SIGTERM),
            2 => kill_group(hook.process, libc::SIGKILL),
            // The kernel does not let it go.
            _ => {
                let order = hook.order;
                self.hook = None;
                self.answer(order, STOPPED);
            }
        }
    }
}

/// Forks: zero in the child. The C library's own would take its locks.
fn fork_raw() -> pid_t {
    let flags = libc::c_long::from(libc::SIGCHLD);
    // SAFETY: without flags that share memory this is fork(2); the child has a copy of this stack.
    let process = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    pid_t::try_from(process).unwrap_or(-1)
}

fn kill_group(process: pid_t, signal: c_int) {
    // SAFETY: a signal to a group that this process made.
    unsafe { libc::kill(-process, signal) };
}

fn unsigned(descriptor: RawFd) -> libc::c_uint {
    libc::c_uint::try_from(descriptor).unwrap_or(0)
}
