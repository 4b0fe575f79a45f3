//! POSIX ACLs, from the form on the disk to the one that `getxattr` gives.
//!
//! The disk's: the kernel's `fs/ext4/acl.h`. The other: `include/uapi/linux/posix_acl_xattr.h`.

use crate::base::fields::{array, le16, le32};
use crate::base::{Error, Result};

/// Versions of the two forms.
const DISK_VERSION: u32 = 1;
const XATTR_VERSION: u32 = 2;
/// `e_tag` of entries that name a user or group.
const USER: u16 = 0x2;
const GROUP: u16 = 0x8;
/// The identifier of entries that name none.
const NOBODY: u32 = u32::MAX;

/// What `getxattr` gives for the ACL `stored`.
///
/// # Errors
/// `Corrupt` if it is none.
pub(super) fn convert(stored: &[u8]) -> Result<Vec<u8>> {
    let broken = || Error::corrupt("POSIX ACL", "version 1 and whole entries", "something else");
    if le32(stored, 0) != Some(DISK_VERSION) {
        return Err(broken());
    }
    let mut converted = XATTR_VERSION.to_le_bytes().to_vec();
    let mut rest = stored.get(4..).unwrap_or_default();
    while !rest.is_empty() {
        let fields: [u8; 4] = array(rest, 0).ok_or_else(broken)?;
        let names_one = matches!(le16(&fields, 0), Some(USER | GROUP));
        let id = if names_one { le32(rest, 4).ok_or_else(broken)? } else { NOBODY };
        converted.extend(fields);
        converted.extend(id.to_le_bytes());
        rest = rest.get(if names_one { 8 } else { 4 }..).unwrap_or_default();
    }
    Ok(converted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_without_a_name_get_the_identifier_of_nobody() {
        let stored = [1, 0, 0, 0, 1, 0, 6, 0, 2, 0, 7, 0, 232, 3, 0, 0];
        let expected = [2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 232, 3, 0, 0];
        assert_eq!(convert(&stored).expect("a sound list"), expected);
        assert!(convert(&stored[..14]).is_err());
    }
}
