//! What every command shares: the console, the repository, and the wish to stop.

use std::env;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use imgx_engine::base::{Error, ErrorKind, Event, Observer, Result};
use imgx_engine::store::Repository;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

use crate::args::Common;
use crate::output::Console;

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
    /// Done, but for what could not be kept where it went.
    NotKept,
}

/// One run of the program.
#[derive(Debug)]
pub struct Session {
    /// Where everything is printed.
    pub console: Console,
    repo: Option<PathBuf>,
    stop: Stop,
}

impl Session {
    /// The session that the common options ask for.
    pub fn new(common: &Common) -> Self {
        Self { console: Console::new(common), repo: common.repo.clone(), stop: Stop::default() }
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

    /// Opens the repository.
    ///
    /// # Errors
    /// `Invalid` when none was named; those of [`Repository::open`].
    pub fn repository(&self) -> Result<Repository> {
        Ok(Repository::open(&self.repository_path()?)?.with_cache(&cache_folder()))
    }

    /// Has SIGINT and SIGTERM stop a job where it safely can; the second one ends the program at
    /// once. Commands that do not call this are simply killed, as they change nothing.
    ///
    /// # Errors
    /// `Io` when the system refuses the handlers.
    pub fn stop_on_signals(&self) -> Result<Stop> {
        let register = || -> io::Result<()> {
            for signal in [SIGINT, SIGTERM] {
                flag::register_conditional_shutdown(signal, 130, Arc::clone(&self.stop.flag))?;
                flag::register(signal, Arc::clone(&self.stop.flag))?;
            }
            Ok(())
        };
        register().map_err(|error| Error::io("handle signals", error))?;
        Ok(self.stop.clone())
    }
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
