//! LZX with windows of 32 KiB, as in Windows images (WIM).
//!
//! Source: Microsoft, "[MS-PATCH] LZX DELTA Compression and Decompression", section 2, of which
//! Windows images differ in the block's size and in that calls are always translated.

use super::super::lznt1::copy_back;
use super::bits::{Bits, Code};
use crate::base::fields::{array, le32};
use crate::base::{Error, Result};

/// Types of blocks.
const VERBATIM: u32 = 1;
const ALIGNED: u32 = 2;
const UNCOMPRESSED: u32 = 3;
/// Bytes of a block that does not say how many.
const USUAL_BLOCK: usize = 32 * 1024;
/// Symbols of the main code below this one are bytes; of the others there are eight for each of
/// the slots that distances are in.
const BYTES: u16 = 256;
const SLOTS: u32 = 30;
const MAIN_SYMBOLS: usize = 256 + 30 * 8;
const LENGTH_SYMBOLS: usize = 249;
const ALIGNED_SYMBOLS: usize = 8;
/// Symbols of the code that the lengths of the other codes are in.
const PRE_SYMBOLS: usize = 20;
const LEAST_LENGTH: usize = 2;
/// A length in a main symbol that another symbol adds to.
const LONG: u16 = 7;
/// Slots of the distances that were used last.
const RECENT: usize = 3;
/// The size that calls' targets are taken back from, whatever the file's is.
const CALL_SPACE: i32 = 12_000_000;
const CALL: u8 = 0xe8;
/// Bytes at the end that no call begins in.
const NO_CALLS: usize = 10;

struct Decoder<'a> {
    bits: Bits<'a>,
    unpacked: Vec<u8>,
    size: usize,
    recent: [usize; RECENT],
    main_lengths: [u8; MAIN_SYMBOLS],
    length_lengths: [u8; LENGTH_SYMBOLS],
}

/// The codes of one block.
struct Codes {
    main: Code,
    length: Code,
    aligned: Option<Code>,
}

/// Unpacks a chunk of `size` bytes.
///
/// # Errors
/// `Corrupt` when it is damaged.
pub(super) fn unpack(packed: &[u8], size: usize) -> Result<Vec<u8>> {
    let mut decoder = Decoder {
        bits: Bits::new(packed),
        unpacked: Vec::with_capacity(size),
        size,
        recent: [1; RECENT],
        main_lengths: [0; MAIN_SYMBOLS],
        length_lengths: [0; LENGTH_SYMBOLS],
    };
    while decoder.unpacked.len() < size {
        decoder.block()?;
    }
    translate_calls(&mut decoder.unpacked);
    Ok(decoder.unpacked)
}

fn wrong(expected: &str) -> Error {
    Error::corrupt("LZX chunk", expected, "something else")
}

impl Decoder<'_> {
    fn block(&mut self) -> Result<()> {
        let kind = self.bits.read(3);
        let length = match self.bits.read(1) {
            1 => USUAL_BLOCK,
            _ => usize::try_from(self.bits.read(16)).unwrap_or_default(),
        };
        let left = self.size.saturating_sub(self.unpacked.len());
        if length == 0 || length > left {
            return Err(wrong("a block within it"));
        }
        let end = self.unpacked.len().saturating_add(length);
        let aligned = match kind {
            VERBATIM => None,
            ALIGNED => {
                let mut lengths = [0; ALIGNED_SYMBOLS];
                lengths.fill_with(|| u8::try_from(self.bits.read(3)).unwrap_or_default());
                Some(Code::new(&lengths)?)
            }
            UNCOMPRESSED => return self.uncompressed(length),
            _ => return Err(wrong("a type of block")),
        };
        let (bytes, matches) = self.main_lengths.split_at_mut(usize::from(BYTES));
        read_lengths(&mut self.bits, bytes)?;
        read_lengths(&mut self.bits, matches)?;
        read_lengths(&mut self.bits, &mut self.length_lengths)?;
        let main = Code::new(&self.main_lengths)?;
        let codes = Codes { main, length: Code::new(&self.length_lengths)?, aligned };
        while self.unpacked.len() < end {
            self.symbol(&codes, end)?;
        }
        Ok(())
    }

    fn symbol(&mut self, codes: &Codes, end: usize) -> Result<()> {
        let symbol = codes.main.read(&mut self.bits)?;
        let Some(symbol) = symbol.checked_sub(BYTES) else {
            self.unpacked.push(u8::try_from(symbol).unwrap_or_default());
            return Ok(());
        };
        let mut length = usize::from(symbol & LONG).saturating_add(LEAST_LENGTH);
        if symbol & LONG == LONG {
            length = length.saturating_add(usize::from(codes.length.read(&mut self.bits)?));
        }
        let distance = self.distance(u32::from(symbol >> 3), codes.aligned.as_ref())?;
        let left = end.saturating_sub(self.unpacked.len());
        if distance == 0 || distance > self.unpacked.len() || length > left {
            return Err(wrong("a match within its block"));
        }
        copy_back(&mut self.unpacked, distance, length);
        Ok(())
    }

    /// The distance in a slot; the first three slots are the distances that were used last.
    fn distance(&mut self, slot: u32, aligned: Option<&Code>) -> Result<usize> {
        let [first, second, third] = self.recent;
        match slot {
            0 => return Ok(first),
            1 => self.recent = [second, first, third],
            2 => self.recent = [third, second, first],
            slot => {
                let (base, extra) = bounds(slot);
                let added = match aligned {
                    Some(code) if extra >= 3 => {
                        let high = self.bits.read(extra.saturating_sub(3)) << 3;
                        high | u32::from(code.read(&mut self.bits)?)
                    }
                    _ => self.bits.read(extra),
                };
                let distance = base.saturating_add(added).saturating_sub(2);
                let distance = usize::try_from(distance).unwrap_or(usize::MAX);
                self.recent = [distance, first, second];
            }
        }
        let [newest, ..] = self.recent;
        Ok(newest)
    }

    fn uncompressed(&mut self, length: usize) -> Result<()> {
        self.bits.align();
        let distances = self.bits.bytes(RECENT * 4)?;
        for (position, recent) in self.recent.iter_mut().enumerate() {
            let distance = le32(distances, position.saturating_mul(4)).unwrap_or_default();
            *recent = usize::try_from(distance).unwrap_or(usize::MAX);
        }
        self.unpacked.extend_from_slice(self.bits.bytes(length)?);
        // What follows begins at a word; at the chunk's end nothing may.
        if !length.is_multiple_of(2) && self.unpacked.len() < self.size {
            self.bits.bytes(1)?;
        }
        Ok(())
    }
}

/// The first distance of a slot, which two are added to, and how many bits say how far it is from
/// there: none in the first four slots, then one more in every second.
fn bounds(slot: u32) -> (u32, u32) {
    debug_assert!(slot < SLOTS);
    let extra = (slot / 2).saturating_sub(1);
    match slot {
        0..4 => (slot, 0),
        _ => ((2 | (slot % 2)).checked_shl(extra).unwrap_or_default(), extra),
    }
}

/// Reads the lengths of a code, as differences from those of the block before.
fn read_lengths(bits: &mut Bits<'_>, lengths: &mut [u8]) -> Result<()> {
    let mut pre = [0; PRE_SYMBOLS];
    pre.fill_with(|| u8::try_from(bits.read(4)).unwrap_or_default());
    let pre = Code::new(&pre)?;
    let mut rest = lengths.iter_mut();
    while rest.len() > 0 {
        let symbol = pre.read(bits)?;
        let (count, difference) = match symbol {
            17 => (bits.read(4).saturating_add(4), None),
            18 => (bits.read(5).saturating_add(20), None),
            19 => {
                let count = bits.read(1).saturating_add(4);
                (count, Some(pre.read(bits)?))
            }
            symbol => (1, Some(symbol)),
        };
        let mut repeated = None;
        for _ in 0..count {
            let length = rest.next().ok_or_else(|| wrong("as many lengths as symbols"))?;
            // What is repeated is the first one's new length.
            let new = match (repeated, difference) {
                (Some(new), _) => new,
                (None, None) => 0,
                (None, Some(difference @ 0..=16)) => {
                    let difference = u8::try_from(difference).unwrap_or_default();
                    length.saturating_add(17).saturating_sub(difference) % 17
                }
                _ => return Err(wrong("a difference of lengths")),
            };
            *length = new;
            repeated = Some(new);
        }
    }
    Ok(())
}

/// Makes the targets of calls relative again: they were made absolute, so that calls of one
/// function look the same.
fn translate_calls(unpacked: &mut [u8]) {
    let end = unpacked.len().saturating_sub(NO_CALLS);
    let mut at = 0_usize;
    while at < end {
        let rest = unpacked.get(at..end).unwrap_or_default();
        let Some(next) = rest.iter().position(|byte| *byte == CALL) else { return };
        at = at.saturating_add(next);
        let place = at.saturating_add(1);
        let here = i32::try_from(at).unwrap_or_default();
        let target = array(unpacked, place).map(i32::from_le_bytes).unwrap_or_default();
        let relative = match target {
            0..CALL_SPACE => Some(target.wrapping_sub(here)),
            ..0 if target >= here.wrapping_neg() => Some(target.wrapping_add(CALL_SPACE)),
            _ => None,
        };
        let field = unpacked.get_mut(place..place.saturating_add(4));
        if let (Some(relative), Some(field)) = (relative, field) {
            field.copy_from_slice(&relative.to_le_bytes());
        }
        at = at.saturating_add(5);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::indexing_slicing, reason = "a test may panic")]

    use super::*;

    #[test]
    fn slots_leave_no_gap() {
        let mut next = 0;
        for slot in 0..SLOTS {
            let (base, extra) = bounds(slot);
            assert_eq!(base, next, "slot {slot}");
            next = base + (1 << extra);
        }
        assert_eq!(next, 32 * 1024);
    }

    #[test]
    fn calls_become_relative() {
        let mut code = vec![0; 40];
        code[5..10].copy_from_slice(&[CALL, 100, 0, 0, 0]);
        code[12..17].copy_from_slice(&[CALL, 0xff, 0xff, 0xff, 0xff]);
        code[32] = CALL;
        let before = code.clone();
        translate_calls(&mut code);
        assert_eq!(code[6..10], 95_i32.to_le_bytes());
        assert_eq!(code[13..17], 11_999_999_i32.to_le_bytes());
        assert_eq!(code[17..], before[17..], "the last ten bytes are left alone");
    }
}
