//! Whether a map says all: the programs' counts against the kernel's own.
//!
//! Every write is marked when it is queued and when it is complete. The kernel counts the sectors
//! of completed writes by itself (`/sys/block/*/stat`). As long as both counts grow alike, no
//! completion was missed. If completions were missed while all that was queued is known to be
//! complete, the marks at the queueing say all, of this epoch and of those since nothing was last
//! in flight: a completion that was missed belongs to a write that was queued no earlier.

use std::thread;
use std::time::{Duration, Instant};

use super::layout::Flag;
use super::page::{EpochEnd, Own, Page, Sectors};
use crate::base::Result;
use crate::sys::device::DiskCounters;

/// Attempts to read the kernel's counts and the programs' while neither moves.
const ATTEMPTS: u32 = 500;
/// How long two counts of one event may differ while it happens: a processor may be taken away
/// from a virtual machine between them.
const SETTLING: Duration = Duration::from_millis(50);
/// How long to wait for a moment in which nothing is in flight.
const QUIET_WAIT: Duration = Duration::from_millis(200);
/// How long nothing must move for what is queued to be known as complete.
const CALM: Duration = Duration::from_millis(20);
const NAP: Duration = Duration::from_millis(1);

/// What an epoch's map is worth.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Every completion was marked.
    Exact,
    /// Some were not, but all queueings were: the map holds earlier epochs' marks too.
    Carried,
    /// It may miss something, for this reason.
    Tainted(String),
}

/// A verdict and the counts that it stands on, all since the disk's tracking began.
#[derive(Debug, Clone)]
pub struct Judgement {
    /// The verdict.
    pub verdict: Verdict,
    /// What later epochs are judged by.
    pub end: EpochEnd,
    /// What the kernel counted.
    pub kernel: Sectors,
    /// What the programs counted as completed.
    pub completed: Sectors,
    /// What they counted as queued.
    pub queued: Sectors,
}

/// A moment's counts.
#[derive(Debug, Clone, Copy)]
struct Counts {
    kernel: Sectors,
    completed: Sectors,
    in_flight: u64,
    is_stable: bool,
}

/// A disk whose counts are read.
#[derive(Debug, Clone, Copy)]
pub struct Judge<'a> {
    /// The kernel's name of the disk.
    pub name: &'a str,
    /// Its page.
    pub page: Page<'a>,
    /// How often programs were not run so far.
    pub misses: u64,
    /// Whether it has no request queue.
    pub is_bio_based: bool,
}

impl Judge<'_> {
    fn kernel(&self) -> Result<(Sectors, u64)> {
        let now = DiskCounters::of(self.name)?;
        let mut sectors = Sectors { written: now.written, discarded: now.discarded };
        // Some drivers without a request queue (zram) do not count discards at all.
        if self.is_bio_based && sectors.discarded == 0 {
            sectors.discarded = self.page.completed().discarded;
        }
        Ok((sectors, now.in_flight))
    }

    /// Reads the counts while they stand still.
    fn counts(&self) -> Result<Counts> {
        let mut attempt = 0;
        loop {
            let (before, _) = self.kernel()?;
            let completed = self.page.completed();
            let (kernel, in_flight) = self.kernel()?;
            let is_stable = before == kernel && completed == self.page.completed();
            attempt += 1;
            if is_stable || attempt == ATTEMPTS {
                return Ok(Counts { kernel, completed, in_flight, is_stable });
            }
        }
    }

    /// Learns what the kernel counted before the programs did.
    ///
    /// # Errors
    /// `NotFound` if the disk is gone.
    pub fn begin(&self) -> Result<EpochEnd> {
        let flags = self.page.flags();
        let counts = self.counts()?;
        let base = counts.is_stable.then(|| counts.kernel.without(counts.completed));
        if base.is_some() {
            self.learn_queue()?;
        }
        let is_quiet = self.is_quiet(counts.kernel, counts.in_flight);
        Ok(EpochEnd { is_quiet, base, misses: self.misses, flags })
    }

    /// Learns what the kernel counts more than was queued, in a moment in which nothing moves.
    fn learn_queue(&self) -> Result<()> {
        if self.page.is(Own::QueueKnown) {
            return Ok(());
        }
        let look = || Ok((self.kernel()?, self.page.completed(), self.page.queued()));
        let first = look()?;
        thread::sleep(CALM);
        let second = look()?;
        let ((kernel, in_flight), _, queued) = second;
        if first == second && in_flight == 0 {
            self.page.set_sectors(Own::QueueWritten, Own::QueueDiscarded, kernel.without(queued));
            self.page.set(Own::QueueKnown, 1);
        }
        Ok(())
    }

    /// Whether all that was queued by now is complete, and was when the kernel counted `kernel`.
    fn is_quiet(&self, kernel: Sectors, in_flight: u64) -> bool {
        let offset = self.page.sectors(Own::QueueWritten, Own::QueueDiscarded);
        // The queue's counts are read last: what they say is complete was complete before.
        in_flight == 0
            && self.page.is(Own::QueueKnown)
            && self.page.queued() == kernel.without(offset)
    }

    fn wait_for_quiet(&self) -> Result<bool> {
        let start = Instant::now();
        while start.elapsed() < QUIET_WAIT {
            let (kernel, in_flight) = self.kernel()?;
            if self.is_quiet(kernel, in_flight) {
                return Ok(true);
            }
            thread::sleep(NAP);
        }
        Ok(false)
    }

    /// Compares all counts with what they were at an earlier epoch's end, `since` when they are
    /// judged. To be called after the epoch's map was replaced.
    ///
    /// # Errors
    /// `NotFound` if the disk is gone.
    pub fn judge(&self, since: &EpochEnd) -> Result<Judgement> {
        // Flags first: what is raised later belongs to what comes.
        let flags = self.page.flags();
        let base = since.base.unwrap_or_default();
        let start = Instant::now();
        let counts = loop {
            let counts = self.counts()?;
            let agree = counts.kernel.without(base) == counts.completed;
            if agree || !counts.is_stable || start.elapsed() > SETTLING {
                break counts;
            }
            thread::sleep(NAP);
        };
        let agree = counts.is_stable && counts.kernel.without(base) == counts.completed;
        let is_known = since.base.is_some();
        let is_exact = agree && !self.misses_completions(since);
        if is_exact && self.is_ahead_of_queue(counts.kernel) {
            // It was learnt while something was queued, but not in flight yet.
            self.page.set(Own::QueueKnown, 0);
        }
        if agree && is_known {
            self.learn_queue()?;
        }
        let mut is_quiet = self.is_quiet(counts.kernel, counts.in_flight);
        let verdict = match self.taint(&counts, since) {
            Some(reason) => Verdict::Tainted(reason),
            None if is_exact => Verdict::Exact,
            None if is_quiet || self.wait_for_quiet()? => {
                is_quiet = true;
                Verdict::Carried
            }
            None if !counts.is_stable => {
                Verdict::Tainted("so much is written that its counts never stand still".to_owned())
            }
            None => Verdict::Tainted(format!(
                "{} of {} written sectors and {} of {} discarded ones were not seen to complete, \
                 and more is in flight",
                counts.kernel.without(base).without(counts.completed).written,
                counts.kernel.without(base).written,
                counts.kernel.without(base).without(counts.completed).discarded,
                counts.kernel.without(base).discarded,
            )),
        };
        let end = if counts.is_stable {
            let base = Some(counts.kernel.without(counts.completed));
            EpochEnd { is_quiet, base, misses: self.misses, flags }
        } else {
            // What comes is judged by what was known before, of which nothing is forgiven.
            EpochEnd { is_quiet: false, ..*since }
        };
        Ok(Judgement {
            verdict,
            end,
            kernel: counts.kernel.without(base),
            completed: counts.completed,
            queued: self.page.queued(),
        })
    }

    /// Whether completions were not marked though they were counted.
    fn misses_completions(&self, since: &EpochEnd) -> bool {
        self.misses != since.misses || self.raised_since(since).any(Flag::is_missing_completion)
    }

    /// The flags that were raised since then.
    fn raised_since(&self, since: &EpochEnd) -> impl Iterator<Item = Flag> {
        let raised = Flag::ALL.into_iter().zip(self.page.flags()).zip(since.flags);
        raised.filter(|((_, now), then)| now != then).map(|((flag, _), _)| flag)
    }

    /// Why the map may miss something, whatever the counts say.
    fn taint(&self, counts: &Counts, since: &EpochEnd) -> Option<String> {
        if self.page.is(Own::Distrusted) {
            return Some("an audit found a change that was missed; stop and start it".to_owned());
        }
        let mut reasons = self.raised_since(since).filter_map(|flag| flag.reason(self.name));
        if let Some(reason) = reasons.next() {
            return Some(reason.to_owned());
        }
        let Some(base) = since.base else {
            return Some(
                "so much was written when it began that nothing could be counted".to_owned(),
            );
        };
        let kernel = counts.kernel.without(base);
        if counts.is_stable && counts.completed.is_ahead_of(kernel) {
            return Some("the kernel does not count all that is written (iostats)".to_owned());
        }
        let unseen = "writes were completed that were never seen to be queued";
        self.is_ahead_of_queue(counts.kernel).then(|| unseen.to_owned())
    }

    /// Whether more was completed than was queued, when the kernel counted `kernel`.
    fn is_ahead_of_queue(&self, kernel: Sectors) -> bool {
        let offset = self.page.sectors(Own::QueueWritten, Own::QueueDiscarded);
        self.page.is(Own::QueueKnown) && kernel.without(offset).is_ahead_of(self.page.queued())
    }
}
