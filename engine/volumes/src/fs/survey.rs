//! All that a filesystem's files consist of, by its tables from end to end and without the way
//! through folders: what the proof of an image goes by.

use super::{FileId, Part};
use crate::base::Result;

/// What a survey calls for each part. It says which file's content a content is, where that is one
/// file's alone; of what is a structure, and of streams beside a content, it need not.
pub type Show<'a> = &'a mut dyn FnMut(Option<FileId>, Part);

/// A filesystem's tables, divided into shares, which several threads may look through at once.
///
/// All shares together show every part of every file that can be read at all: a name that leads to
/// any other file leads to damage, and to no content.
pub trait Survey: Sync {
    /// How many shares there are.
    fn shares(&self) -> usize;

    /// Calls `show` for each part that the tables of one share tell of. What lies beyond the last
    /// share has none.
    ///
    /// # Errors
    /// See [`Filesystem`](super::Filesystem); all that is damaged ends it.
    fn each_part(&self, share: usize, show: Show<'_>) -> Result<()>;
}
