//! Modes of operation: XTS (IEEE 1619) and CBC, over whole sectors.
//!
//! Many blocks are decrypted together, since a processor works on several at a time.

use super::blocks::{Algorithm, Block, BlockCipher};

/// Bytes that are decrypted together: the largest sector, or several smaller ones.
pub(super) const GROUP: usize = 4096;

/// What is mixed into the blocks of one group.
pub(super) type Mask = [u128; GROUP / 16];

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

    /// Decrypts the sectors `group` in place, each with its own of `values`. What `mask` holds
    /// before and after is of no use.
    pub(super) fn decrypt(
        &self,
        values: &mut [Block],
        group: &mut [u8],
        sector: usize,
        mask: &mut Mask,
    ) {
        let blocks = group.as_chunks_mut().0;
        let sectors = mask.chunks_mut((sector / 16).max(1));
        match self {
            Self::Xts { data, tweak } => {
                tweak.encrypt(values);
                for (mask, value) in sectors.zip(values) {
                    powers(u128::from_le_bytes(*value), mask);
                }
                mix(blocks, mask);
                data.decrypt(blocks);
            }
            Self::Cbc(data) => {
                let encrypted = blocks.chunks((sector / 16).max(1));
                for ((mask, value), blocks) in sectors.zip(values).zip(encrypted) {
                    let before = std::iter::once(&*value).chain(blocks);
                    for (mask, block) in mask.iter_mut().zip(before) {
                        *mask = u128::from_le_bytes(*block);
                    }
                }
                data.decrypt(blocks);
            }
        }
        mix(blocks, mask);
    }
}

/// XTS's tweaks of a sector's blocks, of which `first` is the first: each is the one before times
/// x, in the field of 2^128 elements modulo x^128 + x^7 + x^2 + x + 1.
fn powers(first: u128, tweaks: &mut [u128]) {
    let mut next = first;
    for tweak in tweaks {
        *tweak = next;
        next = (next << 1) ^ (next >> 127).wrapping_mul(0x87);
    }
}

fn mix(blocks: &mut [Block], mask: &Mask) {
    for (block, mask) in blocks.iter_mut().zip(mask) {
        *block = (u128::from_le_bytes(*block) ^ mask).to_le_bytes();
    }
}
