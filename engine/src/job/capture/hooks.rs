//! The commands that a user has run around a freeze.
//!
//! Once the one before was started, the one after is run, whatever becomes of what lies between:
//! half of a lock may be taken even by a command that failed. The watchdog does it for a process
//! that was killed.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::base::limits::{HOOK_SECONDS, LAST_HOOK_SECONDS};
use crate::base::{Error, ErrorKind, Observer, Result};
use crate::sys::freeze::Freezer;
use crate::sys::watchdog::{Hook, HookEnd};

/// What came of work between hooks.
pub struct Done<T> {
    /// The work's own outcome.
    pub work: T,
    /// Why the hook after did not do what it should, if it did not.
    pub failure: Option<String>,
}

/// Runs the freezer's hooks around `work`.
///
/// # Errors
/// `Conflict` when the hook before fails; `Cancelled`; those of `work`. A failure of the hook after
/// is told with those, or beside the work's outcome.
pub fn with_hooks<T>(
    freezer: &Freezer,
    observer: &dyn Observer,
    work: impl FnOnce() -> Result<T>,
) -> Result<Done<T>> {
    if observer.cancelled() {
        return Err(Error::cancelled());
    }
    let work = before(freezer, observer).and_then(|()| work());
    let failure = if freezer.owes() { after(freezer, observer) } else { None };
    match (work, failure) {
        (Ok(work), failure) => Ok(Done { work, failure }),
        (Err(error), None) => Err(error),
        (Err(error), Some(failure)) => Err(error.within(failure)),
    }
}

fn before(freezer: &Freezer, observer: &dyn Observer) -> Result<()> {
    let limit = Duration::from_secs(HOOK_SECONDS);
    let end = freezer.run_hook(Hook::Pre, limit, &|| !observer.cancelled())?;
    match problem(end) {
        _ if observer.cancelled() => Err(Error::cancelled()),
        Some(problem) => {
            let hook = freezer.hooks().pre.as_deref().unwrap_or_default();
            let context = format!("the hook '{hook}' before the freeze {problem}");
            Err(Error::new(ErrorKind::Conflict, context))
        }
        None => Ok(()),
    }
}

/// Why the hook after was of no use, if so. Whoever cancels waits for it, if not for long.
fn after(freezer: &Freezer, observer: &dyn Observer) -> Option<String> {
    let (limit, last) = (HOOK_SECONDS, Duration::from_secs(LAST_HOOK_SECONDS));
    let cancelled = Cell::new(None);
    let is_wanted = || {
        if observer.cancelled() && cancelled.get().is_none() {
            cancelled.set(Some(Instant::now()));
        }
        cancelled.get().is_none_or(|since: Instant| since.elapsed() < last)
    };
    let end = freezer.run_hook(Hook::Post, Duration::from_secs(limit), &is_wanted);
    let problem = end.map_or_else(|error| Some(format!("is unknown: {error}")), problem)?;
    let hook = freezer.hooks().post.as_deref().unwrap_or_default();
    Some(format!("the hook '{hook}' after the freeze {problem}"))
}

fn problem(end: Option<HookEnd>) -> Option<String> {
    match end? {
        HookEnd::Exited(status) if status.success() => None,
        HookEnd::Exited(status) => Some(format!("failed: {status}")),
        HookEnd::Stopped => Some("was made to end".to_owned()),
        HookEnd::NotStarted => Some("could not be started".to_owned()),
    }
}
