//! What every command shares: the console, the repository, and the wish to stop.

use std::collections::HashSet;
use std::env;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{fs, process, thread};

use imgx_engine::base::{Error, ErrorKind, Event, Observer, Result};
use imgx_engine::store::Repository;
use imgx_engine::sys::watchdog;
use serde_json::json;
use signal_hook::consts::{SIGALRM, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::consts::{SIGXCPU, SIGXFSZ};
use signal_hook::flag;
use signal_hook::iterator::Signals;

use crate::INTERRUPTED;
use crate::args::Common;
use crate::output::Console;

/// Signals that end a program that does not expect them, besides SIGHUP. Standard output that
/// nobody reads any more (SIGPIPE) ends no job.
const ENDING: [i32; 7] = [SIGINT, SIGTERM, SIGQUIT, SIGALRM, SIGUSR1, SIGUSR2, SIGXCPU];

/// How long the second signal waits for what has to be undone.
const LAST_WAIT: Duration = Duration::from_secs(10);

/// How a command ended that did not fail outright.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// All is well.
    Done,
    /// What was to be shown turned out wrong.
    Failed,
    /// Damage was found.
    Damaged,
    /// Done, but for sectors that could not be read.
    Unreadable,
    /// Done, but for what could not be kept where it went: attributes, names.
    NotKept,
}

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    /// Where everything is printed.
    pub console: Console,
    repo: Option<PathBuf>,
    stop: Stop,
    is_target_touched: AtomicBool,
    prints_events: AtomicBool,
    /// What of the repository is in doubt, and was told.
    doubts: Mutex<HashSet<String>>,
}

impl Session {
    /// The session that the common options ask for.
    pub fn new(common: &Common) -> Self {
        Self {
            console: Console::new(common),
            repo: common.repo.clone(),
            stop: Stop::default(),
            is_target_touched: AtomicBool::new(false),
            prints_events: AtomicBool::new(false),
            doubts: Mutex::default(),
        }
    }

    /// The repository's directory.
    ///
    /// # Errors
    /// `Invalid` when none was named.
    pub fn repository_path(&self) -> Result<PathBuf> {
        self.repo.clone().ok_or_else(|| {
            Error::new(ErrorKind::Invalid, "no repository: name it with --repo or in IMGX_REPO")
        })
    }

    /// From now on the target of a restore is written.
    pub fn writes_to_target(&self) {
        self.is_target_touched.store(true, Ordering::Relaxed);
    }

    /// Whether the target of a restore may have been written.
    pub fn is_target_touched(&self) -> bool {
        self.is_target_touched.load(Ordering::Relaxed)
    }

    /// From now on what is printed as JSON is events, a line each, and no document.
    pub fn prints_events(&self) {
        self.prints_events.store(true, Ordering::Relaxed);
    }

    /// Opens the repository.
    ///
    /// # Errors
    /// `Invalid` when none was named; those of [`Repository::open`].
    pub fn repository(&self) -> Result<Repository> {
        Ok(Repository::open(&self.repository_path()?)?.with_cache(&cache_folder()))
    }

    /// Has every signal that would end the program stop a job where it safely can. The second one
    /// ends the program: what is frozen is thawed before, and a hook that is owed run. Commands
    /// that do not call this are simply killed, as they change nothing.
    ///
    /// # Errors
    /// `Io` when the system refuses the handlers.
    pub fn stop_on_signals(&self) -> Result<Stop> {
        self.register().map_err(|error| Error::io("handle signals", error))?;
        Ok(self.stop.clone())
    }

    fn register(&self) -> io::Result<()> {
        // A write beyond the limit of a file's size fails then, and says so.
        flag::register(SIGXFSZ, Arc::default())?;
        let mut ending = ENDING.to_vec();
        if !is_ignored(SIGHUP) {
            ending.push(SIGHUP);
        }
        let mut signals = Signals::new(&ending)?;
        let flag = Arc::clone(&self.stop.flag);
        let listen = move || {
            for _ in signals.forever() {
                if flag.swap(true, Ordering::Relaxed) {
                    watchdog::abandon(LAST_WAIT);
                    process::exit(i32::from(INTERRUPTED));
                }
            }
        };
        if thread::Builder::new().name("signals".to_owned()).spawn(listen).is_err() {
            // No threads: the watchdog does what it has to when the program is gone.
            for signal in ending {
                let code = i32::from(INTERRUPTED);
                flag::register_conditional_shutdown(signal, code, Arc::clone(&self.stop.flag))?;
                flag::register(signal, Arc::clone(&self.stop.flag))?;
            }
        }
        Ok(())
    }
}

/// Tells what makes it doubtful which images are meant, each once; jobs have a
/// [`Reporter`](crate::progress::Reporter) for all that they tell.
impl Observer for Session {
    fn event(&self, event: &Event<'_>) {
        let Event::Doubt { message } = event else { return };
        let mut told = self.doubts.lock().unwrap_or_else(PoisonError::into_inner);
        if !told.insert((*message).to_owned()) {
            return;
        }
        match self.console.is_json() && self.prints_events.load(Ordering::Relaxed) {
            true => self.console.json(&json!({"event": "warning", "message": message})),
            false => self.console.complain(&format!("warning: {message}")),
        }
    }
}

/// Whether the program was started with this signal ignored, as `nohup` does: then it stays so.
fn is_ignored(signal: i32) -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}

/// Whether the user wants the run to stop. As an observer it hears nothing.
#[derive(Debug, Clone, Default)]
pub struct Stop {
    flag: Arc<AtomicBool>,
}

impl Stop {
    /// Whether the run is to stop.
    pub fn is_wanted(&self) -> bool {
        self.flag.load(Ordering::Relaxed)
    }

    /// Ends the run here if that is wanted.
    ///
    /// # Errors
    /// `Cancelled`.
    pub fn check(&self) -> Result<()> {
        if self.is_wanted() { Err(Error::cancelled()) } else { Ok(()) }
    }
}

impl Observer for Stop {
    fn event(&self, _event: &Event<'_>) {}

    fn cancelled(&self) -> bool {
        self.is_wanted()
    }
}

/// Where the index's caches are kept.
fn cache_folder() -> PathBuf {
    let folder = |name| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    folder("IMGX_CACHE_DIR")
        .or_else(|| folder("XDG_CACHE_HOME").map(|caches| caches.join("imgx")))
        .or_else(|| folder("HOME").map(|home| home.join(".cache/imgx")))
        .unwrap_or_else(|| PathBuf::from("/var/cache/imgx"))
}
