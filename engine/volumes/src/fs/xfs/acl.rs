//! POSIX ACLs, from the form on the disk to the one that `getxattr` gives.
//!
//! The disk's: the kernel's `struct xfs_acl` (`fs/xfs/libxfs/xfs_format.h`). The other:
//! `include/uapi/linux/posix_acl_xattr.h`.

use crate::base::fields::{be16, be32};
use crate::base::{Error, Result};

/// What the attributes of the two lists are called on the disk, with their length.
pub(super) const ACCESS: &[u8] = b"SGI_ACL_FILE";
pub(super) const DEFAULT: &[u8] = b"SGI_ACL_DEFAULT";

/// Version of the form that `getxattr` gives.
const XATTR_VERSION: u32 = 2;
/// Bytes of an entry on the disk.
const ENTRY_SIZE: usize = 12;
/// `ae_tag` of entries that name a user or group.
const USER: u32 = 0x2;
const GROUP: u32 = 0x8;
/// The identifier of entries that name none.
const NOBODY: u32 = u32::MAX;

/// What `getxattr` gives for the ACL `stored`.
///
/// # Errors
/// `Corrupt` if it is none.
pub(super) fn convert(stored: &[u8]) -> Result<Vec<u8>> {
    let entries = stored.get(4..).unwrap_or_default().chunks_exact(ENTRY_SIZE);
    let count = be32(stored, 0).and_then(|count| usize::try_from(count).ok());
    let broken = || Error::corrupt("POSIX ACL", "a count and as many entries", "something else");
    if count.is_none_or(|count| count > entries.len()) {
        return Err(broken());
    }
    let mut converted = XATTR_VERSION.to_le_bytes().to_vec();
    for entry in entries.take(count.unwrap_or_default()) {
        let tag = be32(entry, 0).ok_or_else(broken)?;
        let names_one = matches!(tag, USER | GROUP);
        let id = if names_one { be32(entry, 4).ok_or_else(broken)? } else { NOBODY };
        converted.extend(u16::try_from(tag).map_err(|_| broken())?.to_le_bytes());
        converted.extend(be16(entry, 8).ok_or_else(broken)?.to_le_bytes());
        converted.extend(id.to_le_bytes());
    }
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_a_name_get_the_identifier_of_nobody() {
        let stored =
            [0, 0, 0, 2, 0, 0, 0, 1, 9, 9, 9, 9, 0, 6, 0, 0, 0, 0, 0, 2, 0, 0, 3, 232, 0, 7, 0, 0];
        let expected = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0];
        assert_eq!(convert(&stored).expect("a sound list"), expected);
        assert!(convert(&stored[..20]).is_err());
    }
}
