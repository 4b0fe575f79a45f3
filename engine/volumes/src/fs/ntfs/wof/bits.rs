//! Bits in words of 16, the highest first, and whole bytes between them.

use crate::base::fields::{le16, slice};
use crate::base::{Error, Result};

/// Reads bits. Beyond the input's end there are zeros, which a decoder may look at but not need.
pub(super) struct Bits<'a> {
    input: &'a [u8],
    /// The byte after the words that were taken.
    at: usize,
    /// Bits that were taken and not read yet: the lowest `count`.
    buffer: u64,
    count: u32,
}

impl<'a> Bits<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Self { input, at: 0, buffer: 0, count: 0 }
    }

    /// The next `count` bits, at most 16, without reading them. No more words are taken than it
    /// needs: where whole bytes follow depends on that.
    pub(super) fn peek(&mut self, count: u32) -> u32 {
        if self.count < count {
            let word = le16(self.input, self.at).unwrap_or_default();
            self.at = self.at.saturating_add(2);
            self.buffer = self.buffer << 16 | u64::from(word);
            self.count = self.count.saturating_add(16);
        }
        let shifted = self.buffer.checked_shr(self.count.saturating_sub(count));
        let mask = 0xffff_u64.checked_shr(16_u32.saturating_sub(count)).unwrap_or_default();
        u32::try_from(shifted.unwrap_or_default() & mask).unwrap_or_default()
    }

    /// Reads `count` of the bits that were looked at.
    pub(super) fn skip(&mut self, count: u32) {
        self.count = self.count.saturating_sub(count);
    }

    pub(super) fn read(&mut self, count: u32) -> u32 {
        let bits = self.peek(count);
        self.skip(count);
        bits
    }

    /// The `length` bytes after the words that were taken.
    ///
    /// # Errors
    /// `Corrupt` when there are fewer.
    pub(super) fn bytes(&mut self, length: usize) -> Result<&'a [u8]> {
        let bytes = slice(self.input, self.at, length);
        self.at = self.at.saturating_add(length);
        bytes
            .ok_or_else(|| Error::corrupt("compressed chunk", format!("{length} bytes"), "its end"))
    }

    /// Goes on at the next word: all of one, where a word has just ended.
    pub(super) fn align(&mut self) {
        self.peek(1);
        let whole = self.count.saturating_sub(1) / 16;
        let back = usize::try_from(whole).unwrap_or_default().saturating_mul(2);
        self.at = self.at.saturating_sub(back);
        self.count = 0;
    }
}

/// Symbols of one to sixteen bits, found by the bits that follow.
pub(super) struct Code {
    /// For each row of `bits` bits: the symbol and its length; zero where no symbol begins so.
    rows: Vec<(u16, u8)>,
    bits: u32,
}

/// Bits of a symbol at most.
const LONGEST: u8 = 16;

impl Code {
    /// The canonical code of symbols with these lengths; those of length zero are not in it.
    ///
    /// # Errors
    /// `Corrupt` when there are more symbols than bits for them.
    pub(super) fn new(lengths: &[u8]) -> Result<Self> {
        let wrong = || Error::corrupt("compressed chunk", "a prefix code", "lengths of none");
        let longest = lengths.iter().copied().max().unwrap_or_default();
        if longest > LONGEST {
            return Err(wrong());
        }
        let bits = u32::from(longest);
        let size = 1_usize.checked_shl(bits).unwrap_or_default();
        let mut rows = Vec::with_capacity(size);
        for length in 1..=longest {
            let count = size.checked_shr(length.into()).unwrap_or_default();
            for (symbol, _) in (0_u16..).zip(lengths).filter(|(_, own)| **own == length) {
                let end = rows.len().saturating_add(count);
                if end > size {
                    return Err(wrong());
                }
                rows.resize(end, (symbol, length));
            }
        }
        rows.resize(size, (0, 0));
        Ok(Self { rows, bits })
    }

    /// Reads a symbol.
    ///
    /// # Errors
    /// `Corrupt` when the bits are none.
    pub(super) fn read(&self, bits: &mut Bits<'_>) -> Result<u16> {
        let row = usize::try_from(bits.peek(self.bits)).unwrap_or(usize::MAX);
        match self.rows.get(row) {
            Some((symbol, length @ 1..)) => {
                bits.skip(u32::from(*length));
                Ok(*symbol)
            }
            _ => Err(Error::corrupt("compressed chunk", "a symbol of its code", "none")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_symbols_come_first_and_bytes_come_between_words() {
        let code = Code::new(&[2, 0, 1, 3, 3]).expect("a code");
        // 0, 10, 110, 111: symbols 2, 0, 3, 4.
        let input = [0b0110_0000, 0b0101_1011, 0xaa, 0b0000_0000, 0b1000_0000];
        let mut bits = Bits::new(&input);
        let read = |bits: &mut Bits<'_>| code.read(bits).expect("a symbol");
        assert_eq!([read(&mut bits), read(&mut bits), read(&mut bits)], [2, 0, 3]);
        assert_eq!(bits.bytes(1).expect("a byte"), [0xaa]);
        assert_eq!(bits.read(2), 0b11);
        bits.align();
        assert_eq!(bits.read(1), 1);
        assert!(Code::new(&[1, 1, 1]).is_err());
    }

    #[test]
    fn a_word_that_has_just_ended_is_passed_over() {
        let mut bits = Bits::new(&[1, 2, 3, 4, 5, 6]);
        bits.read(16);
        bits.align();
        assert_eq!(bits.bytes(2).expect("bytes"), [5, 6]);
        let mut bits = Bits::new(&[1, 2, 3, 4, 5, 6]);
        bits.read(10);
        bits.peek(16);
        bits.align();
        assert_eq!(bits.bytes(1).expect("a byte"), [3]);
    }
}
