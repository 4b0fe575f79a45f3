//! The two sorts of folder entries: short ones, and the pieces of long names before them.

use super::oem;
use crate::base::fields::{le16, le32, u8_at};
use crate::fs::FileType;
use crate::fs::clusters::{Start, WallTime, Width};
use crate::text::printable;

/// Attributes (`DIR_Attr`).
const VOLUME_ID: u8 = 0x08;
const DIRECTORY: u8 = 0x10;
const LONG_NAME: u8 = 0x0f;
/// Bits of the attributes that tell a long name's piece.
const LONG_NAME_MASK: u8 = 0x3f;
/// First byte of an entry that is free, and of one that is free with all after it.
pub(super) const DELETED: u8 = 0xe5;
pub(super) const END: u8 = 0x00;
/// Stands for a first byte of 0xE5 that is meant.
const MEANT_E5: u8 = 0x05;
/// Bits of `DIR_NTRes`: the name, and its extension, are in lower case.
const LOWER_NAME: u8 = 0x08;
const LOWER_EXTENSION: u8 = 0x10;
/// Marks the first piece on the disk, which holds the name's end.
const LAST_PIECE: u8 = 0x40;
/// Characters of a piece.
const UNITS: usize = 13;
/// Pieces of one name at most: 255 characters.
const PIECES: u8 = 20;

/// A file's entry.
#[derive(Debug, Clone)]
pub(super) struct ShortEntry {
    name: [u8; 11],
    attributes: u8,
    case: u8,
    first: u32,
    pub size: u32,
    created: (u16, u16, u8),
    accessed: u16,
    modified: (u16, u16),
}

impl ShortEntry {
    /// The file that a record is of; `None` if it is a label, a long name's piece, `.`, `..`, or
    /// not in use.
    pub(super) fn parse(record: &[u8], width: Width) -> Option<Self> {
        let name: [u8; 11] = *record.first_chunk()?;
        let attributes = u8_at(record, 11)?;
        let first = *name.first()?;
        if matches!(first, DELETED | END | b'.') || attributes & VOLUME_ID != 0 {
            return None;
        }
        let low = u32::from(le16(record, 26)?); // DIR_FstClusLO
        let high = u32::from(le16(record, 20)?); // DIR_FstClusHI, only FAT32's
        let is_wide = width == Width::TwentyEight;
        Some(Self {
            name,
            attributes,
            case: u8_at(record, 12)?,
            first: if is_wide { (high << 16) | low } else { low },
            size: le32(record, 28)?,
            created: (le16(record, 16)?, le16(record, 14)?, u8_at(record, 13)?),
            accessed: le16(record, 18)?,
            modified: (le16(record, 24)?, le16(record, 22)?),
        })
    }

    /// The label that a record is of.
    pub(super) fn label(record: &[u8]) -> Option<String> {
        let attributes = u8_at(record, 11)?;
        let is_label = attributes & (VOLUME_ID | DIRECTORY) == VOLUME_ID;
        let is_label = is_label && attributes & LONG_NAME_MASK != LONG_NAME;
        let name = record.get(..11).filter(|name| is_label && name.first() != Some(&DELETED))?;
        let label: String = name.iter().map(|byte| oem::character(*byte)).collect();
        printable(&label)
    }

    pub(super) fn is_folder(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    pub(super) fn file_type(&self) -> FileType {
        if self.is_folder() { FileType::Directory } else { FileType::Regular }
    }

    pub(super) fn start(&self) -> Start {
        Start { cluster: self.first, is_contiguous: false }
    }

    pub(super) fn modified(&self) -> WallTime {
        wall(self.modified.0, self.modified.1, 0)
    }

    /// The day alone.
    pub(super) fn accessed(&self) -> WallTime {
        wall(self.accessed, 0, 0)
    }

    pub(super) fn created(&self) -> WallTime {
        wall(self.created.0, self.created.1, self.created.2)
    }

    /// Its name without a long one: eight characters, a dot, and three.
    pub(super) fn short_name(&self) -> Vec<u8> {
        let (base, extension) = self.name.split_at_checked(8).unwrap_or_default();
        let mut text = self.part(base, LOWER_NAME, true);
        let extension = self.part(extension, LOWER_EXTENSION, false);
        if !extension.is_empty() {
            text.push('.');
            text.push_str(&extension);
        }
        text.into_bytes()
    }

    fn part(&self, bytes: &[u8], lower: u8, is_first: bool) -> String {
        let end =
            bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last.saturating_add(1));
        let bytes = bytes.get(..end).unwrap_or_default();
        let decode = |(at, byte): (usize, &u8)| match byte {
            &MEANT_E5 if is_first && at == 0 => oem::character(DELETED),
            byte => oem::character(*byte),
        };
        let text: String = bytes.iter().enumerate().map(decode).collect();
        if self.case & lower == 0 { text } else { text.to_lowercase() }
    }

    /// What the pieces of its long name have to carry.
    pub(super) fn checksum(&self) -> u8 {
        self.name.iter().fold(0_u8, |sum, byte| sum.rotate_right(1).wrapping_add(*byte))
    }
}

/// A long name that is gathered from its pieces, which come last one first.
#[derive(Debug, Default)]
pub(super) struct LongName {
    units: Vec<u16>,
    /// The number of the piece that was taken last; zero when there is no name.
    piece: u8,
    checksum: u8,
}

impl LongName {
    /// Takes a record if it is a piece of a long name; forgets what does not go with it.
    pub(super) fn take(&mut self, record: &[u8]) -> bool {
        let is_piece = u8_at(record, 11).is_some_and(|bits| bits & LONG_NAME_MASK == LONG_NAME);
        let (Some(order), Some(checksum)) = (u8_at(record, 0), u8_at(record, 13)) else {
            return false;
        };
        if !is_piece || order == DELETED {
            return false;
        }
        let number = order & !LAST_PIECE;
        if order & LAST_PIECE != 0 {
            *self = Self { units: Vec::new(), piece: number.saturating_add(1), checksum };
        }
        let goes_on = number.checked_add(1) == Some(self.piece) && self.checksum == checksum;
        if !goes_on || !(1..=PIECES).contains(&number) {
            *self = Self::default();
            return true;
        }
        self.piece = number;
        let mut units = Vec::with_capacity(UNITS);
        for (start, count) in [(1_usize, 5_usize), (14, 6), (28, 2)] {
            let end = start.saturating_add(count.saturating_mul(2));
            let field = record.get(start..end).unwrap_or_default();
            let (pairs, _) = field.as_chunks::<2>();
            units.extend(pairs.iter().map(|pair| u16::from_le_bytes(*pair)));
        }
        units.append(&mut self.units);
        self.units = units;
        true
    }

    /// The name, if it is whole and belongs to `entry`; nothing is left of it.
    pub(super) fn finish(&mut self, entry: &ShortEntry) -> Option<Vec<u16>> {
        let mut name = std::mem::take(self);
        let is_whole = name.piece == 1 && name.checksum == entry.checksum();
        let end = name.units.iter().position(|unit| *unit == 0).unwrap_or(name.units.len());
        name.units.truncate(end);
        (is_whole && !name.units.is_empty()).then_some(name.units)
    }
}

/// No zone is said.
fn wall(date: u16, time: u16, hundredths: u8) -> WallTime {
    WallTime { date, time, hundredths, offset: None }
}
