//! The target of a restore: opened or created, and refused where writing it would do harm.

use std::fs;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use super::Space;
use crate::base::{ByteCount, Error, ErrorKind, Result};
use crate::block::{FileMode, ReadAt, SourceInfo, SourceKind, Target};
use crate::store::node::SECTOR;
use crate::store::repository::Image;
use crate::sys::holders::Holders;

/// Opens an existing target, and checks that it may be written; `None` for a file to be made.
///
/// # Errors
/// `Conflict` when it is in use, too small, or has other sectors; `Io`.
pub fn open(path: &Path, image: &Image) -> Result<Option<Target>> {
    let describe = || format!("target {}", path.display());
    let metadata = match fs::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io(describe(), error)),
    };
    let holders = Holders::of(path)?;
    if !holders.is_empty() {
        let context = format!("{}: {}", describe(), holders.summary());
        return Err(Error::new(ErrorKind::Conflict, context));
    }
    let target = if metadata.file_type().is_block_device() {
        Target::open_device(path)?
    } else {
        Target::create_file(path, ByteCount(metadata.len()), FileMode::Existing)?
    };
    let size = target.size();
    if size < image.manifest.size {
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("{} has {size} bytes, the image {}", describe(), image.manifest.size),
        ));
    }
    check_sectors(&target, image)?;
    Ok(Some(target))
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
    Err(Error::new(
        ErrorKind::Conflict,
        format!(
            "target {} has sectors of {} bytes, the image's disk had {counted}: its partition \
             table would not be understood there",
            target.info().path.display(),
            facts.logical_sector_size
        ),
    ))
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
