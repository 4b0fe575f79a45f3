//! Reading frames, nodes and whole images, every content checked against its digest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::codec::check_digest;
use super::content::ContentReader;
use super::damage::BadPlaces;
use super::digest::{DigestKeys, PackId};
use super::frame::{Frame, FrameKind, HEADER_LENGTH, Place};
use super::manifest::Manifest;
use super::node::{Entry, Node, SECTOR, StoredEntry};
use super::pack;
use super::storage::{ObjectReader, Storage};
use super::tree::{NodeSource, TreeRun, TreeVisitor, TreeWalk};
use crate::base::limits::{CACHED_NODES, IDLE_READERS, OPEN_PACKS};
use crate::base::{BlockIndex, ByteCount, ByteOffset, ByteRange, Error, ErrorKind, ReadAt, Result};

/// Reads frames by their place. Shared by threads; packs stay open while they are in use.
pub struct FrameReader {
    storage: Arc<dyn Storage>,
    keys: DigestKeys,
    packs: Mutex<VecDeque<(PackId, Arc<dyn ObjectReader>)>>,
    /// A pack that has no final name yet.
    unfinished: Option<(PackId, Arc<dyn ObjectReader>)>,
    nodes: Mutex<VecDeque<(StoredEntry, Arc<Node>)>>,
    contents: Mutex<ContentReader>,
    /// What was found damaged, and marked for later runs.
    bad: Mutex<BadPlaces>,
    is_bulk: bool,
}

impl FrameReader {
    /// A reader of the packs in `storage`, whose digests are made with `keys`.
    #[must_use]
    pub fn new(storage: Arc<dyn Storage>, keys: DigestKeys) -> Self {
        let contents = Mutex::new(ContentReader::new(FrameKind::Node, keys.clone()));
        let (packs, nodes) = (Mutex::default(), Mutex::default());
        let bad = Mutex::default();
        Self { storage, keys, packs, unfinished: None, nodes, contents, bad, is_bulk: false }
    }

    /// The same, which also reads a pack that is still being written.
    #[must_use]
    pub fn with_unfinished(mut self, id: PackId, pack: Arc<dyn ObjectReader>) -> Self {
        self.unfinished = Some((id, pack));
        self
    }

    /// The same, for a job that reads much and nothing twice.
    #[must_use]
    pub fn for_bulk(mut self) -> Self {
        self.is_bulk = true;
        self
    }

    /// The keys of the repository's digests.
    #[must_use]
    pub fn keys(&self) -> &DigestKeys {
        &self.keys
    }

    /// An open pack.
    ///
    /// # Errors
    /// `Corrupt` when it is missing; `Io`.
    pub fn pack(&self, id: PackId) -> Result<Arc<dyn ObjectReader>> {
        let held = |packs: &mut VecDeque<(PackId, Arc<dyn ObjectReader>)>| {
            let entry = packs.iter().position(|(open, _)| *open == id);
            let entry = entry.and_then(|found| packs.remove(found))?;
            packs.push_front(entry.clone());
            Some(entry.1)
        };
        if let Some((_, open)) = self.unfinished.as_ref().filter(|(own, _)| *own == id) {
            return Ok(Arc::clone(open));
        }
        if let Some(open) = held(&mut lock(&self.packs)) {
            return Ok(open);
        }
        // Without the lock: others go on meanwhile, and one of them may open it too.
        let name = pack::object_name(id);
        let storage = &self.storage;
        let opened = if self.is_bulk { storage.open_for_bulk(&name) } else { storage.open(&name) };
        let opened = opened.map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::corrupt(&name, "a pack", "nothing: it is missing"),
            _ => error,
        })?;
        let mut packs = lock(&self.packs);
        if let Some(open) = held(&mut packs) {
            return Ok(open);
        }
        let opened: Arc<dyn ObjectReader> = Arc::from(opened);
        packs.push_front((id, Arc::clone(&opened)));
        packs.truncate(OPEN_PACKS);
        Ok(opened)
    }

    /// Reads the frame at `place` into `frame`, unchecked.
    ///
    /// # Errors
    /// `Corrupt` when the place is none of its pack's; `Io`.
    pub fn frame(&self, kind: FrameKind, place: &Place, frame: &mut Vec<u8>) -> Result<()> {
        let length = place.length as usize;
        if length < HEADER_LENGTH || length > kind.max_length() {
            let name = kind.name();
            return Err(Error::corrupt(place, format!("a {name} frame's length"), length));
        }
        frame.resize(length, 0);
        self.pack(place.pack)?
            .read_exact_at(u64::from(place.offset), frame)
            .map_err(|error| error.within(place))
    }

    /// Reads the frame of `stored` into `bytes`, and checks its own checksums and that it is the
    /// one that is meant; what is damaged is [marked](Self::mark_damaged).
    ///
    /// # Errors
    /// `Corrupt` when it is not; `Io`.
    pub fn checked<'b>(
        &self,
        kind: FrameKind,
        stored: &StoredEntry,
        bytes: &'b mut Vec<u8>,
    ) -> Result<Frame<'b>> {
        let place = &stored.place;
        self.marking(place, self.frame(kind, place, bytes))?;
        let frame = Frame::open(bytes)
            .and_then(|frame| frame.expect(kind, place.member, &stored.digest).map(|_| frame));
        self.marking(place, frame).map_err(|error| error.within(place))
    }

    /// Marks what lies at `place` as damaged, so that no later capture refers to it.
    pub fn mark_damaged(&self, place: &Place) {
        let id = place.pack;
        if self.unfinished.as_ref().is_some_and(|(own, _)| *own == id) {
            return;
        }
        let is_there = |name| match self.storage.open(&name) {
            Ok(_) => true,
            Err(error) => error.kind() != ErrorKind::NotFound,
        };
        // A pack that gets its final name meanwhile has the one or the other.
        let names = [pack::object_name(id), pack::unfinished_name(id), pack::object_name(id)];
        let [finished, unfinished, finished_by_now] = names.map(is_there);
        let mut bad = lock(&self.bad);
        if finished || finished_by_now {
            bad.mark(&*self.storage, id, place.offset);
        } else if !unfinished {
            bad.mark_all(&*self.storage, id);
        }
    }

    /// Hands on what was read at `place`, which is [marked](Self::mark_damaged) if it is damaged.
    pub(super) fn marking<T>(&self, place: &Place, read: Result<T>) -> Result<T> {
        read.inspect_err(|error| {
            if error.kind() == ErrorKind::Corrupt {
                self.mark_damaged(place);
            }
        })
    }

    fn read_node(&self, stored: &StoredEntry) -> Result<Node> {
        let mut contents = lock(&self.contents);
        let node = Node::decode(contents.read(self, stored)?)?;
        check_digest(stored.digest, node.digest(&self.keys))?;
        Ok(node)
    }
}

impl NodeSource for FrameReader {
    fn node(&self, stored: &StoredEntry) -> Result<Arc<Node>> {
        if let Some((_, node)) = lock(&self.nodes).iter().find(|(of, _)| of == stored) {
            return Ok(Arc::clone(node));
        }
        let node = self.marking(&stored.place, self.read_node(stored));
        let node = node.map_err(|error| error.within(stored.place))?;
        let node = Arc::new(node);
        let mut nodes = lock(&self.nodes);
        nodes.push_front((*stored, Arc::clone(&node)));
        nodes.truncate(CACHED_NODES);
        Ok(node)
    }
}

// A thread that panicked while it held one of these locks left a whole cache behind.
fn lock<T>(lock: &Mutex<T>) -> MutexGuard<'_, T> {
    lock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An image as bytes at an offset. Opening costs nothing; nodes are read when they are needed.
pub struct ImageReader {
    manifest: Manifest,
    frames: FrameReader,
    /// Those that no thread is reading with, the one that was used last at the end.
    readers: Mutex<VecDeque<ContentReader>>,
}

impl ImageReader {
    /// The image of `manifest`.
    #[must_use]
    pub fn new(manifest: Manifest, frames: FrameReader) -> Self {
        Self { manifest, frames, readers: Mutex::default() }
    }

    /// Reads `stored` with a reader that no other thread has: one that holds its frame if there is
    /// one, else a new one, or the one that was not used for longest.
    fn with_reader<T>(
        &self,
        stored: &StoredEntry,
        read: impl FnOnce(&mut ContentReader) -> T,
    ) -> T {
        let idle = {
            let mut readers = lock(&self.readers);
            let holding = readers.iter().position(|reader| reader.holds(stored));
            let is_full = readers.len() >= IDLE_READERS;
            holding.or(is_full.then_some(0)).and_then(|at| readers.remove(at))
        };
        let mut reader = idle
            .unwrap_or_else(|| ContentReader::new(FrameKind::Block, self.frames.keys().clone()));
        let result = read(&mut reader);
        lock(&self.readers).push_back(reader);
        result
    }

    /// Its manifest.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What its frames are read with.
    #[must_use]
    pub fn frames(&self) -> &FrameReader {
        &self.frames
    }

    /// Shows the whole tree, or `count` blocks of it from `first`, to `visitor`.
    ///
    /// # Errors
    /// The visitor's own.
    pub fn walk(
        &self,
        only: Option<(BlockIndex, u64)>,
        visitor: &mut dyn TreeVisitor,
    ) -> Result<()> {
        let (level, root) = self.manifest.root();
        let walk = TreeWalk::new(&self.frames, self.manifest.blocks());
        let (first, count) = only.unwrap_or((BlockIndex(0), u64::MAX));
        walk.only(first, count).run((level, &root), visitor)
    }
}

impl ReadAt for ImageReader {
    fn size(&self) -> ByteCount {
        self.manifest.size
    }

    fn read_exact_at(&self, offset: ByteOffset, buffer: &mut [u8]) -> Result<()> {
        let wanted = ByteRange::new(offset.0, buffer.len() as u64);
        if wanted.end > self.manifest.size.0 || wanted.len() != buffer.len() as u64 {
            return Err(Error::new(
                ErrorKind::Invalid,
                format!("image of {} bytes: {wanted} lie beyond it", self.manifest.size),
            ));
        }
        if buffer.is_empty() {
            return Ok(());
        }
        let block = self.manifest.block_size.bytes();
        let first = wanted.start / block;
        let count = wanted.end.div_ceil(block) - first;
        let mut copy = Copy { image: self, wanted, buffer };
        self.walk(Some((BlockIndex(first), count)), &mut copy)
    }
}

/// Copies what a walk shows into a reader's buffer.
struct Copy<'a> {
    image: &'a ImageReader,
    wanted: ByteRange,
    buffer: &'a mut [u8],
}

impl Copy<'_> {
    /// The part of the buffer that takes `range`, and that part's range.
    fn part(&mut self, range: ByteRange) -> Option<(&mut [u8], ByteRange)> {
        let both = range.intersection(&self.wanted)?;
        let start = usize::try_from(both.start - self.wanted.start).ok()?;
        let end = usize::try_from(both.end - self.wanted.start).ok()?;
        Some((self.buffer.get_mut(start..end)?, both))
    }

    fn copy_block(&mut self, index: BlockIndex, stored: &StoredEntry) -> Result<()> {
        let manifest = &self.image.manifest;
        let block = manifest.block_size.range(index, manifest.size);
        let (image, range) = (self.image, block);
        let Some((target, both)) = self.part(range) else { return Ok(()) };
        let start = usize::try_from(both.start - range.start).unwrap_or(usize::MAX);
        image.with_reader(stored, |reader| {
            let content = reader.read(&image.frames, stored)?;
            let part = content.get(start..start.saturating_add(target.len()));
            match part.filter(|_| content.len() as u64 == range.len()) {
                Some(part) => target.copy_from_slice(part),
                None => return Err(Error::corrupt("block's length", range.len(), content.len())),
            }
            Ok(())
        })
    }
}

impl TreeVisitor for Copy<'_> {
    fn run(&mut self, run: TreeRun<'_>) -> Result<()> {
        let manifest = &self.image.manifest;
        let range = manifest.bytes_of(run.first, run.count);
        match run.entry {
            Entry::Zero | Entry::Unallocated => {
                if let Some((target, _)) = self.part(range) {
                    target.fill(0);
                }
                Ok(())
            }
            Entry::Unreadable => Err(unreadable(range)),
            Entry::Stored(stored) => (run.first.0..run.first.0 + run.count)
                .try_for_each(|index| self.copy_block(BlockIndex(index), stored)),
            Entry::Partial(stored, bad) => {
                for sectors in bad {
                    let start = range.start + u64::from(sectors.first) * SECTOR;
                    let bad = ByteRange::new(start, u64::from(sectors.count) * SECTOR);
                    if bad.intersection(&self.wanted).is_some() {
                        return Err(unreadable(bad));
                    }
                }
                self.copy_block(run.first, stored)
            }
        }
    }
}

fn unreadable(range: ByteRange) -> Error {
    Error::new(ErrorKind::Io, format!("{range} could not be read when the image was captured"))
}
