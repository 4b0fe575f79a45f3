//! Digests, the keys they are made with, and the identifiers of stored objects.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::base::bytes::{from_hex, to_hex};
use crate::base::{Error, Result};

macro_rules! hex_identifier {
    ($(#[$doc:meta])* $name:ident, $length:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(pub [u8; $length]);

        impl $name {
            /// Reads its hexadecimal form; `None` for anything else.
            #[must_use]
            pub fn from_hex(digits: &str) -> Option<Self> {
                from_hex(digits).map(Self)
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(digits: String) -> Result<Self, String> {
                Self::from_hex(&digits)
                    .ok_or_else(|| format!("expected {} hexadecimal digits", $length * 2))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                to_hex(&id.0)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&to_hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self)
            }
        }
    };
}

hex_identifier! {
    /// BLAKE3, 256 bits, keyed per repository: the identity of a block's or a node's content.
    Digest, 32
}
hex_identifier! {
    /// A repository's identity, random.
    RepositoryId, 16
}
hex_identifier! {
    /// A pack's identity, random.
    PackId, 16
}
hex_identifier! {
    /// An image's identity: the first half of its manifest's digest.
    ImageId, 16
}

impl RepositoryId {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub fn random() -> Result<Self> {
        random_bytes().map(Self)
    }
}

impl PackId {
    /// A new one.
    ///
    /// # Errors
    /// `Io` when the system has no random bytes.
    pub fn random() -> Result<Self> {
        random_bytes().map(Self)
    }
}

/// `N` random bytes from the system.
///
/// # Errors
/// `Io` when the system has none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|error| Error::io("random bytes", std::io::Error::other(error.to_string())))?;
    Ok(bytes)
}

/// The keys of a repository's digests, one for each kind of content, so that a block can never
/// pass for a node.
#[derive(Clone)]
pub struct DigestKeys {
    block: [u8; 32],
    node: [u8; 32],
    manifest: [u8; 32],
}

impl DigestKeys {
    /// Derives the keys from the repository's `digest_key`.
    #[must_use]
    pub fn derive(digest_key: &[u8; 32]) -> Self {
        let derive = |context| blake3::derive_key(context, digest_key);
        Self {
            block: derive("imgx v1 block digest"),
            node: derive("imgx v1 node digest"),
            manifest: derive("imgx v1 manifest digest"),
        }
    }

    /// The digest of a block's content.
    #[must_use]
    pub fn block(&self, content: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.block, content).as_bytes())
    }

    /// The digest of a node's canonical form, or of a whole disk's.
    #[must_use]
    pub fn node(&self, canonical: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.node, canonical).as_bytes())
    }

    /// The digest of a manifest's bytes.
    #[must_use]
    pub fn manifest(&self, bytes: &[u8]) -> Digest {
        Digest(*blake3::keyed_hash(&self.manifest, bytes).as_bytes())
    }

    /// The identity of the image with this manifest.
    #[must_use]
    pub fn image_id(&self, manifest: &[u8]) -> ImageId {
        let digest = self.manifest(manifest).0;
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        ImageId(id)
    }
}

impl fmt::Debug for DigestKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DigestKeys")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_of_content_and_repositories_never_share_a_digest() {
        let (one, other) = (DigestKeys::derive(&[1; 32]), DigestKeys::derive(&[2; 32]));
        let digests = [one.block(b"x"), one.node(b"x"), one.manifest(b"x"), other.block(b"x")];
        for (place, digest) in digests.iter().enumerate() {
            assert!(!digests[place + 1..].contains(digest));
        }
    }

    #[test]
    fn identifiers_read_back_what_they_print() {
        let id = PackId([0xab; 16]);
        assert_eq!(PackId::from_hex(&id.to_string()), Some(id));
        assert_eq!(PackId::from_hex("ab"), None);
    }
}
