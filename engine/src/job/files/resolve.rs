//! From a path to a file, following symbolic links within the filesystem.

use std::collections::VecDeque;

use crate::base::limits::MAX_LINKS_FOLLOWED;
use crate::base::{Error, ErrorKind, Result};
use crate::fs::{FileId, FileType, Filesystem, Metadata};

/// What to do about a symbolic link at a path's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LastLink {
    /// Go on to what it leads to.
    Follow,
    /// It is itself what is meant.
    Keep,
}

/// A file that a path led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub file: FileId,
    /// Its path with all links resolved, from the root: `/etc/fstab`, `/`.
    pub path: Vec<u8>,
    /// Its attributes.
    pub metadata: Metadata,
}

impl Found {
    /// The last part of its path; empty for the root.
    #[must_use]
    pub fn name(&self) -> &[u8] {
        let start = self.path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
        self.path.get(start..).unwrap_or_default()
    }

    /// Whether it is a folder.
    #[must_use]
    pub fn is_folder(&self) -> bool {
        self.metadata.file_type == FileType::Directory
    }
}

/// Finds `path` in `filesystem`. Links are followed as if the filesystem were mounted at `/` and
/// nothing else were: an absolute target begins at its root, and nothing leads above that.
///
/// # Errors
/// `NotFound` with the part that is not there; `Limit` when links lead on for ever; the
/// filesystem's own.
pub fn resolve(filesystem: &dyn Filesystem, path: &[u8], last: LastLink) -> Result<Found> {
    let mut left: VecDeque<Vec<u8>> = parts(path).collect();
    let mut above: Vec<Found> = Vec::new();
    let root = filesystem.root();
    let mut here = Found { file: root, path: b"/".to_vec(), metadata: filesystem.metadata(root)? };
    let mut followed = 0;
    while let Some(part) = left.pop_front() {
        match part.as_slice() {
            b"." => continue,
            b".." => {
                here = above.pop().unwrap_or(here);
                continue;
            }
            _ => {}
        }
        let next = child(filesystem, &here, &part)?;
        let is_link = next.metadata.file_type == FileType::Symlink;
        if !is_link || (left.is_empty() && last == LastLink::Keep) {
            above.push(std::mem::replace(&mut here, next));
            continue;
        }
        followed += 1;
        if followed > MAX_LINKS_FOLLOWED {
            let context = format!("{}: more than {MAX_LINKS_FOLLOWED} links", shown(path));
            return Err(Error::new(ErrorKind::Limit, context));
        }
        let target = filesystem.link_target(next.file)?;
        if target.first() == Some(&b'/') {
            here = above.drain(..).next().unwrap_or(here);
        }
        parts(&target).rev().for_each(|part| left.push_front(part));
    }
    Ok(here)
}

fn child(filesystem: &dyn Filesystem, folder: &Found, name: &[u8]) -> Result<Found> {
    let missing = |why: &str| {
        let context = format!("{}: {why} '{}'", shown(&folder.path), shown(name));
        Error::new(ErrorKind::NotFound, context)
    };
    if !folder.is_folder() {
        return Err(missing("is no folder, so it has no"));
    }
    let found = filesystem.lookup(folder.file, name).map_err(|error| error.within(shown(name)))?;
    let file = found.ok_or_else(|| missing("there is no"))?;
    let mut path = folder.path.clone();
    if path.last() != Some(&b'/') {
        path.push(b'/');
    }
    path.extend_from_slice(name);
    let metadata = filesystem.metadata(file).map_err(|error| error.within(shown(&path)))?;
    Ok(Found { file, path, metadata })
}

fn parts(path: &[u8]) -> impl DoubleEndedIterator<Item = Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|part| !part.is_empty()).map(<[u8]>::to_vec)
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
