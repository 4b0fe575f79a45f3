//! Reading packs from end to end, all processors at once, each with a pack of its own, and then
//! the deltas that were met there, each with those of a frame.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use super::deltas::{Delta, Waiting, by_base};
use super::mark::Marks;
use super::{BadFrames, Room, VerifyOptions, VerifyReport};
use crate::base::{ByteCount, Error, ErrorKind, Event, Observer, Phase, Progress, Result};
use crate::job::pipeline::reading_threads;
use crate::store::codec::check_digest;
use crate::store::damage::BadPlaces;
use crate::store::frame::Frame;
use crate::store::node::Node;
use crate::store::repository::Packs;
use crate::store::salvage::{PackState, inspect};
use crate::store::{ContentReader, FrameKind, FrameReader, PackId, Repository, Storage, pack};
use crate::sys::threads;

/// A scrub of the packs that were marked, or of all.
pub struct Scrub<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What to verify.
    pub options: &'a VerifyOptions,
    /// The frames that images need.
    pub marks: &'a Marks,
    /// Room for deltas that wait.
    pub room: Room,
    /// Who listens.
    pub observer: &'a dyn Observer,
}

/// What the threads of a scrub share.
struct Shared {
    bad: BadFrames,
    progress: Progress,
    packs: usize,
    damage: u64,
    /// What was and is found damaged.
    known: BadPlaces,
    waiting: Waiting,
    failure: Option<Error>,
}

impl Shared {
    /// Leaves marks of what is damaged of a pack, and takes away those of what is not, if it
    /// `was_read` whole.
    fn note(&mut self, storage: &dyn Storage, id: PackId, state: &PackState, was_read: bool) {
        let is_gone = state.damage > 0 && state.size == 0;
        if is_gone {
            self.known.mark_all(storage, id);
        }
        state.unsound.iter().for_each(|offset| self.known.mark(storage, id, *offset));
        if was_read && state.damage == 0 && self.known.touches(id) {
            self.known.clear(storage, id, true, |_sound| true);
        }
    }
}

impl Scrub<'_> {
    /// Reads the packs, adds what was found to `report`, and returns the marked frames that are
    /// not sound.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    pub fn run(&self, report: &mut VerifyReport) -> Result<BadFrames> {
        let Packs { finished: sizes, bad: known, .. } = self.repository.packs()?;
        let mut packs: Vec<PackId> = match self.options.images.as_slice() {
            [] => sizes.keys().copied().chain(self.marks.packs()).collect(),
            _ => self.marks.packs().collect(),
        };
        packs.sort_unstable();
        packs.dedup();
        let sizes = packs.iter().filter_map(|id| sizes.get(id)).copied();
        let total = ByteCount::total(sizes).0;
        let phase = if self.options.quick { Phase::Scrub } else { Phase::Verify };
        self.observer.event(&Event::Started { phase, total });
        let shared = Mutex::new(Shared {
            bad: BadFrames::new(),
            progress: Progress { total, ..Progress::default() },
            packs: 0,
            damage: 0,
            known,
            waiting: Waiting::new(self.room),
            failure: None,
        });
        let frames =
            FrameReader::new(Arc::clone(self.repository.storage()), self.repository.keys());
        let work = Work { scrub: self, frames: frames.for_bulk(), shared };
        let mut left = packs.as_slice();
        while !left.is_empty() {
            let read = work.divide(left, &|shared| shared.waiting.is_full(), &Work::read_pack)?;
            left = left.get(read..).unwrap_or_default();
            let waiting = work.lock().waiting.in_order();
            work.divide(&by_base(&waiting), &|_| false, &Work::check_deltas)?;
        }
        let shared = work.shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        report.packs += shared.packs;
        report.read = report.read.saturating_add(shared.progress.done);
        report.damage += shared.damage;
        Ok(shared.bad)
    }
}

/// A scrub at work.
struct Work<'a> {
    scrub: &'a Scrub<'a>,
    frames: FrameReader,
    shared: Mutex<Shared>,
}

impl Work<'_> {
    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has threads do `work` on each piece, until there are no more or `is_enough`. Returns how
    /// many were done.
    fn divide<T: Sync>(
        &self,
        pieces: &[T],
        is_enough: &(dyn Fn(&Shared) -> bool + Sync),
        work: &(dyn Fn(&Self, &T, &mut Check<'_>) -> Result<()> + Sync),
    ) -> Result<usize> {
        let next = AtomicUsize::new(0);
        let go_on = || {
            let shared = self.lock();
            shared.failure.is_none() && !is_enough(&shared)
        };
        let run = || {
            let mut check = Check::new(&self.frames, self.scrub.options.quick);
            while go_on() {
                let Some(piece) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) else { return };
                if let Err(error) = work(self, piece, &mut check) {
                    self.lock().failure.get_or_insert(error);
                }
            }
        };
        let wanted = reading_threads(self.scrub.options.threads).min(pieces.len());
        thread::scope(|scope| {
            if threads::crew(scope, wanted, || &run) == 0 {
                run();
            }
        });
        match self.lock().failure.take() {
            Some(failure) => Err(failure),
            None => Ok(next.into_inner().min(pieces.len())),
        }
    }

    fn read_pack(&self, id: &PackId, check: &mut Check<'_>) -> Result<()> {
        let Scrub { repository, options, marks, observer, .. } = self.scrub;
        let (id, needed) = (*id, marks.offsets(*id));
        let needs_all = options.images.is_empty();
        let mut told = 0;
        let inspected = inspect(repository, id, *observer, &mut |offset, frame| {
            if observer.cancelled() {
                return Err(Error::cancelled());
            }
            let is_needed = needed.contains(&offset);
            let length = u64::from(frame.header.frame_length());
            let end = u64::from(offset) + length;
            let mut shared = self.lock();
            let waits =
                (needs_all || is_needed) && shared.waiting.add((id, offset), frame, is_needed);
            let done = end - told - if waits { length } else { 0 };
            told = end;
            self.tell(done, shared);
            if waits || !needs_all && !is_needed {
                return Ok(());
            }
            check.frame(frame).map_err(|error| error.within(format!("frame at {offset}")))
        });
        let state = match inspected {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let report = format!("{}: the pack is missing", pack::object_name(id));
                observer.event(&Event::Damage { report: &report });
                PackState { damage: 1, ..PackState::default() }
            }
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                let report = error.within(pack::object_name(id)).to_string();
                observer.event(&Event::Damage { report: &report });
                PackState { damage: 1, ..PackState::default() }
            }
            inspected => inspected?,
        };
        let sound: HashSet<u32> = state.sound.iter().map(|entry| entry.offset).collect();
        let bad: HashSet<u32> = needed.difference(&sound).copied().collect();
        let mut shared = self.lock();
        shared.note(&**repository.storage(), id, &state, !options.quick && needs_all);
        shared.packs += 1;
        shared.damage += state.damage;
        shared.progress.advance(state.size.saturating_sub(told));
        if !bad.is_empty() {
            shared.damage = shared.damage.max(1);
            shared.bad.entry(id).or_default().extend(bad);
        }
        Ok(())
    }

    /// Checks deltas whose bases are in one frame.
    fn check_deltas(&self, deltas: &&[Delta], check: &mut Check<'_>) -> Result<()> {
        let observer = self.scrub.observer;
        let mut bytes = Vec::new();
        for delta in *deltas {
            if observer.cancelled() {
                return Err(Error::cancelled());
            }
            let (pack, offset) = (delta.pack, delta.offset);
            match delta.show(&self.frames, &mut bytes, |frame| check.frame(frame)) {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    let error = error.within(format!("frame at {offset}"));
                    let report = format!("{}: {error}", pack::object_name(pack));
                    observer.event(&Event::Damage { report: &report });
                    let mut shared = self.lock();
                    let storage = self.scrub.repository.storage();
                    shared.known.mark(&**storage, pack, offset);
                    shared.damage += 1;
                    if delta.is_needed {
                        shared.bad.entry(pack).or_default().insert(offset);
                    }
                }
                outcome => outcome?,
            }
            self.tell(delta.length(), self.lock());
        }
        Ok(())
    }

    /// Says that `done` more bytes are checked.
    fn tell(&self, done: u64, mut shared: MutexGuard<'_, Shared>) {
        shared.progress.advance(done);
        let progress = shared.progress;
        drop(shared);
        self.scrub.observer.event(&Event::Progress(progress));
    }
}

/// Checks contents against their digests.
struct Check<'a> {
    frames: &'a FrameReader,
    is_quick: bool,
    blocks: ContentReader,
    /// Of nodes and manifests.
    others: ContentReader,
    content: Vec<u8>,
}

impl<'a> Check<'a> {
    fn new(frames: &'a FrameReader, is_quick: bool) -> Self {
        let reader = |kind| ContentReader::new(kind, frames.keys().clone());
        let (blocks, others) = (reader(FrameKind::Block), reader(FrameKind::Node));
        Self { frames, is_quick, blocks, others, content: Vec::new() }
    }

    /// Checks a frame whose own bytes are known to be sound.
    fn frame(&mut self, frame: &Frame<'_>) -> Result<()> {
        if self.is_quick { self.base(frame) } else { self.contents(frame) }
    }

    /// Checks only what a delta is against.
    fn base(&mut self, frame: &Frame<'_>) -> Result<()> {
        match frame.header.kind {
            FrameKind::Block => self.blocks.check_base(self.frames, frame),
            _ => self.others.check_base(self.frames, frame),
        }
    }

    fn contents(&mut self, frame: &Frame<'_>) -> Result<()> {
        let keys = self.frames.keys();
        let digest = match frame.header.kind {
            FrameKind::Block => {
                return self.blocks.expand(self.frames, frame, &mut self.content);
            }
            FrameKind::Node => {
                self.others.expand(self.frames, frame, &mut self.content)?;
                Node::decode(&self.content)?.digest(keys)
            }
            FrameKind::Manifest => {
                self.others.expand(self.frames, frame, &mut self.content)?;
                keys.manifest(&self.content)
            }
        };
        frame.members.iter().try_for_each(|member| check_digest(member.digest, digest))
    }
}
