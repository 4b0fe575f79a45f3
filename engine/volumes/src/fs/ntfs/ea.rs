//! Extended attributes (`EA`), of which those are read that Linux within Windows keeps what a file
//! is in: owner, mode, device numbers.

use super::Ntfs;
use super::attribute::kind;
use super::mft::File;
use crate::base::Result;
use crate::base::fields::{le16, le32, slice, u8_at};
use crate::base::limits::MAX_XATTR_SIZE;

/// Bytes of an attribute before its name.
const HEADER: usize = 8;

/// What Linux knows of a file.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Linux {
    pub uid: Option<u32>,
    pub gid: Option<u32>,
    /// With the bits of the file's type.
    pub mode: Option<u32>,
    pub device: Option<(u32, u32)>,
}

impl Ntfs {
    /// What Linux keeps of `file`, if anything.
    ///
    /// # Errors
    /// `Corrupt` when its attributes are damaged; `Limit` when they are too long.
    pub(super) fn linux(&self, file: &File) -> Result<Linux> {
        let most = u64::try_from(MAX_XATTR_SIZE).unwrap_or(u64::MAX);
        let value = self.mft.value(file, kind::EA, b"", most)?.unwrap_or_default();
        let broken = || file.corrupt("whole extended attributes", "the end of one");
        parse(&value).ok_or_else(broken)
    }
}

/// What a list says; `None` where one of its attributes is not whole.
fn parse(mut list: &[u8]) -> Option<Linux> {
    let mut linux = Linux::default();
    // What is shorter than a header is the end.
    while list.len() >= HEADER {
        let (name, value) = entry(list)?;
        match name {
            b"$LXUID" => linux.uid = le32(value, 0),
            b"$LXGID" => linux.gid = le32(value, 0),
            b"$LXMOD" => linux.mode = le32(value, 0),
            b"$LXDEV" => linux.device = le32(value, 0).zip(le32(value, 4)),
            _ => {}
        }
        let next = le32(list, 0).and_then(|next| usize::try_from(next).ok()); // NextEntryOffset
        list = next.filter(|next| *next >= HEADER).and_then(|next| list.get(next..)).unwrap_or(&[]);
    }
    Some(linux)
}

fn entry(list: &[u8]) -> Option<(&[u8], &[u8])> {
    let name_length = usize::from(u8_at(list, 5)?); // EaNameLength
    let value_length = usize::from(le16(list, 6)?); // EaValueLength
    let name = slice(list, HEADER, name_length)?;
    // The name ends with a zero that its length does not count.
    let value = HEADER.checked_add(name_length)?.checked_add(1)?;
    Some((name, slice(list, value, value_length)?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    #[test]
    fn attributes_follow_one_another() {
        let mut list = vec![20, 0, 0, 0, 0, 6, 4, 0];
        list.extend(b"$LXUID\0\xe8\x03\0\0\0");
        list.extend([0, 0, 0, 0, 0, 6, 8, 0]);
        list.extend(b"$LXDEV\0\x05\0\0\0\x2c\x01\0\0");
        let expected = Linux { uid: Some(1000), device: Some((5, 300)), ..Linux::default() };
        assert_eq!(parse(&list), Some(expected));
        assert_eq!(parse(&list[..24]), Some(Linux { device: None, ..expected }));
        assert_eq!(parse(&list[..30]), None);
        assert_eq!(parse(&[]), Some(Linux::default()));
    }
}
