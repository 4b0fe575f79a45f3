//! Everything below a folder.

use std::collections::HashSet;
use std::ops::ControlFlow;

use super::Found;
use crate::base::limits::MAX_FOLDER_DEPTH;
use crate::base::{Error, ErrorKind, Result};
use crate::fs::{DirEntry, FileId, FileType, Filesystem, Metadata};

/// What a walk comes across.
#[derive(Debug)]
pub enum Visited<'a> {
    /// A file, a folder before what is in it.
    File {
        /// Its path from the filesystem's root.
        path: &'a [u8],
        /// The file.
        file: FileId,
        /// Its attributes.
        metadata: Metadata,
        /// Folders between it and the walk's start; the start itself has none, as have its
        /// entries at depth one.
        depth: usize,
    },
    /// Something that cannot be read. The walk goes on beside it.
    Lost {
        /// Its path, or its folder's where the name is lost too.
        path: &'a [u8],
        /// Why.
        error: Error,
    },
}

/// Whether a walk is to show what is in the folder that it just showed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Descend {
    /// It is.
    Into,
    /// It goes on beside it.
    Past,
}

/// A walk below a file or folder: depth first, each folder's entries in the order of their names.
pub struct Walk<'a> {
    filesystem: &'a dyn Filesystem,
    path: Vec<u8>,
    levels: Vec<Level>,
    /// Folders that were gone into: a folder that can be reached twice is shown once, so that no
    /// walk of a damaged filesystem is without end.
    seen: HashSet<FileId>,
}

/// What is left of one folder.
struct Level {
    /// Bytes of the folder's own path.
    path_length: usize,
    /// Its entries, the next one last.
    entries: Vec<DirEntry>,
}

impl<'a> Walk<'a> {
    /// A walk of `filesystem`.
    #[must_use]
    pub fn new(filesystem: &'a dyn Filesystem) -> Self {
        Self { filesystem, path: Vec::new(), levels: Vec::new(), seen: HashSet::new() }
    }

    /// Shows `start` and everything below it to `visit`.
    ///
    /// # Errors
    /// Those of `visit`; damage is shown, and is no error.
    pub fn run(
        mut self,
        start: &Found,
        visit: &mut dyn FnMut(Visited<'_>) -> Result<Descend>,
    ) -> Result<()> {
        self.path = start.path.clone();
        self.show(start.file, start.metadata.clone(), visit)?;
        while let Some(level) = self.levels.last_mut() {
            self.path.truncate(level.path_length);
            let Some(entry) = level.entries.pop() else {
                self.levels.pop();
                continue;
            };
            if self.path.last() != Some(&b'/') {
                self.path.push(b'/');
            }
            self.path.extend_from_slice(&entry.name);
            match self.filesystem.metadata(entry.file) {
                Ok(metadata) => self.show(entry.file, metadata, visit)?,
                Err(error) => lost(&self.path, error, visit)?,
            }
        }
        Ok(())
    }

    /// Shows the file at the walk's path, and prepares to go into it if it is a folder.
    fn show(
        &mut self,
        file: FileId,
        metadata: Metadata,
        visit: &mut dyn FnMut(Visited<'_>) -> Result<Descend>,
    ) -> Result<()> {
        let is_folder = metadata.file_type == FileType::Directory;
        let depth = self.levels.len();
        let descend = visit(Visited::File { path: &self.path, file, metadata, depth })?;
        if !is_folder || descend == Descend::Past {
            return Ok(());
        }
        if depth >= MAX_FOLDER_DEPTH {
            let context = format!("more than {MAX_FOLDER_DEPTH} folders within one another");
            return lost(&self.path, Error::new(ErrorKind::Limit, context), visit);
        }
        if !self.seen.insert(file) {
            let error = Error::corrupt("folder", "one place that it is in", "a second one");
            return lost(&self.path, error, visit);
        }
        let (mut entries, errors) = match list_sorted(self.filesystem, file) {
            Ok(listed) => listed,
            Err(error) => return lost(&self.path, error, visit),
        };
        errors.into_iter().try_for_each(|error| lost(&self.path, error, visit))?;
        entries.reverse();
        self.levels.push(Level { path_length: self.path.len(), entries });
        Ok(())
    }
}

fn lost(
    path: &[u8],
    error: Error,
    visit: &mut dyn FnMut(Visited<'_>) -> Result<Descend>,
) -> Result<()> {
    if error.kind() == ErrorKind::Cancelled {
        return Err(error);
    }
    visit(Visited::Lost { path, error }).map(|_| ())
}

/// A folder's entries in the order of their names, and what of it is lost. Names that no Linux
/// system could have (empty, `.`, `..`, with a slash or NUL) are damage, and are left out: they
/// would lead elsewhere than they seem to.
///
/// # Errors
/// The filesystem's, when nothing can be listed.
pub fn list_sorted(
    filesystem: &dyn Filesystem,
    folder: FileId,
) -> Result<(Vec<DirEntry>, Vec<Error>)> {
    let (mut entries, mut errors) = (Vec::new(), Vec::new());
    filesystem.list(folder, &mut |entry| {
        match entry {
            Ok(entry) if is_name(&entry.name) => entries.push(entry),
            Ok(entry) => {
                let found = String::from_utf8_lossy(&entry.name).into_owned();
                errors.push(Error::corrupt("entry", "a file's name", format!("'{found}'")));
            }
            Err(error) => errors.push(error),
        }
        ControlFlow::Continue(())
    })?;
    entries.sort_by(|one, other| one.name.cmp(&other.name));
    Ok((entries, errors))
}

fn is_name(name: &[u8]) -> bool {
    let is_special = matches!(name, b"" | b"." | b"..");
    !is_special && !name.iter().any(|byte| matches!(byte, b'/' | 0))
}
