//! The repository that an image is restored from is no target: not one of its objects by any name,
//! nor a device that shows one, nor a new file among them.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::base::{Error, ErrorContext, ErrorKind, Result};
use crate::store::Repository;
use crate::sys::holders;

/// Folders within one another that a repository's folder has at most.
const DEPTH: usize = 8;

/// A file or folder, whatever it is called.
type Identity = (u64, u64);

/// Refuses a device or file that belongs to the repository, or lies on what does.
///
/// # Errors
/// `Conflict`; `Io`.
pub fn check_existing(path: &Path, repository: &Repository) -> Result<()> {
    let Some(root) = repository.storage().local_folder() else { return Ok(()) };
    let files = holders::files_of(path)?;
    let own = Own::of(&root, &files)?;
    if own.is_met {
        return Err(refused(path, "belongs to the repository itself"));
    }
    // What appeared since is known by where it is.
    let real = fs::canonicalize(path).context(|| format!("target {}", path.display()))?;
    own.check_folder(path, real.parent())
}

/// Refuses a new file in a folder of the repository.
///
/// # Errors
/// `Conflict`; `Io`.
pub fn check_new(path: &Path, repository: &Repository) -> Result<()> {
    let Some(root) = repository.storage().local_folder() else { return Ok(()) };
    let absolute = std::path::absolute(path).context(|| format!("target {}", path.display()))?;
    let parent = absolute.parent().and_then(|parent| fs::canonicalize(parent).ok());
    Own::of(&root, &[])?.check_folder(path, parent.as_deref())
}

fn refused(path: &Path, why: &str) -> Error {
    Error::new(ErrorKind::Conflict, format!("target {} {why}", path.display()))
}

/// What a repository consists of. Its files are not held: there may be any number of them.
#[derive(Default)]
struct Own {
    /// Whether one of the wanted files is among them.
    is_met: bool,
    folders: HashSet<Identity>,
}

impl Own {
    /// The repository in `root`, of whose files those are `wanted`.
    fn of(root: &Path, wanted: &[Identity]) -> Result<Self> {
        let describe = || format!("look at repository {}", root.display());
        let found = fs::metadata(root).context(describe)?;
        let mut this = Self::default();
        this.folders.insert((found.dev(), found.ino()));
        let mut left: Vec<(PathBuf, usize)> = vec![(root.to_owned(), DEPTH)];
        while let Some((folder, depth)) = left.pop() {
            for entry in fs::read_dir(&folder).context(describe)?.flatten() {
                // It may have been removed meanwhile.
                let Ok(found) = entry.metadata() else { continue };
                let identity = (found.dev(), found.ino());
                if found.is_file() {
                    this.is_met |= wanted.contains(&identity);
                } else if found.is_dir() && depth > 0 && this.folders.insert(identity) {
                    left.push((entry.path(), depth - 1));
                }
            }
        }
        Ok(this)
    }

    /// Refuses `path`, whose folder is `folder`, if that or one above it is the repository's.
    fn check_folder(&self, path: &Path, folder: Option<&Path>) -> Result<()> {
        let is_own = |folder: &Path| {
            let found = fs::metadata(folder);
            found.is_ok_and(|found| self.folders.contains(&(found.dev(), found.ino())))
        };
        if folder.into_iter().flat_map(Path::ancestors).any(is_own) {
            return Err(refused(path, "is in the folder of the repository itself"));
        }
        Ok(())
    }
}
