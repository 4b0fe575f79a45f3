//! The partitions of a table that is in a volume, as of a virtual machine's disk or of a BSD.

use std::sync::Arc;

use super::build::{Building, Found, Identity, unsupported};
use super::{Below, Stretch};
use crate::base::ReadAt;
use crate::kind::Kind;
use crate::volume::bsd::{Label, Slice};
use crate::volume::extent::Extent;
use crate::volume::layout::{Notes, Volume};
use crate::volume::probe;

/// The partitions that volume `number` holds, by its name and theirs.
pub(super) fn find(building: &mut Building<'_>, number: usize) -> Vec<Found> {
    let (Some(volume), Some(node)) = (building.volumes.get(number), building.nodes.get(number))
    else {
        return Vec::new();
    };
    let Some(bytes) = node.bytes.as_ref().ok().filter(|_| volume.holds_table()) else {
        return Vec::new();
    };
    let (volume, bytes) = (volume.clone(), Arc::clone(bytes));
    let mut own = Notes::default();
    let partitions = match volume.holds(Kind::BsdDisklabel) {
        true => of_label(&volume, (&node.below, bytes.as_ref()), &mut own),
        false => probe::listed(&bytes, building.sector_size, &mut own)
            .map(|layout| layout.volumes)
            .unwrap_or_default(),
    };
    for sentence in own.into_sentences() {
        building.notes.add(format!("{}: {sentence}", volume.name));
    }
    let found = partitions.into_iter().map(|partition| {
        let identity = Identity::Nested(number, partition.name.clone());
        let below = Below::Part { of: number, start: partition.start };
        let (start, length) = (partition.start, partition.length);
        let opened = match start.checked_add(length).is_some_and(|end| end <= volume.length) {
            true => {
                let of = Arc::clone(&bytes);
                let part: Arc<dyn ReadAt> = Arc::new(Stretch { of, start, length });
                Ok((below, part))
            }
            false => Err(unsupported(format!("it ends beyond {}", volume.name))),
        };
        let partition = Volume {
            name: format!("{}/{}", volume.name, partition.name),
            within: vec![volume.name.clone()],
            // It is looked at anew, by its own name.
            content: None,
            read_whole: None,
            ..partition
        };
        Found { volume: partition, identity, opened }
    });
    found.collect()
}

/// The partitions of the disklabel in `volume`. They count from the start of the disk that it is a
/// partition of, if it is one.
fn of_label(
    volume: &Volume,
    (below, bytes): (&Below, &dyn ReadAt),
    notes: &mut Notes,
) -> Vec<Volume> {
    let start = match below {
        Below::Disk(start) | Below::Part { start, .. } => *start,
        Below::Layer { .. } | Below::Unknown => 0,
    };
    let slice = Slice { start, partition_type: volume.partition_type.as_deref() };
    let Some(label) = Label::find(&Extent::whole(bytes)) else { return Vec::new() };
    let partitions = label.volumes(slice, volume.length, notes);
    probe::check_places(volume.length, &partitions, notes);
    partitions
}
