//! What is to be extracted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::ops::ControlFlow;

use crate::base::limits::MAX_EXTRACTED;
use crate::base::{Error, ErrorKind, Observer, ReadAt, Result};
use crate::fs::{Extent, FileId, FileType, Filesystem, Place};
use crate::job::files::{Descend, Found, OpenVolume, Visited, Walk};

/// Files of one filesystem, and where each goes.
pub struct Extract<'a> {
    pub(super) filesystem: &'a dyn Filesystem,
    /// What the filesystem is on.
    pub(super) volume: &'a dyn ReadAt,
    pub(super) items: Vec<Item>,
    /// The first item of each file with several names.
    pub(super) firsts: HashMap<FileId, usize>,
    /// Bytes of all contents.
    pub(super) bytes: u64,
    pub(super) lost: Vec<Failure>,
}

/// Something that could not be extracted.
#[derive(Debug)]
pub struct Failure {
    /// Its path on the volume.
    pub path: Vec<u8>,
    /// Why.
    pub error: Error,
}

/// A file or folder that is to be made.
pub(super) struct Item {
    /// The item of the folder that it is made in; none for the target folder.
    pub parent: Option<u32>,
    pub name: Box<[u8]>,
    pub file: FileId,
    pub file_type: FileType,
    /// Bytes of content.
    pub size: u64,
    /// Where its content begins on the volume.
    pub place: u64,
    /// The item that it is another name of.
    pub link_of: Option<u32>,
}

impl<'a> Extract<'a> {
    /// Nothing of the filesystem of `volume` yet.
    #[must_use]
    pub fn new(volume: &'a OpenVolume) -> Self {
        let (items, firsts, lost) = (Vec::new(), HashMap::new(), Vec::new());
        let (filesystem, volume) = (volume.filesystem.as_ref(), volume.bytes.as_ref());
        Self { filesystem, volume, items, firsts, bytes: 0, lost }
    }

    /// Bytes of the contents that are to be written, holes included.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Files and folders that are to be made.
    #[must_use]
    pub fn count(&self) -> usize {
        self.items.len()
    }

    /// Adds `start` and everything below it. It gets its own name in the target folder; of the
    /// root, which has none, the entries are put there.
    ///
    /// # Errors
    /// `Invalid` when a file of this name is planned already; `Limit`; `Cancelled`.
    pub fn add(&mut self, start: &Found, observer: &dyn Observer) -> Result<()> {
        let name = start.name();
        let is_taken = |item: &Item| item.parent.is_none() && *item.name == *name;
        if !name.is_empty() && self.items.iter().any(is_taken) {
            let context = format!(
                "two of the paths are called '{}': extract them into different folders",
                String::from_utf8_lossy(name)
            );
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        // The item of each level's folder; the root has none.
        let mut folders: Vec<Option<u32>> = Vec::new();
        Walk::new(self.filesystem).run(start, &mut |visited| {
            if observer.cancelled() {
                return Err(Error::cancelled());
            }
            match visited {
                Visited::Lost { path, error } => {
                    self.lost.push(Failure { path: path.to_vec(), error });
                }
                Visited::File { path, file, metadata, depth } => {
                    folders.truncate(depth);
                    let parent = folders.last().copied().flatten();
                    let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
                    let item = if name.is_empty() {
                        None
                    } else {
                        let links = metadata.links;
                        let item = self.item(parent, name, file, metadata.file_type);
                        Some(self.push(Item { size: metadata.size, ..item }, links)?)
                    };
                    folders.push(item);
                }
            }
            Ok(Descend::Into)
        })
    }

    fn item(&self, parent: Option<u32>, name: &[u8], file: FileId, file_type: FileType) -> Item {
        let place = if file_type == FileType::Regular { self.place(file) } else { 0 };
        Item { parent, name: name.into(), file, file_type, size: 0, place, link_of: None }
    }

    fn push(&mut self, mut item: Item, links: u32) -> Result<u32> {
        let index = self.items.len();
        if index >= MAX_EXTRACTED {
            let context = format!("more than {MAX_EXTRACTED} files to extract at once");
            return Err(Error::new(ErrorKind::Limit, context));
        }
        if links > 1 && item.file_type != FileType::Directory {
            match self.firsts.entry(item.file) {
                Entry::Occupied(first) => item.link_of = u32::try_from(*first.get()).ok(),
                Entry::Vacant(none) => {
                    none.insert(index);
                }
            }
        }
        if item.file_type == FileType::Regular && item.link_of.is_none() {
            self.bytes = self.bytes.saturating_add(item.size);
        }
        self.items.push(item);
        u32::try_from(index).map_err(|_| Error::new(ErrorKind::Limit, "too many files"))
    }

    /// Where a file's content begins; what cannot be said is found out when it is read.
    fn place(&self, file: FileId) -> u64 {
        let Ok(mut content) = self.filesystem.open(file) else { return 0 };
        let mut place = 0;
        let found = content.extents(&mut |extent: Extent| match extent.place {
            Place::At(start) | Place::Encoded(start, _) => {
                place = start;
                ControlFlow::Break(())
            }
            Place::Inline | Place::Hole | Place::Unwritten(_) => ControlFlow::Continue(()),
        });
        found.map_or(0, |()| place)
    }

    /// The path of item `index` below the target folder, its parts outermost first.
    pub(super) fn parts(&self, index: usize) -> Vec<&[u8]> {
        let mut parts = Vec::new();
        let mut next = self.items.get(index);
        while let Some(item) = next {
            parts.push(&*item.name);
            next = item.parent.and_then(|parent| self.items.get(parent as usize));
        }
        parts.reverse();
        parts
    }

    /// The same as one path.
    pub(super) fn path(&self, index: usize) -> Vec<u8> {
        self.parts(index).join(&b'/')
    }
}
