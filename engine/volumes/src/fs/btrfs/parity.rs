//! What a missing stripe of RAID5 and RAID6 held, computed from the others of its row.
//!
//! The kernel's `fs/btrfs/raid56.c`, and H. P. Anvin, "The mathematics of RAID-6": the first parity
//! is the exclusive or of all data, the second the sum of all data times the powers of 2, the first
//! one's being 1, in the field of 256 elements whose polynomial is 0x11d.

/// The polynomial without its highest bit.
const POLYNOMIAL: u8 = 0x1d;

/// How the data of one column is had without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Recovery {
    /// By the first parity.
    First,
    /// By the second parity.
    Second,
    /// By both, without the data of this column either.
    Without(usize),
}

impl Recovery {
    /// The way that counts as copy `mirror`, after the column itself, which is copy 0: of `column`
    /// among `data` columns and `parities` of parity.
    pub(super) fn of_mirror(
        mirror: usize,
        column: usize,
        (data, parities): (usize, usize),
    ) -> Option<Self> {
        match (mirror, parities) {
            (1, _) => Some(Self::First),
            (2, 2) => Some(Self::Second),
            (3.., 2) => {
                let other = mirror.checked_sub(3)?;
                // All the other columns, one after another.
                let other = if other < column { other } else { other.checked_add(1)? };
                (other < data).then_some(Self::Without(other))
            }
            _ => None,
        }
    }

    /// Whether `column` is read for it; the parities are those behind the `data` columns.
    pub(super) fn reads(self, column: usize, wanted: usize, data: usize) -> bool {
        let (is_first, is_second) = (column == data, Some(column) == data.checked_add(1));
        match self {
            _ if column == wanted => false,
            Self::First => !is_second,
            Self::Second => !is_first,
            Self::Without(other) => column != other,
        }
    }

    /// The data of column `wanted`, made of two sums over all columns that are read, parities
    /// among them: `first`, of their bytes, and `second`, of those times the powers of 2.
    pub(super) fn solve(self, wanted: usize, first: &mut [u8], second: &[u8]) {
        match self {
            Self::First => {}
            Self::Second => {
                let scale = table(inverse(power(wanted)));
                for (byte, second) in first.iter_mut().zip(second) {
                    *byte = at(&scale, *second);
                }
            }
            Self::Without(other) => {
                // a + b is `first`, xa + yb is `second`: (y * first + second) / (x + y) is a.
                let (x, y) = (power(wanted), power(other));
                let (by_other, scale) = (table(y), table(inverse(x ^ y)));
                for (byte, second) in first.iter_mut().zip(second) {
                    *byte = at(&scale, at(&by_other, *byte) ^ *second);
                }
            }
        }
    }
}

/// Adds `column`'s bytes to the sums that [`Recovery::solve`] takes.
pub(super) fn add(
    (column, data): (usize, usize),
    bytes: &[u8],
    first: &mut [u8],
    second: &mut [u8],
) {
    // Each parity counts in its own sum only.
    if column <= data {
        first.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= *byte);
    }
    if column != data {
        let scale = table(if column < data { power(column) } else { 1 });
        second.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= at(&scale, *byte));
    }
}

/// Two to the power of `column`.
fn power(column: usize) -> u8 {
    // Powers repeat after 255.
    (0..column % 255).fold(1, |power, _| double(power))
}

fn double(value: u8) -> u8 {
    let carry = if value & 0x80 == 0 { 0 } else { POLYNOMIAL };
    value.wrapping_shl(1) ^ carry
}

fn multiply(one: u8, other: u8) -> u8 {
    let (mut sum, mut factor) = (0, one);
    for bit in 0..8_u32 {
        if other.wrapping_shr(bit) & 1 == 1 {
            sum ^= factor;
        }
        factor = double(factor);
    }
    sum
}

/// What times `value` is 1: its 254th power.
fn inverse(value: u8) -> u8 {
    (0..254).fold(1, |product, _| multiply(product, value))
}

/// All bytes times `factor`.
fn table(factor: u8) -> [u8; 256] {
    let mut table = [0; 256];
    for (product, byte) in table.iter_mut().zip(0..=u8::MAX) {
        *product = multiply(factor, byte);
    }
    table
}

fn at(table: &[u8; 256], byte: u8) -> u8 {
    table.get(usize::from(byte)).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::indexing_slicing,
        clippy::as_conversions,
        clippy::arithmetic_side_effects,
        reason = "a test may panic"
    )]

    use super::*;

    #[test]
    fn every_column_comes_back_by_every_way() {
        for data in 1..7_usize {
            let rows: Vec<Vec<u8>> = (0..data)
                .map(|column| {
                    (0..=255).map(|byte: u8| byte.wrapping_mul(31) ^ column as u8).collect()
                })
                .collect();
            let (mut first, mut second) = (vec![0; 256], vec![0; 256]);
            for (column, row) in rows.iter().enumerate() {
                add((column, data), row, &mut first, &mut second);
            }
            let mut columns = rows.clone();
            columns.extend([first, second]);
            for (wanted, expected) in rows.iter().enumerate() {
                let mut ways = 0;
                for mirror in 1..data + 2 {
                    let Some(way) = Recovery::of_mirror(mirror, wanted, (data, 2)) else {
                        continue;
                    };
                    let (mut sum, mut other) = (vec![0; 256], vec![0; 256]);
                    for (column, bytes) in columns.iter().enumerate() {
                        if way.reads(column, wanted, data) {
                            add((column, data), bytes, &mut sum, &mut other);
                        }
                    }
                    way.solve(wanted, &mut sum, &other);
                    assert_eq!(sum, *expected, "{way:?}: {wanted} of {data}");
                    ways += 1;
                }
                assert_eq!(ways, data + 1, "of {data} columns and two parities");
            }
        }
        assert_eq!(Recovery::of_mirror(2, 0, (2, 1)), None);
    }

    #[test]
    fn the_field_is_that_of_raid6() {
        // 2^8 is the polynomial; 2^255 is 1 again.
        assert_eq!((power(8), power(255), power(9)), (0x1d, 1, 0x3a));
        assert!((1..=255).all(|value| multiply(value, inverse(value)) == 1));
    }
}
