//! Freezing mounted filesystems for a moment (`FIFREEZE` and `FITHAW` of `linux/fs.h`).
//!
//! A frozen filesystem blocks whoever writes to it, for ever if nobody thaws it, and a process
//! that is killed does not. So it is another process, the [watchdog](super::watchdog), that
//! freezes, and thaws when it is asked to, when this one ends, or when the time is over. Where the
//! two could be killed together, nothing is frozen.

use std::fs::{self, File};
use std::os::fd::{AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::errno::Errno;

use super::mounts::Mount;
use super::watchdog::{Exposed, Hook, HookEnd, Hooks, MOST, Watchdog};
use crate::base::{Error, ErrorContext, ErrorKind, Result};

/// Filesystems that are about to be frozen: opened.
pub struct Freezer {
    points: Vec<(PathBuf, File)>,
    hooks: Hooks,
    /// Whether the hook before was started, and the one after was not.
    owes: AtomicBool,
    /// From the first need until this is dropped.
    watchdog: Mutex<Option<Arc<Watchdog>>>,
}

/// Filesystems that are frozen, until this is thawed or dropped.
pub struct Frozen {
    watchdog: Arc<Watchdog>,
    refused: Vec<Refused>,
    is_thawed: bool,
}

/// A filesystem that was not frozen with the others.
#[derive(Debug)]
pub struct Refused {
    /// Where it is mounted, as [`Mount::path`] says it.
    pub point: PathBuf,
    /// Why; `Conflict` when somebody else has frozen it.
    pub error: Error,
}

impl Freezer {
    /// Opens the filesystems mounted at `mounts`.
    ///
    /// # Errors
    /// `Limit` for too many; `Conflict` where another filesystem hides one; `Io`.
    pub fn open(mounts: &[Mount]) -> Result<Self> {
        Self::with_hooks(mounts, Hooks::default())
    }

    /// The same, with commands that are to run around a freeze.
    ///
    /// # Errors
    /// As those of [`open`](Self::open).
    pub fn with_hooks(mounts: &[Mount], hooks: Hooks) -> Result<Self> {
        if mounts.len() > MOST {
            let context = format!("{} mounted filesystems, at most {MOST}", mounts.len());
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let points = mounts.iter().map(open).collect::<Result<_>>()?;
        let (owes, watchdog) = (AtomicBool::new(false), Mutex::new(None));
        Ok(Self { points, hooks, owes, watchdog })
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

    /// Why nothing can be frozen here, if that is so: who thaws could be killed together with this
    /// process.
    ///
    /// # Errors
    /// `Io` if the watchdog cannot be started.
    pub fn exposed(&self) -> Result<Option<Exposed>> {
        Ok(self.watchdog()?.exposed().cloned())
    }

    /// Freezes all of them, for `limit` at most: at the same time, since each takes several of the
    /// kernel's grace periods.
    ///
    /// # Errors
    /// `Conflict` when another freezes one already; `Unsupported` where that is not
    /// [safe](Self::exposed); `Limit` when the time did not suffice; `Io`. Nothing stays frozen
    /// then.
    pub fn freeze(&self, limit: Duration) -> Result<Frozen> {
        let mut frozen = self.freeze_what_can_be(limit)?;
        match frozen.refused.pop() {
            Some(refused) => Err(refused.error),
            None => Ok(frozen),
        }
    }

    /// Freezes those that can be; the others are [told](Frozen::refused).
    ///
    /// # Errors
    /// As those of [`freeze`](Self::freeze), but for what one filesystem refuses.
    pub fn freeze_what_can_be(&self, limit: Duration) -> Result<Frozen> {
        let watchdog = self.watchdog()?;
        let outcomes = watchdog.freeze(limit)?;
        let refused =
            |((point, _), outcome): (&(PathBuf, File), std::result::Result<(), Errno>)| {
                let error = refusal(point, outcome.err()?);
                Some(Refused { point: point.clone(), error })
            };
        let refused = self.points.iter().zip(outcomes).filter_map(refused).collect();
        Ok(Frozen { watchdog, refused, is_thawed: false })
    }

    /// Runs a hook, if there is one, until it ends: for `limit` at most, and while it `is_wanted`;
    /// then it is made to end. Whatever becomes of this process, the one after is run if the one
    /// before was started.
    ///
    /// # Errors
    /// `Io` if the watchdog cannot be started, or was killed meanwhile.
    pub fn run_hook(
        &self,
        hook: Hook,
        limit: Duration,
        is_wanted: &dyn Fn() -> bool,
    ) -> Result<Option<HookEnd>> {
        if self.hooks == Hooks::default() {
            return Ok(None);
        }
        let watchdog = self.watchdog()?;
        if hook == Hook::Pre {
            self.owes.store(true, Ordering::Relaxed);
        }
        let mut end = watchdog.run_hook(hook, limit, is_wanted);
        if hook == Hook::Post && end.is_err() {
            // It was killed: before it could, or after. It is no longer asked, and what it does
            // nonetheless it has done when it is gone.
            self.watchdog.lock().unwrap_or_else(PoisonError::into_inner).take();
            watchdog.end();
            if !watchdog.has_ended() {
                end = self.watchdog()?.run_hook(hook, limit, is_wanted);
            }
        }
        if hook == Hook::Post || matches!(end, Ok(Some(HookEnd::NotStarted))) {
            self.owes.store(false, Ordering::Relaxed);
        }
        end
    }

    /// The hooks.
    #[must_use]
    pub fn hooks(&self) -> &Hooks {
        &self.hooks
    }

    /// Whether the hook after is still to run, because the one before was started.
    #[must_use]
    pub fn owes(&self) -> bool {
        self.owes.load(Ordering::Relaxed)
    }

    /// The watchdog; another one if it was killed.
    fn watchdog(&self) -> Result<Arc<Watchdog>> {
        let mut watchdog = self.watchdog.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watchdog) = watchdog.as_ref().filter(|watchdog| !watchdog.is_gone()) {
            return Ok(Arc::clone(watchdog));
        }
        let points: Vec<RawFd> = self.points.iter().map(|(_, file)| file.as_raw_fd()).collect();
        let new = Watchdog::start(points, &self.hooks, self.owes.load(Ordering::Relaxed))?;
        Ok(Arc::clone(watchdog.insert(Arc::new(new))))
    }
}

fn open(mount: &Mount) -> Result<(PathBuf, File)> {
    let path = mount.path();
    let shown = path.display();
    let file = File::open(&path).context(|| format!("open {shown}"))?;
    // proc_pid_fdinfo(5). A filesystem's device number would not do: btrfs has several.
    let said = fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd()));
    let said = said.context(|| format!("look at {shown}"))?;
    let id = said.lines().find_map(|line| line.strip_prefix("mnt_id:"));
    if id.is_none_or(|id| id.trim() != mount.id) {
        let context = format!("{shown} is hidden by another filesystem mounted there");
        return Err(Error::new(ErrorKind::Conflict, context));
    }
    Ok((path, file))
}

fn refusal(point: &Path, error: Errno) -> Error {
    let shown = point.display();
    match error {
        Errno::EBUSY => {
            Error::new(ErrorKind::Conflict, format!("{shown} is frozen by somebody else"))
        }
        error => Error::io(format!("freeze {shown}"), error.into()),
    }
}

impl Frozen {
    /// Filesystems that are not frozen, and why.
    #[must_use]
    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// Thaws everything; says whether all that was frozen was so until now.
    #[must_use]
    pub fn thaw(mut self) -> bool {
        self.is_thawed = true;
        self.watchdog.thaw()
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        if !self.is_thawed {
            self.watchdog.thaw();
        }
    }
}
