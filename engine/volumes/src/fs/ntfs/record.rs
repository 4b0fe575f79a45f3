//! Records of the master file table (`FILE_RECORD_SEGMENT_HEADER`).

use super::attribute::Attribute;
use super::fixup;
use super::units::{RecordNumber, Reference, index};
use crate::base::fields::{has, le16, le32, le64};
use crate::base::{Error, Result};

/// How a record begins.
const MAGIC: &[u8; 4] = b"FILE";
/// `Flags`.
const IN_USE: u16 = 0x1;
const IS_FOLDER: u16 = 0x2;

/// A record in use, as it was before it was written.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub number: RecordNumber,
    pub sequence: u16,
    /// The file that this record goes on with; zero if it is a file's first.
    pub base: Reference,
    pub is_folder: bool,
    bytes: Vec<u8>,
    /// Where its attributes are in `bytes`.
    attributes: (usize, usize),
}

impl Record {
    /// The record that was read as `bytes`.
    ///
    /// # Errors
    /// `Corrupt` when it is not whole, or not in use.
    pub(super) fn parse(number: RecordNumber, bytes: Vec<u8>) -> Result<Self> {
        match Self::parse_any(number, bytes)? {
            (record, true) => Ok(record),
            _ => Err(Error::corrupt(number, "a file", "a record that is not in use")),
        }
    }

    /// As [`parse`](Self::parse), of a record that may not be marked as in use; and whether it is.
    ///
    /// # Errors
    /// `Corrupt` when it is not whole.
    pub(super) fn parse_any(number: RecordNumber, mut bytes: Vec<u8>) -> Result<(Self, bool)> {
        fixup::apply(&mut bytes, MAGIC).map_err(|error| error.within(number))?;
        let field = |at| le16(&bytes, at).unwrap_or_default();
        let sequence = field(0x10); // SequenceNumber
        let first = usize::from(field(0x14)); // FirstAttributeOffset
        let flags = field(0x16); // Flags
        let end = index(le32(&bytes, 0x18).unwrap_or_default()); // FirstFreeByte
        let base = Reference(le64(&bytes, 0x20).unwrap_or_default()); // BaseFileRecordSegment
        if first < 0x2a || first > end || end > bytes.len() {
            let found = format!("{first} to {end} of {} bytes", bytes.len());
            return Err(Error::corrupt(number, "attributes within the record", found));
        }
        let is_folder = flags & IS_FOLDER != 0;
        let record = Self { number, sequence, base, is_folder, bytes, attributes: (first, end) };
        Ok((record, flags & IN_USE != 0))
    }

    /// As [`parse`](Self::parse) of a part of the table; `None` where there is no record, or none in
    /// use.
    ///
    /// # Errors
    /// `Corrupt` when it is not whole.
    pub(super) fn parse_used(number: RecordNumber, bytes: &[u8]) -> Result<Option<Self>> {
        let is_blank = has(bytes, 0, &[0; 4]);
        let flags = le16(bytes, 0x16).unwrap_or_default(); // Flags
        let is_unused = has(bytes, 0, MAGIC) && flags & IN_USE == 0;
        let is_there = !is_blank && !is_unused;
        is_there.then(|| Self::parse(number, bytes.to_vec())).transpose()
    }

    /// Its attributes; after one that is damaged, nothing more can be found.
    pub(super) fn attributes(&self) -> Attributes<'_> {
        let (start, end) = self.attributes;
        Attributes { number: self.number, rest: self.bytes.get(start..end), last: 0 }
    }

    /// Checks that it is what `reference` means.
    ///
    /// # Errors
    /// `Corrupt` when the record was given to another file since.
    pub(super) fn check(&self, reference: Reference) -> Result<()> {
        let sequence = reference.sequence();
        if sequence == 0 || sequence == self.sequence {
            return Ok(());
        }
        let expected = format!("sequence number {sequence}");
        Err(Error::corrupt(self.number, expected, self.sequence))
    }
}

/// The attributes of a record, one after another.
pub(super) struct Attributes<'a> {
    number: RecordNumber,
    /// `None` after the last or a damaged one.
    rest: Option<&'a [u8]>,
    /// The kind of the one before: they are sorted by it, and whoever looks for one relies on it.
    last: u32,
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<Attribute<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        match Attribute::split(self.rest.take()?) {
            Ok(None) => None,
            Ok(Some((attribute, _))) if attribute.kind < self.last => {
                let expected = format!("attributes from {:#x} on", self.last);
                Some(Err(Error::corrupt(self.number, expected, format!("{:#x}", attribute.kind))))
            }
            Ok(Some((attribute, rest))) => {
                self.last = attribute.kind;
                self.rest = Some(rest);
                Some(Ok(attribute))
            }
            Err(error) => Some(Err(error.within(self.number))),
        }
    }
}
