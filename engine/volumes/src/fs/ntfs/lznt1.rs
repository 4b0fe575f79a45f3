//! LZNT1: chunks of 4 KiB, each of literals and of distances back within the chunk.
//!
//! Source: Microsoft, "[MS-XCA] Xpress Compression Algorithm", section 2.5.

use crate::base::fields::{le16, slice};
use crate::base::{Error, Result};

/// Bytes that a chunk holds when it is unpacked.
const CHUNK: usize = 4096;
/// `Header` of a chunk: it is compressed; a fixed number; its length but one.
const COMPRESSED: u16 = 0x8000;
const SIGNATURE: u16 = 0x3000;
const SIGNATURE_MASK: u16 = 0x7000;
const LENGTH_MASK: u16 = 0x0fff;
/// Bits of the distance in a token at least.
const LEAST_BITS: u32 = 4;
const LEAST_LENGTH: usize = 3;

/// Unpacks what a compression unit holds, which must be `needed` bytes at least.
///
/// # Errors
/// `Corrupt` when it is damaged or ends before.
pub(super) fn unpack(packed: &[u8], needed: usize) -> Result<Vec<u8>> {
    let mut unpacked = Vec::with_capacity(needed.next_multiple_of(CHUNK));
    let mut at = 0_usize;
    while unpacked.len() < needed {
        let header = le16(packed, at).filter(|header| *header != 0);
        let Some(header) = header else {
            return Err(wrong(format!("{needed} bytes"), format!("{} only", unpacked.len())));
        };
        if header & SIGNATURE_MASK != SIGNATURE {
            return Err(wrong("the header of a chunk", format!("{header:#06x}")));
        }
        let length = usize::from(header & LENGTH_MASK).saturating_add(1);
        at = at.saturating_add(2);
        let Some(chunk) = slice(packed, at, length) else {
            return Err(wrong(format!("{length} bytes"), "the unit's end"));
        };
        at = at.saturating_add(length);
        let end = unpacked.len().saturating_add(CHUNK);
        match header & COMPRESSED {
            0 => unpacked.extend_from_slice(chunk),
            _ => unpack_chunk(chunk, &mut unpacked)?,
        }
        // A short chunk goes on with zeros.
        unpacked.resize(end, 0);
    }
    Ok(unpacked)
}

fn unpack_chunk(mut chunk: &[u8], unpacked: &mut Vec<u8>) -> Result<()> {
    let start = unpacked.len();
    while let Some((tags, rest)) = chunk.split_first() {
        chunk = rest;
        for bit in 0..8_u32 {
            let position = unpacked.len().saturating_sub(start);
            let Some((literal, rest)) = chunk.split_first() else { return Ok(()) };
            if tags.checked_shr(bit).unwrap_or_default() & 1 == 0 {
                if position >= CHUNK {
                    return Err(wrong("the end of a full chunk", "another byte"));
                }
                unpacked.push(*literal);
                chunk = rest;
                continue;
            }
            let token = le16(chunk, 0).ok_or_else(|| wrong("a token", "half of one"))?;
            chunk = chunk.get(2..).unwrap_or_default();
            let (distance, length) = split(token, position);
            let is_sound =
                distance <= position && position.saturating_add(length) <= CHUNK && position > 0;
            if !is_sound {
                return Err(wrong("a token within its chunk", format!("{length} from {distance}")));
            }
            copy_back(unpacked, distance, length);
        }
    }
    Ok(())
}

/// The distance and the length in a token, for which there are more bits the further it is.
fn split(token: u16, position: usize) -> (usize, usize) {
    let before = position.saturating_sub(1);
    let bits = usize::BITS.saturating_sub(before.leading_zeros()).clamp(LEAST_BITS, 12);
    let length_bits = 16_u32.saturating_sub(bits);
    let distance = token.checked_shr(length_bits).unwrap_or_default();
    let mask = 0xffff_u16.checked_shr(bits).unwrap_or_default();
    let length = usize::from(token & mask).saturating_add(LEAST_LENGTH);
    (usize::from(distance).saturating_add(1), length)
}

/// Appends `length` bytes from `distance` before the end; they may overlap with what is appended.
pub(super) fn copy_back(unpacked: &mut Vec<u8>, distance: usize, length: usize) {
    let from = unpacked.len().saturating_sub(distance);
    let mut left = length;
    while left > 0 {
        let count = left.min(unpacked.len().saturating_sub(from));
        if count == 0 {
            return;
        }
        unpacked.extend_from_within(from..from.saturating_add(count));
        left = left.saturating_sub(count);
    }
}

fn wrong(expected: impl std::fmt::Display, found: impl std::fmt::Display) -> Error {
    Error::corrupt("LZNT1", expected, found)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    /// The example of [MS-XCA], section 3.3.
    const EXAMPLE: [u8; 59] = [
        0x38, 0xb0, 0x88, 0x46, 0x23, 0x20, 0x00, 0x20, 0x47, 0x20, 0x41, 0x00, 0x10, 0xa2, 0x47,
        0x01, 0xa0, 0x45, 0x20, 0x44, 0x00, 0x08, 0x45, 0x01, 0x50, 0x79, 0x00, 0xc0, 0x45, 0x20,
        0x05, 0x24, 0x13, 0x88, 0x05, 0xb4, 0x02, 0x4a, 0x44, 0xef, 0x03, 0x58, 0x02, 0x8c, 0x09,
        0x16, 0x01, 0x48, 0x45, 0x00, 0xbe, 0x00, 0x9e, 0x00, 0x04, 0x01, 0x18, 0x90, 0x00,
    ];
    const TEXT: &[u8] = b"F# F# G A A G F# E D D E F# F# E E F# F# G A A G F# E D D E F# E D D \
E E F# D E F# G F# D E F# G F# E D E A F# F# G A A G F# E D D E F# E D D";

    #[test]
    fn the_specifications_example_unpacks() {
        let unpacked = unpack(&EXAMPLE, TEXT.len()).expect("sound");
        assert_eq!(&unpacked[..TEXT.len()], TEXT);
        assert!(unpacked[TEXT.len() + 1..].iter().all(|byte| *byte == 0));
    }

    #[test]
    fn what_ends_early_or_points_outside_is_damage() {
        assert!(unpack(&EXAMPLE, CHUNK + 1).is_err());
        assert!(unpack(&EXAMPLE[..40], 100).is_err());
        assert!(unpack(&[0x02, 0xb0, 0x01, 0, 0], 100).is_err());
        assert!(unpack(&[], 1).is_err());
    }
}
