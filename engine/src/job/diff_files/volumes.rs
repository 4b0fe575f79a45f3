//! Which volume of one disk is which of the other.

use std::collections::HashSet;

use crate::volume::Volume;

/// A volume of both disks, or of one, by its place in each list.
pub(super) type VolumePair = (Option<usize>, Option<usize>);

/// What a volume may be known by, the surest first.
const IDENTITIES: [fn(&Volume) -> Option<&str>; 3] = [
    |volume| volume.content.as_ref().and_then(|content| content.uuid.as_deref()),
    |volume| volume.partition_uuid.as_deref(),
    |volume| Some(volume.name.as_str()),
];

/// Pairs volumes by what they hold, else by their partition, else by their name; what several of
/// one disk have in common says nothing. In the order of the second disk, then what is gone.
pub(super) fn pairs(before: &[Volume], after: &[Volume]) -> Vec<VolumePair> {
    let mut mates: Vec<Option<usize>> = vec![None; after.len()];
    let mut taken = HashSet::new();
    for identity in IDENTITIES {
        let only = |volumes: &[Volume], wanted: &str| {
            let mut having =
                (0..volumes.len()).filter(|at| identity(&volumes[*at]) == Some(wanted));
            having.next().filter(|_| having.next().is_none())
        };
        for (number, volume) in after.iter().enumerate() {
            let Some(wanted) = identity(volume).filter(|_| mates[number].is_none()) else {
                continue;
            };
            if only(after, wanted).is_none() {
                continue;
            }
            let mate = only(before, wanted).filter(|mate| taken.insert(*mate));
            mates[number] = mate;
        }
    }
    let paired = mates.into_iter().enumerate().map(|(number, mate)| (mate, Some(number)));
    let gone = (0..before.len()).filter(|number| !taken.contains(number));
    paired.chain(gone.map(|number| (Some(number), None))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volumes(volumes: &[(&str, &str, &str)]) -> Vec<Volume> {
        let volume = |(name, partition, content): &(&str, &str, &str)| {
            let mut value = serde_json::json!({"name": name, "start": 0, "length": 1});
            if !partition.is_empty() {
                value["partition_uuid"] = (*partition).into();
            }
            if !content.is_empty() {
                value["content"] = serde_json::json!({"kind": "ext4", "uuid": content});
            }
            serde_json::from_value(value).expect("a volume")
        };
        volumes.iter().map(volume).collect()
    }

    #[test]
    fn volumes_are_known_by_what_they_hold_then_by_partition_then_by_name() {
        let before =
            volumes(&[("p1", "a", "one"), ("p2", "b", "two"), ("p3", "", ""), ("p4", "", "")]);
        let after =
            volumes(&[("p1", "b", "new"), ("p2", "c", "one"), ("p3", "", "x"), ("p9", "", "")]);
        let expected = [
            (Some(1), Some(0)),
            (Some(0), Some(1)),
            (Some(2), Some(2)),
            (None, Some(3)),
            (Some(3), None),
        ];
        assert_eq!(pairs(&before, &after), expected);
    }

    #[test]
    fn copies_of_one_filesystem_are_told_apart_by_their_partitions() {
        let before = volumes(&[("p1", "a", "same"), ("p2", "b", "same")]);
        let after = volumes(&[("p1", "b", "same"), ("p2", "a", "same")]);
        assert_eq!(pairs(&before, &after), [(Some(1), Some(0)), (Some(0), Some(1))]);
    }
}
