//! A repository's `config`: what its format is, what it needs, and the key of its digests.
//!
//! JSON. Its last member, `check`, is the XXH3-64 of every byte before the comma that precedes
//! it, so that a damaged key or block size is an error and not a repository full of damage.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::digest::{DigestKeys, RepositoryId, random_bytes};
use crate::base::bytes::{from_hex, to_hex};
use crate::base::{BlockSize, Error, Result};

/// The format that this version writes.
pub const FORMAT: u32 = 1;

const CHECK: &str = ",\n  \"check\": \"";

/// Features by name, so that a refusal can say what it lacks.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Features {
    /// A version that does not know one of these may ignore it.
    pub compat: Vec<String>,
    /// A version that does not know one of these may read, but not write.
    pub read_compat: Vec<String>,
    /// A version that does not know one of these must refuse.
    pub incompat: Vec<String>,
}

/// The config.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Config {
    /// What this file is: `repository`.
    pub imgx: String,
    /// The format's version.
    pub format: u32,
    /// The repository's identity.
    pub id: RepositoryId,
    /// The size of its blocks, bytes.
    pub block_size: BlockSize,
    /// What it needs of its readers and writers.
    pub features: Features,
    /// The key that its digests' keys are derived from, hexadecimal.
    digest_key: String,
}

impl Config {
    /// A new repository's.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub fn new(block_size: BlockSize) -> Result<Self> {
        Ok(Self {
            imgx: "repository".to_owned(),
            format: FORMAT,
            id: RepositoryId::random()?,
            block_size,
            features: Features::default(),
            digest_key: to_hex(&random_bytes::<32>()?),
        })
    }

    /// The file's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let json = serde_json::to_string_pretty(self).expect("a config is plain JSON");
        let body = json.strip_suffix("\n}").expect("pretty JSON ends so");
        let check = xxh3_64(body.as_bytes());
        format!("{body}{CHECK}{check:016x}\"\n}}\n").into_bytes()
    }

    /// Reads a config and checks it.
    ///
    /// # Errors
    /// `Corrupt` when it is damaged; `Unsupported` naming the version or feature that this
    /// version does not know.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let text =
            std::str::from_utf8(bytes).map_err(|error| Error::corrupt("config", "UTF-8", error))?;
        let Some((body, check)) = text.rsplit_once(CHECK) else {
            return Err(Error::corrupt("config", "a repository's, ending in a check", "none"));
        };
        let counted = format!("{:016x}\"\n}}\n", xxh3_64(body.as_bytes()));
        if check != counted {
            return Err(Error::corrupt("config's check", counted.trim(), check.trim()));
        }
        let config: Self = serde_json::from_str(&format!("{body}\n}}"))
            .map_err(|error| Error::corrupt("config", "a repository's", error))?;
        config.check_supported()?;
        Ok(config)
    }

    fn check_supported(&self) -> Result<()> {
        if self.format != FORMAT {
            return Err(Error::newer(format!(
                "repository format {}: this version knows {FORMAT}",
                self.format
            )));
        }
        if let Some(feature) = self.features.incompat.first() {
            return Err(Error::newer(format!(
                "repository needs '{feature}', which this version does not know"
            )));
        }
        if from_hex::<32>(&self.digest_key).is_none() {
            return Err(Error::corrupt("config's digest_key", "64 hexadecimal digits", "others"));
        }
        Ok(())
    }

    /// Checks that this version may write.
    ///
    /// # Errors
    /// `Unsupported` naming the feature that forbids it.
    pub fn check_writable(&self) -> Result<()> {
        let Some(feature) = self.features.read_compat.first() else { return Ok(()) };
        Err(Error::newer(format!(
            "repository uses '{feature}': this version may read it, but not write"
        )))
    }

    /// The keys of its digests.
    #[must_use]
    pub fn keys(&self) -> DigestKeys {
        let key = from_hex(&self.digest_key).expect("checked when the config was read");
        DigestKeys::derive(&key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ErrorKind;

    #[test]
    fn a_config_reads_back_as_plain_json() {
        let config = Config::new(BlockSize::DEFAULT).expect("random bytes");
        let bytes = config.encode();
        assert_eq!(Config::decode(&bytes).expect("valid"), config);
        let json: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(json["block_size"], 131_072);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = Config::new(BlockSize::DEFAULT).expect("random bytes").encode();
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(Config::decode(&damaged).is_err(), "bit {bit} went unnoticed");
        }
    }

    #[test]
    fn unknown_features_are_refused_by_name() {
        let mut config = Config::new(BlockSize::DEFAULT).expect("random bytes");
        config.features.compat.push("tea".to_owned());
        config.features.read_compat.push("milk".to_owned());
        let config = Config::decode(&config.encode()).expect("readable");
        let error = config.check_writable().expect_err("not writable");
        assert!(error.to_string().contains("milk"));
        let mut config = config;
        config.features.incompat.push("sugar".to_owned());
        let error = Config::decode(&config.encode()).expect_err("not readable");
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("sugar"));
    }
}
