//! Access control lists in words, as GNU tar, bsdtar and star keep and read them: an entry a line,
//! `user:1000:rw-`. Users and groups are numbers, because names mean others on another machine.
//!
//! Source: Linux, `include/uapi/linux/posix_acl_xattr.h`; POSIX.1e draft 17, section 23.3.1.

use std::fmt::Write;

use crate::base::fields::{le16, le32};

const VERSION: u32 = 2;
const HEADER: usize = 4;
const ENTRY: usize = 8;
/// `e_tag`s.
const USER_OBJ: u16 = 0x01;
const USER: u16 = 0x02;
const GROUP_OBJ: u16 = 0x04;
const GROUP: u16 = 0x08;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

/// The text of a list as `getxattr` returns it; `None` if it is none.
pub(super) fn text(value: &[u8]) -> Option<String> {
    let entries = value.get(HEADER..)?;
    if le32(value, 0)? != VERSION || entries.len() % ENTRY != 0 {
        return None;
    }
    let mut text = String::new();
    for entry in entries.chunks_exact(ENTRY) {
        let (tag, permissions, id) = (le16(entry, 0)?, le16(entry, 2)?, le32(entry, 4)?);
        let (kind, is_named) = match tag {
            USER_OBJ => ("user", false),
            USER => ("user", true),
            GROUP_OBJ => ("group", false),
            GROUP => ("group", true),
            MASK => ("mask", false),
            OTHER => ("other", false),
            _ => return None,
        };
        let id = if is_named { id.to_string() } else { String::new() };
        line(&mut text, kind, &id, permissions);
    }
    Some(text)
}

/// The list that a mode stands for.
pub(super) fn of_mode(mode: u16) -> String {
    let mut text = String::new();
    for (kind, shift) in [("user", 6), ("group", 3), ("other", 0)] {
        line(&mut text, kind, "", mode >> shift);
    }
    text
}

fn line(text: &mut String, kind: &str, id: &str, permissions: u16) {
    let letter = |bit, letter| if permissions & bit != 0 { letter } else { '-' };
    let (read, write, run) = (letter(4, 'r'), letter(2, 'w'), letter(1, 'x'));
    // Writing to a string does not fail.
    let _ = writeln!(text, "{kind}:{id}:{read}{write}{run}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_as_getfacl_spells_it() {
        // What the kernel returned after `setfacl -m u:4242:rw,g:99:r`.
        let value = b"\x02\0\0\0\x01\0\x06\0\xff\xff\xff\xff\x02\0\x06\0\x92\x10\0\0\
            \x04\0\x04\0\xff\xff\xff\xff\x08\0\x04\0c\0\0\0\x10\0\x06\0\xff\xff\xff\xff\
            \x20\0\x04\0\xff\xff\xff\xff";
        let expected =
            "user::rw-\nuser:4242:rw-\ngroup::r--\ngroup:99:r--\nmask::rw-\nother::r--\n";
        assert_eq!(text(value).as_deref(), Some(expected));
        assert_eq!(of_mode(0o2750), "user::rwx\ngroup::r-x\nother::---\n");
        assert_eq!(text(&value[..value.len() - 1]), None, "cut");
        assert_eq!(text(b"\x01\0\0\0"), None, "another version");
        assert_eq!(text(b"\x02\0\0\0\x03\0\x06\0\xff\xff\xff\xff"), None, "an unknown tag");
    }
}
