//! Salvage: what the packs alone still hold when manifests or nodes are damaged.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::ops::AddAssign;

use crate::base::{
    BlockIndex, ByteCount, Error, ErrorKind, Event, Observer, Phase, Progress, Result,
};
use crate::store::memo::Sums;
use crate::store::repository::Image;
use crate::store::salvage::{PackState, inspect};
use crate::store::tree::{Below, Subtree, TreeVisitor};
use crate::store::writer::restore_manifest;
use crate::store::{
    Decoder, Entry, FrameKind, ImageId, ImageReader, LockKind, Manifest, PackId, Place, Repository,
    TreeRun,
};

/// An image whose manifest was found in a pack.
#[derive(Debug, Clone)]
pub struct SalvagedImage {
    /// Its id.
    pub id: ImageId,
    /// Its manifest, as its pack has it.
    pub manifest: Manifest,
    /// Whether its manifest is sound where it belongs.
    pub is_listed: bool,
    /// The manifest's file, byte for byte: its id is a digest of it.
    bytes: Vec<u8>,
    /// Bytes of its disk whose blocks' frames its tree leads to.
    pub reachable: u64,
    /// Bytes of its disk of which nothing is known, because a node is damaged.
    pub lost: u64,
}

/// What a salvage found.
#[derive(Debug, Clone, Default)]
pub struct SalvageReport {
    /// Packs that were read.
    pub packs: usize,
    /// Sound members by kind: blocks, nodes, manifests.
    pub members: [u64; 3],
    /// Damages that were reported.
    pub damage: u64,
    /// The images, newest first.
    pub images: Vec<SalvagedImage>,
}

/// Looks through a repository's packs.
pub struct Salvage<'a> {
    repository: &'a Repository,
    observer: &'a dyn Observer,
}

impl<'a> Salvage<'a> {
    /// A salvage of `repository`.
    #[must_use]
    pub fn new(repository: &'a Repository, observer: &'a dyn Observer) -> Self {
        Self { repository, observer }
    }

    /// Reads all packs and tells what they hold.
    ///
    /// # Errors
    /// `Conflict` when the repository is locked; `Io`; `Cancelled`.
    pub fn look(&self) -> Result<SalvageReport> {
        let lock = self.repository.lock_to_read("salvage")?;
        lock.warn(self.observer);
        let packs = self.repository.packs()?.finished;
        let total = ByteCount::total(packs.values().copied()).0;
        self.observer.event(&Event::Started { phase: Phase::Scrub, total });
        let mut progress = Progress { total, ..Progress::default() };
        let mut report = SalvageReport { packs: packs.len(), ..SalvageReport::default() };
        let mut manifests = HashMap::new();
        let mut decoder = Decoder::new(self.repository.keys());
        for (id, size) in packs {
            let mut copies = Vec::new();
            let state = inspect(self.repository, id, self.observer, &mut |_, frame| {
                if self.observer.cancelled() {
                    return Err(Error::cancelled());
                }
                if frame.header.kind == FrameKind::Manifest {
                    let mut bytes = Vec::new();
                    decoder.expand(frame, &[], &mut bytes)?;
                    copies.push(bytes);
                }
                Ok(())
            });
            let state = match state {
                Err(error) if error.kind() == ErrorKind::Corrupt => {
                    self.report(&error);
                    PackState { damage: 1, ..PackState::default() }
                }
                state => state?,
            };
            report.damage += state.damage;
            for entry in &state.sound {
                report.members[usize::from(entry.kind.code()) - 1] += 1;
            }
            for bytes in copies {
                let found = self.repository.keys().image_id(&bytes);
                match Manifest::decode(&bytes, found, &self.repository.keys()) {
                    Ok(manifest) => _ = manifests.insert(found, (manifest, bytes)),
                    Err(error) => self.report(&error),
                }
            }
            progress.advance(size);
            self.observer.event(&Event::Progress(progress));
        }
        let image = |(id, (manifest, bytes))| (Image { id, manifest }, bytes);
        let mut found: Vec<(Image, Vec<u8>)> = manifests.into_iter().map(image).collect();
        found.sort_by_cached_key(|(image, _)| Reverse(image.order()));
        for (image, bytes) in found {
            report.images.push(self.measure(image, bytes)?);
        }
        Ok(report)
    }

    fn report(&self, error: &Error) {
        self.observer.event(&Event::Damage { report: &error.to_string() });
    }

    fn measure(&self, image: Image, bytes: Vec<u8>) -> Result<SalvagedImage> {
        let reader = self.repository.reader(&image);
        let mut reach = Reach { image: &reader, frame: Vec::new(), last: None, sums: Sums::new() };
        reader.walk(None, &mut reach)?;
        let Reached { reachable, lost } = reach.sums.total();
        let Image { id, manifest } = image;
        let is_listed = self.repository.image(id).is_ok();
        Ok(SalvagedImage { id, manifest, is_listed, bytes, reachable, lost })
    }

    /// Puts the manifests of images that are not listed back where they belong, and returns how
    /// many. A damaged manifest is replaced.
    ///
    /// # Errors
    /// `Io`.
    pub fn restore_manifests(&self, report: &SalvageReport) -> Result<usize> {
        let _lock = self.repository.lock(LockKind::Exclusive, "salvage")?;
        let storage = self.repository.storage();
        let missing = report.images.iter().filter(|image| !image.is_listed);
        let mut restored = 0;
        for image in missing {
            restore_manifest(&**storage, image.id, &image.bytes)?;
            restored += 1;
        }
        Ok(restored)
    }
}

/// Adds up what a tree leads to.
struct Reach<'a> {
    image: &'a ImageReader,
    frame: Vec<u8>,
    /// The frame that was read last, and whether it could be: its other blocks follow.
    last: Option<((PackId, u32), bool)>,
    sums: Sums<Reached>,
}

impl Reach<'_> {
    fn reaches(&mut self, place: &Place) -> bool {
        let frame = (place.pack, place.offset);
        match self.last {
            Some((last, found)) if last == frame => found,
            _ => {
                let frames = self.image.frames();
                let found = frames.frame(FrameKind::Block, place, &mut self.frame).is_ok();
                self.last = Some((frame, found));
                found
            }
        }
    }
}

/// Bytes of a disk: those that are there, and those that are not.
#[derive(Debug, Clone, Copy, Default)]
struct Reached {
    reachable: u64,
    lost: u64,
}

impl AddAssign for Reached {
    fn add_assign(&mut self, more: Self) {
        self.reachable = self.reachable.saturating_add(more.reachable);
        self.lost = self.lost.saturating_add(more.lost);
    }
}

impl TreeVisitor for Reach<'_> {
    fn enter(&mut self, node: &Subtree<'_>) -> Result<Below> {
        if let Some((reached, whole)) = self.sums.known(node) {
            self.sums.add(reached);
            return Ok(Below::Known(whole));
        }
        self.sums.enter();
        Ok(Below::Shown)
    }

    fn leave(&mut self, node: &Subtree<'_>, whole: bool) {
        self.sums.leave(node, whole);
    }

    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        let length = self.image.manifest().bytes_of(run.first, run.count).len();
        let found = run.entry.stored().is_none_or(|stored| self.reaches(&stored.place));
        let is_there = found && !matches!(run.entry, Entry::Unreadable);
        let (reachable, lost) = if is_there { (length, 0) } else { (0, length) };
        self.sums.add(Reached { reachable, lost });
        Ok(())
    }

    fn damaged(&mut self, first: BlockIndex, count: u64, error: Error) -> Result<()> {
        if error.kind() == ErrorKind::Io {
            return Err(error);
        }
        let lost = self.image.manifest().bytes_of(first, count).len();
        self.sums.add(Reached { reachable: 0, lost });
        Ok(())
    }
}
