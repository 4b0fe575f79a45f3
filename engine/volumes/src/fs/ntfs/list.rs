//! Attribute lists: which records the attributes of a file are in, if one is not enough.

use super::units::{Reference, Vcn};
use crate::base::fields::{le16, le32, le64, slice, u8_at};
use crate::base::{Error, Result};

/// Bytes of an entry without its name.
const ENTRY: usize = 0x1a;

/// An attribute, or a part of one (`ATTRIBUTE_LIST_ENTRY`).
#[derive(Debug, Clone)]
pub(super) struct ListEntry {
    pub kind: u32,
    /// In UTF-16, little-endian.
    pub name: Vec<u8>,
    pub lowest: Vcn,
    /// The record that it is in.
    pub record: Reference,
    pub instance: u16,
}

/// The entries of a list.
///
/// # Errors
/// `Corrupt` when one is not what it should be.
pub(super) fn parse(mut list: &[u8]) -> Result<Vec<ListEntry>> {
    let mut entries = Vec::new();
    while list.len() >= ENTRY {
        let wrong = || Error::corrupt("attribute list", "a sound entry", "another");
        let length = le16(list, 4).map(usize::from).filter(|length| *length >= ENTRY);
        let (own, rest) =
            length.and_then(|length| list.split_at_checked(length)).ok_or_else(wrong)?;
        entries.push(entry(own).ok_or_else(wrong)?);
        list = rest;
    }
    Ok(entries)
}

fn entry(own: &[u8]) -> Option<ListEntry> {
    let name_length = usize::from(u8_at(own, 6)?).checked_mul(2)?; // AttributeNameLength
    let name = match name_length {
        0 => &[],
        length => slice(own, usize::from(u8_at(own, 7)?), length)?, // AttributeNameOffset
    };
    Some(ListEntry {
        kind: le32(own, 0)?, // AttributeTypeCode
        name: name.to_vec(),
        lowest: Vcn(le64(own, 8)?),          // LowestVcn
        record: Reference(le64(own, 0x10)?), // SegmentReference
        instance: le16(own, 0x18)?,          // Instance
    })
}
