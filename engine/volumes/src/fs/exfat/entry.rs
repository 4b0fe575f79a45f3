//! Entry sets [7.4 to 7.7]: a file's attributes, where its content is, and its name, in up to 19
//! records.

use crate::base::fields::{le16, le32, le64, u8_at};
use crate::base::{Error, Result};
use crate::fs::FileType;
use crate::fs::clusters::{Start, WallTime, wtf8};

/// Types of records; the highest bit says that one is in use.
pub(super) const END: u8 = 0x00;
pub(super) const BITMAP: u8 = 0x81;
pub(super) const UP_CASE: u8 = 0x82;
pub(super) const LABEL: u8 = 0x83;
pub(super) const FILE: u8 = 0x85;
const STREAM: u8 = 0xc0;
const NAME: u8 = 0xc1;
/// `FileAttributes`.
const DIRECTORY: u16 = 0x10;
/// `GeneralSecondaryFlags`.
const NO_FAT_CHAIN: u8 = 0x02;
/// Secondary records of a file: a stream, and 1 to 17 of its name.
const SECONDARIES: std::ops::RangeInclusive<u8> = 2..=18;
/// Characters of one name record.
const UNITS: usize = 15;
/// A valid `UtcOffset`, and its sign.
const OFFSET_VALID: u8 = 0x80;
const OFFSET_NEGATIVE: u8 = 0x40;
const OFFSET_BITS: u8 = 0x3f;

/// A file.
#[derive(Debug, Clone)]
pub(super) struct FileEntry {
    /// The byte of the volume where its first record is.
    pub place: u64,
    /// Whether its folder's clusters follow one another without the table.
    pub is_in_contiguous: bool,
    pub name: Vec<u16>,
    pub start: Start,
    pub size: u64,
    /// Bytes that were written.
    pub valid: u64,
    pub modified: WallTime,
    pub accessed: WallTime,
    pub created: WallTime,
    attributes: u16,
}

/// How many records follow a file's first one.
pub(super) fn secondaries(file: &[u8]) -> Option<u8> {
    u8_at(file, 1).filter(|count| SECONDARIES.contains(count))
}

impl FileEntry {
    /// The file of a whole set of records.
    ///
    /// # Errors
    /// `Corrupt` when the checksum differs or a record is not what it should be.
    pub(super) fn parse(set: &[u8], place: u64, is_in_contiguous: bool) -> Result<Self> {
        let wrong = |expected: &str, found: String| {
            Error::corrupt(format!("folder entry at byte {place}"), expected, found)
        };
        let stored = le16(set, 2).unwrap_or_default();
        let found = checksum(set);
        if stored != found {
            return Err(wrong(&format!("checksum {stored:#06x}"), format!("{found:#06x}")));
        }
        let parsed = Self::fields(set, place, is_in_contiguous);
        let entry = parsed.ok_or_else(|| wrong("a stream and a name", "others".to_owned()))?;
        if entry.valid > entry.size {
            let found = format!("{} written bytes of {}", entry.valid, entry.size);
            return Err(wrong("no more written bytes than there are", found));
        }
        Ok(entry)
    }

    fn fields(set: &[u8], place: u64, is_in_contiguous: bool) -> Option<Self> {
        let stream = set.get(32..64).filter(|record| record.first() == Some(&STREAM))?;
        let length = usize::from(u8_at(stream, 3)?);
        let mut name = Vec::with_capacity(length);
        for record in set.get(64..)?.chunks_exact(32) {
            if record.first() == Some(&NAME) && name.len() < length {
                let (pairs, _) = record.get(2..)?.as_chunks::<2>();
                name.extend(pairs.iter().take(UNITS).map(|pair| u16::from_le_bytes(*pair)));
            }
        }
        if length == 0 || name.len() < length {
            return None;
        }
        name.truncate(length);
        let is_contiguous = u8_at(stream, 1)? & NO_FAT_CHAIN != 0;
        Some(Self {
            place,
            is_in_contiguous,
            name,
            start: Start { cluster: le32(stream, 20)?, is_contiguous },
            size: le64(stream, 24)?,
            valid: le64(stream, 8)?,
            created: time(le32(set, 8)?, u8_at(set, 20)?, u8_at(set, 22)?),
            modified: time(le32(set, 12)?, u8_at(set, 21)?, u8_at(set, 23)?),
            accessed: time(le32(set, 16)?, 0, u8_at(set, 24)?),
            attributes: le16(set, 4)?,
        })
    }

    pub(super) fn is_folder(&self) -> bool {
        self.attributes & DIRECTORY != 0
    }

    pub(super) fn file_type(&self) -> FileType {
        if self.is_folder() { FileType::Directory } else { FileType::Regular }
    }

    pub(super) fn name_bytes(&self) -> Vec<u8> {
        wtf8(&self.name)
    }
}

/// `SetChecksum` [6.3.3]: over all bytes but its own.
fn checksum(set: &[u8]) -> u16 {
    let covered = set.iter().enumerate().filter(|(at, _)| !matches!(at, 2 | 3));
    covered.fold(0, |sum: u16, (_, byte)| sum.rotate_right(1).wrapping_add(u16::from(*byte)))
}

/// A timestamp [7.4.8], its hundredths, and its offset from UTC in quarters of an hour [7.4.10].
fn time(stamp: u32, hundredths: u8, offset: u8) -> WallTime {
    let [low, high, date_low, date_high] = stamp.to_le_bytes();
    let (date, time) = (u16::from_le_bytes([date_low, date_high]), u16::from_le_bytes([low, high]));
    let quarters = i64::from(offset & OFFSET_BITS);
    let negative = if offset & OFFSET_NEGATIVE == 0 { 0 } else { 64 };
    let is_valid = offset & OFFSET_VALID != 0;
    let seconds = quarters.saturating_sub(negative).saturating_mul(900);
    WallTime { date, time, hundredths, offset: is_valid.then_some(seconds) }
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    #[test]
    fn times_are_taken_back_to_utc() {
        let noon = (((2026 - 1980) << 9 | 11 << 5 | 24) << 16) | (12 << 11);
        let zone = TimeZone::fixed(jiff::tz::offset(-3));
        let seconds = |offset| time(noon, 0, offset).instant(&zone).map(|time| time.seconds);
        let utc = seconds(0x80).expect("a time");
        assert_eq!(seconds(0), Some(utc + 3 * 3600), "of the zone, without an offset");
        assert_eq!(seconds(0x88), Some(utc - 7200), "two hours east");
        assert_eq!(seconds(0xec), Some(utc + 18_000), "five hours west");
    }
}
