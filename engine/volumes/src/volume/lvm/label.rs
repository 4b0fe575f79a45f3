//! The label of a physical volume: who it is, and which of its bytes are whose.
//!
//! Source: LVM2, `lib/label/label.h` (label), `lib/format_text/layout.h` (header).

use super::checksum;
use crate::base::fields::{has, le32, le64, slice};
use crate::base::{ByteOffset, ByteRange, ReadAt, Result};

/// Bytes of a sector of a label.
const SECTOR: usize = 512;
/// The label is in one of so many sectors from the start.
const SECTORS: usize = 4;
/// Metadata areas and data areas that one header lists at most.
const AREAS: usize = 16;

/// The label and the header of a physical volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// Its identity, as LVM prints it.
    pub id: String,
    /// Its bytes when it was made; what holds it may be larger.
    pub size: u64,
    /// Where extents may be. One that was written down without an end ends with the size.
    pub data: Vec<ByteRange>,
    /// Where copies of the group's metadata are.
    pub metadata: Vec<ByteRange>,
}

impl Label {
    /// The label in the first 2,048 bytes of a volume, `head` (which may be more); `None` if there
    /// is none with its checksum right.
    #[must_use]
    pub fn parse(head: &[u8]) -> Option<Self> {
        let sectors = head.as_chunks::<SECTOR>().0.iter().take(SECTORS);
        (0..).zip(sectors).find_map(|(number, sector)| Self::parse_sector(number, sector))
    }

    /// The label of `volume`, as [`parse`](Self::parse) finds it.
    ///
    /// # Errors
    /// Those of reading.
    pub fn read(volume: &dyn ReadAt) -> Result<Option<Self>> {
        let mut head = [0; SECTOR * SECTORS];
        let size = usize::try_from(volume.size().0).unwrap_or(head.len());
        let (head, _) = head.split_at_mut(size.min(SECTOR * SECTORS));
        volume.read_exact_at(ByteOffset(0), head)?;
        Ok(Self::parse(head))
    }

    /// Whether some of the bytes `range` are LVM's own: the label, a metadata area, or anything
    /// that no data area holds.
    #[must_use]
    pub fn is_metadata(&self, range: ByteRange) -> bool {
        !range.is_empty()
            && !self.data.iter().any(|area| area.start <= range.start && range.end <= area.end)
    }

    /// label_header: id `LABELONE` 0, its sector 8, crc 16 (of what follows), the header's place
    /// 20, type `LVM2 001` 24. pv_header: identity 0, bytes 32, then two lists of places (offset,
    /// bytes) that each end with zeros.
    fn parse_sector(number: u64, sector: &[u8]) -> Option<Self> {
        let is_known = has(sector, 0, b"LABELONE") && has(sector, 24, b"LVM2 001");
        if !is_known
            || le64(sector, 8)? != number
            || checksum(sector.get(20..)?) != le32(sector, 16)?
        {
            return None;
        }
        let header = sector.get(usize::try_from(le32(sector, 20)?).ok()?..)?;
        let id = spelled(slice(header, 0, 32)?)?;
        let size = le64(header, 32)?;
        let mut rest = header.get(40..)?;
        let data = places(&mut rest, size)?;
        let metadata = places(&mut rest, size)?;
        Some(Self { id, size, data, metadata })
    }
}

/// The next list of places.
fn places(rest: &mut &[u8], size: u64) -> Option<Vec<ByteRange>> {
    let mut places = Vec::new();
    loop {
        let (start, length) = (le64(rest, 0)?, le64(rest, 8)?);
        *rest = rest.get(16..)?;
        if start == 0 {
            return Some(places);
        }
        if places.len() == AREAS {
            return None;
        }
        let end = if length == 0 { size.max(start) } else { start.checked_add(length)? };
        places.push(ByteRange { start, end });
    }
}

/// An identity of LVM's as LVM prints it: in groups of 6-4-4-4-4-4-6.
fn spelled(id: &[u8]) -> Option<String> {
    let text = str::from_utf8(id).ok().filter(|text| text.chars().all(|c| c.is_ascii_graphic()))?;
    let mut rest = text;
    let mut groups = Vec::new();
    for length in [6, 4, 4, 4, 4, 4, 6] {
        let (group, after) = rest.split_at_checked(length)?;
        groups.push(group);
        rest = after;
    }
    Some(groups.join("-"))
}
