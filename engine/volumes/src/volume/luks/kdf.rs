//! Keys by passphrases: PBKDF2, Argon2i and Argon2id.

use argon2::{Algorithm, Argon2, Params};
use zeroize::Zeroizing;

use super::hash::Hash;
use super::secret::Secret;
use crate::base::limits::{
    MAX_ARGON2_LANES, MAX_ARGON2_MEMORY, MAX_ARGON2_WORK, MAX_PBKDF2_ITERATIONS,
};
use crate::base::{Error, ErrorKind, Result};

/// How a keyslot makes its key of a passphrase.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kdf {
    /// PBKDF2.
    Pbkdf2 {
        /// The hash's name.
        hash: String,
        /// Its cost.
        iterations: u64,
        /// The salt.
        salt: Vec<u8>,
    },
    /// Argon2, version 1.3.
    Argon2(Costs),
    /// None that is known, by its name.
    Other(String),
}

/// What one Argon2 costs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Costs {
    /// Argon2id, else Argon2i.
    pub is_hybrid: bool,
    /// Passes over the memory.
    pub passes: u64,
    /// KiB of memory.
    pub memory: u64,
    /// Lanes, which can be filled at the same time.
    pub lanes: u64,
    /// The salt.
    pub salt: Vec<u8>,
}

impl Kdf {
    /// Its name, as in a header.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Pbkdf2 { .. } => "pbkdf2",
            Self::Argon2(costs) if costs.is_hybrid => "argon2id",
            Self::Argon2(_) => "argon2i",
            Self::Other(name) => name,
        }
    }

    /// The key of `length` bytes that `secret` makes.
    ///
    /// # Errors
    /// `Unsupported` for a function or hash that is not known; `Limit` for a cost beyond limits,
    /// saying what is asked for, or where the memory cannot be had; `Corrupt` for costs that make
    /// no sense.
    pub(super) fn key(&self, secret: &Secret, length: usize) -> Result<Zeroizing<Vec<u8>>> {
        let mut key = Zeroizing::new(vec![0; length]);
        match self {
            Self::Pbkdf2 { hash, iterations, salt } => {
                pbkdf2((hash, *iterations, salt), secret.bytes(), &mut key)?;
            }
            Self::Argon2(costs) => costs.fill(secret, &mut key)?,
            Self::Other(name) => {
                let context = format!("the key derivation {name:?} is not supported");
                return Err(Error::new(ErrorKind::Unsupported, context));
            }
        }
        Ok(key)
    }
}

/// Fills `out` by PBKDF2 with a hash's name, iterations and a salt.
///
/// # Errors
/// As [`Kdf::key`].
pub(super) fn pbkdf2(
    (hash, iterations, salt): (&str, u64, &[u8]),
    secret: &[u8],
    out: &mut [u8],
) -> Result<()> {
    let hash = Hash::named(hash)?;
    if iterations == 0 {
        return Err(Error::corrupt("PBKDF2", "iterations", 0));
    }
    let within = (iterations <= MAX_PBKDF2_ITERATIONS).then(|| u32::try_from(iterations).ok());
    let iterations = within.flatten().ok_or_else(|| {
        let asked =
            format!("PBKDF2 with {iterations} iterations, more than {MAX_PBKDF2_ITERATIONS}");
        Error::new(ErrorKind::Limit, asked)
    })?;
    hash.pbkdf2(secret, salt, iterations, out);
    Ok(())
}

impl Costs {
    fn fill(&self, secret: &Secret, out: &mut [u8]) -> Result<()> {
        let Self { passes, memory, lanes, .. } = self;
        let limit = |asked: String| Err(Error::new(ErrorKind::Limit, format!("Argon2 {asked}")));
        if *memory > MAX_ARGON2_MEMORY {
            return limit(format!(
                "with {memory} KiB of memory, more than {MAX_ARGON2_MEMORY} KiB"
            ));
        }
        if *lanes > MAX_ARGON2_LANES {
            return limit(format!("with {lanes} lanes, more than {MAX_ARGON2_LANES}"));
        }
        if passes.saturating_mul(*memory) > MAX_ARGON2_WORK {
            return limit(format!("with {passes} passes over {memory} KiB, which take hours"));
        }
        let small = |value: u64| u32::try_from(value).ok();
        let params = small(*memory)
            .zip(small(*passes))
            .zip(small(*lanes))
            .and_then(|((m, t), p)| Params::new(m, t, p, Some(out.len())).ok());
        let params = params.ok_or_else(|| {
            let found = format!("{passes} passes over {memory} KiB in {lanes} lanes");
            Error::corrupt("Argon2", "costs that fit one another", found)
        })?;
        let algorithm = if self.is_hybrid { Algorithm::Argon2id } else { Algorithm::Argon2i };
        let argon2 = Argon2::new(algorithm, argon2::Version::V0x13, params);
        let done = argon2.hash_password_into(secret.bytes(), &self.salt, out);
        done.map_err(|error| match error {
            argon2::Error::OutOfMemory => {
                let context = format!("Argon2 with {memory} KiB of memory, which cannot be had");
                Error::new(ErrorKind::Limit, context)
            }
            other => Error::corrupt("Argon2", "what can be computed", other),
        })
    }
}
