//! From a physical volume to the texts of its volume group.
//!
//! Source: LVM2, `lib/format_text/layout.h` and `format-text.c`.

use super::checksum;
use super::label::Label;
use crate::base::fields::{le32, le64};
use crate::base::limits::MAX_LVM_TEXT;
use crate::base::{ByteOffset, ByteRange, Error, ReadAt, Result};

/// Bytes of a metadata area's header.
const HEADER: u64 = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// A copy of the text that is not to be used.
const IGNORED: u32 = 1;

/// What each metadata area of `volume` holds: a whole text, or nothing where the volume belongs
/// to no group or the copy is not to be used.
pub(super) fn texts(volume: &dyn ReadAt, label: &Label) -> Vec<Result<Option<String>>> {
    label.metadata.iter().map(|area| text(volume, *area)).collect()
}

/// Where a text is within its area, and its checksum.
struct Location {
    offset: u64,
    length: u64,
    sum: u32,
}

fn text(volume: &dyn ReadAt, area: ByteRange) -> Result<Option<String>> {
    let place = format!("LVM metadata area at byte {}", area.start);
    let header = bytes(volume, area.start, HEADER, &place)?;
    let location = location(&header, area, &place)?;
    let Some(Location { offset, length, sum }) = location else { return Ok(None) };
    // The area is a ring: what reaches beyond its end goes on after its header.
    let first = length.min(area.len().saturating_sub(offset));
    let mut text = bytes(volume, area.start.saturating_add(offset), first, &place)?;
    let rest = length.saturating_sub(first);
    text.extend(bytes(volume, area.start.saturating_add(HEADER), rest, &place)?);
    let found = checksum(&text);
    if found != sum {
        let expected = format!("a text with checksum {sum:08x}");
        return Err(Error::corrupt(place, expected, format!("{found:08x}")));
    }
    let end = text.iter().position(|byte| *byte == 0).unwrap_or(text.len());
    text.truncate(end);
    let text = String::from_utf8(text);
    text.map(Some).map_err(|_| Error::corrupt(place, "a text", "bytes that are none"))
}

/// mda_header: checksum 0, magic 4, version 20, start 24, size 32, then raw_locn from 40: offset
/// 0, size 8, checksum 16, flags 20.
fn location(header: &[u8], area: ByteRange, place: &str) -> Result<Option<Location>> {
    let wrong = |found: &str| Error::corrupt(place, "a header of LVM's", found);
    let fields = || {
        let is_known = header.get(4..20)? == MAGIC && le32(header, 20)? == 1;
        let is_own = is_known && le64(header, 24)? == area.start;
        if !is_own || checksum(header.get(4..)?) != le32(header, 0)? {
            return None;
        }
        let (offset, length) = (le64(header, 40)?, le64(header, 48)?);
        Some((Location { offset, length, sum: le32(header, 56)? }, le32(header, 60)?))
    };
    let (location, flags) = fields().ok_or_else(|| wrong("none, or one with a wrong checksum"))?;
    if location.length == 0 || location.offset == 0 || flags & IGNORED != 0 {
        return Ok(None);
    }
    let size = area.len();
    let is_inside = (HEADER..size).contains(&location.offset)
        && location.length <= size.saturating_sub(HEADER)
        && location.length <= MAX_LVM_TEXT;
    match is_inside {
        true => Ok(Some(location)),
        false => Err(wrong("one that leads out of its area")),
    }
}

fn bytes(volume: &dyn ReadAt, start: u64, length: u64, place: &str) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(length).unwrap_or(usize::MAX)];
    let read = volume.read_exact_at(ByteOffset(start), &mut bytes);
    read.map(|()| bytes).map_err(|error| error.within(place))
}
