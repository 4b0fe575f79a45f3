//! LZO1X, decompression only.
//!
//! The kernel's documentation, `staging/lzo.rst`. An instruction copies from what is unpacked
//! already, and says how many literal bytes follow it: up to three, or, in an instruction of its
//! own, four or more.

use super::super::units::index;

/// What the instruction before this one copied literally, which says what the lowest ones mean.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Before {
    None,
    /// One to three bytes.
    Few,
    /// Four or more.
    Many,
}

/// Unpacks `packed` behind what `unpacked` holds, which may grow to `most` bytes; matches reach
/// back no further than to where it ended. `None` if it is damaged, or holds more.
pub(super) fn unpack(packed: &[u8], unpacked: &mut Vec<u8>, most: usize) -> Option<()> {
    let start = unpacked.len();
    let mut stream = Stream { packed, at: 0, unpacked, start, most };
    let mut before = Before::None;
    if let Some(first) = packed.first().filter(|first| **first > 17) {
        stream.at = 1;
        before = stream.literals(usize::from(*first).checked_sub(17)?)?;
    }
    // Each instruction takes a byte at least.
    loop {
        let code = usize::from(stream.byte()?);
        let (distance, length, literals) = match code {
            0..16 if before == Before::None => {
                let length = stream.length(code, 15)?.checked_add(3)?;
                before = stream.literals(length)?;
                continue;
            }
            0..16 => {
                let distance = usize::from(stream.byte()?) << 2 | code >> 2;
                match before {
                    Before::Many => (distance.checked_add(2049)?, 3, code & 3),
                    _ => (distance.checked_add(1)?, 2, code & 3),
                }
            }
            16..32 => {
                let length = stream.length(code & 7, 7)?.checked_add(2)?;
                let pair = stream.pair()?;
                let distance = (code & 8) << 11 | pair >> 2;
                if distance == 0 {
                    return (stream.at == packed.len()).then_some(());
                }
                (distance.checked_add(16_384)?, length, pair & 3)
            }
            32..64 => {
                let length = stream.length(code & 31, 31)?.checked_add(2)?;
                let pair = stream.pair()?;
                ((pair >> 2).checked_add(1)?, length, pair & 3)
            }
            _ => {
                let distance = usize::from(stream.byte()?) << 3 | code >> 2 & 7;
                let length = match code {
                    64..128 => (code >> 5 & 1).checked_add(3)?,
                    _ => (code >> 5 & 3).checked_add(5)?,
                };
                (distance.checked_add(1)?, length, code & 3)
            }
        };
        stream.copy(distance, length)?;
        before = stream.literals(literals)?;
    }
}

struct Stream<'a> {
    packed: &'a [u8],
    at: usize,
    unpacked: &'a mut Vec<u8>,
    /// Where the output of this stream starts.
    start: usize,
    most: usize,
}

impl Stream<'_> {
    fn byte(&mut self) -> Option<u8> {
        let byte = self.packed.get(self.at)?;
        self.at = self.at.checked_add(1)?;
        Some(*byte)
    }

    /// Two bytes, the low one first.
    fn pair(&mut self) -> Option<usize> {
        let (low, high) = (self.byte()?, self.byte()?);
        Some(index(u16::from_le_bytes([low, high])))
    }

    /// A length: `bits` if there are any, or else `base` and what follows: a byte that is not
    /// zero, and 255 for each zero before it.
    fn length(&mut self, bits: usize, base: usize) -> Option<usize> {
        if bits != 0 {
            return Some(bits);
        }
        let mut length = base;
        loop {
            match self.byte()? {
                0 => length = length.checked_add(255)?,
                last => return length.checked_add(usize::from(last)),
            }
        }
    }

    fn has_room(&self, length: usize) -> bool {
        self.unpacked.len().checked_add(length).is_some_and(|end| end <= self.most)
    }

    fn literals(&mut self, count: usize) -> Option<Before> {
        let end = self.at.checked_add(count)?;
        let literals = self.packed.get(self.at..end).filter(|_| self.has_room(count))?;
        self.unpacked.extend_from_slice(literals);
        self.at = end;
        Some(match count {
            0 => Before::None,
            1..4 => Before::Few,
            _ => Before::Many,
        })
    }

    /// Appends `length` bytes from `distance` before the end, of which the last ones may be
    /// among those that are appended.
    fn copy(&mut self, distance: usize, length: usize) -> Option<()> {
        let from = self.unpacked.len().checked_sub(distance).filter(|from| *from >= self.start)?;
        if !self.has_room(length) {
            return None;
        }
        let mut left = length;
        // The stretch doubles each time.
        while left > 0 {
            let end = self.unpacked.len().min(from.checked_add(left)?);
            left = left.checked_sub(end.checked_sub(from)?)?;
            self.unpacked.extend_from_within(from..end);
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unpacked(packed: &[u8], most: usize) -> Option<Vec<u8>> {
        let mut unpacked = Vec::new();
        unpack(packed, &mut unpacked, most).map(|()| unpacked)
    }

    #[test]
    fn instructions_mean_what_the_documentation_says() {
        // Five literals, then nine bytes from five before; the end.
        let packed = [22, b'h', b'e', b'l', b'l', b'o', 32 | 7, 4 << 2, 0, 17, 0, 0];
        assert_eq!(unpacked(&packed, 14).as_deref(), Some(b"hellohellohell".as_slice()));
        assert_eq!(unpacked(&packed, 13), None, "no room");
        assert_eq!(unpacked(&packed[..11], 14), None, "cut short");
        // A run of 3 + 15 + 2 literals; a match of two bytes that takes two literals along.
        let run: Vec<u8> = (1..=20).collect();
        let mut packed = [&[0, 2], run.as_slice()].concat();
        packed.extend([0x40 | 1 << 2 | 2, 0, 77, 78, 17, 0, 0]);
        let expected = [run.as_slice(), &[19, 20, 19, 77, 78]].concat();
        assert_eq!(unpacked(&packed, 100), Some(expected));
    }

    #[test]
    fn matches_do_not_reach_beyond_the_start() {
        assert_eq!(unpacked(&[22, 1, 2, 3, 4, 5, 32 | 7, 5 << 2, 0, 17, 0, 0], 100), None);
    }
}
