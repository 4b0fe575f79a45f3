//! How hard to compress, decided anew for each chunk.
//!
//! The measure is the queue between the reader and the workers: while it is full, the processors
//! are what limits, and compression is made cheaper; while it is empty, the disk is, and idle
//! processors are spent on ratio.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::base::{Error, ErrorKind, Result};
use crate::store::Compression;

/// What the user asked for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Effort {
    /// Store everything as it is.
    Off,
    /// The cheapest setting, always.
    Fast,
    /// One of zstd's levels, 1 to 19.
    Level(i32),
    /// As hard as the disk leaves time for.
    #[default]
    Auto,
}

impl std::str::FromStr for Effort {
    type Err = Error;

    fn from_str(word: &str) -> Result<Self> {
        match (word, word.parse()) {
            ("off", _) => Ok(Self::Off),
            ("fast", _) => Ok(Self::Fast),
            ("auto", _) => Ok(Self::Auto),
            (_, Ok(level)) if (1..=19).contains(&level) => Ok(Self::Level(level)),
            _ => Err(Error::new(
                ErrorKind::Invalid,
                format!("compression '{word}': expected off, fast, auto or a level from 1 to 19"),
            )),
        }
    }
}

/// Waiting chunks above which the processors are what limits.
const BUSY: usize = 8;
/// Waiting chunks up to which the disk is.
const CALM: usize = 2;
/// Chunks in a row that must find the queue nearly empty before the effort rises.
const PATIENCE: usize = 4;

/// Turns an effort into settings as the load changes. Shared by all workers.
#[derive(Debug)]
pub struct Governor {
    effort: Effort,
    step: AtomicUsize,
    calm: AtomicUsize,
}

impl Governor {
    /// A governor for `effort`, which starts a third up the ladder.
    #[must_use]
    pub fn new(effort: Effort) -> Self {
        Self { effort, step: AtomicUsize::new(Compression::STEPS / 3), calm: AtomicUsize::new(0) }
    }

    /// The setting for the next chunk, when `queued` chunks wait behind it.
    pub fn setting(&self, queued: usize) -> Compression {
        match self.effort {
            Effort::Off => Compression::Off,
            Effort::Fast => Compression::Step(0),
            Effort::Level(level) => Compression::Level(level),
            Effort::Auto => Compression::Step(self.adapt(queued)),
        }
    }

    // Lost updates between workers only delay a step.
    fn adapt(&self, queued: usize) -> usize {
        let step = self.step.load(Ordering::Relaxed);
        if queued > BUSY {
            self.calm.store(0, Ordering::Relaxed);
            self.step.store(step.saturating_sub(1), Ordering::Relaxed);
        } else if queued > CALM {
            self.calm.store(0, Ordering::Relaxed);
        } else if self.calm.fetch_add(1, Ordering::Relaxed) >= PATIENCE {
            self.calm.store(0, Ordering::Relaxed);
            self.step.store((step + 1).min(Compression::STEPS - 1), Ordering::Relaxed);
        }
        step
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effort_rises_while_the_queue_is_empty_and_falls_when_it_is_full() {
        let governor = Governor::new(Effort::Auto);
        for _ in 0..100 {
            governor.setting(0);
        }
        let top = Compression::Step(Compression::STEPS - 1);
        assert_eq!(governor.setting(0), top);
        for _ in 0..Compression::STEPS {
            governor.setting(16);
        }
        assert_eq!(governor.setting(16), Compression::Step(0));
    }

    #[test]
    fn words_for_efforts_are_checked() {
        assert_eq!("7".parse::<Effort>().ok(), Some(Effort::Level(7)));
        assert_eq!("auto".parse::<Effort>().ok(), Some(Effort::Auto));
        for wrong in ["0", "20", "-1", "best", ""] {
            assert!(wrong.parse::<Effort>().is_err(), "{wrong} was accepted");
        }
    }
}
