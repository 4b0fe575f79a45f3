//! Reading and writing fixed-width little-endian fields, with every access checked.

use super::{Error, Result};

/// Reads fields one after another out of a named piece of bytes.
#[derive(Debug, Clone)]
pub struct FieldReader<'a> {
    name: &'a str,
    bytes: &'a [u8],
    position: usize,
}

impl<'a> FieldReader<'a> {
    /// Reads `bytes`, called `name` in errors.
    #[must_use]
    pub fn new(name: &'a str, bytes: &'a [u8]) -> Self {
        Self { name, bytes, position: 0 }
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// `Corrupt`, with the position, when fewer are left.
    #[inline]
    pub fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let rest = self.bytes.get(self.position..).unwrap_or_default();
        let Some(field) = rest.get(..length) else { return Err(self.too_short(length)) };
        self.position = self.position.saturating_add(length);
        Ok(field)
    }

    #[cold]
    fn too_short(&self, length: usize) -> Error {
        self.corrupt(format!("{length} bytes"), format!("{} left", self.remaining()))
    }

    /// The next `N` bytes, as an array.
    ///
    /// # Errors
    /// `Corrupt` when fewer are left.
    #[inline]
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    /// The next byte.
    ///
    /// # Errors
    /// `Corrupt` at the end.
    pub fn u8(&mut self) -> Result<u8> {
        Ok(u8::from_le_bytes(self.array()?))
    }

    /// The next 16-bit field.
    ///
    /// # Errors
    /// `Corrupt` when fewer bytes are left.
    pub fn u16(&mut self) -> Result<u16> {
        Ok(u16::from_le_bytes(self.array()?))
    }

    /// The next 32-bit field.
    ///
    /// # Errors
    /// `Corrupt` when fewer bytes are left.
    pub fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    /// The next 64-bit field.
    ///
    /// # Errors
    /// `Corrupt` when fewer bytes are left.
    pub fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes not read yet.
    #[must_use]
    pub fn remaining(&self) -> usize {
        self.bytes.len().saturating_sub(self.position)
    }

    /// Checks that everything was read.
    ///
    /// # Errors
    /// `Corrupt` when bytes are left over.
    pub fn finish(&self) -> Result<()> {
        match self.remaining() {
            0 => Ok(()),
            left => Err(self.corrupt("its end", format!("{left} more bytes"))),
        }
    }

    /// An error at the reader's position.
    pub fn corrupt(
        &self,
        expected: impl std::fmt::Display,
        found: impl std::fmt::Display,
    ) -> Error {
        Error::corrupt(format!("{} at byte {}", self.name, self.position), expected, found)
    }
}

/// Whether every byte is zero. Reads eight words at a time, so it runs at memory speed.
#[must_use]
pub fn is_zero(bytes: &[u8]) -> bool {
    let (words, rest) = bytes.as_chunks::<64>();
    words.iter().all(|word| word.iter().fold(0, |seen, byte| seen | byte) == 0)
        && rest.iter().all(|byte| *byte == 0)
}

/// The bytes as lower-case hexadecimal digits.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A UUID as it is usually written: groups of 8, 4, 4, 4 and 12 digits.
#[must_use]
pub fn to_uuid(bytes: &[u8; 16]) -> String {
    let digits = to_hex(bytes);
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32];
    groups.map(|range| digits.get(range).unwrap_or_default()).join("-")
}

/// The same, of an identifier that is there: none where all is zero.
#[must_use]
pub fn some_uuid(bytes: &[u8; 16]) -> Option<String> {
    (*bytes != [0; 16]).then(|| to_uuid(bytes))
}

/// The `N` bytes that `2 * N` hexadecimal digits say; `None` for anything else.
#[must_use]
pub fn from_hex<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let nibbles: Option<Vec<u32>> = digits.chars().map(|digit| digit.to_digit(16)).collect();
    let nibbles = nibbles.filter(|nibbles| nibbles.len() == N * 2)?;
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(nibbles.as_chunks::<2>().0) {
        *byte = u8::try_from(pair[0] * 16 + pair[1]).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_come_little_endian_and_end_loudly() {
        let mut reader = FieldReader::new("header", &[1, 2, 0, 3, 0, 0, 0, 9]);
        assert_eq!(reader.u8().ok(), Some(1));
        assert_eq!(reader.u16().ok(), Some(2));
        assert_eq!(reader.u32().ok(), Some(3));
        assert!(reader.finish().is_err());
        let error = reader.u64().expect_err("one byte is no u64");
        assert_eq!(error.to_string(), "header at byte 7: expected 8 bytes, found 1 left");
    }

    #[test]
    fn one_set_bit_anywhere_is_not_zero() {
        for length in [0, 1, 63, 64, 65, 4096] {
            let mut bytes = vec![0; length];
            assert!(is_zero(&bytes));
            for place in 0..length {
                bytes[place] = 1;
                assert!(!is_zero(&bytes), "byte {place} of {length} was missed");
                bytes[place] = 0;
            }
        }
    }

    #[test]
    fn hex_goes_there_and_back() {
        assert_eq!(from_hex::<3>(&to_hex(&[0, 171, 255])), Some([0, 171, 255]));
        assert_eq!(from_hex::<3>("00abf"), None);
        assert_eq!(from_hex::<1>("zz"), None);
    }
}
