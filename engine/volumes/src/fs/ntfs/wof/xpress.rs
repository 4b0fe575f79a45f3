//! XPRESS with Huffman codes.
//!
//! Source: Microsoft, "[MS-XCA] Xpress Compression Algorithm", section 2.2.

use super::super::lznt1::copy_back;
use super::bits::{Bits, Code};
use crate::base::{Error, Result};

/// Bytes that the lengths of the code take, two each.
const LENGTHS: usize = 256;
/// Symbols below this one are bytes; of the others, four bits are of the distance's length.
const BYTES: u16 = 256;
const LEAST_LENGTH: usize = 3;
/// Lengths from this one on come after the symbol: in a byte, or in two more if that is full.
const LONG: usize = 15;
const FULL: u8 = 0xff;

/// Unpacks a chunk of `size` bytes.
///
/// # Errors
/// `Corrupt` when it is damaged.
pub(super) fn unpack(packed: &[u8], size: usize) -> Result<Vec<u8>> {
    let wrong = |what: &str| Error::corrupt("XPRESS chunk", what, "something else");
    let (lengths, rest) = packed.split_at_checked(LENGTHS).ok_or_else(|| wrong("a code"))?;
    let lengths: Vec<u8> = lengths.iter().flat_map(|pair| [pair & 0x0f, pair >> 4]).collect();
    let code = Code::new(&lengths)?;
    let mut bits = Bits::new(rest);
    let mut unpacked = Vec::with_capacity(size);
    while unpacked.len() < size {
        // Sixteen bits are looked at before each symbol, and before each distance.
        bits.peek(16);
        let symbol = code.read(&mut bits)?;
        if let Some(match_symbol) = symbol.checked_sub(BYTES) {
            bits.peek(16);
            let distance_bits = u32::from(match_symbol >> 4);
            let distance = 1_u32.checked_shl(distance_bits).unwrap_or_default();
            let distance = distance | bits.read(distance_bits);
            let distance = usize::try_from(distance).unwrap_or(usize::MAX);
            let length = length(usize::from(match_symbol & 0x0f), &mut bits)?;
            let is_inside =
                distance <= unpacked.len() && length <= size.saturating_sub(unpacked.len());
            if !is_inside {
                return Err(wrong("a match within it"));
            }
            copy_back(&mut unpacked, distance, length);
        } else {
            unpacked.push(u8::try_from(symbol).unwrap_or_default());
        }
    }
    Ok(unpacked)
}

fn length(short: usize, bits: &mut Bits<'_>) -> Result<usize> {
    if short < LONG {
        return Ok(short.saturating_add(LEAST_LENGTH));
    }
    let long = match bits.bytes(1)? {
        [FULL] => match bits.bytes(2)? {
            [low, high] => usize::from(u16::from_le_bytes([*low, *high])),
            _ => 0,
        },
        [byte] => usize::from(*byte).saturating_add(LONG),
        _ => 0,
    };
    Ok(long.saturating_add(LEAST_LENGTH))
}
