//! The checksums of ext's metadata: CRC32C without its final inversion, seeded; and CRC16.
//!
//! Kernel documentation, `filesystems/ext4/checksums.rst`.

/// A checksum in the making. Each structure mixes in what it belongs to first, so that a block
/// which is written to the wrong place is found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Checksum(u32);

impl Checksum {
    /// The start of every chain.
    pub(super) const START: Self = Self(u32::MAX);

    /// Goes on from a stored value, as `s_checksum_seed` is.
    pub(super) fn from_seed(seed: u32) -> Self {
        Self(seed)
    }

    /// Mixes `bytes` in.
    #[must_use]
    pub(super) fn add(self, bytes: &[u8]) -> Self {
        // The crate inverts at the start and at the end; ext does neither.
        Self(!crc32c::crc32c_append(!self.0, bytes))
    }

    /// Mixes as many zeros in as a checksum field has: fields count as zero in their own sums.
    #[must_use]
    pub(super) fn add_zeros(self, count: usize) -> Self {
        self.add([0; 4].get(..count).unwrap_or_default())
    }

    /// Mixes `bytes` in, with `count` bytes at `at` as zeros.
    #[must_use]
    pub(super) fn add_without(self, bytes: &[u8], at: usize, count: usize) -> Self {
        let (before, rest) = bytes.split_at_checked(at).unwrap_or((bytes, &[]));
        let after = rest.get(count..).unwrap_or_default();
        self.add(before).add_zeros(count.min(rest.len())).add(after)
    }

    /// All 32 bits.
    pub(super) fn value(self) -> u32 {
        self.0
    }

    /// The lower 16 bits, for fields that have no room for more.
    pub(super) fn low(self) -> u16 {
        let [low, high, ..] = self.0.to_le_bytes();
        u16::from_le_bytes([low, high])
    }
}

/// CRC16 (polynomial 0x8005, reflected) of `bytes` after `sum`, as `gdt_csum` uses it.
pub(super) fn crc16(sum: u16, bytes: &[u8]) -> u16 {
    bytes.iter().fold(sum, |sum, byte| {
        (0..8).fold(sum ^ u16::from(*byte), |sum, _| match sum & 1 {
            1 => sum >> 1 ^ 0xa001,
            _ => sum >> 1,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_published_check_string() {
        assert_eq!(!Checksum::START.add(b"123456789").value(), 0xe306_9283);
        assert_eq!(crc16(0, b"123456789"), 0xbb3d);
    }

    #[test]
    fn a_field_counts_as_zeros_in_its_own_sum() {
        let zeroed = Checksum::START.add(&[1, 2, 0, 0, 5]);
        assert_eq!(Checksum::START.add_without(&[1, 2, 3, 4, 5], 2, 2), zeroed);
    }
}
