//! Writing an image: frames into packs, nodes beside blocks, and the commit that makes it one.
//!
//! Commit order, a type for each step: what was written is a [`Draft`], which can be read; once it
//! is [`Proven`], a copy of its manifest goes into the last pack, and every pack is synced and
//! renamed, and the packs' folder synced; only then the manifest is written, synced, renamed, and
//! its folder synced. A pack with its final name is never removed: others may use it already.

use std::sync::Arc;

use super::codec::{Compression, Decoder, Encoder};
use super::content::ContentReader;
use super::digest::{DigestKeys, ImageId, PackId, RepositoryId};
use super::frame::{Codec, Frame, FrameKind, Member, Place};
use super::index::Index;
use super::manifest::Manifest;
use super::node::{Node, StoredEntry};
use super::pack::{self, TableEntry};
use super::parent::Parent;
use super::reader::{FrameReader, ImageReader};
use super::repository::{Repository, manifest_name};
use super::storage::{Folder, ObjectName, ObjectWriter, Storage};
use super::tree::{NodeSink, NodeSource};
use crate::base::{BlockIndex, Error, ErrorKind, Result};
use crate::sys::threads::Task;

/// Packs that may be syncing while the next is written.
const SYNCING_PACKS: usize = 2;
/// Digests do not compress; the level takes what the rest of a node gives.
pub(super) const NODE_COMPRESSION: Compression = Compression::Level(3);
/// Manifests are text.
pub(super) const MANIFEST_COMPRESSION: Compression = Compression::Level(3);

/// Writes one image's frames. Dropped without a commit, it leaves finished packs, which are
/// reused, and at most one unfinished one, which the next writer adopts.
pub struct StoreWriter {
    storage: Arc<dyn Storage>,
    repository: RepositoryId,
    keys: DigestKeys,
    index: Arc<Index>,
    frames: FrameReader,
    parent: Option<Parent>,
    nodes_read: ContentReader,
    encoder: Encoder,
    decoder: Decoder,
    pack_size: u64,
    open: Option<OpenPack>,
    syncing: Vec<Task<Result<()>>>,
    stored: u64,
    nodes: u64,
}

/// Where a content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Put {
    /// Its place.
    pub place: Place,
    /// Whether it was not stored before.
    pub is_new: bool,
}

struct OpenPack {
    id: PackId,
    writer: Box<dyn ObjectWriter>,
    length: u64,
    entries: Vec<TableEntry>,
}

impl StoreWriter {
    /// A writer into `repository`, which must be locked, using its `index`.
    ///
    /// # Errors
    /// `Unsupported` when this version may not write there.
    pub fn new(repository: &Repository, index: Arc<Index>) -> Result<Self> {
        repository.config().check_writable()?;
        Ok(Self {
            storage: Arc::clone(repository.storage()),
            repository: repository.config().id,
            keys: repository.keys(),
            index,
            frames: FrameReader::new(Arc::clone(repository.storage()), repository.keys()),
            parent: None,
            nodes_read: ContentReader::new(FrameKind::Node, repository.keys()),
            encoder: Encoder::new(),
            decoder: Decoder::new(repository.keys()),
            pack_size: repository.pack_size(),
            open: None,
            syncing: Vec::new(),
            stored: 0,
            nodes: 0,
        })
    }

    /// The same, storing nodes as what differs from those of `parent` where that is smaller.
    #[must_use]
    pub fn after(mut self, parent: Parent) -> Self {
        self.parent = Some(parent);
        self
    }

    /// Stores an encoded frame's contents, but for those that are stored already, and says where
    /// each is.
    ///
    /// # Errors
    /// `Io`, also of packs that were synced in the background.
    pub fn put(&mut self, frame: &[u8]) -> Result<Vec<Put>> {
        let parts = Frame::parse(frame)?;
        let known: Vec<Option<Place>> =
            parts.members.iter().map(|member| self.index.lookup(&member.digest)).collect();
        let places = match known.iter().flatten().count() {
            0 => self.append(frame, &parts)?,
            all if all == known.len() => Vec::new(),
            _ => {
                let rest = self.without_known(&parts, &known)?;
                self.append(&rest, &Frame::parse(&rest)?)?
            }
        };
        let mut places = places.into_iter();
        let put = known.into_iter().map(|known| match known {
            Some(place) => Put { place, is_new: false },
            None => {
                let place = places.next().expect("what was not known was added");
                Put { place, is_new: true }
            }
        });
        Ok(put.collect())
    }

    /// The frame of those members that are not stored yet: of blocks that lie several times on
    /// the disk, all but one were made in vain when several were in work at once.
    fn without_known(&mut self, frame: &Frame<'_>, known: &[Option<Place>]) -> Result<Vec<u8>> {
        let mut content = Vec::new();
        self.decoder.expand(frame, &[], &mut content)?;
        let (mut members, mut kept) = (Vec::new(), Vec::new());
        let mut rest = content.as_slice();
        for (member, known) in frame.members.iter().zip(known) {
            let (part, behind) = rest.split_at(member.length as usize);
            rest = behind;
            if known.is_none() {
                members.push(*member);
                kept.extend_from_slice(part);
            }
        }
        let compression = match frame.header.codec {
            Codec::Raw => Compression::Off,
            Codec::Zstd | Codec::Delta => Compression::Step(0),
        };
        let mut smaller = Vec::new();
        let kind = (frame.header.kind, members.as_slice());
        self.encoder.encode(kind, &kept, compression, &mut smaller)?;
        Ok(smaller)
    }

    /// Adds a frame to the open pack, and says where its members are.
    fn append(&mut self, frame: &[u8], parts: &Frame<'_>) -> Result<Vec<Place>> {
        let mut open = self.pack_with_room(frame.len() as u64)?;
        let outcome = open.append(frame, parts);
        let added = outcome.map(|first| {
            let (id, added) = (open.id, &open.entries[first..]);
            let places: Vec<Place> = added.iter().map(|entry| entry.place(id)).collect();
            for (entry, place) in added.iter().zip(&places) {
                self.index.note(entry.digest, *place);
            }
            self.stored += frame.len() as u64;
            places
        });
        self.open = Some(open);
        added
    }

    /// Bytes of frames stored so far: all of them, and those of nodes.
    #[must_use]
    pub fn stored(&self) -> (u64, u64) {
        (self.stored, self.nodes)
    }

    fn pack_with_room(&mut self, more: u64) -> Result<OpenPack> {
        let fits = |open: &OpenPack| {
            pack::has_room(open.length, open.entries.len(), more)
                && open.length.saturating_add(more) <= self.pack_size
        };
        match self.open.take() {
            Some(open) if fits(&open) => Ok(open),
            full => {
                if let Some(full) = full {
                    self.finish_pack(full)?;
                }
                OpenPack::create(&*self.storage, self.repository)
            }
        }
    }

    /// Ends a pack and syncs it in the background.
    fn finish_pack(&mut self, mut open: OpenPack) -> Result<()> {
        while self.syncing.len() >= SYNCING_PACKS {
            self.syncing.remove(0).join()?;
        }
        let end = pack::encode_end(&open.entries, open.length);
        let (storage, index) = (Arc::clone(&self.storage), Arc::clone(&self.index));
        let finish = move || {
            open.writer.append(&end)?;
            sync_or_remove(&*storage, &pack::unfinished_name(open.id), &mut *open.writer)?;
            drop(open.writer);
            let name = pack::object_name(open.id).name;
            storage.rename(&pack::unfinished_name(open.id), &name)?;
            let _rebuilt = index.finish_pack(open.id, open.length + end.len() as u64);
            Ok(())
        };
        self.syncing.push(Task::begin("imgx-sync", finish));
        Ok(())
    }

    /// The frame of a node: a delta where that is smaller.
    fn encode_node(
        &mut self,
        member: Member,
        content: &[u8],
        before: Option<StoredEntry>,
    ) -> Result<Vec<u8>> {
        let mut frame = Vec::new();
        if let Some(before) = before
            && let Ok(base) = self.nodes_read.base(&self.frames, &before)
            && self.encoder.encode_delta((FrameKind::Node, member), content, &base, &mut frame)?
        {
            return Ok(frame);
        }
        let members = (FrameKind::Node, &[member][..]);
        self.encoder.encode(members, content, NODE_COMPRESSION, &mut frame)?;
        Ok(frame)
    }

    /// Makes all that was stored readable, without an image of it.
    ///
    /// # Errors
    /// `Io`.
    pub fn end(mut self) -> Result<()> {
        self.finish()
    }

    /// The image of `manifest`, of which everything is written. It can be read now, and is none
    /// until it is [proven](Draft::proven) and [published](Proven::publish).
    #[must_use]
    pub fn draft(self, manifest: Manifest) -> Draft {
        Draft { writer: self, manifest }
    }

    /// Reads what was stored so far, also what is in the unfinished pack.
    fn reader(&mut self) -> Result<FrameReader> {
        let frames = FrameReader::new(Arc::clone(&self.storage), self.keys.clone());
        // A pack that is being synced has no final name yet.
        while let Some(handle) = self.syncing.pop() {
            handle.join()?;
        }
        let Some(open) = &mut self.open else { return Ok(frames) };
        open.writer.flush()?;
        let reader = self.storage.open(&pack::unfinished_name(open.id))?;
        Ok(frames.with_unfinished(open.id, Arc::from(reader)))
    }

    /// Finishes and syncs every pack.
    fn finish(&mut self) -> Result<()> {
        if let Some(open) = self.open.take() {
            self.finish_pack(open)?;
        }
        // After a failure, dropping the writer waits for the rest: none outlives the lock.
        while let Some(handle) = self.syncing.pop() {
            handle.join()?;
        }
        self.storage.sync_folder(Folder::Packs)?;
        // The index is derived: what could not be written is read from the packs next time.
        let _rebuilt = self.index.flush();
        Ok(())
    }
}

/// What may become an image: everything in it can be read, and nothing says yet that it is there.
/// Dropped, it leaves its blocks to the next writer, as a [`StoreWriter`] does.
pub struct Draft {
    writer: StoreWriter,
    manifest: Manifest,
}

impl Draft {
    /// Has `proof` look at the image, and goes on only if that finds nothing wrong.
    ///
    /// # Errors
    /// Those of `proof`; `Io`. There is no image then, and none to be salvaged.
    pub fn proven(mut self, proof: impl FnOnce(ImageReader) -> Result<()>) -> Result<Proven> {
        let frames = self.writer.reader()?;
        proof(ImageReader::new(self.manifest.clone(), frames))?;
        let Self { writer, manifest } = self;
        Ok(Proven { writer, manifest })
    }

    /// Has `proof` look at the image, which may come to doubts.
    ///
    /// # Errors
    /// Those of `proof`; `Io`.
    pub fn judged<D>(
        mut self,
        proof: impl FnOnce(ImageReader) -> Result<Vec<D>>,
    ) -> Result<Judged<D>> {
        let frames = self.writer.reader()?;
        let doubts = proof(ImageReader::new(self.manifest.clone(), frames))?;
        if !doubts.is_empty() {
            return Ok(Judged::Doubted(self, doubts));
        }
        let Self { writer, manifest } = self;
        Ok(Judged::Proven(Proven { writer, manifest }))
    }

    /// Makes its blocks last, without an image of them.
    ///
    /// # Errors
    /// `Io`.
    pub fn abandon(self) -> Result<()> {
        self.writer.end()
    }
}

/// What a proof made of a draft.
pub enum Judged<D> {
    /// It holds what it has to.
    Proven(Proven),
    /// It may not, for these reasons: there are some.
    Doubted(Draft, Vec<D>),
}

/// An image that was read and found to hold what it has to, and of which only the manifest is
/// missing.
pub struct Proven {
    writer: StoreWriter,
    manifest: Manifest,
}

impl Proven {
    /// Makes it an image: with a copy of its manifest in the last pack, from which a lost one is
    /// salvaged.
    ///
    /// # Errors
    /// `Io`; the image does not exist then.
    pub fn publish(self) -> Result<ImageId> {
        let Self { mut writer, manifest } = self;
        let bytes = manifest.encode();
        let id = writer.keys.image_id(&bytes);
        let digest = writer.keys.manifest(&bytes);
        let mut frame = Vec::new();
        let member = Member { digest, length: u32::try_from(bytes.len()).unwrap_or(u32::MAX) };
        let kind = (FrameKind::Manifest, &[member][..]);
        writer.encoder.encode(kind, &bytes, MANIFEST_COMPRESSION, &mut frame)?;
        writer.put(&frame)?;
        writer.finish()?;
        publish_manifest(&*writer.storage, id, &bytes)?;
        Ok(id)
    }
}

impl Drop for StoreWriter {
    fn drop(&mut self) {
        for handle in std::mem::take(&mut self.syncing) {
            // Whoever drops an uncommitted writer has an error of its own to report.
            let _outcome = handle.join();
        }
    }
}

impl NodeSink for StoreWriter {
    fn put_node(&mut self, node: &Node, first: BlockIndex) -> Result<StoredEntry> {
        let digest = node.digest(&self.keys);
        // A parent that cannot be read here is of no use, and no hindrance.
        let before = self.parent.as_ref().and_then(|parent| parent.node(node.level, first).ok());
        let before = before.flatten();
        // The digest says nothing of places. A node that an unfinished capture left may lead to
        // packs that are gone, while this one's blocks were all found or stored.
        let known = self.index.lookup(&digest).map(|place| StoredEntry { digest, place });
        for stored in before.into_iter().filter(|stored| stored.digest == digest).chain(known) {
            if self.frames.node(&stored).is_ok_and(|found| *found == *node) {
                return Ok(stored);
            }
        }
        let content = node.encode();
        let length = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let frame = self.encode_node(Member { digest, length }, &content, before)?;
        let places = self.append(&frame, &Frame::parse(&frame)?)?;
        self.nodes += frame.len() as u64;
        let place = places.into_iter().next().expect("a node's frame has one member");
        Ok(StoredEntry { digest, place })
    }
}

impl OpenPack {
    fn create(storage: &dyn Storage, repository: RepositoryId) -> Result<Self> {
        let id = PackId::random()?;
        let mut writer = storage.create(&pack::unfinished_name(id))?;
        let header = pack::encode_header(repository, id);
        writer.append(&header)?;
        Ok(Self { id, writer, length: header.len() as u64, entries: Vec::new() })
    }

    /// Adds a frame, and returns the number of its first table entry.
    fn append(&mut self, bytes: &[u8], frame: &Frame<'_>) -> Result<usize> {
        let offset = u32::try_from(self.length).map_err(|_| {
            Error::new(ErrorKind::Limit, format!("pack {} outgrew 32-bit offsets", self.id))
        })?;
        self.writer.append(bytes)?;
        let first = self.entries.len();
        self.entries.extend(TableEntry::of_frame(frame, offset));
        self.length += bytes.len() as u64;
        Ok(first)
    }
}

/// Writes a manifest so that it either exists whole and lasts, or not at all.
///
/// # Errors
/// `Io`; `Conflict` when it exists.
fn publish_manifest(storage: &dyn Storage, id: ImageId, bytes: &[u8]) -> Result<()> {
    let new = write_manifest(storage, id, bytes)?;
    storage.rename(&new, &manifest_name(id).name)?;
    storage.sync_folder(Folder::Images)
}

/// As [`publish_manifest`], in place of a damaged one if there is one.
///
/// # Errors
/// `Io`; what was there is there then.
pub fn restore_manifest(storage: &dyn Storage, id: ImageId, bytes: &[u8]) -> Result<()> {
    let new = write_manifest(storage, id, bytes)?;
    storage.replace(&new, &manifest_name(id).name)?;
    storage.sync_folder(Folder::Images)
}

/// Writes and syncs a manifest under its unfinished name.
fn write_manifest(storage: &dyn Storage, id: ImageId, bytes: &[u8]) -> Result<ObjectName> {
    let new = ObjectName::new(Folder::Images, format!("{id}.new"));
    match storage.remove(&new) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut writer = storage.create(&new)?;
    writer.append(bytes)?;
    writer.sync()?;
    Ok(new)
}

/// Syncs a pack. When that fails it is removed: its bytes may still be read from memory, and later
/// syncs succeed, without ever reaching the disk, so nobody may come to rely on it.
///
/// # Errors
/// `Io` of the sync.
pub(super) fn sync_or_remove(
    storage: &dyn Storage,
    name: &ObjectName,
    writer: &mut dyn ObjectWriter,
) -> Result<()> {
    writer.sync().inspect_err(|_failed| {
        let _storage_is_broken = storage.remove(name);
    })
}
