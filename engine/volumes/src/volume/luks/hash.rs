//! The hashes that headers name, and what is built of them: digests, HMAC, PBKDF2.

use hmac::SimpleHmac;
use sha2::Digest;
use zeroize::Zeroizing;

use crate::base::{Error, ErrorKind, Result};

/// A hash that cryptsetup offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha224,
    Sha256,
    Sha384,
    Sha512,
    Sha3_224,
    Sha3_256,
    Sha3_384,
    Sha3_512,
    Ripemd160,
    Whirlpool,
    Blake2b512,
    Blake2s256,
}

/// Runs `$body` with `$hasher` being the type of the hash `$hash`.
macro_rules! with_hasher {
    ($hash:expr, $hasher:ident => $body:expr) => {
        match $hash {
            Hash::Sha1 => with_hasher!(@ sha1::Sha1, $hasher => $body),
            Hash::Sha224 => with_hasher!(@ sha2::Sha224, $hasher => $body),
            Hash::Sha256 => with_hasher!(@ sha2::Sha256, $hasher => $body),
            Hash::Sha384 => with_hasher!(@ sha2::Sha384, $hasher => $body),
            Hash::Sha512 => with_hasher!(@ sha2::Sha512, $hasher => $body),
            Hash::Sha3_224 => with_hasher!(@ sha3::Sha3_224, $hasher => $body),
            Hash::Sha3_256 => with_hasher!(@ sha3::Sha3_256, $hasher => $body),
            Hash::Sha3_384 => with_hasher!(@ sha3::Sha3_384, $hasher => $body),
            Hash::Sha3_512 => with_hasher!(@ sha3::Sha3_512, $hasher => $body),
            Hash::Ripemd160 => with_hasher!(@ ripemd::Ripemd160, $hasher => $body),
            Hash::Whirlpool => with_hasher!(@ whirlpool::Whirlpool, $hasher => $body),
            Hash::Blake2b512 => with_hasher!(@ blake2::Blake2b512, $hasher => $body),
            Hash::Blake2s256 => with_hasher!(@ blake2::Blake2s256, $hasher => $body),
        }
    };
    (@ $type:ty, $hasher:ident => $body:expr) => {{
        type $hasher = $type;
        $body
    }};
}

impl Hash {
    /// The hash called `name`.
    ///
    /// # Errors
    /// `Unsupported`, with the name, if it is none of these.
    pub(super) fn named(name: &str) -> Result<Self> {
        Ok(match name.to_ascii_lowercase().as_str() {
            "sha1" => Self::Sha1,
            "sha224" => Self::Sha224,
            "sha256" => Self::Sha256,
            "sha384" => Self::Sha384,
            "sha512" => Self::Sha512,
            "sha3-224" => Self::Sha3_224,
            "sha3-256" => Self::Sha3_256,
            "sha3-384" => Self::Sha3_384,
            "sha3-512" => Self::Sha3_512,
            "ripemd160" | "rmd160" => Self::Ripemd160,
            "whirlpool" => Self::Whirlpool,
            "blake2b-512" => Self::Blake2b512,
            "blake2s-256" => Self::Blake2s256,
            _ => {
                let context = format!("the hash {name:?} is not supported");
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
        })
    }

    /// The digest of all `parts` one behind the other.
    pub(super) fn digest(self, parts: &[&[u8]]) -> Zeroizing<Vec<u8>> {
        with_hasher!(self, Hasher => {
            let mut hasher = Hasher::new();
            for part in parts {
                hasher.update(part);
            }
            Zeroizing::new(hasher.finalize().to_vec())
        })
    }

    /// Fills `out` by PBKDF2 (RFC 8018) with HMAC of this hash.
    pub(super) fn pbkdf2(self, secret: &[u8], salt: &[u8], iterations: u32, out: &mut [u8]) {
        let done = with_hasher!(self, Hasher => {
            pbkdf2::pbkdf2::<SimpleHmac<Hasher>>(secret, salt, iterations, out)
        });
        done.expect("HMAC takes keys of any length");
    }
}
