//! Which filesystem a volume holds.

use std::sync::Arc;

use super::{Filesystem, btrfs, exfat, ext, fat, ntfs, xfs};
use crate::base::{Error, ErrorKind, Result};
use crate::block::ReadAt;

/// Opens a filesystem if the volume holds one of its kind; `None` if it holds something else.
type Opener = fn(&Arc<dyn ReadAt>) -> Result<Option<Box<dyn Filesystem>>>;

/// Every filesystem, the ones with the surest signatures first; last what is recognised by copies
/// only, which may be left of a filesystem that another took the place of.
/// An old superblock of btrfs, 64 KiB behind the start, may outlive a reformat too.
const OPENERS: [Opener; 11] = [
    xfs::open,
    ext::open,
    exfat::open,
    ntfs::open,
    fat::open,
    btrfs::open,
    ext::open_by_backup,
    xfs::open_by_backup,
    ntfs::open_by_backup,
    fat::open_by_backup,
    btrfs::open_by_backup,
];

/// Opens the filesystem that `volume` holds.
///
/// # Errors
/// `Unsupported` when it holds none that is known; else the filesystem's own, see
/// [`Filesystem`].
pub fn open(volume: &Arc<dyn ReadAt>) -> Result<Box<dyn Filesystem>> {
    for opener in OPENERS {
        if let Some(filesystem) = opener(volume)? {
            return Ok(filesystem);
        }
    }
    Err(Error::new(ErrorKind::Unsupported, "no filesystem that can be read is here"))
}
