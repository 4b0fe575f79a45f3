//! What a missing column of a RAID5 or RAID6 row held, computed from the others of its row.
//!
//! H. P. Anvin, "The mathematics of RAID-6": the first parity is the exclusive or of all data, the
//! second the sum of all data times the powers of 2, the first one's being 1, in the field of 256
//! elements whose polynomial is 0x11d. btrfs (`fs/btrfs/raid56.c`) and md (`lib/raid6`) have the
//! same.

/// The polynomial without its highest bit.
const POLYNOMIAL: u8 = 0x1d;
/// Bytes that are multiplied together.
const LANES: usize = 64;

/// How the data of one column is had without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// By the first parity.
    First,
    /// By the second parity.
    Second,
    /// By both, without the data of this column either.
    Without(usize),
}

impl Recovery {
    /// Whether `column` is read for it; the parities are those behind the `data` columns.
    #[must_use]
    pub fn reads(self, column: usize, wanted: usize, data: usize) -> bool {
        let (is_first, is_second) = (column == data, column == data.saturating_add(1));
        match self {
            _ if column == wanted => false,
            Self::First => !is_second,
            Self::Second => !is_first,
            Self::Without(other) => column != other,
        }
    }

    /// The data of column `wanted`, made of two sums over all columns that are read, parities
    /// among them: `first`, of their bytes, and `second`, of those times the powers of 2.
    pub fn solve(self, wanted: usize, first: &mut [u8], second: &[u8]) {
        match self {
            Self::First => {}
            Self::Second => {
                first.fill(0);
                add_product(first, second, inverse(power(wanted)));
            }
            Self::Without(other) => {
                // a + b is `first`, xa + yb is `second`: (y * first + second) / (x + y) is a.
                let (x, y) = (power(wanted), power(other));
                let scale = inverse(x ^ y);
                multiply_by(first, multiply(scale, y));
                add_product(first, second, scale);
            }
        }
    }
}

/// Adds `column`'s bytes to the sums that [`Recovery::solve`] takes, among `data` columns.
pub fn add((column, data): (usize, usize), bytes: &[u8], first: &mut [u8], second: &mut [u8]) {
    // Each parity counts in its own sum only.
    if column <= data {
        add_product(first, bytes, 1);
    }
    if column != data {
        add_product(second, bytes, if column < data { power(column) } else { 1 });
    }
}

/// Adds `bytes` times `factor` to `sum`.
fn add_product(sum: &mut [u8], bytes: &[u8], factor: u8) {
    if factor == 1 {
        sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= *byte);
        return;
    }
    let (sums, last_sum) = sum.as_chunks_mut::<LANES>();
    let (blocks, last) = bytes.as_chunks::<LANES>();
    for (sum, block) in sums.iter_mut().zip(blocks) {
        let product = product(*block, factor);
        sum.iter_mut().zip(product).for_each(|(sum, byte)| *sum ^= byte);
    }
    last_sum.iter_mut().zip(last).for_each(|(sum, byte)| *sum ^= multiply(factor, *byte));
}

/// Makes each of `bytes` what it is times `factor`.
fn multiply_by(bytes: &mut [u8], factor: u8) {
    let (blocks, last) = bytes.as_chunks_mut::<LANES>();
    blocks.iter_mut().for_each(|block| *block = product(*block, factor));
    last.iter_mut().for_each(|byte| *byte = multiply(factor, *byte));
}

/// Each of `bytes` times `factor`: bit by bit of the factor and not by a table, so that a processor
/// does all of them at once.
fn product(mut bytes: [u8; LANES], factor: u8) -> [u8; LANES] {
    let (mut sum, mut factor) = ([0; LANES], factor);
    while factor != 0 {
        if factor & 1 == 1 {
            sum.iter_mut().zip(bytes).for_each(|(sum, byte)| *sum ^= byte);
        }
        bytes.iter_mut().for_each(|byte| *byte = double(*byte));
        factor >>= 1;
    }
    sum
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The data of columns 0 to `data`, and their two parities behind them.
    fn row(data: usize) -> Vec<Vec<u8>> {
        let column = |column: usize| {
            (0..300_u32).map(|at| (at.wrapping_mul(31) as u8) ^ column as u8).collect()
        };
        let mut columns: Vec<Vec<u8>> = (0..data).map(column).collect();
        let (mut first, mut second) = (vec![0; 300], vec![0; 300]);
        for (column, bytes) in columns.iter().enumerate() {
            add((column, data), bytes, &mut first, &mut second);
        }
        columns.extend([first, second]);
        columns
    }

    #[test]
    fn every_column_comes_back_by_every_way() {
        for data in 1..7_usize {
            let columns = row(data);
            for wanted in 0..data {
                let others = (0..data).filter(|other| *other != wanted).map(Recovery::Without);
                for way in [Recovery::First, Recovery::Second].into_iter().chain(others) {
                    let (mut sum, mut other) = (vec![0; 300], vec![0; 300]);
                    for (column, bytes) in columns.iter().enumerate() {
                        if way.reads(column, wanted, data) {
                            add((column, data), bytes, &mut sum, &mut other);
                        }
                    }
                    way.solve(wanted, &mut sum, &other);
                    assert_eq!(sum, columns[wanted], "{way:?}: {wanted} of {data}");
                }
            }
        }
    }

    #[test]
    fn the_field_is_that_of_raid6() {
        // 2^8 is the polynomial; 2^255 is 1 again.
        assert_eq!((power(8), power(255), power(9)), (0x1d, 1, 0x3a));
        assert!((1..=255).all(|value| multiply(value, inverse(value)) == 1));
        let bytes: Vec<u8> = (0..=255).collect();
        for factor in [0, 1, 2, 0x8e, 255] {
            let mut sum = vec![0; 256];
            add_product(&mut sum, &bytes, factor);
            let expected: Vec<u8> = bytes.iter().map(|byte| multiply(factor, *byte)).collect();
            assert_eq!(sum, expected, "{factor}");
            let mut scaled = bytes.clone();
            multiply_by(&mut scaled, factor);
            assert_eq!(scaled, expected, "{factor}");
        }
    }
}
