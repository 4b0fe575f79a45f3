//! LUKS1 and LUKS2: what a header says, the volume key by a passphrase or key file, and the bytes
//! that are encrypted. Nothing is written.
//!
//! "LUKS1 On-Disk Format Specification" 1.2.3 and "LUKS2 On-Disk Format Specification" 1.1.1; how
//! sectors are encrypted: the kernel's `drivers/md/dm-crypt.c`.
//!
//! ```text
//! Header::read -> Header, unlock(Secret) -> VolumeKey, Opened::new -> ReadAt and Layer
//! ```
//!
//! A header is hostile until its checksum is right (LUKS1 has none), and then still: every size,
//! cost and count has a limit. A key counts only once the header's digest of it is right. What is
//! valid and not known here (ciphers, hashes, requirements, integrity) is refused by its name.

mod cipher;
mod hash;
mod header;
mod identity;
mod json;
mod kdf;
mod luks1;
mod luks2;
mod opened;
mod secret;
mod segment;
mod split;
mod unlock;

pub use header::{Header, HeaderCopy, Priority, Version};
pub(in crate::volume) use identity::{Identity, identify, identify_second};
pub use opened::Opened;
pub use secret::{Secret, VolumeKey};
