//! The logical volumes of the groups whose physical volumes are among the volumes.

use std::sync::Arc;

use super::Below;
use super::build::{Building, Found, Identity};
use crate::base::limits::MAX_PARTITIONS;
use crate::base::{ByteRange, ReadAt};
use crate::kind::Kind;
use crate::volume::layout::Volume;
use crate::volume::lvm::{Group, Groups, LogicalVolume};

pub(super) fn find(building: &mut Building<'_>) -> Vec<Found> {
    let physical = building.holding(Kind::PhysicalVolume);
    let (numbers, bytes): (Vec<usize>, Vec<Arc<dyn ReadAt>>) =
        physical.map(|(number, _, bytes)| (number, Arc::clone(bytes))).unzip();
    let Groups { groups, damage } = Group::read(&bytes);
    for (physical, error) in damage {
        let volume = numbers.get(physical).and_then(|number| building.volumes.get(*number));
        let name = volume.map_or("a physical volume", |volume| volume.name.as_str());
        building.notes.add(format!("{name}: {error}"));
    }
    let mut found = Vec::new();
    for group in &groups {
        let of_group: Vec<usize> =
            group.present().filter_map(|physical| numbers.get(physical).copied()).collect();
        let prefix = building.prefix(&of_group);
        for volume in group.volumes() {
            if found.len() < MAX_PARTITIONS {
                found.push(logical(building, (group, &prefix), volume, (&numbers, &of_group)));
            }
        }
    }
    found
}

fn logical(
    building: &Building<'_>,
    (group, prefix): (&Group, &str),
    logical: LogicalVolume,
    (numbers, of_group): (&[usize], &[usize]),
) -> Found {
    let LogicalVolume { name, uuid, length, problem, .. } = logical;
    let mut volume = Volume::new(format!("{prefix}{}/{name}", group.name()), 0, length);
    volume.type_name = Some("logical volume".to_owned());
    volume.partition_uuid = uuid;
    let opened = match problem {
        Some(error) => Err(error),
        None => group.open(&name).map(|layer| Below::layer(layer, numbers.to_vec())),
    };
    let mut used = Vec::new();
    if let Ok((Below::Layer { layer, .. }, bytes)) = &opened {
        let whole = ByteRange { start: 0, end: bytes.size().0 };
        let shared = layer.each_place(whole, &mut |physical, _| {
            if let Some(number) = numbers.get(physical)
                && !used.contains(number)
            {
                used.push(*number);
            }
        });
        volume.read_whole = shared.err().map(|why| why.to_string());
    }
    // Of one that nothing is known of, all may be a part.
    volume.within = building.names(if used.is_empty() { of_group } else { &used });
    let group = group.uuid().unwrap_or(group.name()).to_owned();
    Found { volume, identity: Identity::Logical(group, name), opened }
}
