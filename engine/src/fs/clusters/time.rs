//! DOS dates and times.

use crate::fs::Timestamp;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// The instant of a DOS date and time, taken as UTC, `hundredths` of a second later; `None` when
/// it is no date. Date: bits 0-4 day, 5-8 month, 9-15 years since 1980; time: bits 0-4 seconds in
/// twos, 5-10 minutes, 11-15 hours.
pub(in crate::fs) fn dos_time(date: u16, time: u16, hundredths: u8) -> Option<Timestamp> {
    let (day, month) = (i64::from(date & 0x1f), i64::from((date >> 5) & 0x0f));
    let year = i64::from(date >> 9).checked_add(1980)?;
    let (second, minute) = (i64::from(time & 0x1f), i64::from((time >> 5) & 0x3f));
    let hour = i64::from(time >> 11);
    let is_time = second < 30 && minute < 60 && hour < 24;
    if !(1..=31).contains(&day) || !(1..=12).contains(&month) || !is_time {
        return None;
    }
    let hundredths = if hundredths < 200 { hundredths } else { 0 };
    let of_day = hour.checked_mul(3600)?.checked_add(minute.checked_mul(60)?)?;
    let of_day = of_day.checked_add(second.checked_mul(2)?)?;
    let of_day = of_day.checked_add(i64::from(hundredths / 100))?;
    let seconds = days_since_1970(year, month, day)?.checked_mul(DAY)?.checked_add(of_day)?;
    let nanoseconds = u32::from(hundredths % 100).checked_mul(10_000_000)?;
    Some(Timestamp { seconds, nanoseconds })
}

/// Days of the Gregorian calendar; years are counted from March, so that leap days come last.
fn days_since_1970(year: i64, month: i64, day: i64) -> Option<i64> {
    let is_early = month <= 2;
    let year = year.checked_sub(i64::from(is_early))?;
    let month = if is_early { month.checked_add(9)? } else { month.checked_sub(3)? };
    let leaps = (year / 4).checked_sub(year / 100)?.checked_add(year / 400)?;
    let of_year = month.checked_mul(153)?.checked_add(2)? / 5;
    let days = year.checked_mul(365)?.checked_add(leaps)?.checked_add(of_year)?;
    days.checked_add(day)?.checked_sub(719_469)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_count_from_1980_to_2107() {
        let of = |year: u16, month: u16, day: u16| ((year - 1980) << 9) | (month << 5) | day;
        let cases = [
            (of(1980, 1, 1), 0, 0, 315_532_800, 0),
            (of(2000, 2, 29), 0, 150, 951_782_401, 500_000_000),
            (of(2026, 11, 24), (12 << 11) | (30 << 5) | 29, 0, 1_795_523_458, 0),
            (of(2107, 12, 31), (23 << 11) | (59 << 5) | 29, 199, 4_354_819_199, 990_000_000),
        ];
        for (date, time, hundredths, seconds, nanoseconds) in cases {
            let found = dos_time(date, time, hundredths);
            assert_eq!(found, Some(Timestamp { seconds, nanoseconds }), "{date:#x}");
        }
        assert_eq!(dos_time(0, 0, 0), None);
        assert_eq!(dos_time(of(2000, 13, 1), 0, 0), None);
    }
}
