//! A disk's page of counters: what the programs count there, and what the processes keep there,
//! so that it lives exactly as long as the tracking does.

use serde::{Deserialize, Serialize};

use super::layout::{COMPLETED, Flag, OPERATIONS, OWN, PAGE_WORDS, QUEUED};
use crate::sys::bpf::MappedWords;

/// What a page must say for this version to understand it.
pub const VERSION: u64 = 1;
/// Operations whose sectors the kernel counts apart, or not at all.
const DISCARD: usize = 3;
const DRIVER_OUT: usize = 35;

/// Sectors of 512 bytes that were written and discarded, as the kernel tells them apart.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sectors {
    /// Written, zeros included.
    pub written: u64,
    /// Discarded.
    pub discarded: u64,
}

impl Sectors {
    /// What is left of these without `other`; counters wrap.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self {
            written: self.written.wrapping_sub(other.written),
            discarded: self.discarded.wrapping_sub(other.discarded),
        }
    }

    /// Whether it counts more of either than `other`, as counts that wrap around.
    #[must_use]
    pub fn is_ahead_of(self, other: Self) -> bool {
        let is_more = |one: u64, other: u64| one.wrapping_sub(other).cast_signed() > 0;
        is_more(self.written, other.written) || is_more(self.discarded, other.discarded)
    }
}

/// Words that the processes keep on a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// [`VERSION`]; zero on a page that is free.
    Version,
    /// `major << 20 | minor`.
    Device,
    /// Bytes of the disk.
    Size,
    /// Bytes of a granule.
    Granule,
    /// The disk's sequence number.
    Sequence,
    /// The random id of this tracking, its upper half.
    IdHigh,
    /// And its lower.
    IdLow,
    /// The epoch that is running.
    Epoch,
    /// The last epoch whose image was stored.
    Committed,
    /// 1 if the disk has no request queue.
    BioBased,
    /// 1 once an audit found that a change was missed.
    Distrusted,
    /// 1 once what the kernel counted more than the programs is known.
    BaseKnown,
    /// That, of writes.
    BaseWritten,
    /// And of discards.
    BaseDiscarded,
    /// 1 once what the kernel counted more than was queued is known.
    QueueKnown,
    /// That, of writes.
    QueueWritten,
    /// And of discards.
    QueueDiscarded,
    /// How often programs were not run, as they told last.
    Misses,
    /// The epoch that waits for its image to be stored; zero if none does.
    Pending,
    /// 1 if nothing was in flight then.
    PendingQuiet,
    /// 1 if the base was known then; and so on.
    PendingBaseKnown,
    /// The base of writes.
    PendingWritten,
    /// The base of discards.
    PendingDiscarded,
    /// The misses.
    PendingMisses,
}

/// Where the flags stand that were looked at, and those that wait for an image.
const SEEN_FLAGS: usize = OWN + 64;
const PENDING_FLAGS: usize = OWN + 80;

/// A slot's page.
#[derive(Debug, Clone, Copy)]
pub struct Page<'a> {
    words: &'a MappedWords,
    first: usize,
}

impl<'a> Page<'a> {
    /// The page of `slot`.
    #[must_use]
    pub fn new(words: &'a MappedWords, slot: u32) -> Self {
        let slot = usize::try_from(slot).unwrap_or(usize::MAX);
        Self { words, first: slot.saturating_mul(PAGE_WORDS) }
    }

    fn at(&self, word: usize) -> u64 {
        self.words.load(self.first + word)
    }

    fn at_byte(&self, byte: i16) -> u64 {
        self.at(usize::from(byte.unsigned_abs()) / 8)
    }

    /// One of the processes' words.
    #[must_use]
    pub fn get(&self, own: Own) -> u64 {
        self.at(OWN + own as usize)
    }

    /// Whether one of them is set.
    #[must_use]
    pub fn is(&self, own: Own) -> bool {
        self.get(own) != 0
    }

    /// Sets one of them.
    pub fn set(&self, own: Own, value: u64) {
        self.words.store(self.first + OWN + own as usize, value);
    }

    /// Empties the page.
    pub fn clear(&self) {
        (0..PAGE_WORDS).for_each(|word| self.words.store(self.first + word, 0));
    }

    /// How often a flag was raised.
    #[must_use]
    pub fn raised(&self, flag: Flag) -> u64 {
        self.at_byte(flag.offset())
    }

    /// How often it was raised since the last image that was stored.
    #[must_use]
    pub fn raised_since(&self, flag: Flag) -> u64 {
        self.raised(flag).wrapping_sub(self.at(SEEN_FLAGS + flag as usize))
    }

    /// Notes all flags as they are, to be looked at as seen once an image is stored.
    pub fn hold_flags(&self) {
        for flag in Flag::ALL {
            self.words.store(self.first + PENDING_FLAGS + flag as usize, self.raised(flag));
        }
    }

    /// Takes the flags that were noted for seen.
    pub fn adopt_flags(&self) {
        for flag in Flag::ALL {
            let held = self.at(PENDING_FLAGS + flag as usize);
            self.words.store(self.first + SEEN_FLAGS + flag as usize, held);
        }
    }

    /// What was queued so far.
    #[must_use]
    pub fn queued(&self) -> Sectors {
        self.table(QUEUED)
    }

    /// What was completed so far.
    #[must_use]
    pub fn completed(&self) -> Sectors {
        self.table(COMPLETED)
    }

    fn table(&self, table: i16) -> Sectors {
        let sectors =
            |operation: usize| self.at(usize::from(table.unsigned_abs()) / 8 + 2 * operation + 1);
        let writes = (1..OPERATIONS).step_by(2).filter(|one| ![DISCARD, DRIVER_OUT].contains(one));
        Sectors {
            written: writes.map(sectors).fold(0, u64::wrapping_add),
            discarded: sectors(DISCARD),
        }
    }

    /// A pair of words as sectors.
    #[must_use]
    pub fn sectors(&self, written: Own, discarded: Own) -> Sectors {
        Sectors { written: self.get(written), discarded: self.get(discarded) }
    }

    /// Sets a pair of words.
    pub fn set_sectors(&self, written: Own, discarded: Own, sectors: Sectors) {
        self.set(written, sectors.written);
        self.set(discarded, sectors.discarded);
    }
}
