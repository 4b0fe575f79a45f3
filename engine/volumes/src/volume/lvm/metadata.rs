//! From a physical volume to the text of its volume group.
//!
//! Source: LVM2, `lib/format_text/layout.h` and `format-text.c`.

use crate::base::fields::{le32, le64};
use crate::base::limits::MAX_LVM_TEXT;
use crate::volume::extent::Extent;

/// Bytes of a metadata area's header.
const HEADER: u64 = 512;
const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
/// Metadata areas and data areas that one volume lists at most.
const AREAS: usize = 16;
/// A copy of the text that is not to be used.
const IGNORED: u32 = 1;

/// LVM's CRC: CRC32 from its own start value, without the final complement.
pub(super) fn checksum(bytes: &[u8]) -> u32 {
    let mut sum = crc32fast::Hasher::new_with_initial(!0xf597_a6cf);
    sum.update(bytes);
    !sum.finalize()
}

/// The texts that a physical volume holds, each one whole.
pub(super) fn texts(volume: &Extent<'_>) -> Vec<String> {
    let areas = areas(volume).unwrap_or_default();
    areas.into_iter().filter_map(|(start, size)| text(volume, start, size)).collect()
}

/// Offset and size of each metadata area.
fn areas(volume: &Extent<'_>) -> Option<Vec<(u64, u64)>> {
    let (head, _) = volume.head(4 * 512);
    let label = head.as_chunks::<512>().0.iter().find(|sector| sector.starts_with(b"LABELONE"))?;
    // pv_header: identity, size, then two lists that each end with zeros.
    let mut at = usize::try_from(le32(label, 20)?).ok()?.checked_add(40)?;
    let mut next = || {
        let pair = (le64(label, at)?, le64(label, at.checked_add(8)?)?);
        at = at.checked_add(16)?;
        Some(pair)
    };
    let mut left = AREAS;
    while next()?.0 != 0 {
        left = left.checked_sub(1)?;
    }
    let mut areas = Vec::new();
    while let Some((start, size)) = next().filter(|(start, _)| *start != 0 && areas.len() < AREAS) {
        areas.push((start, size));
    }
    Some(areas)
}

/// The text of the area of `size` bytes at `start`.
fn text(volume: &Extent<'_>, start: u64, size: u64) -> Option<String> {
    let header = volume.read(start, usize::try_from(HEADER).ok()?).ok()??;
    if header.get(4..20) != Some(MAGIC) || checksum(header.get(4..)?) != le32(&header, 0)? {
        return None;
    }
    // raw_locn: offset, size, checksum, flags.
    let (offset, length) = (le64(&header, 40)?, le64(&header, 48)?);
    let (sum, flags) = (le32(&header, 56)?, le32(&header, 60)?);
    let is_inside = (HEADER..size).contains(&offset) && length <= size.checked_sub(HEADER)?;
    if !is_inside || length == 0 || length > MAX_LVM_TEXT || flags & IGNORED != 0 {
        return None;
    }
    // The area is a ring: what reaches beyond its end goes on after its header.
    let first = length.min(size.checked_sub(offset)?);
    let place = start.checked_add(offset)?;
    let mut bytes = volume.read(place, usize::try_from(first).ok()?).ok()??;
    let rest = usize::try_from(length.checked_sub(first)?).ok()?;
    bytes.extend(volume.read(start.checked_add(HEADER)?, rest).ok()??);
    if checksum(&bytes) != sum {
        return None;
    }
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    bytes.truncate(end);
    String::from_utf8(bytes).ok()
}
