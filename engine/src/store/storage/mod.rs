//! Named objects in four folders: all that a repository asks of what it is kept on.
//!
//! Objects are created exclusively and appended to; nothing is updated in place. What is not
//! synced may be lost or torn by a crash; a rename may be lost until its folder is synced.

mod local;
mod local_reader;
mod local_writer;
pub(super) mod regular;
#[cfg(any(test, feature = "fault-injection"))]
pub mod simulated;

use std::fmt;
use std::path::PathBuf;

pub use local::LocalStorage;

use crate::base::Result;

/// A repository's folders.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Folder {
    /// The repository itself, which holds `config`.
    Root,
    /// Manifests.
    Images,
    /// Packs.
    Packs,
    /// Locks.
    Locks,
}

impl Folder {
    /// The folder's path inside the repository.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Root => "",
            Self::Images => "images",
            Self::Packs => "packs",
            Self::Locks => "locks",
        }
    }
}

/// An object's folder and name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectName {
    /// Its folder.
    pub folder: Folder,
    /// Its name there.
    pub name: String,
}

impl ObjectName {
    /// The object `name` of `folder`.
    pub fn new(folder: Folder, name: impl Into<String>) -> Self {
        Self { folder, name: name.into() }
    }

    /// Refuses what others may use already: packs and manifests that have their final names.
    ///
    /// # Errors
    /// `Invalid` for such a one.
    pub fn check_removable(&self) -> Result<()> {
        let is_published = match self.folder {
            Folder::Root => true,
            Folder::Images => self.name.ends_with(".json"),
            Folder::Packs => self.name.ends_with(".pack"),
            Folder::Locks => false,
        };
        if !is_published {
            return Ok(());
        }
        let context = format!("remove {self}: what was published is never removed");
        Err(crate::base::Error::new(crate::base::ErrorKind::Invalid, context))
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.folder {
            Folder::Root => f.write_str(&self.name),
            folder => write!(f, "{}/{}", folder.path(), self.name),
        }
    }
}

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// Its name in its folder.
    pub name: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A repository's objects.
pub trait Storage: Send + Sync {
    /// Where this is, for messages.
    fn describe(&self) -> String;

    /// The folder that holds it, where it is one of this machine's.
    fn local_folder(&self) -> Option<PathBuf> {
        None
    }

    /// The objects in `folder` whose names are wanted, in no order. Others are neither looked at
    /// nor held: there may be any number of them.
    ///
    /// # Errors
    /// `Io`, or `NotFound` when the folder is missing.
    fn list(&self, folder: Folder, is_wanted: &dyn Fn(&str) -> bool) -> Result<Vec<ObjectInfo>>;

    /// Creates an object, which must not exist.
    ///
    /// # Errors
    /// `Conflict` when it exists; `Io`.
    fn create(&self, object: &ObjectName) -> Result<Box<dyn ObjectWriter>>;

    /// Reopens an object that was never published, cut to its first `length` bytes, to append.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn reopen(&self, object: &ObjectName, length: u64) -> Result<Box<dyn ObjectWriter>>;

    /// Opens an object to read.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn open(&self, object: &ObjectName) -> Result<Box<dyn ObjectReader>>;

    /// Opens an object of which much will be read, and only once: its bytes need not be kept in
    /// memory.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    fn open_for_bulk(&self, object: &ObjectName) -> Result<Box<dyn ObjectReader>> {
        self.open(object)
    }

    /// Renames an object within its folder; the new name must be free.
    ///
    /// # Errors
    /// `Conflict` when the new name is taken; `Io`.
    fn rename(&self, from: &ObjectName, to: &str) -> Result<()>;

    /// Renames an object over another of its folder that is damaged, and of which it holds the
    /// bytes as they were published: whoever opens that finds the one or the other, never none.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn replace(&self, from: &ObjectName, damaged: &str) -> Result<()>;

    /// Removes an object that was never published, or a lock.
    ///
    /// # Errors
    /// `Invalid` for one that [was](ObjectName::check_removable); `NotFound`; `Io`.
    fn remove(&self, object: &ObjectName) -> Result<()>;

    /// Makes creations, renames and removals in `folder` last.
    ///
    /// # Errors
    /// `Io`.
    fn sync_folder(&self, folder: Folder) -> Result<()>;

    /// Creates an object that the system knows to be held until the result is dropped or its
    /// process ends. The object is removed on drop, not when the process is killed.
    ///
    /// # Errors
    /// `Conflict` when it exists; `Io`.
    fn hold(&self, object: &ObjectName, content: &[u8]) -> Result<Box<dyn Send + Sync>>;

    /// Whether somebody on this system holds the object.
    ///
    /// # Errors
    /// `NotFound`; `Io`.
    fn is_held(&self, object: &ObjectName) -> Result<bool>;

    /// Whether no other system can reach the objects at the same time, so that whatever an earlier
    /// boot of this one held is held no more.
    fn is_of_this_system(&self) -> bool;
}

/// An object under construction. Dropped without publishing, it stays as it is.
pub trait ObjectWriter: Send {
    /// Adds `bytes` at the end.
    ///
    /// # Errors
    /// `Io`.
    fn append(&mut self, bytes: &[u8]) -> Result<()>;

    /// Lets whoever opens the object read everything appended so far.
    ///
    /// # Errors
    /// `Io`.
    fn flush(&mut self) -> Result<()>;

    /// Makes everything appended so far last.
    ///
    /// # Errors
    /// `Io`.
    fn sync(&mut self) -> Result<()>;
}

/// An object open for reading.
pub trait ObjectReader: Send + Sync {
    /// Its size in bytes.
    fn size(&self) -> u64;

    /// Where the next bytes from `offset` on are that may be no zeros; its end where there are
    /// none. Whoever looks through much of it need not read holes.
    fn next_data(&self, offset: u64) -> u64 {
        offset
    }

    /// Fills `buffer` from `offset`.
    ///
    /// # Errors
    /// `Corrupt` when the object ends before; `Io`.
    fn read_exact_at(&self, offset: u64, buffer: &mut [u8]) -> Result<()>;

    /// The whole object, refused above `limit` bytes.
    ///
    /// # Errors
    /// `Limit` above `limit`; as [`read_exact_at`](Self::read_exact_at).
    fn read_all(&self, limit: u64) -> Result<Vec<u8>> {
        if self.size() > limit {
            return Err(crate::base::Error::new(
                crate::base::ErrorKind::Limit,
                format!("object of {} bytes: at most {limit} are sensible", self.size()),
            ));
        }
        let mut bytes = vec![0; usize::try_from(self.size()).unwrap_or(usize::MAX)];
        self.read_exact_at(0, &mut bytes)?;
        Ok(bytes)
    }
}
