//! The partitions of a table that is in a volume, as of a virtual machine's disk.

use std::sync::Arc;

use super::build::{Building, Found, Identity, unsupported};
use super::{Below, Opened, Stretch};
use crate::base::{ReadAt, Result};
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
    let listed = probe::listed(&Extent::whole(bytes.as_ref()), building.sector_size, &mut own);
    for sentence in own.into_sentences() {
        building.notes.add(format!("{}: {sentence}", volume.name));
    }
    let partitions = listed.map(|layout| layout.volumes).unwrap_or_default();
    let found = partitions.into_iter().map(|partition| {
        let identity = Identity::Nested(number, partition.name.clone());
        let below = Below::Part { of: number, start: partition.start };
        let (start, length) = (partition.start, partition.length);
        let opened = match start.checked_add(length).is_some_and(|end| end <= volume.length) {
            true => {
                let of = Arc::clone(&bytes);
                let bytes: Arc<dyn ReadAt> = Arc::new(Stretch { of, start, length });
                Ok((below, bytes))
            }
            false => Err(unsupported(format!("it ends beyond {}", volume.name))),
        };
        let partition = named(building, partition, &volume, &opened);
        Found { volume: partition, identity, opened }
    });
    found.collect()
}

fn named(
    building: &Building<'_>,
    partition: Volume,
    volume: &Volume,
    opened: &Result<Opened>,
) -> Volume {
    Volume {
        name: format!("{}/{}", volume.name, partition.name),
        within: vec![volume.name.clone()],
        start: opened.as_ref().map_or(0, |(below, _)| building.first_place(below)),
        // It is looked at anew, by its own name.
        content: None,
        read_whole: None,
        ..partition
    }
}
