//! UDF, also where an ISO 9660 view of the same files stands beside it.
//!
//! ECMA-167, part 2 (the volume recognition sequence) and part 3 (anchors and volume descriptors);
//! the identifier that is made of the name of the volume set is blkid's own idea
//! (`libblkid/src/superblocks/udf.c`).

use super::super::layout::Notes;
use super::optical::descriptors;
use super::{Signature, Subject};
use crate::base::bytes::to_hex;
use crate::base::fields::{array, has, le16, le32, slice, u8_at};
use crate::base::limits::MAX_UDF_DESCRIPTORS;
use crate::content::Content;
use crate::kind::Kind;
use crate::text::{label_utf16_be, printable};

/// Block sizes that there are.
const BLOCKS: [u64; 4] = [512, 1024, 2048, 4096];
/// The block of the first anchor.
const ANCHOR: u32 = 256;
/// Bytes of a descriptor.
const DESCRIPTOR: usize = 512;
/// `TagIdentifier`s: primary volume, anchor, logical volume, the end of them.
const PRIMARY: u16 = 1;
const ANCHOR_POINTER: u16 = 2;
const LOGICAL: u16 = 6;
const TERMINATOR: u16 = 8;

/// UDF.
pub(super) fn udf(subject: &Subject<'_>, notes: &mut Notes) -> Option<Signature> {
    let mut all = descriptors(subject.head);
    if !all.any(|each| has(each, 1, b"NSR02") || has(each, 1, b"NSR03")) {
        return None;
    }
    let mut content = Content::new(Kind::Udf);
    name(subject, &mut content, notes);
    Some(Signature { content, place: 32768 })
}

/// Adds what the volume descriptors say, as far as they can be read.
fn name(subject: &Subject<'_>, content: &mut Content, notes: &mut Notes) -> Option<()> {
    let (block, anchor) = BLOCKS.into_iter().find_map(|block| {
        let anchor = descriptor(subject, block, ANCHOR, notes)?;
        (le16(&anchor, 0) == Some(ANCHOR_POINTER)).then_some((block, anchor))
    })?;
    let count = u64::from(le32(&anchor, 16)?).checked_div(block)?; // MainVolumeDescriptorSequence
    let first = le32(&anchor, 20)?;
    let count = u32::try_from(count).unwrap_or(u32::MAX).min(MAX_UDF_DESCRIPTORS);
    for number in 0..count {
        let found = descriptor(subject, block, first.checked_add(number)?, notes)?;
        match le16(&found, 0)? {
            TERMINATOR => break,
            // VolumeSetIdentifier
            PRIMARY if content.uuid.is_none() => {
                content.uuid = slice(&found, 72, 128).and_then(identifier);
            }
            // LogicalVolumeIdentifier
            LOGICAL if content.label.is_none() => {
                content.label = slice(&found, 84, 128).and_then(text);
            }
            _ => {}
        }
    }
    Some(())
}

/// The descriptor in a block, if it is one that belongs there and its tag is whole.
fn descriptor(
    subject: &Subject<'_>,
    block: u64,
    number: u32,
    notes: &mut Notes,
) -> Option<Vec<u8>> {
    let place = block.checked_mul(number.into())?;
    let bytes = subject.read(place, DESCRIPTOR, notes)?;
    let (before, after) = (slice(&bytes, 0, 4)?, slice(&bytes, 5, 11)?);
    let sum = before.iter().chain(after).fold(0_u8, |sum, byte| sum.wrapping_add(*byte));
    let is_whole = sum == u8_at(&bytes, 4)? && le16(&bytes, 0)? != 0; // TagChecksum
    (is_whole && le32(&bytes, 12)? == number).then_some(bytes) // TagLocation
}

/// A string of a field of fixed length: how it is encoded, the characters, and in the last byte
/// how many of these bytes are in use.
fn text(field: &[u8]) -> Option<String> {
    let length = usize::from(*field.last()?).min(field.len().checked_sub(1)?);
    let characters = field.get(1..length)?;
    match field.first()? {
        8 => printable(&characters.iter().map(|byte| char::from(*byte)).collect::<String>()),
        16 => label_utf16_be(characters),
        _ => None,
    }
}

/// The identifier of a volume set: what its name begins with are 16 digits. Where it has fewer, the
/// first 8 bytes of what is there stand for them, or the 8 digits that there are and 4 bytes more.
fn identifier(field: &[u8]) -> Option<String> {
    let name = text(field)?;
    let name = name.as_bytes();
    let digits = name.iter().take(16).take_while(|byte| byte.is_ascii_hexdigit()).count();
    let spelled = |count| Some(String::from_utf8_lossy(name.get(..count)?).to_lowercase());
    match digits {
        16.. => spelled(16),
        8.. => Some(format!("{}{}", spelled(8)?, to_hex(&array::<4>(name, 8).unwrap_or_default()))),
        _ => name.get(..8).map(to_hex),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &[u8]) -> Vec<u8> {
        let mut field = vec![8];
        field.extend(name);
        field.resize(127, 0);
        field.push(u8::try_from(name.len()).expect("short").saturating_add(1));
        field
    }

    #[test]
    fn an_identifier_has_sixteen_digits_whatever_the_name() {
        let of = |name: &[u8]| identifier(&field(name));
        assert_eq!(of(b"0123456789ABCDEFset").as_deref(), Some("0123456789abcdef"));
        assert_eq!(of(b"01234567Linux").as_deref(), Some("012345674c696e75"));
        assert_eq!(of(b"Linux 01").as_deref(), Some("4c696e7578203031"));
        assert_eq!(of(b"short"), None);
    }
}
