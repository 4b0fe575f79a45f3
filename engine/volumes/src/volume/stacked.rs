//! Volumes within volumes: RAID arrays in partitions, logical volumes in either.

use super::extent::Extent;
use super::layout::{Notes, Volume};
use super::segment::Mapped;
use super::{lvm, md, signature};
use crate::base::ReadAt;

/// The arrays and logical volumes that are in `volumes` of `disk`, which may be several disks
/// joined: those of the first disk first, which so go before copies of them.
#[must_use]
pub fn stacked(disk: &dyn ReadAt, volumes: &[Volume]) -> Vec<Volume> {
    let mut all = volumes.to_vec();
    add(disk, &mut all, &mut Notes::default());
    all.split_off(volumes.len())
}

/// Adds the arrays and logical volumes that are in `volumes` to them, and says what they hold.
/// What is in a logical volume is not looked into any further.
pub(super) fn add(disk: &dyn ReadAt, volumes: &mut Vec<Volume>, notes: &mut Notes) {
    let whole = Extent::whole(disk);
    let mut arrays = md::volumes(&whole, volumes, notes);
    for array in &mut arrays {
        if array.unsupported.is_none() {
            let extent = whole.part(array.start, array.length);
            array.content = signature::detect(extent, &array.name, notes);
        }
    }
    volumes.append(&mut arrays);
    let mut logical = lvm::volumes(disk, volumes, notes);
    for volume in &mut logical {
        if volume.unsupported.is_none() {
            let (segments, length) = (volume.segments.clone(), volume.length);
            let mapped = Mapped { disk, segments, length };
            volume.content = signature::detect(Extent::whole(&mapped), &volume.name, notes);
        }
    }
    volumes.append(&mut logical);
}
