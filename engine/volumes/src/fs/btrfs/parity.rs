//! Which computation stands for which copy of a row of RAID5 or RAID6.

use crate::base::parity::Recovery;

/// The way that counts as copy `mirror`, after the column itself, which is copy 0: of `column`
/// among `data` columns and `parities` of parity. The kernel's `fs/btrfs/raid56.c` counts so.
pub(super) fn of_mirror(
    mirror: usize,
    column: usize,
    (data, parities): (usize, usize),
) -> Option<Recovery> {
    match (mirror, parities) {
        (1, _) => Some(Recovery::First),
        (2, 2) => Some(Recovery::Second),
        (3.., 2) => {
            let other = mirror.checked_sub(3)?;
            // All the other columns, one after another.
            let other = if other < column { other } else { other.checked_add(1)? };
            (other < data).then_some(Recovery::Without(other))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_column_can_be_done_without() {
        let ways: Vec<_> = (1..7).map(|mirror| of_mirror(mirror, 1, (3, 2))).collect();
        let without = |column| Some(Recovery::Without(column));
        let [first, second] = [Some(Recovery::First), Some(Recovery::Second)];
        assert_eq!(ways, [first, second, without(0), without(2), None, None]);
        assert_eq!(of_mirror(2, 0, (2, 1)), None);
    }
}
