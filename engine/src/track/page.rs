//! A disk's page of counters: what the programs count there, and what the processes keep there,
//! so that it lives exactly as long as the tracking does.

use serde::{Deserialize, Serialize};

use super::layout::{COMPLETED, FLAG_COUNT, Flag, OPERATIONS, OWN, PAGE_WORDS, QUEUED};
use crate::base::fields;
use crate::base::limits::MAX_OPEN_EPOCHS;
use crate::sys::bpf::MappedWords;

/// What a page must say for this version to understand it.
pub const VERSION: u64 = 2;
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
    /// 1 once what the kernel counted more than was queued is known.
    QueueKnown,
    /// That, of writes.
    QueueWritten,
    /// And of discards.
    QueueDiscarded,
    /// The kernel's number of the carry's map; zero if there is none.
    CarryMap,
    /// 1 if the carry may lack something.
    CarryLost,
    /// The kernel's number of the map that says where the programs mark.
    EpochsMap,
}

/// Where the records of epochs begin, how far apart they are, and how many there are: those that
/// are open, the one that was committed last, the running one and one to spare.
const RECORDS: usize = OWN + 32;
const RECORD_WORDS: usize = 24;
const RECORD_COUNT: usize = MAX_OPEN_EPOCHS + 3;
const _: () = assert!(RECORDS + RECORD_COUNT * RECORD_WORDS <= PAGE_WORDS);

/// Where a record has its fields.
mod record {
    pub const STATE: usize = 0;
    pub const FIRST: usize = 1;
    pub const LAST: usize = 2;
    pub const MAP: usize = 3;
    pub const IMAGE: usize = 4;
    pub const WRITTEN: usize = 6;
    pub const DISCARDED: usize = 7;
    pub const MISSES: usize = 8;
    pub const FLAGS: usize = 9;

    pub const IN_USE: u64 = 1;
    pub const ENDED: u64 = 2;
    pub const QUIET: u64 = 4;
    pub const BASE_KNOWN: u64 = 8;
    pub const STORED: u64 = 16;
}
const _: () = assert!(record::FLAGS + FLAG_COUNT <= RECORD_WORDS);

/// What a page keeps of an epoch, or of several that were joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Record {
    /// The first epoch.
    pub first: u64,
    /// The last.
    pub last: u64,
    /// The kernel's number of the map in which its writes are marked.
    pub map: u32,
    /// What was counted when it ended; none while it runs, or if its end was cut short.
    pub end: Option<EpochEnd>,
    /// The id of the image that lacks nothing up to its end, once that is stored.
    pub image: Option<[u8; 16]>,
}

/// What was counted when an epoch ended: what comes after it is judged by that.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EpochEnd {
    /// Whether nothing was in flight.
    pub is_quiet: bool,
    /// What the kernel counted more than the programs; none if the counts never stood still.
    pub base: Option<Sectors>,
    /// How often programs were not run, as they told then.
    pub misses: u64,
    /// How often each flag was raised.
    pub flags: [u64; FLAG_COUNT],
}

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

    /// How often each flag was raised.
    #[must_use]
    pub fn flags(&self) -> [u64; FLAG_COUNT] {
        Flag::ALL.map(|flag| self.raised(flag))
    }

    /// The records of epochs, in order.
    #[must_use]
    pub fn records(&self) -> Vec<Record> {
        let mut records: Vec<Record> =
            (0..RECORD_COUNT).filter_map(|number| self.record(number)).collect();
        records.sort_unstable_by_key(|record| record.first);
        records
    }

    fn record(&self, number: usize) -> Option<Record> {
        let word = |field: usize| self.at(RECORDS + number * RECORD_WORDS + field);
        let state = word(record::STATE);
        let is = |bit: u64| state & bit != 0;
        let mut image = [0; 16];
        image[..8].copy_from_slice(&word(record::IMAGE).to_be_bytes());
        image[8..].copy_from_slice(&word(record::IMAGE + 1).to_be_bytes());
        let base = Sectors { written: word(record::WRITTEN), discarded: word(record::DISCARDED) };
        let end = EpochEnd {
            is_quiet: is(record::QUIET),
            base: is(record::BASE_KNOWN).then_some(base),
            misses: word(record::MISSES),
            flags: std::array::from_fn(|flag| word(record::FLAGS + flag)),
        };
        is(record::IN_USE).then_some(Record {
            first: word(record::FIRST),
            last: word(record::LAST),
            map: u32::try_from(word(record::MAP)).unwrap_or(0),
            end: is(record::ENDED).then_some(end),
            image: is(record::STORED).then_some(image),
        })
    }

    /// Writes `new` in the place of the record that begins with the same epoch, or in a free one.
    /// Says whether there was room. Killed within, there is no such record.
    pub fn put_record(&self, new: &Record) -> bool {
        let is_it =
            |number: &usize| self.record(*number).is_some_and(|record| record.first == new.first);
        let is_free = |number: &usize| self.record(*number).is_none();
        let place = (0..RECORD_COUNT).find(is_it).or_else(|| (0..RECORD_COUNT).find(is_free));
        let Some(number) = place else { return false };
        let at = self.first + RECORDS + number * RECORD_WORDS;
        let set = |field: usize, value: u64| self.words.store(at + field, value);
        let mut state = record::IN_USE;
        set(record::STATE, 0);
        set(record::FIRST, new.first);
        set(record::LAST, new.last);
        set(record::MAP, new.map.into());
        if let Some(end) = &new.end {
            let bits = [(record::QUIET, end.is_quiet), (record::BASE_KNOWN, end.base.is_some())];
            state |= record::ENDED;
            state |= bits.iter().filter(|(_, is)| *is).map(|(bit, _)| bit).sum::<u64>();
            let base = end.base.unwrap_or_default();
            set(record::WRITTEN, base.written);
            set(record::DISCARDED, base.discarded);
            set(record::MISSES, end.misses);
            (record::FLAGS..).zip(end.flags).for_each(|(field, raised)| set(field, raised));
        }
        if let Some(image) = &new.image {
            let half = |at| fields::be64(image, at).unwrap_or(0);
            state |= record::STORED;
            set(record::IMAGE, half(0));
            set(record::IMAGE + 1, half(8));
        }
        set(record::STATE, state);
        true
    }

    /// Takes away the record that begins with the epoch `first`, if there is one.
    pub fn drop_record(&self, first: u64) {
        for number in 0..RECORD_COUNT {
            if self.record(number).is_some_and(|record| record.first == first) {
                self.words.store(self.first + RECORDS + number * RECORD_WORDS, 0);
            }
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
