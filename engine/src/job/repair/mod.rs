//! Repair: damaged packs are made again as they were published, from a disk that still has the
//! contents, or from a copy of the repository.
//!
//! [`Repair::plan`] reads every pack against its checksums; [`Repair::run`] makes the frames that
//! are damaged again and puts each pack in its own place, all of it or nothing. A frame is only
//! taken if its bytes are those that it was published with: so nothing changes, and every image
//! that needs it is whole again. What cannot be made again stays damaged, and is told; the next
//! capture stores it anew for those to come.

mod source;

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use self::source::{Contents, Source};
use super::verify::needed_packs;
use crate::base::bytes::to_hex;
use crate::base::limits::{MAX_GATHERED, MAX_GUESSES};
use crate::base::{ByteCount, Error, ErrorKind, Event, Observer, Phase, Progress, Result};
use crate::store::digest::random_bytes;
use crate::store::frame::Frame;
use crate::store::index::Index;
use crate::store::lock::Lock;
use crate::store::mend::{Listed, Mender, table_of};
use crate::store::repository::manifest_name;
use crate::store::salvage::inspect;
use crate::store::storage::{Folder, ObjectName, ObjectReader};
use crate::store::writer::restore_manifest;
use crate::store::{
    ContentReader, Digest, FrameKind, ImageId, LockKind, PackId, Repository, StoredEntry, pack,
};

/// Bytes that are left out where one of them cannot be read.
const PIECE: usize = 4096;

/// What a repair did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Packs that were read.
    pub packs: usize,
    /// Bytes of them.
    pub read: u64,
    /// Damages that are gone: frames, packs' headers and tables, whole packs, manifests.
    pub repaired: u64,
    /// What is still damaged.
    pub left: Vec<Unrepaired>,
}

/// Damage that stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unrepaired {
    /// The object.
    pub object: String,
    /// The frame's first byte in it, if it is a pack's frame.
    pub offset: Option<u32>,
    /// Why it could not be made again.
    pub why: String,
}

/// A repair that is ready to run.
pub struct Repair<'a> {
    repository: &'a Repository,
    source: Source,
    threads: Option<usize>,
    /// Packs that are damaged.
    damaged: Vec<PackId>,
    /// Packs that images need, and that are not there.
    missing: Vec<PackId>,
    /// Manifests that are damaged.
    manifests: Vec<ObjectName>,
    report: RepairReport,
    guesses: usize,
    _lock: Lock,
}

/// A frame that is damaged, and what is left of it.
struct Broken {
    listed: Listed,
    remains: Vec<u8>,
    made: Option<Vec<u8>>,
}

impl<'a> Repair<'a> {
    /// Looks for damage in `repository` that is to be repaired from the disk, file or copy of the
    /// repository at `from`.
    ///
    /// # Errors
    /// `NotFound` or `Unsupported` for a wrong source; `Conflict` when the repository is locked;
    /// `Io`; `Cancelled`. Damage is reported as events.
    pub fn plan(
        repository: &'a Repository,
        from: &Path,
        threads: Option<usize>,
        observer: &dyn Observer,
    ) -> Result<Self> {
        repository.config().check_writable()?;
        let source = Source::open(repository, from, observer)?;
        let lock = repository.lock(LockKind::Shared, "repair")?;
        let packs: BTreeMap<PackId, u64> = repository.packs()?.finished.into_iter().collect();
        let mut report = RepairReport { packs: packs.len(), ..RepairReport::default() };
        let total = ByteCount::total(packs.values().copied()).0;
        observer.event(&Event::Started { phase: Phase::Scrub, total });
        let mut progress = Progress { total, ..Progress::default() };
        let mut damaged = Vec::new();
        for (id, size) in &packs {
            let state =
                inspect(repository, *id, observer, &mut |_, _| match observer.cancelled() {
                    true => Err(Error::cancelled()),
                    false => Ok(()),
                });
            match state {
                Ok(state) if state.damage == 0 => {}
                Ok(_) => damaged.push(*id),
                Err(error) if error.kind() == ErrorKind::Corrupt => damaged.push(*id),
                Err(error) => return Err(error),
            }
            progress.advance(*size);
            report.read = progress.done;
            observer.event(&Event::Progress(progress));
        }
        let images = repository.images()?;
        let manifests = images.damaged.into_iter().map(|(name, _)| name).collect();
        let (guesses, _lock) = (MAX_GUESSES, lock);
        Ok(Self {
            repository,
            source,
            threads,
            damaged,
            missing: Vec::new(),
            manifests,
            report,
            guesses,
            _lock,
        })
    }

    /// Repairs what can be repaired.
    ///
    /// # Errors
    /// `Io`; `Cancelled`. Packs that were put in their places stay there.
    pub fn run(mut self, observer: &dyn Observer) -> Result<RepairReport> {
        for name in std::mem::take(&mut self.manifests) {
            match self.source.image(&name) {
                Some(image) => {
                    let storage = self.repository.storage();
                    restore_manifest(&**storage, image.id, &image.manifest.encode())?;
                    self.report.repaired += 1;
                }
                None => self.leave(&name, None, "the manifest is damaged"),
            }
        }
        // What stands on something that is damaged itself is made in a later round, and only a
        // tree that can be read says which packs are missing.
        let mut before = None;
        while before != Some(self.report.repaired) {
            before = Some(self.report.repaired);
            if !self.damaged.is_empty() {
                self.round(observer)?;
            }
            self.bring_missing(observer)?;
        }
        for id in std::mem::take(&mut self.missing) {
            self.leave(&pack::object_name(id), None, "the pack is missing");
        }
        self.tell_left()?;
        if self.report.left.is_empty() {
            self.clear_marks()?;
        }
        Ok(self.report)
    }

    /// Brings packs that images need, and that are not there.
    fn bring_missing(&mut self, observer: &dyn Observer) -> Result<()> {
        let images = self.repository.images()?.images;
        let there = self.repository.packs()?.finished;
        let needed = needed_packs(self.repository, &images, observer)?;
        self.missing = needed.into_iter().filter(|id| !there.contains_key(id)).collect();
        self.missing.sort_unstable();
        for id in self.missing.clone() {
            if let Some(bytes) = self.source.pack(id) {
                self.publish(id, bytes, 1)?;
                self.missing.retain(|missing| *missing != id);
            }
        }
        Ok(())
    }

    /// Tries each damaged frame once.
    fn round(&mut self, observer: &dyn Observer) -> Result<()> {
        let index = self.repository.index(observer)?;
        let mut tried = HashSet::new();
        loop {
            let mut room = MAX_GATHERED;
            let mut batch: Vec<(PackId, Vec<Broken>)> = Vec::new();
            for id in &self.damaged {
                let broken = self.broken(*id, &tried, &mut room)?;
                tried.extend(broken.iter().map(|broken| (*id, Some(broken.listed.offset))));
                // Once also for its header and its table.
                if tried.insert((*id, None)) || !broken.is_empty() {
                    batch.push((*id, broken));
                }
            }
            if batch.is_empty() {
                return Ok(());
            }
            for (id, broken) in &batch {
                broken.iter().for_each(|broken| distrust(&index, *id, &broken.listed));
            }
            self.make(&mut batch, &index, observer)?;
            for (id, broken) in batch {
                if observer.cancelled() {
                    return Err(Error::cancelled());
                }
                self.put_back(id, &broken)?;
            }
        }
    }

    /// The damaged frames of a pack that were not `tried` yet, as many as there is `room` for.
    fn broken(
        &self,
        id: PackId,
        tried: &HashSet<(PackId, Option<u32>)>,
        room: &mut u64,
    ) -> Result<Vec<Broken>> {
        let bytes = self.read(id)?;
        let Ok(table) = table_of(&bytes) else { return Ok(Vec::new()) };
        let mut broken = Vec::new();
        for listed in Listed::all(&table) {
            let remains = bytes.0.get(listed.range()).unwrap_or_default();
            if *room == 0
                || tried.contains(&(id, Some(listed.offset)))
                || is_sound(&listed, remains)
            {
                continue;
            }
            *room = room.saturating_sub(listed.content_length().into());
            broken.push(Broken { remains: remains.to_vec(), listed, made: None });
        }
        Ok(broken)
    }

    /// Makes frames again, from whatever there is, the cheapest first.
    fn make(
        &mut self,
        batch: &mut [(PackId, Vec<Broken>)],
        index: &Index,
        observer: &dyn Observer,
    ) -> Result<()> {
        let repository = self.repository;
        let mut work = Work { repository, index, mender: Mender::new(repository.keys()) };
        let mut contents = Contents::new();
        let mut wanted = HashSet::new();
        for (id, broken) in batch.iter_mut() {
            for broken in broken {
                let copy = self.source.frame(*id, &broken.listed);
                work.make_at_hand(broken, copy);
                if broken.made.is_none() && broken.listed.kind == FrameKind::Block {
                    wanted.extend(broken.listed.members.iter().map(|member| member.digest));
                }
            }
        }
        contents.extend(self.source.gather(repository, &wanted, self.threads, observer)?);
        for broken in batch.iter_mut().flat_map(|(_, broken)| broken) {
            if observer.cancelled() {
                return Err(Error::cancelled());
            }
            if broken.made.is_none() {
                work.make_of(broken, &contents);
            }
            if broken.made.is_none() && self.guesses > 0 && Mender::may_guess(&broken.listed) {
                self.guesses -= 1;
                broken.made = Mender::guess(&broken.listed, &broken.remains);
            }
        }
        Ok(())
    }

    /// Puts a pack in its place with what was made of it, if that is anything.
    fn put_back(&mut self, id: PackId, broken: &[Broken]) -> Result<()> {
        let mut bytes = self.read(id)?;
        let Ok(table) = table_of(&bytes) else {
            // Without its table nobody knows what was in it, but whoever has a copy of it.
            return self.source.pack(id).map_or(Ok(()), |copy| self.publish(id, copy, 1));
        };
        let mut repaired = 0;
        let header = pack::encode_header(self.repository.config().id, id);
        let end = table.last().map_or(header.len() as u64, pack::TableEntry::end);
        let tail = pack::encode_end(&table, end);
        let tail_at = usize::try_from(end).unwrap_or(usize::MAX);
        let parts = [(0, &header[..]), (tail_at, &tail)].into_iter();
        let made = broken
            .iter()
            .filter_map(|broken| Some((broken.listed.range().start, broken.made.as_deref()?)));
        for (start, right) in parts.chain(made) {
            let place = bytes.0.get_mut(start..start.saturating_add(right.len()));
            if let Some(place) = place.filter(|place| *place != right) {
                place.copy_from_slice(right);
                repaired += 1;
            }
        }
        if repaired > 0 { self.publish(id, bytes.0, repaired) } else { Ok(()) }
    }

    /// Writes a pack as it was published, and puts it in the place of the damaged one.
    fn publish(&mut self, id: PackId, bytes: Vec<u8>, repaired: u64) -> Result<()> {
        let storage = self.repository.storage();
        let new = format!("{id}.{}.mended", to_hex(&random_bytes::<4>()?));
        let new = ObjectName::new(Folder::Packs, new);
        let mut writer = storage.create(&new)?;
        let written = writer.append(&bytes).and_then(|()| writer.sync());
        drop(writer);
        let placed = written.and_then(|()| storage.replace(&new, &pack::object_name(id).name));
        if let Err(error) = placed {
            let _left_behind = storage.remove(&new);
            return Err(error);
        }
        storage.sync_folder(Folder::Packs)?;
        self.report.repaired += repaired;
        self.clear_marks_of(id, &Bytes(bytes))
    }

    /// Takes away the marks that are left once all is sound: of packs on which others stood or to
    /// which trees led, and of packs that never were, whose ids came out of damaged bytes.
    fn clear_marks(&self) -> Result<()> {
        let mut packs = self.repository.packs()?;
        for id in packs.bad.packs() {
            if packs.finished.contains_key(&id) {
                self.clear_marks_of(id, &self.read(id)?)?;
            } else {
                packs.bad.clear(&**self.repository.storage(), id, true, |_| true);
            }
        }
        Ok(())
    }

    fn clear_marks_of(&self, id: PackId, bytes: &Bytes) -> Result<()> {
        let storage = self.repository.storage();
        let table = table_of(bytes);
        let is_whole = table.is_ok();
        let frames = Listed::all(&table.unwrap_or_default());
        let is_good =
            |listed: &&Listed| is_sound(listed, bytes.0.get(listed.range()).unwrap_or_default());
        let sound: HashSet<u32> = frames.iter().filter(is_good).map(|l| l.offset).collect();
        let is_all = is_whole && sound.len() == frames.len();
        let mut bad = self.repository.packs()?.bad;
        bad.clear(&**storage, id, is_all, |offset| sound.contains(&offset));
        Ok(())
    }

    /// A pack's bytes, as far as they can be read.
    fn read(&self, id: PackId) -> Result<Bytes> {
        let name = pack::object_name(id);
        let object = match self.repository.storage().open(&name) {
            Err(error) if error.kind() == ErrorKind::Corrupt => return Ok(Bytes(Vec::new())),
            object => object?,
        };
        // What is longer is not mended: it may be as long as its holes.
        let length = Some(object.size()).filter(|length| *length <= pack::LONGEST);
        let mut bytes = vec![0; usize::try_from(length.unwrap_or(0)).unwrap_or(0)];
        let mut at = 0;
        for piece in bytes.chunks_mut(256 * PIECE) {
            if damage_only(object.read_exact_at(at, piece))?.is_some() {
                for (number, page) in (0_u64..).zip(piece.chunks_mut(PIECE)) {
                    let start = at + number * PIECE as u64;
                    if damage_only(object.read_exact_at(start, page))?.is_some() {
                        page.fill(0);
                    }
                }
            }
            at += piece.len() as u64;
        }
        Ok(Bytes(bytes))
    }

    fn leave(&mut self, object: &ObjectName, offset: Option<u32>, why: &str) {
        let (object, why) = (object.to_string(), why.to_owned());
        self.report.left.push(Unrepaired { object, offset, why });
    }

    /// Says what is still damaged.
    fn tell_left(&mut self) -> Result<()> {
        for id in std::mem::take(&mut self.damaged) {
            let name = pack::object_name(id);
            let bytes = self.read(id)?;
            let Ok(table) = table_of(&bytes) else {
                self.leave(&name, None, "its table is lost, and cannot be made from its frames");
                continue;
            };
            let mut frames = Listed::all(&table);
            frames.retain(|listed| {
                !is_sound(listed, bytes.0.get(listed.range()).unwrap_or_default())
            });
            for listed in frames {
                let why = match listed.kind {
                    FrameKind::Block => "its blocks are not there, or were stored in another way",
                    FrameKind::Node => "it is a part of a tree, which no disk has",
                    FrameKind::Manifest => "its manifest is lost",
                };
                self.leave(&name, Some(listed.offset), why);
            }
        }
        Ok(())
    }
}

/// What makes frames again.
struct Work<'a> {
    repository: &'a Repository,
    index: &'a Index,
    mender: Mender,
}

impl Work<'_> {
    /// Makes a frame from what the repository and its copy hold.
    fn make_at_hand(&mut self, broken: &mut Broken, copy: Option<Vec<u8>>) {
        let Self { repository, mender, .. } = self;
        let kind = broken.listed.kind;
        let base = |stored: &StoredEntry| stored_content(repository, kind, stored);
        let (listed, remains) = (&broken.listed, broken.remains.as_slice());
        let made = mender.make_of_remains(listed, remains, &base);
        broken.made = made.or_else(|| mender.take_copy(listed, remains, copy?));
        if broken.made.is_none() {
            self.make_of(broken, &Contents::new());
        }
    }

    /// Makes a frame from `contents`, and what the repository holds elsewhere.
    fn make_of(&mut self, broken: &mut Broken, contents: &Contents) {
        let (listed, remains) = (&broken.listed, broken.remains.as_slice());
        let mut content = Vec::new();
        for member in &listed.members {
            let found = contents.get(&member.digest).cloned();
            match found.or_else(|| self.elsewhere(listed.kind, &member.digest)) {
                Some(part) => content.extend(part),
                None => return,
            }
        }
        let (repository, kind) = (self.repository, listed.kind);
        let base = |stored: &StoredEntry| {
            let found = contents.get(&stored.digest).cloned();
            found.or_else(|| stored_content(repository, kind, stored))
        };
        broken.made = self.mender.make_of_content(listed, (remains, &content), &base);
    }

    /// A content from another place.
    fn elsewhere(&self, kind: FrameKind, digest: &Digest) -> Option<Vec<u8>> {
        if kind == FrameKind::Manifest {
            let mut id = [0; 16];
            id.copy_from_slice(digest.0.get(..16)?);
            let object = self.repository.storage().open(&manifest_name(ImageId(id))).ok()?;
            let bytes = object.read_all(crate::base::limits::MAX_MANIFEST_SIZE).ok()?;
            return (self.repository.keys().manifest(&bytes) == *digest).then_some(bytes);
        }
        let place = self.index.lookup(digest)?;
        stored_content(self.repository, kind, &StoredEntry { digest: *digest, place })
    }
}

/// A content that is stored; none where it is damaged. Packs are opened anew: they may have been
/// put in their places meanwhile.
fn stored_content(
    repository: &Repository,
    kind: FrameKind,
    stored: &StoredEntry,
) -> Option<Vec<u8>> {
    let mut reader = ContentReader::new(kind, repository.keys());
    reader.read(&repository.frames(), stored).ok().map(<[u8]>::to_vec)
}

fn is_sound(listed: &Listed, bytes: &[u8]) -> bool {
    Frame::open(bytes)
        .is_ok_and(|frame| (frame.header.kind, &frame.members) == (listed.kind, &listed.members))
}

fn distrust(index: &Index, id: PackId, listed: &Listed) {
    let (offset, length) = (listed.offset, listed.length);
    index.distrust(&crate::store::Place { pack: id, offset, length, member: 0 });
}

/// Damage, if it is that; all other failures are passed on.
fn damage_only(outcome: Result<()>) -> Result<Option<Error>> {
    match outcome {
        Ok(()) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(Some(error)),
        Err(error) => Err(error),
    }
}

/// A pack in memory.
struct Bytes(Vec<u8>);

impl ObjectReader for Bytes {
    fn size(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()> {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        let found = self.0.get(start..start.saturating_add(buffer.len()));
        let ends =
            || Error::corrupt("pack", format!("{} bytes at {offset}", buffer.len()), "its end");
        let found = found.ok_or_else(ends)?;
        buffer.copy_from_slice(found);
        Ok(())
    }
}
