//! Which filesystem a volume holds.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{Filesystem, btrfs, exfat, ext, fat, ntfs, xfs};
use crate::base::{Error, ErrorKind, ReadAt, Result};

/// How a filesystem is read.
#[derive(Debug, Clone)]
pub struct ReadOptions {
    /// The zone of times that are stored as a wall clock showed them, without saying where: FAT's,
    /// and some of exFAT's.
    pub zone: TimeZone,
}

impl Default for ReadOptions {
    fn default() -> Self {
        Self { zone: TimeZone::UTC }
    }
}

/// Opens a filesystem if the volume holds one of its kind; `None` if it holds something else.
type Opener = fn(&Arc<dyn ReadAt>, &ReadOptions) -> Result<Option<Box<dyn Filesystem>>>;

/// Every filesystem, the ones with the surest signatures first; last what is recognised by copies
/// only, which may be left of a filesystem that another took the place of.
/// An old superblock of btrfs, 64 KiB behind the start, may outlive a reformat too.
const OPENERS: [Opener; 11] = [
    |volume, _| xfs::open(volume),
    |volume, _| ext::open(volume),
    |volume, options| exfat::open(volume, &options.zone),
    |volume, _| ntfs::open(volume),
    |volume, options| fat::open(volume, &options.zone),
    |volume, _| btrfs::open(volume),
    |volume, _| ext::open_by_backup(volume),
    |volume, _| xfs::open_by_backup(volume),
    |volume, _| ntfs::open_by_backup(volume),
    |volume, options| fat::open_by_backup(volume, &options.zone),
    |volume, _| btrfs::open_by_backup(volume),
];

/// Opens the filesystem that `volume` holds; local times are taken as UTC.
///
/// # Errors
/// As [`open_with`].
pub fn open(volume: &Arc<dyn ReadAt>) -> Result<Box<dyn Filesystem>> {
    open_with(volume, &ReadOptions::default())
}

/// Opens the filesystem that `volume` holds.
///
/// # Errors
/// `Unsupported` when it holds none that is known; else the filesystem's own, see
/// [`Filesystem`].
pub fn open_with(volume: &Arc<dyn ReadAt>, options: &ReadOptions) -> Result<Box<dyn Filesystem>> {
    for opener in OPENERS {
        if let Some(filesystem) = opener(volume, options)? {
            return Ok(filesystem);
        }
    }
    Err(Error::new(ErrorKind::Unsupported, "no filesystem that can be read is here"))
}
