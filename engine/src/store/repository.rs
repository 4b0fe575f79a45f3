//! A repository: its config, its images, and the ways in to read and write.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use super::config::Config;
use super::damage::{BadPlaces, parse_mark};
use super::digest::{DigestKeys, ImageId, PackId};
use super::index::Index;
use super::lock::{Lock, LockKind, ReadLock};
use super::manifest::Manifest;
use super::pack::{self, PackName};
use super::reader::{FrameReader, ImageReader};
use super::storage::{Folder, LocalStorage, ObjectName, Storage};
use crate::base::limits::{
    LARGE_MANIFEST, MAX_CONFIG_SIZE, MAX_LARGE_MANIFESTS, MAX_MANIFEST_SIZE, MAX_PACK_SIZE,
};
use crate::base::{
    BlockSize, ByteCount, Error, ErrorKind, Event, Observer, Phase, Progress, Result,
};

const CONFIG: &str = "config";
pub(super) const MANIFEST_SUFFIX: &str = ".json";

/// The name of an image's manifest.
#[must_use]
pub fn manifest_name(id: ImageId) -> ObjectName {
    ObjectName::new(Folder::Images, format!("{id}{MANIFEST_SUFFIX}"))
}

/// An open repository.
pub struct Repository {
    storage: Arc<dyn Storage>,
    config: Config,
    cache: Option<PathBuf>,
    pack_size: u64,
}

/// An image: its id and its manifest.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its id.
    pub id: ImageId,
    /// Its manifest.
    pub manifest: Manifest,
}

/// What a repository's images' folder holds.
#[derive(Debug, Default)]
pub struct Images {
    /// Sound images, newest first: in the order of their [ordinals](Manifest::ordinal), and only
    /// where captures ran beside each other by their clocks.
    pub images: Vec<Image>,
    /// Manifests that are damaged or of a later version, with what is wrong.
    pub damaged: Vec<(ObjectName, Error)>,
    /// Where they are, for messages.
    pub place: String,
    /// Whether somebody was told that the order lacks what is damaged.
    pub(super) is_doubt_told: AtomicBool,
}

impl Image {
    /// What images are ordered by, the oldest first.
    #[must_use]
    pub fn order(&self) -> impl Ord + use<> {
        (self.manifest.ordinal, self.manifest.created.clone(), self.id)
    }
}

impl Images {
    /// The ordinal of an image that is captured now: above all that are here, and above those
    /// that damaged manifests may have, should they be mended.
    #[must_use]
    pub fn next_ordinal(&self) -> u64 {
        let newest = self.images.first().map_or(0, |image| image.manifest.ordinal);
        newest.saturating_add(self.damaged.len() as u64).saturating_add(1)
    }
}

/// What a repository's packs' folder holds, with sizes in bytes.
#[derive(Debug, Default)]
pub struct Packs {
    /// Whole packs.
    pub finished: HashMap<PackId, u64>,
    /// Packs that their writers did not finish, or have not yet.
    pub unfinished: Vec<(PackId, u64)>,
    /// What of them was once found damaged.
    pub bad: BadPlaces,
}

impl Repository {
    /// Creates a repository in the directory `path`, which must be missing or empty.
    ///
    /// # Errors
    /// `Conflict` when the directory holds anything; `Io`.
    pub fn create(path: &Path, block_size: BlockSize) -> Result<Self> {
        Self::create_in(Arc::new(LocalStorage::create(path)?), block_size)
    }

    /// Creates a repository in empty storage.
    ///
    /// # Errors
    /// `Conflict` when there is one already; `Io`.
    pub fn create_in(storage: Arc<dyn Storage>, block_size: BlockSize) -> Result<Self> {
        let config = Config::new(block_size)?;
        let new = ObjectName::new(Folder::Root, format!("{CONFIG}.new"));
        let mut writer = storage.create(&new)?;
        writer.append(&config.encode())?;
        writer.sync()?;
        storage.rename(&new, CONFIG)?;
        storage.sync_folder(Folder::Root)?;
        Ok(Self { storage, config, cache: None, pack_size: MAX_PACK_SIZE })
    }

    /// Opens the repository in the directory `path`.
    ///
    /// # Errors
    /// `NotFound` when there is none; `Corrupt`, `Unsupported`, `Io`.
    pub fn open(path: &Path) -> Result<Self> {
        Self::open_in(Arc::new(LocalStorage::open(path)?))
    }

    /// Opens the repository in `storage`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_in(storage: Arc<dyn Storage>) -> Result<Self> {
        let name = ObjectName::new(Folder::Root, CONFIG);
        let opened = storage.open(&name).map_err(|error| match error.kind() {
            ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                format!("{}: no repository (it has no config)", storage.describe()),
            ),
            _ => error,
        })?;
        let within = |error: Error| error.within(storage.describe());
        let config =
            Config::decode(&opened.read_all(MAX_CONFIG_SIZE).map_err(within)?).map_err(within)?;
        Ok(Self { storage, config, cache: None, pack_size: MAX_PACK_SIZE })
    }

    /// Keeps the index in a folder of `caches`, so that later runs need not rebuild it.
    #[must_use]
    pub fn with_cache(mut self, caches: &Path) -> Self {
        self.cache = Some(caches.join(self.config.id.to_string()));
        self
    }

    /// Has packs end at `bytes`, of at most [`MAX_PACK_SIZE`], so that small disks make several.
    #[must_use]
    pub fn with_pack_size(mut self, bytes: u64) -> Self {
        self.pack_size = bytes.min(MAX_PACK_SIZE);
        self
    }

    /// Bytes at which a pack ends. A frame that is longer has a pack of its own.
    #[must_use]
    pub fn pack_size(&self) -> u64 {
        self.pack_size
    }

    /// Its config.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The keys of its digests.
    #[must_use]
    pub fn keys(&self) -> DigestKeys {
        self.config.keys()
    }

    /// What it is kept on.
    #[must_use]
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Locks it for `purpose`.
    ///
    /// # Errors
    /// `Conflict` naming who is in the way; `Io`.
    pub fn lock(&self, kind: LockKind, purpose: &str) -> Result<Lock> {
        Lock::acquire(&*self.storage, kind, purpose)
    }

    /// Locks it for `purpose`, which only reads; where it cannot be written, it is not locked.
    ///
    /// # Errors
    /// `Conflict` naming who is in the way; `Io`.
    pub fn lock_to_read(&self, purpose: &str) -> Result<ReadLock> {
        ReadLock::acquire(&*self.storage, purpose)
    }

    /// Opens an image for reading here and there.
    #[must_use]
    pub fn reader(&self, image: &Image) -> ImageReader {
        self.reader_of(image.manifest.clone())
    }

    /// Opens an image that is not published yet.
    #[must_use]
    pub fn reader_of(&self, manifest: Manifest) -> ImageReader {
        ImageReader::new(manifest, self.frames())
    }

    /// A reader of its frames.
    #[must_use]
    pub fn frames(&self) -> FrameReader {
        FrameReader::new(Arc::clone(&self.storage), self.keys())
    }

    /// Opens an image for reading all of it, once.
    #[must_use]
    pub fn bulk_reader(&self, image: &Image) -> ImageReader {
        let frames = FrameReader::new(Arc::clone(&self.storage), self.keys());
        ImageReader::new(image.manifest.clone(), frames.for_bulk())
    }

    /// Every image, and every manifest that is none.
    ///
    /// # Errors
    /// `Io` when the folder cannot be listed.
    pub fn images(&self) -> Result<Images> {
        let mut found = Images { place: self.storage.describe(), ..Images::default() };
        let mut large = 0_usize;
        for object in self.storage.list(Folder::Images, &|name| name.ends_with(MANIFEST_SUFFIX))? {
            let Some(digits) = object.name.strip_suffix(MANIFEST_SUFFIX) else { continue };
            let name = ObjectName::new(Folder::Images, object.name.clone());
            let outcome = match ImageId::from_hex(digits) {
                Some(id) => self.image(id),
                None => Err(Error::corrupt("manifest's name", "32 hexadecimal digits", digits)),
            };
            let outcome = outcome.and_then(|image| {
                let memory =
                    Some(image.manifest.memory()).filter(|memory| *memory > LARGE_MANIFEST);
                large = large.saturating_add(memory.unwrap_or_default());
                match large > MAX_LARGE_MANIFESTS && memory.is_some() {
                    true => Err(too_large(&name)),
                    false => Ok(image),
                }
            });
            match outcome {
                Ok(image) => found.images.push(image),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => found.damaged.push((name, error)),
            }
        }
        found.images.sort_by_cached_key(|image| Reverse(image.order()));
        found.damaged.sort_by(|(a, _), (b, _)| a.cmp(b));
        Ok(found)
    }

    /// The image with this id.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt`, `Unsupported`, `Io`.
    pub fn image(&self, id: ImageId) -> Result<Image> {
        let name = manifest_name(id);
        let within = |error: Error| error.within(&name);
        let bytes = self.storage.open(&name)?.read_all(MAX_MANIFEST_SIZE).map_err(within)?;
        let manifest = Manifest::decode(&bytes, id, &self.keys()).map_err(within)?;
        let (owner, block_size) = (manifest.repository, manifest.block_size);
        if owner != self.config.id || block_size != self.config.block_size {
            let expected = format!("repository {}'s", self.config.id);
            return Err(Error::corrupt("manifest", expected, owner).within(&name));
        }
        Ok(Image { id, manifest })
    }

    /// The image that `reference` means, as [`Images::resolve`] says; who has several references
    /// lists the images once and asks that.
    ///
    /// # Errors
    /// `NotFound` or `Invalid`, saying what there is; `Io` when the folder cannot be listed.
    pub fn resolve(&self, reference: &str, observer: &dyn Observer) -> Result<Image> {
        self.images()?.resolve(reference, observer).cloned()
    }

    /// The packs that are there.
    ///
    /// # Errors
    /// `Io`.
    pub fn packs(&self) -> Result<Packs> {
        let mut packs = Packs::default();
        let is_known = |name: &str| PackName::parse(name).is_some() || parse_mark(name).is_some();
        for object in self.storage.list(Folder::Packs, &is_known)? {
            match PackName::parse(&object.name) {
                Some(PackName::Finished(id)) => {
                    packs.finished.insert(id, object.size);
                }
                Some(PackName::Unfinished(id)) => packs.unfinished.push((id, object.size)),
                None => {
                    if let Some((id, offset)) = parse_mark(&object.name) {
                        packs.bad.add(id, offset);
                    }
                }
            }
        }
        Ok(packs)
    }

    /// The index, brought up to the packs that are there now. A pack whose table is damaged is
    /// left out, with a warning: its blocks are stored again when they are met, as is what was once
    /// found damaged.
    ///
    /// # Errors
    /// `Io`; `Cancelled`.
    pub fn index(&self, observer: &dyn Observer) -> Result<Index> {
        let index = Index::open(self.config.id, self.cache.as_deref());
        let Packs { finished: packs, bad, .. } = self.packs()?;
        index.distrust_all(bad);
        let unknown = index.reconcile(&packs);
        let sizes = unknown.iter().filter_map(|id| packs.get(id)).copied();
        let total = ByteCount::total(sizes).0;
        if !unknown.is_empty() {
            observer.event(&Event::Started { phase: Phase::Index, total });
        }
        let mut done = 0_u64;
        for id in unknown {
            if observer.cancelled() {
                return Err(Error::cancelled());
            }
            let size = packs.get(&id).copied().unwrap_or_default();
            if let Err(error) = self.index_pack(&index, id, size) {
                let message = format!("{error}; its blocks are not used for deduplication");
                observer.event(&Event::Warning { message: &message });
            }
            done = done.saturating_add(size);
            observer.event(&Event::Progress(Progress { done, total, ..Progress::default() }));
        }
        Ok(index)
    }

    fn index_pack(&self, index: &Index, id: PackId, size: u64) -> Result<()> {
        let name = pack::object_name(id);
        let object = self.storage.open(&name)?;
        let entries = pack::read_table(&*object).map_err(|error| error.within(&name))?;
        index.add_pack(id, size, &entries)
    }
}

fn too_large(name: &ObjectName) -> Error {
    let context = format!(
        "{name}: manifests of more than {MAX_LARGE_MANIFESTS} bytes of memory are not held together"
    );
    Error::new(ErrorKind::Limit, context)
}
