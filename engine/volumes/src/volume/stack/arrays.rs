//! The arrays whose members are among the volumes.

use std::sync::Arc;

use super::Below;
use super::build::{Building, Found, Identity};
use crate::base::ReadAt;
use crate::kind::Kind;
use crate::volume::layout::Volume;
use crate::volume::md::{Array, Superblock, superblock};

/// The members of one array.
struct Members {
    given: Vec<(Superblock, Arc<dyn ReadAt>)>,
    numbers: Vec<usize>,
}

pub(super) fn find(building: &mut Building<'_>) -> Vec<Found> {
    let mut arrays: Vec<Members> = Vec::new();
    let mut damaged = Vec::new();
    for (number, volume, bytes) in building.holding(Kind::MdMember) {
        let superblock = match superblock(bytes.as_ref()) {
            Ok(Some(superblock)) => superblock,
            Ok(None) => continue,
            Err(error) => {
                damaged.push(format!("{}: its RAID superblock is damaged: {error}", volume.name));
                continue;
            }
        };
        let array = superblock.array;
        let is_same = |members: &&mut Members| {
            members.given.first().is_some_and(|(first, _)| first.array == array)
        };
        let member = (superblock, Arc::clone(bytes));
        match arrays.iter_mut().find(is_same) {
            Some(members) => {
                members.given.push(member);
                members.numbers.push(number);
            }
            None => arrays.push(Members { given: vec![member], numbers: vec![number] }),
        }
    }
    damaged.into_iter().for_each(|sentence| building.notes.add(sentence));
    arrays.iter().filter_map(|members| array(building, members)).collect()
}

fn array(building: &mut Building<'_>, members: &Members) -> Option<Found> {
    let (first, _) = members.given.first()?;
    let numbers = &members.numbers;
    let name = format!("{}md/{}", building.prefix(numbers), first.name());
    let mut volume = Volume::new(name, 0, first.used);
    volume.type_name = Some("RAID array".to_owned());
    volume.partition_uuid = first.uuid();
    volume.within = building.names(numbers);
    let identity = Identity::Array(first.array);
    let opened = Array::assemble(&members.given).map(|array| {
        tell(building, &volume.name, &array, numbers);
        Below::layer(Arc::new(array), numbers.clone())
    });
    Some(Found { volume, identity, opened })
}

/// Notes what is not as it should be with an array that can be read.
fn tell(building: &mut Building<'_>, name: &str, array: &Array, numbers: &[usize]) {
    for refused in array.refused() {
        let member = numbers.get(refused.member).and_then(|number| building.volumes.get(*number));
        let member = member.map_or("a member", |member| member.name.as_str());
        building.notes.add(format!("{name} is read without {member}: {}", refused.why));
    }
    if array.is_degraded() {
        building.notes.add(format!("{name} is degraded: a member is missing or not rebuilt"));
    }
}
