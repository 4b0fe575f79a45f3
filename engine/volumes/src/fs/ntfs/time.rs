//! Times: 100 ns since 1601-01-01 00:00 UTC, with a sign.

use crate::fs::Timestamp;

/// Seconds from 1601 to 1970.
const TO_1970: i64 = 11_644_473_600;
const PER_SECOND: i64 = 10_000_000;

/// The instant that a `FILETIME` means.
pub(super) fn timestamp(time: u64) -> Timestamp {
    let time = i64::from_le_bytes(time.to_le_bytes());
    let within = u32::try_from(time.rem_euclid(PER_SECOND)).unwrap_or_default();
    Timestamp {
        seconds: time.div_euclid(PER_SECOND).saturating_sub(TO_1970),
        nanoseconds: within.saturating_mul(100),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_and_1601_are_times_too() {
        let of = |time| (timestamp(time).seconds, timestamp(time).nanoseconds);
        assert_eq!(of(116_444_736_000_000_000), (0, 0));
        assert_eq!(of(116_444_735_999_999_999), (-1, 999_999_900));
        assert_eq!(of(0), (-11_644_473_600, 0));
        assert_eq!(of(u64::MAX), (-11_644_473_601, 999_999_900));
    }
}
