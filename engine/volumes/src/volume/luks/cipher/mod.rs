//! How sectors are encrypted: a block cipher, a mode, and where the initial values come from.

mod blocks;
mod iv;
mod modes;

use blocks::Algorithm;
use iv::InitialValues;
use modes::Mode;

use crate::base::{Error, ErrorKind, Result};

/// The unit that initial values count sectors in, whatever the sector size (`dm-crypt.c`, unless
/// `iv_large_sectors` is set, which LUKS never does).
pub(super) const IV_UNIT: u64 = 512;

/// Decrypts sectors. Its keys are overwritten when it is dropped.
pub(super) struct SectorCipher {
    mode: Mode,
    values: InitialValues,
    sector: usize,
}

impl SectorCipher {
    /// The cipher that `encryption` names as dm-crypt does (`aes-xts-plain64`), with `key`, for
    /// sectors of `sector` bytes: 512, 1024, 2048 or 4096.
    ///
    /// # Errors
    /// `Unsupported`, with the name, for what is not known here, and for keys of other lengths.
    pub(super) fn new(encryption: &str, key: &[u8], sector: usize) -> Result<Self> {
        let unknown = || {
            let context = format!("the encryption {encryption:?} is not supported");
            Error::new(ErrorKind::Unsupported, context)
        };
        if !matches!(sector, 512 | 1024 | 2048 | 4096) {
            return Err(Error::corrupt("sectors", "512 to 4096 bytes", sector));
        }
        let (algorithm, mode, values) = parts(encryption).ok_or_else(unknown)?;
        let algorithm = Algorithm::named(algorithm).ok_or_else(unknown)?;
        if !matches!(mode, "xts" | "cbc") || !InitialValues::is_known(values) {
            return Err(unknown());
        }
        let bad_key = || {
            let context = format!("{encryption:?} with a key of {} bytes", key.len());
            Error::new(ErrorKind::Unsupported, context)
        };
        let values = InitialValues::new(values, algorithm, key).ok_or_else(bad_key)?;
        let mode = Mode::new(mode, algorithm, key).ok_or_else(bad_key)?;
        Ok(Self { mode, values, sector })
    }

    /// Decrypts whole sectors in place, of which the first begins at `first`, in units of 512
    /// bytes.
    pub(super) fn decrypt(&self, first: u64, bytes: &mut [u8]) {
        let step = u64::try_from(self.sector).unwrap_or_default() / IV_UNIT;
        let mut mask = [0; modes::GROUP / 16];
        let mut number = first;
        for group in bytes.chunks_mut(modes::GROUP) {
            let mut values = [[0; 16]; modes::GROUP / 512];
            let sectors = group.len().div_ceil(self.sector.max(1)).min(values.len());
            let values = values.get_mut(..sectors).unwrap_or_default();
            for value in values.iter_mut() {
                *value = self.values.of(number);
                number = number.wrapping_add(step);
            }
            self.values.finish(values);
            self.mode.decrypt(values, group, self.sector, &mut mask);
        }
    }
}

/// Cipher, mode and initial values. `aes` and `aes-plain` mean `aes-cbc-plain` (`dm-crypt.c`,
/// `crypt_ctr_cipher_old`).
fn parts(encryption: &str) -> Option<(&str, &str, &str)> {
    match encryption.split('-').collect::<Vec<_>>().as_slice() {
        [cipher] | [cipher, "plain"] => Some((*cipher, "cbc", "plain")),
        [cipher, mode, values] => Some((*cipher, *mode, *values)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::bytes::to_hex;

    fn from_hex(text: &str) -> Vec<u8> {
        let digit = |digit: &u8| char::from(*digit).to_digit(16).expect("hexadecimal");
        let byte = |pair: &[u8; 2]| pair.iter().fold(0, |byte, next| byte << 4 | digit(next));
        let bytes = text.as_bytes().as_chunks().0.iter().map(byte);
        bytes.map(|byte| u8::try_from(byte).expect("two digits")).collect()
    }

    /// IEEE 1619-2007, annex B, vectors 1, 2 and 3: 32 bytes under data unit numbers.
    #[test]
    fn xts_decrypts_the_vectors_of_ieee_1619() {
        let vectors = [
            (
                "00".repeat(32),
                0,
                "917cf69ebd68b2ec9b9fe9a3eadda692cd43d2f59598ed858c02c2652fbf922e",
                0,
            ),
            (
                "11".repeat(16) + &"22".repeat(16),
                0x33_3333_3333,
                "c454185e6a16936e39334038acef838bfb186fff7480adc4289382ecd6d394f0",
                0x44,
            ),
            (
                "fffefdfcfbfaf9f8f7f6f5f4f3f2f1f0".to_owned() + &"22".repeat(16),
                0x33_3333_3333,
                "af85336b597afc1a900b2eb21ec949d292df4c047e0b21532186a5971a227a89",
                0x44,
            ),
        ];
        for (key, unit, encrypted, plain) in vectors {
            let cipher = SectorCipher::new("aes-xts-plain64", &from_hex(&key), 512).expect("known");
            // These data units are shorter than sectors; XTS is the same from its start.
            let mut bytes = from_hex(encrypted);
            bytes.resize(512, 0);
            cipher.decrypt(unit, &mut bytes);
            assert_eq!(bytes.get(..32).map(to_hex), Some(to_hex(&[plain; 32])));
        }
    }

    #[test]
    fn what_is_not_known_is_refused_by_name() {
        let unknown = [
            "aes-lrw-benbi",
            "aes-ecb",
            "aes-xts-random",
            "xchacha12,aes-adiantum-plain64",
            "cipher_null-ecb",
            "capi:xts(aes)-plain64",
            "cast5-cbc-plain",
            "",
            "aes-cbc-essiv:md5",
        ];
        for name in unknown {
            let error = SectorCipher::new(name, &[1; 32], 512).err().expect("refused");
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{name}");
            assert!(error.to_string().contains(&format!("{name:?}")), "{error}");
        }
        for length in [0, 1, 16, 63, 65, 128] {
            let error = SectorCipher::new("aes-xts-plain64", &vec![1; length], 512).err();
            assert!(error.expect("refused").to_string().contains("a key of"), "{length}");
        }
    }
}
