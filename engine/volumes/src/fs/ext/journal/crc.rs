//! The checksum of version 1 of the journal's: the kernel's `crc32_be`, a CRC32 that takes the
//! highest bit first, which no crate here has. It is rare, so it need not be fast.

const POLYNOMIAL: u32 = 0x04c1_1db7;

/// A sum in the making.
pub(super) struct BigEndianCrc(u32);

impl BigEndianCrc {
    pub(super) fn new() -> Self {
        Self(u32::MAX)
    }

    /// Mixes `bytes` in.
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |sum, byte| {
            (0..8).fold(sum ^ u32::from(*byte) << 24, |sum, _| match sum & 0x8000_0000 {
                0 => sum << 1,
                _ => sum << 1 ^ POLYNOMIAL,
            })
        });
    }

    /// The sum, which the kernel does not invert at the end.
    pub(super) fn value(&self) -> u32 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_is_that_of_the_published_check_string() {
        let mut sum = BigEndianCrc::new();
        sum.add(b"123456789");
        assert_eq!(sum.value(), 0x0376_e6e7, "CRC-32/MPEG-2");
    }
}
