//! Initial values by sector numbers (`dm-crypt.c`, `crypt_iv_*_gen`).

use super::blocks::{Algorithm, Block, BlockCipher};
use crate::volume::luks::hash::Hash;

/// How a sector's number becomes its initial value.
pub(super) enum InitialValues {
    /// The low 32 bits, little-endian.
    Plain,
    /// All 64 bits, little-endian.
    Plain64,
    /// All 64 bits, big-endian, at the end of the block.
    Plain64Be,
    /// As [`Plain64`](Self::Plain64), encrypted by the digest of the key.
    Essiv(Box<dyn BlockCipher>),
}

impl InitialValues {
    /// Whether these values are among those here.
    pub(super) fn is_known(name: &str) -> bool {
        matches!(name, "plain" | "plain64" | "plain64be" | "essiv:sha256")
    }

    /// The values called `name`; `None` for one that is not known, or a key that does not fit.
    pub(super) fn new(name: &str, algorithm: Algorithm, key: &[u8]) -> Option<Self> {
        Some(match name {
            "plain" => Self::Plain,
            "plain64" => Self::Plain64,
            "plain64be" => Self::Plain64Be,
            // Of the other hashes' digests none is as long as a key of these ciphers.
            "essiv:sha256" => Self::Essiv(algorithm.with_key(&Hash::Sha256.digest(&[key]))?),
            _ => return None,
        })
    }

    /// The value of sector `number`, in units of 512 bytes, before [`finish`](Self::finish).
    pub(super) fn of(&self, number: u64) -> Block {
        match self {
            Self::Plain => u128::from(number & u64::from(u32::MAX)).to_le_bytes(),
            Self::Plain64 | Self::Essiv(_) => u128::from(number).to_le_bytes(),
            Self::Plain64Be => u128::from(number).to_be_bytes(),
        }
    }

    /// Makes `values` final, all at once.
    pub(super) fn finish(&self, values: &mut [Block]) {
        if let Self::Essiv(cipher) = self {
            cipher.encrypt(values);
        }
    }
}
