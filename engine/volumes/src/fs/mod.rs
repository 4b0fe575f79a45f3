//! Filesystems: folders, files, attributes and free space, read from the bytes of a volume.
//!
//! [`open`] finds out which filesystem a volume holds and reads it through one trait,
//! [`Filesystem`]. A new filesystem is one folder here and one line in `OPENERS`.
//!
//! Nothing is mounted and nothing is written: a dirty journal is replayed into memory. All of it
//! is hostile ground: no unsafe code, no unchecked arithmetic or indexing, a limit on every loop,
//! depth and allocation. Damage costs what is damaged: a folder yields its sound entries and an
//! error for each lost one. Nothing is read whole into memory. Names are bytes.
#![deny(clippy::arithmetic_side_effects, clippy::indexing_slicing, clippy::as_conversions)]

mod btrfs;
mod clusters;
mod doubts;
mod exfat;
mod ext;
mod fat;
pub(crate) mod identify;
mod metadata;
mod ntfs;
mod numbered;
mod open;
mod recent;
mod survey;
mod xfs;

use std::ops::ControlFlow;

pub use btrfs::{device_of as btrfs_device, open_many as open_btrfs};
pub use doubts::Doubts;
pub use metadata::{
    DeviceOf, DirEntry, Extent, FileId, FileType, FilesystemInfo, Metadata, Place, Protection,
    Timestamp, Xattr,
};
pub use numbered::{InUse, Numbered, Part};
pub use open::{ReadOptions, open, open_with};
pub use survey::{Show, Survey};

use crate::base::{ByteRange, Error, ErrorKind, Result};

/// What a walk calls for each item; [`ControlFlow::Break`] ends the walk early, without an error.
pub type Visit<'a, T> = &'a mut dyn FnMut(T) -> ControlFlow<()>;

/// One filesystem, opened for reading. Shared by threads.
///
/// Errors, everywhere: `Corrupt` where the filesystem's own structures are damaged, with place
/// and expectation; `Unsupported`, naming the feature, where they are sound but not understood;
/// `Limit` where one of [`limits`](crate::base::limits) is exceeded; `Io` and whatever else the
/// volume's own reads give. An error says nothing of other files: they can still be read.
pub trait Filesystem: Send + Sync {
    /// What it is, and what was noticed when it was opened.
    fn info(&self) -> &FilesystemInfo;

    /// What is wrong with it as a whole, as far as that was met: damage for which something else
    /// is read, a journal that cannot be replayed. Files may be stale or missing then.
    fn doubts(&self) -> &Doubts;

    /// The root folder.
    fn root(&self) -> FileId;

    /// The entry called `name` in `folder`, compared as the filesystem itself compares names;
    /// `None` if there is none. Uses the folder's index where there is one.
    ///
    /// # Errors
    /// `Invalid` when `folder` is no folder; see [`Filesystem`].
    fn lookup(&self, folder: FileId, name: &[u8]) -> Result<Option<FileId>>;

    /// Calls `visit` for each entry of `folder`, in the order of the disk, without `.` and `..`;
    /// with an error for each entry, block or cluster that is lost, after which it goes on with
    /// what can still be read.
    ///
    /// # Errors
    /// `Invalid` when `folder` is no folder; see [`Filesystem`], when nothing can be listed.
    fn list(&self, folder: FileId, visit: Visit<'_, Result<DirEntry>>) -> Result<()>;

    /// A file's type, size, owner, times.
    ///
    /// # Errors
    /// See [`Filesystem`].
    fn metadata(&self, file: FileId) -> Result<Metadata>;

    /// Opens a regular file's content.
    ///
    /// # Errors
    /// `Invalid` when it is no regular file; `Unsupported` when its content is encrypted or in a
    /// form that is not understood; see [`Filesystem`].
    fn open(&self, file: FileId) -> Result<Box<dyn FileContent + '_>>;

    /// What a symbolic link says, as the filesystem has it, with no trailing NUL.
    ///
    /// # Errors
    /// `Invalid` when it is no symbolic link; see [`Filesystem`].
    fn link_target(&self, file: FileId) -> Result<Vec<u8>>;

    /// Calls `visit` for each extended attribute, under the name that Linux gives it (`user.x`,
    /// `system.posix_acl_access`), with its value as `getxattr` returns it; with an error for each
    /// one that is lost, which costs neither the others nor the file.
    ///
    /// # Errors
    /// See [`Filesystem`], where the file itself cannot be read.
    fn each_xattr(&self, file: FileId, visit: Visit<'_, Result<Xattr>>) -> Result<()>;

    /// Whether other files may have some of a regular file's blocks as well: `false` is certain.
    ///
    /// # Errors
    /// See [`Filesystem`].
    fn may_share(&self, file: FileId) -> Result<bool>;

    /// Calls `visit` for each range of the volume, ascending, of which it is *certain* that the
    /// filesystem keeps nothing there, but for what [`doubts`](Self::doubts) say: whoever leaves
    /// something out asks [`free_space`](trait.Filesystem.html#method.free_space).
    ///
    /// # Errors
    /// As there.
    fn unused(&self, visit: Visit<'_, ByteRange>) -> Result<()>;

    /// The same of a filesystem in use: what its allocation maps say now, as far as they can be
    /// read, certain or not. Whoever leaves something out by it has to make sure afterwards.
    ///
    /// # Errors
    /// As for [`free_space`](Self::free_space), where nothing is known at all.
    fn likely_free_space(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        self.unused(visit)
    }

    /// What of the volume reads as a dirty journal has it and not as the volume does, in ranges
    /// that are sorted and apart: even the content of a file may be among it.
    fn replayed(&self) -> &[ByteRange] {
        &[]
    }

    /// Its files by their numbers, where it can say so much.
    fn numbered(&self) -> Option<&dyn Numbered> {
        None
    }

    /// All that its files consist of, by its tables; `None` where only the folders tell.
    ///
    /// # Errors
    /// See [`Filesystem`]; all that is damaged ends it.
    fn survey(&self) -> Result<Option<Box<dyn Survey + '_>>> {
        Ok(None)
    }
}

impl dyn Filesystem + '_ {
    /// Calls `visit` for each range of the volume, ascending, of which it is *certain* that the
    /// filesystem keeps nothing there. It may leave free space out, but never name a used byte.
    /// Where there is any doubt about the filesystem, nothing is certain.
    ///
    /// # Errors
    /// `Unsupported` or `Corrupt`, saying why, when that is not certain: unknown features, damage,
    /// a state that needs a checker. What was visited before the error counts for nothing then.
    pub fn free_space(&self, visit: Visit<'_, ByteRange>) -> Result<()> {
        let certain = || match self.doubts().first() {
            None => Ok(()),
            Some(doubt) => {
                let context = format!("it is not certain what is free: {doubt}");
                Err(Error::new(ErrorKind::Unsupported, context))
            }
        };
        certain()?;
        self.unused(visit)?;
        // The way there may have met damage.
        certain()
    }

    /// All extended attributes of a file.
    ///
    /// # Errors
    /// See [`Filesystem`]; the first one's that is lost, once all were looked at.
    pub fn xattrs(&self, file: FileId) -> Result<Vec<Xattr>> {
        let (found, lost) = self.sound_xattrs(file)?;
        lost.map_or(Ok(found), Err)
    }

    /// The extended attributes of a file that are sound, and why the first that is not is lost.
    ///
    /// # Errors
    /// See [`Filesystem`], where the file itself cannot be read.
    pub fn sound_xattrs(&self, file: FileId) -> Result<(Vec<Xattr>, Option<Error>)> {
        let (mut found, mut lost) = (Vec::new(), None);
        self.each_xattr(file, &mut |xattr| {
            match xattr {
                Ok(xattr) => found.push(xattr),
                Err(error) => lost = lost.take().or(Some(error)),
            }
            ControlFlow::Continue(())
        })?;
        Ok((found, lost))
    }
}

/// The content of one open file.
pub trait FileContent: Send {
    /// Its length in bytes.
    fn size(&self) -> u64;

    /// Fills `buffer` from `offset`, as far as the file goes; returns how many bytes those are.
    /// Holes and unwritten ranges read as zeros.
    ///
    /// # Errors
    /// See [`Filesystem`]; the buffer holds nothing of use then.
    fn read_at(&mut self, offset: u64, buffer: &mut [u8]) -> Result<usize>;

    /// Calls `visit` for each stretch of the file, ascending and without gaps, up to its size.
    ///
    /// # Errors
    /// See [`Filesystem`].
    fn extents(&mut self, visit: Visit<'_, Extent>) -> Result<()>;
}
