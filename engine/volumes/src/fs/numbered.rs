//! Files by their numbers, without the way through folders: what a comparison of two states of one
//! filesystem goes by.

use std::ops::ControlFlow;

use super::{FileId, Visit};
use crate::base::{ByteRange, Result};

/// A file that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InUse {
    /// The file.
    pub file: FileId,
    /// Whether it is a folder.
    pub is_folder: bool,
}

/// Bytes of the volume that a file consists of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// What every file has: its inode or record, with all that lies within it; but that of a
    /// folder whose entries may lie within it is a structure.
    Record(ByteRange),
    /// Further structures: a folder's entries, a link's target, extended attributes, the map to
    /// either or to a content.
    Structure(ByteRange),
    /// Content of a regular file or of a stream.
    Content(ByteRange),
}

impl Part {
    /// The bytes, whatever they are of the file.
    #[must_use]
    pub fn range(&self) -> ByteRange {
        match *self {
            Self::Record(range) | Self::Structure(range) | Self::Content(range) => range,
        }
    }
}

/// A filesystem's files by their numbers.
///
/// Files that have one number in two states of a filesystem whose [`basis`](Self::basis) is one are
/// the same, with all that [`Filesystem`](super::Filesystem) says of them but the time of their
/// last reading, if both have the same parts and those hold the same bytes. If only records do
/// not, folders have the same entries. Errors are as there; each makes it uncertain which files
/// there are.
///
/// Streams are files of their own, which every folder that names their file lists beside it: of
/// those nothing is said by the folder's parts, but by [`stream_names`](Self::stream_names).
pub trait Numbered: Sync {
    /// What of the filesystem itself decides over the meaning of its files' parts.
    fn basis(&self) -> Vec<u64>;

    /// What files are sorted by in [`each_file`](Self::each_file).
    fn order(&self, file: FileId) -> (u64, u64) {
        (file.tree, file.number)
    }

    /// Calls `visit` for each file in use, or each that comes behind `after`, in order. Files of
    /// the filesystem's own that no folder names may be left out.
    ///
    /// # Errors
    /// See [`Numbered`]; all that is damaged ends it.
    fn each_file(&self, after: Option<FileId>, visit: Visit<'_, InUse>) -> Result<()>;

    /// Calls `visit` for each part of `file`, in an order that follows from what it is.
    ///
    /// # Errors
    /// See [`Numbered`].
    fn parts(&self, file: FileId, visit: Visit<'_, Part>) -> Result<()>;

    /// The folders that have a name for `file`, or, of a folder, the one that it is in; none for
    /// the root. `None` where only the folders know.
    ///
    /// # Errors
    /// See [`Numbered`].
    fn folders_of(&self, file: FileId) -> Result<Option<Vec<FileId>>>;

    /// The names of the streams of `file`, which decide over what its folders list beside it.
    ///
    /// # Errors
    /// See [`Numbered`].
    fn stream_names(&self, _file: FileId) -> Result<Vec<Vec<u8>>> {
        Ok(Vec::new())
    }
}

impl dyn Numbered + '_ {
    /// The next files in use behind `after`, `most` of them; fewer only if there are no more.
    ///
    /// # Errors
    /// Those of [`each_file`](Numbered::each_file).
    pub fn next_files(&self, after: Option<FileId>, most: usize) -> Result<Vec<InUse>> {
        let mut files = Vec::new();
        self.each_file(after, &mut |file| {
            files.push(file);
            if files.len() < most { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        })?;
        Ok(files)
    }
}
