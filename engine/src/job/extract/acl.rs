//! Access control lists as Linux keeps them in attributes (`linux/posix_acl_xattr.h`).

/// The attribute of a file's own list.
pub(super) const ACCESS: &str = "system.posix_acl_access";
/// The attribute of the list that a folder's new files get.
pub(super) const DEFAULT: &str = "system.posix_acl_default";

const VERSION: u32 = 2;
const USER: u16 = 0x02;
const GROUP_OBJECT: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;

/// The permission bits that a file with this list may have without it, of the bits `mode` that it
/// has with it. The group's bits are the list's mask then, and not what the group itself may do;
/// and whom the list names may do no more without it than others may.
pub(super) fn mode_without(list: &[u8], mode: u16) -> u16 {
    let closed = mode & !0o077;
    let (version, entries) = match list.split_first_chunk::<4>() {
        Some((version, entries)) => (u32::from_le_bytes(*version), entries),
        None => return closed,
    };
    if version != VERSION {
        return closed;
    }
    let (mut group, mut mask, mut named) = (0, 7, 7);
    for entry in entries.as_chunks::<8>().0 {
        let rights = u16::from_le_bytes([entry[2], entry[3]]) & 7;
        match u16::from_le_bytes([entry[0], entry[1]]) {
            USER | GROUP => named &= rights,
            GROUP_OBJECT => group = rights,
            MASK => mask = rights,
            _ => {}
        }
    }
    // What is named is held to the mask; with nothing named there may be no mask.
    let named = if named == 7 { 7 } else { named & mask };
    closed | (group & mask & (mode >> 3)) << 3 | (mode & named & 7)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(u16, u16)]) -> Vec<u8> {
        let mut list = 2_u32.to_le_bytes().to_vec();
        for (tag, rights) in entries {
            list.extend(tag.to_le_bytes());
            list.extend(rights.to_le_bytes());
            list.extend(u32::MAX.to_le_bytes());
        }
        list
    }

    #[test]
    fn nobody_may_do_more_without_a_list() {
        // user::rw- user:x:rw- group::--- mask::rw- other::---
        let lent = list(&[(1, 6), (2, 6), (4, 0), (0x10, 6), (0x20, 0)]);
        assert_eq!(mode_without(&lent, 0o2660), 0o2600);
        // group::rwx mask::r-x
        assert_eq!(mode_without(&list(&[(1, 6), (4, 7), (0x10, 5), (0x20, 0)]), 0o650), 0o650);
        // Somebody is named who may do less than all others.
        let denied = list(&[(1, 7), (2, 0), (4, 5), (0x10, 5), (0x20, 5)]);
        assert_eq!(mode_without(&denied, 0o755), 0o750);
        assert_eq!(mode_without(&list(&[(1, 6), (4, 4), (0x20, 4)]), 0o644), 0o644);
        assert_eq!(mode_without(b"\x01\0\0\0", 0o777), 0o700);
        assert_eq!(mode_without(b"", 0o777), 0o700);
    }
}
