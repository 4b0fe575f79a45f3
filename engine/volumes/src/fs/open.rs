//! Which filesystem a volume holds.

use std::sync::Arc;

use jiff::tz::TimeZone;

use super::{Filesystem, btrfs, exfat, ext, fat, ntfs, xfs};
use crate::base::{Error, ErrorKind, ReadAt, Result};
use crate::kind::Kind;

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

/// A filesystem: the kinds of content that are its own, how it is opened by what stands where it
/// should, and by copies of that.
struct Family {
    kinds: &'static [Kind],
    open: Opener,
    by_copies: Option<Opener>,
}

/// Every filesystem, the ones with the surest signatures first.
const FAMILIES: [Family; 6] = [
    Family {
        kinds: &[Kind::Xfs],
        open: |volume, _| xfs::open(volume),
        by_copies: Some(|volume, _| xfs::open_by_backup(volume)),
    },
    Family {
        kinds: &[Kind::Ext2, Kind::Ext3, Kind::Ext4],
        open: |volume, _| ext::open(volume),
        by_copies: Some(|volume, _| ext::open_by_backup(volume)),
    },
    Family {
        kinds: &[Kind::Exfat],
        open: |volume, options| exfat::open(volume, &options.zone),
        by_copies: None,
    },
    Family {
        kinds: &[Kind::Ntfs],
        open: |volume, _| ntfs::open(volume),
        by_copies: Some(|volume, _| ntfs::open_by_backup(volume)),
    },
    Family {
        kinds: &[Kind::Fat12, Kind::Fat16, Kind::Fat32],
        open: |volume, options| fat::open(volume, &options.zone),
        by_copies: Some(|volume, options| fat::open_by_backup(volume, &options.zone)),
    },
    Family {
        kinds: &[Kind::Btrfs],
        open: |volume, _| btrfs::open(volume),
        by_copies: Some(|volume, _| btrfs::open_by_backup(volume)),
    },
];

/// Opens the filesystem that `volume` holds, of which nothing else is known; local times are taken
/// as UTC.
///
/// # Errors
/// As [`open_with`].
pub fn open(volume: &Arc<dyn ReadAt>) -> Result<Box<dyn Filesystem>> {
    open_with(volume, None, &ReadOptions::default())
}

/// Opens the filesystem that `volume` holds, which is known to hold `held`, or nothing that is
/// known: then copies of superblocks may tell what it was before its start was damaged. They tell
/// nothing where something else is: copies of what was there before outlive it.
///
/// # Errors
/// `Unsupported` when it holds none that is known; else the filesystem's own, see
/// [`Filesystem`].
pub fn open_with(
    volume: &Arc<dyn ReadAt>,
    held: Option<Kind>,
    options: &ReadOptions,
) -> Result<Box<dyn Filesystem>> {
    let is_meant = |family: &&Family| held.is_none_or(|kind| family.kinds.contains(&kind));
    let families = || FAMILIES.iter().filter(is_meant);
    let by_copies = families().filter_map(|family| family.by_copies);
    for opener in families().map(|family| family.open).chain(by_copies) {
        if let Some(filesystem) = opener(volume, options)? {
            return Ok(filesystem);
        }
    }
    Err(Error::new(ErrorKind::Unsupported, "no filesystem that can be read is here"))
}
