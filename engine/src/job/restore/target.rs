//! The target of a restore: refused where writing it would do harm, before anything is opened,
//! made or cut; then opened or created.

use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Component, Path};

use super::Space;
use super::own;
use crate::base::{ByteCount, Error, ErrorKind, ReadAt, Result};
use crate::block::{FileMode, NbdUri, SourceInfo, SourceKind, Target};
use crate::store::Repository;
use crate::store::node::SECTOR;
use crate::store::repository::Image;
use crate::sys::{Holders, device};

/// An existing target, opened.
pub struct Existing {
    /// It.
    pub target: Target,
    /// What of its holders could not be looked at.
    pub unseen: Vec<String>,
}

/// Checks that the target may be written, and opens it if it exists; `None` for a file to be made.
///
/// # Errors
/// `Invalid` for what is no target at all: a directory, a pipe, a name that means something else;
/// `NotFound` for a device, or the folder of a file, that is not there; `Conflict` when it is in
/// use, belongs to the repository, is too small, or has other sectors; `Io`.
pub fn open(path: &Path, image: &Image, repository: &Repository) -> Result<Option<Existing>> {
    check_name(path)?;
    let found = match fs::metadata(path) {
        Ok(found) => found,
        Err(error) if is_missing(&error) => {
            check_place(path)?;
            own::check_new(path, repository)?;
            return Ok(None);
        }
        Err(error) => return Err(Error::io(format!("target {}", path.display()), error)),
    };
    let kind = found.file_type();
    check_kind(path, kind)?;
    if kind.is_file() && path.parent().is_some_and(device::is_folder_of_devices) {
        let context = "is a regular file among the devices, in memory, and no device";
        return Err(refused(ErrorKind::Conflict, path, context));
    }
    own::check_existing(path, repository)?;
    let holders = Holders::of(path)?;
    if !holders.is_empty() {
        let context = format!("target {}: {}", path.display(), holders.summary());
        return Err(Error::new(ErrorKind::Conflict, context));
    }
    let target = if kind.is_block_device() {
        Target::open_device(path)?
    } else {
        Target::create_file(path, ByteCount(found.len()), FileMode::Existing)?
    };
    let (size, needed) = (target.size(), image.manifest.size);
    if size.0 == 0 && needed.0 > 0 && kind.is_block_device() {
        return Err(refused(ErrorKind::Conflict, path, "has no medium, or nothing attached"));
    }
    if size < needed {
        let context = format!("has {size} bytes, the image {needed}");
        return Err(refused(ErrorKind::Conflict, path, context));
    }
    check_sectors(&target, image)?;
    Ok(Some(Existing { target, unseen: holders.unseen().to_vec() }))
}

fn refused(kind: ErrorKind, path: &Path, why: impl Into<String>) -> Error {
    Error::new(kind, format!("target {} {}", path.display(), why.into()))
}

fn is_missing(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Refuses names that are no path of a device or file.
fn check_name(path: &Path) -> Result<()> {
    let invalid = |why: &str| Err(refused(ErrorKind::Invalid, path, why));
    if path == Path::new("-") {
        return invalid(
            "would be standard output, which a disk cannot be restored to; a file of that name \
             is ./-",
        );
    }
    if NbdUri::is_one(path) {
        return invalid("is an export: expected a block device or a file");
    }
    let is_folder = path.as_os_str().as_encoded_bytes().ends_with(b"/");
    let last = path.components().next_back();
    if (is_folder && !path.exists()) || last.is_none() || last == Some(Component::ParentDir) {
        return invalid("names a directory: expected a block device or a file");
    }
    Ok(())
}

fn check_kind(path: &Path, kind: fs::FileType) -> Result<()> {
    let name = if kind.is_dir() {
        "a directory"
    } else if kind.is_char_device() {
        "a character device"
    } else if kind.is_fifo() {
        "a pipe"
    } else if kind.is_socket() {
        "a socket"
    } else {
        return Ok(());
    };
    let context = format!("is {name}: expected a block device or a regular file");
    Err(refused(ErrorKind::Invalid, path, context))
}

/// Checks where a new file is to be made.
fn check_place(path: &Path) -> Result<()> {
    let missing = |why: &str| Err(refused(ErrorKind::NotFound, path, why));
    if fs::symlink_metadata(path).is_ok() {
        return missing("is a link that leads nowhere");
    }
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let Some(parent) = absolute.parent() else { return missing("does not exist") };
    if device::is_folder_of_devices(parent) {
        return missing("does not exist: there is no such device, and no file is made there");
    }
    match fs::metadata(parent) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => missing("cannot be made: what should be its folder is none"),
        Err(error) if is_missing(&error) => missing("cannot be made: its folder does not exist"),
        Err(error) => Err(Error::io(format!("target {}", path.display()), error)),
    }
}

/// A disk's partition table counts in its sectors, so they must be the same.
fn check_sectors(target: &Target, image: &Image) -> Result<()> {
    let Some(facts) = target.facts() else { return Ok(()) };
    let source: SourceInfo = match serde_json::from_value(image.manifest.source.clone()) {
        Ok(source) => source,
        Err(error) => return Err(Error::corrupt("manifest's source", "a disk's", error)),
    };
    // A file or export says 512 for want of knowledge; its table tells how its disk counted.
    let table = image.manifest.layout.get("sector_size").and_then(serde_json::Value::as_u64);
    let counted = match source.kind {
        SourceKind::Device => u64::from(source.logical_sector_size),
        SourceKind::File | SourceKind::Nbd => table.unwrap_or(SECTOR),
    };
    if u64::from(facts.logical_sector_size) == counted {
        return Ok(());
    }
    let context = format!(
        "has sectors of {} bytes, the image's disk had {counted}: its partition table would not \
         be understood there",
        facts.logical_sector_size
    );
    Err(refused(ErrorKind::Conflict, &target.info().path, context))
}

/// Creates a file of `size` to restore to.
///
/// # Errors
/// `Io`.
pub fn create(path: &Path, size: ByteCount, space: Space) -> Result<Target> {
    let mode = match space {
        Space::Sparse => FileMode::Sparse,
        Space::Preallocate => FileMode::Preallocate,
    };
    Target::create_file(path, size, mode)
}
