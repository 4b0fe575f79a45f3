//! Names (`FILE_NAME`), and their order.

use std::cmp::Ordering;

use super::units::Reference;
use super::upcase::UpCase;
use crate::base::fields::{le32, le64, slice, u8_at};

/// `Flags` of a namespace: a short name beside a long one.
const DOS: u8 = 2;
/// `FileAttributes`.
pub(super) const SYSTEM: u32 = 0x4;
pub(super) const REPARSE_POINT: u32 = 0x400;
const FOLDER: u32 = 0x1000_0000;

/// A name of a file, and what its folder says of the file.
#[derive(Debug, Clone, Copy)]
pub(super) struct FileName<'a> {
    /// The folder that it is in.
    pub parent: Reference,
    pub attributes: u32,
    /// In UTF-16, little-endian; never empty.
    pub name: &'a [u8],
    namespace: u8,
}

impl<'a> FileName<'a> {
    pub(super) fn parse(value: &'a [u8]) -> Option<Self> {
        let length = usize::from(u8_at(value, 0x40)?).checked_mul(2)?; // FileNameLength
        Some(Self {
            parent: Reference(le64(value, 0)?), // ParentDirectory
            attributes: le32(value, 0x38)?,     // FileAttributes
            namespace: u8_at(value, 0x41)?,     // Flags
            name: slice(value, 0x42, length).filter(|name| !name.is_empty())?,
        })
    }

    /// Whether it is the short name of a file that has a long one too.
    pub(super) fn is_short(&self) -> bool {
        self.namespace == DOS
    }

    pub(super) fn is_folder(&self) -> bool {
        self.attributes & FOLDER != 0
    }
}

/// The characters of a name.
pub(super) fn units(name: &[u8]) -> impl Iterator<Item = u16> + Clone {
    name.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit))
}

/// A name as UTF-8, or WTF-8 where it is no sound UTF-16.
pub(super) fn text(name: &[u8]) -> Vec<u8> {
    crate::fs::clusters::wtf8(&units(name).collect::<Vec<_>>())
}

/// What [`text`] was made of, little-endian; `None` if it was made of no name.
pub(super) fn from_text(mut text: &[u8]) -> Option<Vec<u8>> {
    let mut name = Vec::with_capacity(text.len().saturating_mul(2));
    let mut add = |unit: u16| name.extend(unit.to_le_bytes());
    while let Some(chunk) = text.utf8_chunks().next() {
        chunk.valid().encode_utf16().for_each(&mut add);
        text = text.get(chunk.valid().len()..)?;
        if text.is_empty() {
            break;
        }
        // A half of a surrogate pair that stands alone.
        let [0xed, middle @ 0xa0..=0xbf, last @ 0x80..=0xbf, rest @ ..] = text else {
            return None;
        };
        add(0xd000 | u16::from(middle & 0x3f) << 6 | u16::from(last & 0x3f));
        text = rest;
    }
    Some(name)
}

/// How two names are ordered in a folder: first without regard to case, then with it.
pub(super) fn compare(one: &[u8], other: &[u8], upcase: &UpCase) -> Ordering {
    compare_folded(one, other, upcase).then_with(|| units(one).cmp(units(other)))
}

/// As [`compare`], without regard to case.
pub(super) fn compare_folded(one: &[u8], other: &[u8], upcase: &UpCase) -> Ordering {
    let upper = |unit| upcase.upper(unit);
    units(one).map(upper).cmp(units(other).map(upper))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_as_text() {
        for units in [
            &[0x41, 0xd83d, 0xde00][..],
            &[0xd83d, 0x41],
            &[0xdc00],
            &[0xdbff, 0xd800, 0x2f, 0xffff],
            &[],
        ] {
            let name: Vec<u8> = units.iter().flat_map(|unit: &u16| unit.to_le_bytes()).collect();
            assert_eq!(from_text(&text(&name)).as_ref(), Some(&name), "{units:x?}");
        }
        assert_eq!(from_text(b"a\xff"), None);
        assert_eq!(from_text(b"\xed\xa0"), None);
    }

    #[test]
    fn case_counts_last() {
        let upcase = UpCase::default();
        let name = |text: &str| from_text(text.as_bytes()).expect("a name");
        let order = |one, other| compare(&name(one), &name(other), &upcase);
        assert_eq!(order("a", "B"), Ordering::Less);
        assert_eq!(order("a", "A"), Ordering::Greater);
        assert_eq!(order("ab", "A"), Ordering::Greater);
        assert_eq!(compare_folded(&name("\u{e9}"), &name("\u{c9}"), &upcase), Ordering::Equal);
    }
}
