//! Disks that are not captured, whatever they hold.

use std::path::Path;

use crate::base::{Error, ErrorKind, Result};
use crate::block::Disk;
use crate::store::Repository;
use crate::store::storage::Folder;
use crate::sys::Holders;

/// Refuses a disk without a single sector: its image would be the newest of its name, and of
/// nothing.
pub(super) fn check_has_bytes(disk: &Disk, source: &Path) -> Result<()> {
    if disk.info().size.0 > 0 {
        return Ok(());
    }
    let why = match disk.facts() {
        Some(facts) if facts.size.0 > 0 => "has less than one sector",
        Some(_) => "has no medium, or nothing is attached to it (0 bytes)",
        None => "is empty (0 bytes)",
    };
    let context = format!("{} {why}: there is nothing to capture", source.display());
    Err(Error::new(ErrorKind::NotFound, context))
}

/// Refuses a disk that holds the repository: what is stored would be captured again in each round,
/// and an image within the disk that it shows is lost together with it.
pub(super) fn check_apart(repository: &Repository, disk: &Disk, holders: &Holders) -> Result<()> {
    let Some(folder) = repository.storage().local_folder() else { return Ok(()) };
    let packs = folder.join(Folder::Packs.path());
    for path in [&folder, &packs] {
        let Some(mount) = holders.filesystem_of(path)? else { continue };
        let (folder, source) = (folder.display(), disk.info().path.display());
        let context = format!(
            "the repository {folder} lies on {source} itself, by the filesystem mounted on {}; \
             images of a disk belong on another one",
            mount.point.display()
        );
        return Err(Error::new(ErrorKind::Conflict, context));
    }
    Ok(())
}
