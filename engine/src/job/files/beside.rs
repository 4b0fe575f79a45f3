//! Further disks beside the one whose files are read: volumes on them may be parts of what is on
//! the first.

use std::sync::Arc;

use crate::base::limits::MAX_DISKS;
use crate::base::{Error, ErrorKind, ReadAt, Result};
use crate::block::Joined;
use crate::volume::{DiskLayout, Keys, Stack, Volume};

/// Bytes between two disks that are read as one, so that no table reaches from one into the next.
const GAP: u64 = 1 << 50;

/// A further disk.
pub(super) struct Beside {
    /// What it is called.
    pub name: String,
    /// Its volumes, at their places there, each called by its disk's name and its own.
    pub volumes: Vec<Volume>,
}

/// Several disks as one, the first at its own bytes.
pub(super) struct Together {
    pub disk: Arc<dyn ReadAt>,
    /// The volumes of the first, those of the others, and what lies in any of them.
    pub stack: Stack,
    pub others: Vec<Beside>,
}

/// Joins `others` to a disk: arrays and logical volumes are then those of all of them.
///
/// # Errors
/// `Limit` when there are too many; those of [`Stack::over`].
pub(super) fn join(
    (disk, mut layout): (Arc<dyn ReadAt>, DiskLayout),
    others: Vec<(String, Arc<dyn ReadAt>, DiskLayout)>,
    keys: &Keys,
) -> Result<Together> {
    if others.len() >= MAX_DISKS {
        return Err(Error::new(ErrorKind::Limit, format!("more than {MAX_DISKS} disks")));
    }
    let all = others.iter().map(|(_, disk, _)| Arc::clone(disk));
    let joined = Joined::new(std::iter::once(disk).chain(all), GAP);
    let starts = joined.starts().skip(1).zip(others);
    let others: Vec<Beside> =
        starts.map(|(start, (name, _, layout))| beside(start, (name, layout))).collect();
    layout.volumes.retain(|volume| !volume.is_stacked());
    layout.volumes.extend(others.iter().flat_map(|other| other.volumes.iter().cloned()));
    let disk: Arc<dyn ReadAt> = Arc::new(joined);
    let stack = Stack::over(&disk, layout, keys)?;
    Ok(Together { disk, stack, others })
}

fn beside(start: u64, (name, layout): (String, DiskLayout)) -> Beside {
    let plain = layout.volumes.into_iter().filter(|volume| !volume.is_stacked());
    let moved = |volume: Volume| Volume {
        name: format!("{name} {}", volume.name),
        start: volume.start.saturating_add(start),
        ..volume
    };
    let volumes = plain.map(moved).collect();
    Beside { name, volumes }
}
