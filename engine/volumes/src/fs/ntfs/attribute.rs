//! Attributes: what a record of the master file table is made of.

use super::units::Vcn;
use crate::base::fields::{le16, le32, le64, slice, u8_at};
use crate::base::{Error, Result};

/// `TypeCode`s.
pub(super) mod kind {
    pub const STANDARD_INFORMATION: u32 = 0x10;
    pub const ATTRIBUTE_LIST: u32 = 0x20;
    pub const FILE_NAME: u32 = 0x30;
    pub const VOLUME_NAME: u32 = 0x60;
    pub const VOLUME_INFORMATION: u32 = 0x70;
    pub const DATA: u32 = 0x80;
    pub const INDEX_ROOT: u32 = 0x90;
    pub const INDEX_ALLOCATION: u32 = 0xa0;
    pub const BITMAP: u32 = 0xb0;
    pub const REPARSE_POINT: u32 = 0xc0;
    pub const EA: u32 = 0xe0;
    pub const END: u32 = 0xffff_ffff;
}

/// `Flags` of an attribute.
pub(super) mod flags {
    /// The method of compression; 1 is LZNT1.
    pub const COMPRESSION_MASK: u16 = 0x00ff;
    pub const ENCRYPTED: u16 = 0x4000;
}

/// Bytes of the header that all attributes have, and of that of those on clusters.
const HEADER: usize = 0x18;
const NON_RESIDENT_HEADER: usize = 0x40;

/// An attribute, or one of the parts that it is kept in.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attribute<'a> {
    pub kind: u32,
    /// Its name in UTF-16, little-endian; most have none.
    pub name: &'a [u8],
    pub flags: u16,
    pub instance: u16,
    pub form: Form<'a>,
}

/// Where an attribute's value is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Form<'a> {
    /// Here.
    Resident(&'a [u8]),
    /// On clusters.
    NonResident(Mapping<'a>),
}

/// Which clusters of a value one attribute maps.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mapping<'a> {
    pub lowest: Vcn,
    /// One past the last.
    pub end: u64,
    pub pairs: &'a [u8],
    /// Clusters of a compressed value that were compressed as one, as a power of two.
    pub unit_shift: u8,
    /// These two are of the whole value, and only true where `lowest` is 0.
    pub size: u64,
    /// Bytes that were written; the rest reads as zeros.
    pub valid: u64,
}

impl<'a> Attribute<'a> {
    /// The attribute that `bytes` start with, and what follows it; `None` at the end.
    ///
    /// # Errors
    /// `Corrupt` when it is not what it should be.
    pub(super) fn split(bytes: &'a [u8]) -> Result<Option<(Self, &'a [u8])>> {
        let Some(code) = le32(bytes, 0) else {
            return Err(Error::corrupt("attributes", "their end", "the record's"));
        };
        if code == kind::END {
            return Ok(None);
        }
        let wrong = || Error::corrupt(format!("attribute {code:#x}"), "a sound header", "another");
        let length = le32(bytes, 4).and_then(|length| usize::try_from(length).ok()); // RecordLength
        let length = length.filter(|length| *length >= HEADER && length % 8 == 0);
        let parts = length.and_then(|length| bytes.split_at_checked(length));
        let (own, rest) = parts.ok_or_else(wrong)?;
        let attribute = Self::parse(code, own).ok_or_else(wrong)?;
        Ok(Some((attribute, rest)))
    }

    fn parse(kind: u32, own: &'a [u8]) -> Option<Self> {
        let name_length = usize::from(u8_at(own, 9)?).checked_mul(2)?; // NameLength
        let name_at = usize::from(le16(own, 0x0a)?); // NameOffset
        let (name, name_end): (&[u8], usize) = match name_length {
            0 => (&[], 0),
            length => (slice(own, name_at, length)?, name_at.checked_add(length)?),
        };
        let (form, header, value_at) = match u8_at(own, 8)? {
            0 => {
                let length = usize::try_from(le32(own, 0x10)?).ok()?; // ValueLength
                let at = usize::from(le16(own, 0x14)?); // ValueOffset
                (Form::Resident(slice(own, at, length)?), HEADER, at)
            }
            1 => {
                let at = usize::from(le16(own, 0x20)?); // MappingPairsOffset
                (Form::NonResident(Mapping::parse(own)?), NON_RESIDENT_HEADER, at)
            }
            _ => return None,
        };
        // Header, name and value follow one another; an empty value may be anywhere.
        let is_empty = matches!(form, Form::Resident([]));
        let is_apart = value_at >= header.max(name_end) || is_empty;
        if !is_apart || (name_end > 0 && name_at < header) {
            return None;
        }
        let (flags, instance) = (le16(own, 0x0c)?, le16(own, 0x0e)?);
        Some(Self { kind, name, flags, instance, form })
    }

    pub(super) fn lowest(&self) -> Vcn {
        match self.form {
            Form::Resident(_) => Vcn(0),
            Form::NonResident(mapping) => mapping.lowest,
        }
    }
}

impl<'a> Mapping<'a> {
    fn parse(own: &'a [u8]) -> Option<Self> {
        let lowest = le64(own, 0x10)?; // LowestVcn
        let end = le64(own, 0x18)?.wrapping_add(1); // HighestVcn, -1 where there is none
        let mapping = Self {
            lowest: Vcn(lowest),
            end,
            pairs: own.get(usize::from(le16(own, 0x20)?)..)?, // MappingPairsOffset
            unit_shift: u8_at(own, 0x22)?,                    // CompressionUnit
            size: le64(own, 0x30)?,                           // FileSize
            valid: le64(own, 0x38)?,                          // ValidDataLength
        };
        let most = i64::MAX.unsigned_abs();
        let has_size = mapping.size <= most && mapping.valid <= most;
        (lowest <= end && end <= most && (lowest > 0 || has_size)).then_some(mapping)
    }
}
