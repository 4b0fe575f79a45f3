//! Modes of operation: XTS (IEEE 1619) and CBC, over whole sectors.
//!
//! Blocks of a sector are decrypted together, since a processor works on several at a time; XTS's
//! tweaks of several sectors too.

use super::blocks::{Algorithm, Block, BlockCipher};

/// Sectors whose initial values are made together.
pub(super) const GROUP: usize = 8;

/// Blocks of the largest sector, 4096 bytes.
const MOST_BLOCKS: usize = 256;

/// A mode with its keys.
pub(super) enum Mode {
    /// XTS: the second half of the key encrypts the initial values.
    Xts { data: Box<dyn BlockCipher>, tweak: Box<dyn BlockCipher> },
    /// CBC.
    Cbc(Box<dyn BlockCipher>),
}

impl Mode {
    /// The mode called `name`; `None` for one that is not known, or a key that does not fit.
    pub(super) fn new(name: &str, algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        match name {
            "xts" => {
                let (data, tweak) = key.split_at_checked(key.len() / 2)?;
                if data.len() != tweak.len() {
                    return None;
                }
                Some(Self::Xts {
                    data: algorithm.with_key(data)?,
                    tweak: algorithm.with_key(tweak)?,
                })
            }
            "cbc" => Some(Self::Cbc(algorithm.with_key(key)?)),
            _ => None,
        }
    }

    /// Decrypts the sectors `group` in place, each with its own of `values`.
    pub(super) fn decrypt(&self, values: &mut [Block; GROUP], group: &mut [u8], sector: usize) {
        if let Self::Xts { tweak, .. } = self {
            tweak.encrypt(values);
        }
        for (sector, value) in group.chunks_mut(sector).zip(values.iter()) {
            let blocks = sector.as_chunks_mut().0;
            match self {
                Self::Xts { data, .. } => xts(data.as_ref(), *value, blocks),
                Self::Cbc(data) => cbc(data.as_ref(), *value, blocks),
            }
        }
    }
}

/// Decrypts a sector's blocks, the first of which has the tweak `tweak`.
fn xts(cipher: &dyn BlockCipher, tweak: Block, blocks: &mut [Block]) {
    let mut tweaks = [0_u128; MOST_BLOCKS];
    let mut next = u128::from_le_bytes(tweak);
    for (tweak, _) in tweaks.iter_mut().zip(blocks.iter()) {
        *tweak = next;
        next = times_x(next);
    }
    mix(blocks, &tweaks);
    cipher.decrypt(blocks);
    mix(blocks, &tweaks);
}

/// Multiplies by x in the field of 2^128 elements modulo x^128 + x^7 + x^2 + x + 1.
fn times_x(value: u128) -> u128 {
    (value << 1) ^ (value >> 127).wrapping_mul(0x87)
}

/// Decrypts a sector's blocks behind the initial value `value`.
fn cbc(cipher: &dyn BlockCipher, value: Block, blocks: &mut [Block]) {
    let mut before = [0_u128; MOST_BLOCKS];
    let encrypted = blocks.iter().map(|block| u128::from_le_bytes(*block));
    let values = std::iter::once(u128::from_le_bytes(value)).chain(encrypted);
    for (before, value) in before.iter_mut().zip(values) {
        *before = value;
    }
    cipher.decrypt(blocks);
    mix(blocks, &before);
}

fn mix(blocks: &mut [Block], others: &[u128; MOST_BLOCKS]) {
    for (block, other) in blocks.iter_mut().zip(others) {
        *block = (u128::from_le_bytes(*block) ^ other).to_le_bytes();
    }
}
