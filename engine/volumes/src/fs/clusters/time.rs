//! DOS dates and times, which are a wall clock's: of the zone that the disk was written in, which
//! only exFAT may say.

use jiff::tz::TimeZone;

use crate::fs::Timestamp;

/// Seconds of a day.
const DAY: i64 = 86_400;

/// What a wall clock showed when something happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::fs) struct WallTime {
    /// Bits 0-4 day, 5-8 month, 9-15 years since 1980.
    pub date: u16,
    /// Bits 0-4 seconds in twos, 5-10 minutes, 11-15 hours.
    pub time: u16,
    /// Hundredths of a second later, up to 199.
    pub hundredths: u8,
    /// Seconds that the clock was before UTC, where the disk says that.
    pub offset: Option<i64>,
}

impl WallTime {
    /// The instant; `None` when it is no date. Without an offset the clock was one of `zone`, by
    /// the rules of that day: an hour that came twice is the earlier one, and of an hour that was
    /// left out as many minutes had passed since the clock was moved.
    pub(in crate::fs) fn instant(self, zone: &TimeZone) -> Option<Timestamp> {
        let shown = self.shown()?;
        let seconds = match self.offset {
            Some(offset) => shown.seconds.checked_sub(offset)?,
            None => in_zone(shown.seconds, zone),
        };
        Some(Timestamp { seconds, ..shown })
    }

    /// The instant, if the clock showed UTC.
    fn shown(self) -> Option<Timestamp> {
        let Self { date, time, hundredths, .. } = self;
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
}

/// The seconds since 1970 in which a clock of `zone` shows what one of UTC shows `shown` seconds
/// after 1970.
fn in_zone(shown: i64, zone: &TimeZone) -> i64 {
    let Ok(clock) = jiff::Timestamp::from_second(shown) else { return shown };
    let clock = TimeZone::UTC.to_datetime(clock);
    let instant = zone.to_ambiguous_timestamp(clock).compatible();
    // Dates from 1980 to 2107 are within what jiff knows.
    instant.map_or(shown, jiff::Timestamp::as_second)
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

    fn wall(date: u16, time: u16, hundredths: u8) -> WallTime {
        WallTime { date, time, hundredths, offset: None }
    }

    fn of(year: u16, month: u16, day: u16) -> u16 {
        (year.saturating_sub(1980) << 9) | (month << 5) | day
    }

    #[test]
    fn dates_count_from_1980_to_2107() {
        let cases = [
            (of(1980, 1, 1), 0, 0, 315_532_800, 0),
            (of(2000, 2, 29), 0, 150, 951_782_401, 500_000_000),
            (of(2026, 11, 24), (12 << 11) | (30 << 5) | 29, 0, 1_795_523_458, 0),
            (of(2107, 12, 31), (23 << 11) | (59 << 5) | 29, 199, 4_354_819_199, 990_000_000),
        ];
        for (date, time, hundredths, seconds, nanoseconds) in cases {
            let found = wall(date, time, hundredths).instant(&TimeZone::UTC);
            assert_eq!(found, Some(Timestamp { seconds, nanoseconds }), "{date:#x}");
        }
        assert_eq!(wall(0, 0, 0).instant(&TimeZone::UTC), None);
        assert_eq!(wall(of(2000, 13, 1), 0, 0).instant(&TimeZone::UTC), None);
    }

    #[test]
    fn a_clock_follows_its_zones_rules() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let at = |month, day, hour: u16, minute: u16| {
            let time = wall(of(2026, month, day), (hour << 11) | (minute << 5), 0);
            time.instant(&berlin).expect("a time").seconds
        };
        // What `TZ=Europe/Berlin date -d ... +%s` says.
        assert_eq!(at(1, 15, 12, 0), 1_768_474_800);
        assert_eq!(at(7, 15, 12, 0), 1_784_109_600);
        // 2026-10-25, 02:30 came twice; 2026-03-29, 02:30 never.
        assert_eq!(at(10, 25, 2, 30), 1_792_888_200);
        assert_eq!(at(3, 29, 2, 30), 1_774_747_800);
        let stated = WallTime { offset: Some(7200), ..wall(of(2026, 1, 15), 12 << 11, 0) };
        assert_eq!(stated.instant(&berlin).expect("a time").seconds, 1_768_471_200);
    }
}
