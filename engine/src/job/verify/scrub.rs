//! Reading packs from end to end, all processors at once, each with a pack of its own.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use super::mark::Marks;
use super::{BadFrames, VerifyOptions, VerifyReport};
use crate::base::{Error, ErrorKind, Event, Observer, Phase, Progress, Result};
use crate::job::pipeline::reading_threads;
use crate::store::codec::check_digest;
use crate::store::frame::Frame;
use crate::store::node::Node;
use crate::store::salvage::{PackState, inspect};
use crate::store::{ContentReader, FrameKind, FrameReader, PackId, Repository, pack};

/// A scrub of the packs that were marked, or of all.
pub struct Scrub<'a> {
    /// The repository.
    pub repository: &'a Repository,
    /// What to verify.
    pub options: &'a VerifyOptions,
    /// The frames that images need.
    pub marks: &'a Marks,
    /// Who listens.
    pub observer: &'a dyn Observer,
}

/// What the threads of a scrub share.
struct Shared {
    bad: BadFrames,
    progress: Progress,
    packs: usize,
    damage: u64,
    failure: Option<Error>,
}

impl Scrub<'_> {
    /// Reads the packs, adds what was found to `report`, and returns the marked frames that are
    /// not sound.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    pub fn run(&self, report: &mut VerifyReport) -> Result<BadFrames> {
        let sizes = self.repository.packs()?.finished;
        let mut packs: Vec<PackId> = match self.options.images.as_slice() {
            [] => sizes.keys().copied().chain(self.marks.packs()).collect(),
            _ => self.marks.packs().collect(),
        };
        packs.sort_unstable();
        packs.dedup();
        let total = packs.iter().filter_map(|id| sizes.get(id)).sum();
        let phase = if self.options.quick { Phase::Scrub } else { Phase::Verify };
        self.observer.event(&Event::Started { phase, total });
        let shared = Mutex::new(Shared {
            bad: BadFrames::new(),
            progress: Progress { total, ..Progress::default() },
            packs: 0,
            damage: 0,
            failure: None,
        });
        let next = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..reading_threads(self.options.threads).min(packs.len()) {
                scope.spawn(|| self.work(&packs, &next, &shared));
            }
        });
        let shared = shared.into_inner().unwrap_or_else(PoisonError::into_inner);
        if let Some(failure) = shared.failure {
            return Err(failure);
        }
        report.packs += shared.packs;
        report.read += shared.progress.done;
        report.damage += shared.damage;
        Ok(shared.bad)
    }

    fn work(&self, packs: &[PackId], next: &AtomicUsize, shared: &Mutex<Shared>) {
        let mut check = Check::new(self.repository);
        while let Some(id) = packs.get(next.fetch_add(1, Ordering::Relaxed)) {
            let outcome = self.scrub(*id, &mut check, shared);
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if let Err(error) = outcome {
                shared.failure.get_or_insert(error);
            }
            if shared.failure.is_some() {
                return;
            }
        }
    }

    fn scrub(&self, id: PackId, check: &mut Check, shared: &Mutex<Shared>) -> Result<()> {
        let lock = || shared.lock().unwrap_or_else(PoisonError::into_inner);
        let needed = self.marks.offsets(id);
        let needs_all = self.options.images.is_empty();
        let mut told = 0;
        let inspected = inspect(self.repository, id, self.observer, &mut |offset, frame| {
            if self.observer.cancelled() {
                return Err(Error::cancelled());
            }
            let end = u64::from(offset) + u64::from(frame.header.frame_length());
            let mut shared = lock();
            shared.progress.done += end - told;
            shared.progress.moved = shared.progress.done;
            let progress = shared.progress;
            drop(shared);
            told = end;
            self.observer.event(&Event::Progress(progress));
            if !needs_all && !needed.contains(&offset) {
                return Ok(());
            }
            let checked = if self.options.quick { check.base(frame) } else { check.content(frame) };
            checked.map_err(|error| error.within(format!("frame at {offset}")))
        });
        let state = match inspected {
            Err(error) if error.kind() == ErrorKind::NotFound => {
                let report = format!("{}: the pack is missing", pack::object_name(id));
                self.observer.event(&Event::Damage { report: &report });
                PackState { damage: 1, ..PackState::default() }
            }
            inspected => inspected?,
        };
        let sound: HashSet<u32> = state.sound.iter().map(|entry| entry.offset).collect();
        let bad: HashSet<u32> = needed.difference(&sound).copied().collect();
        let mut shared = lock();
        shared.packs += 1;
        shared.damage += state.damage;
        shared.progress.done += state.size.saturating_sub(told);
        if !bad.is_empty() {
            shared.damage = shared.damage.max(1);
            shared.bad.insert(id, bad);
        }
        Ok(())
    }
}

/// Checks contents against their digests.
struct Check {
    frames: FrameReader,
    blocks: ContentReader,
    /// Of nodes and manifests.
    others: ContentReader,
    content: Vec<u8>,
}

impl Check {
    fn new(repository: &Repository) -> Self {
        let reader = |kind| ContentReader::new(kind, repository.keys());
        let frames = FrameReader::new(Arc::clone(repository.storage()), repository.keys());
        let (blocks, others) = (reader(FrameKind::Block), reader(FrameKind::Node));
        Self { frames: frames.for_bulk(), blocks, others, content: Vec::new() }
    }

    /// Checks only what a delta is against: that its own bytes are sound is known.
    fn base(&mut self, frame: &Frame<'_>) -> Result<()> {
        match frame.header.kind {
            FrameKind::Block => self.blocks.check_base(&self.frames, frame),
            _ => self.others.check_base(&self.frames, frame),
        }
    }

    fn content(&mut self, frame: &Frame<'_>) -> Result<()> {
        let keys = self.frames.keys();
        let digest = match frame.header.kind {
            FrameKind::Block => {
                return self.blocks.expand(&self.frames, frame, &mut self.content);
            }
            FrameKind::Node => {
                self.others.expand(&self.frames, frame, &mut self.content)?;
                Node::decode(&self.content)?.digest(keys)
            }
            FrameKind::Manifest => {
                self.others.expand(&self.frames, frame, &mut self.content)?;
                keys.manifest(&self.content)
            }
        };
        frame.members.iter().try_for_each(|member| check_digest(member.digest, digest))
    }
}
