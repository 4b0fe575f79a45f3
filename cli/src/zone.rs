//! Time zones: what is typed after `--tz`, and instants as a clock of the zone shows them.

use imgx_engine::fs::{ReadOptions, Timestamp as FileTime};
use jiff::Timestamp;
use jiff::civil::{DateTime, Time};
use jiff::tz::{Offset, TimeZone};

/// Seconds of a day.
const DAY: i128 = 86_400;

/// A time zone.
#[derive(Debug, Clone)]
pub struct Zone(TimeZone);

/// A time as it was typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// With its zone.
    Instant(FileTime),
    /// As a clock shows it.
    Clock(DateTime),
}

impl Zone {
    /// The machine's: that of `TZ`, else of /etc/localtime.
    pub fn system() -> Self {
        Self(TimeZone::system())
    }

    /// The zone that a word means: one of the system's zoneinfo (`Europe/Berlin`), an offset from
    /// UTC (`+02:00`), `UTC`, or POSIX rules (`CET-1CEST,M3.5.0,M10.5.0/3`).
    ///
    /// # Errors
    /// What could have been typed.
    pub fn parse(word: &str) -> Result<Self, String> {
        let expected = "expected a zone like Europe/Berlin (one of the system's zoneinfo), \
                        +02:00 or UTC";
        if word.starts_with(['+', '-']) {
            let offset = parse_offset(word).ok_or(expected)?;
            return Ok(Self(offset.to_time_zone()));
        }
        if word.eq_ignore_ascii_case("utc") || word.eq_ignore_ascii_case("z") {
            return Ok(Self(TimeZone::UTC));
        }
        let known = TimeZone::get(word).or_else(|_| TimeZone::posix(word));
        known.map(Self).map_err(|_| expected.to_owned())
    }

    /// How filesystems are read in it.
    pub fn read_options(&self) -> ReadOptions {
        ReadOptions { zone: self.0.clone() }
    }

    /// An instant as a clock shows it, to the second: `2026-11-24 12:30:00`.
    pub fn shown(&self, time: FileTime) -> String {
        if let Ok(instant) = Timestamp::new(time.seconds, 0) {
            let shown = self.0.to_datetime(instant);
            return shown.strftime("%Y-%m-%d %H:%M:%S").to_string();
        }
        let local = i128::from(time.seconds) + i128::from(self.far_offset(time.seconds < 0));
        let (year, month, day) = date_of(local.div_euclid(DAY));
        let of_day = local.rem_euclid(DAY);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }

    /// The instant that was typed. An hour that comes twice is the earlier one.
    pub fn instant(&self, moment: Moment) -> FileTime {
        let clock = match moment {
            Moment::Instant(time) => return time,
            Moment::Clock(clock) => clock,
        };
        match self.0.to_ambiguous_timestamp(clock).compatible() {
            Ok(instant) => file_time(instant),
            Err(_) => {
                let time = far(clock);
                let offset = self.far_offset(clock.year() < 0).into();
                FileTime { seconds: time.seconds.saturating_sub(offset), ..time }
            }
        }
    }

    /// Seconds before UTC, at one end of the times for which there are rules.
    fn far_offset(&self, is_past: bool) -> i32 {
        let end = if is_past { Timestamp::MIN } else { Timestamp::MAX };
        self.0.to_offset(end).seconds()
    }
}

/// `+02:00`, `+0200`, `+2`.
fn parse_offset(word: &str) -> Option<Offset> {
    let (sign, digits) = word.split_at_checked(1)?;
    let (hours, minutes) = match digits.split_once(':') {
        Some(parts) => parts,
        None if digits.len() > 2 => digits.split_at_checked(digits.len() - 2)?,
        None => (digits, "0"),
    };
    let is_number =
        |part: &str| (1..=2).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_digit());
    if !is_number(hours) || !is_number(minutes) {
        return None;
    }
    let (hours, minutes): (i32, i32) = (hours.parse().ok()?, minutes.parse().ok()?);
    if hours > 24 || minutes > 59 {
        return None;
    }
    let seconds = hours * 3600 + minutes * 60;
    Offset::from_seconds(if sign == "-" { -seconds } else { seconds }).ok()
}

/// A time with a zone, or a date or time of none.
///
/// # Errors
/// What could have been typed.
pub fn parse_moment(word: &str) -> Result<Moment, String> {
    if let Ok(time) = word.parse::<Timestamp>() {
        return Ok(Moment::Instant(file_time(time)));
    }
    // The last day of 9999 is in no zone within what is known.
    if let Some(Ok(clock)) = word.strip_suffix(['Z', 'z']).map(str::parse::<DateTime>) {
        return Ok(Moment::Instant(far(clock)));
    }
    let clock = word.parse().map_err(|_| "expected a time like 2026-11-24T12:30")?;
    Ok(Moment::Clock(clock))
}

fn file_time(time: Timestamp) -> FileTime {
    let nanoseconds = i64::from(time.subsec_nanosecond());
    // Before 1970 the fraction is negative; a file's time counts it upwards.
    let seconds = time.as_second() - i64::from(nanoseconds < 0);
    let nanoseconds = u32::try_from(nanoseconds.rem_euclid(1_000_000_000)).unwrap_or_default();
    FileTime { seconds, nanoseconds }
}

/// What a clock of UTC shows, on days that end beyond what has rules.
fn far(clock: DateTime) -> FileTime {
    let midnight = clock.with().time(Time::midnight()).build().unwrap_or(clock);
    let since = clock.date().until(jiff::civil::date(1970, 1, 1)).map_or(0, |span| span.get_days());
    let of_day = clock.duration_since(midnight);
    let seconds = of_day.as_secs() - i64::from(since) * 86_400;
    let nanoseconds = u32::try_from(of_day.subsec_nanos()).unwrap_or_default();
    FileTime { seconds, nanoseconds }
}

/// Year, month and day of the Gregorian calendar, of days since 1970. Years are counted from
/// March, so that leap days come last, and in eras of 400.
fn date_of(days: i128) -> (i128, i128, i128) {
    let days = days + 719_468;
    let (era, of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, is_next_year) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    (era * 400 + year + is_next_year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> FileTime {
        FileTime { seconds, nanoseconds: 0 }
    }

    #[test]
    fn zones_are_names_offsets_and_rules() {
        let noon = at(1_784_109_600);
        let shown = [
            ("UTC", "10:00:00"),
            ("z", "10:00:00"),
            ("+02:00", "12:00:00"),
            ("+2", "12:00:00"),
            ("-0530", "04:30:00"),
            ("CET-1CEST,M3.5.0,M10.5.0/3", "12:00:00"),
        ];
        for (word, time) in shown {
            let zone = Zone::parse(word).expect(word);
            assert_eq!(zone.shown(noon), format!("2026-07-15 {time}"), "{word}");
        }
        for wrong in ["", "+", "+2:", "+25", "+1:60", "-x", "Nowhere/City", "+123456", "+1é"] {
            let error = Zone::parse(wrong).map(|_| ()).expect_err(wrong);
            assert!(error.contains("Europe/Berlin"), "{wrong}: {error}");
        }
    }

    #[test]
    fn times_beyond_9999_are_dates_too() {
        let utc = Zone::parse("UTC").expect("a zone");
        // `date -u -d @...`
        let cases = [
            (253_402_300_799, "9999-12-31 23:59:59"),
            (253_402_300_800, "10000-01-01 00:00:00"),
            (910_692_730_085, "30828-09-14 02:48:05"),
            (951_782_400, "2000-02-29 00:00:00"),
            (i64::MAX, "292277026596-12-04 15:30:07"),
            (-377_705_116_801, "-10000-12-31 23:59:59"),
            (-11_644_473_600, "1601-01-01 00:00:00"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(utc.shown(at(seconds)), expected, "{seconds}");
        }
        let east = Zone::parse("+03:00").expect("a zone");
        assert_eq!(east.shown(at(253_402_300_799)), "10000-01-01 02:59:59");
    }

    #[test]
    fn moments_are_of_the_zone_unless_they_say_theirs() {
        let west = Zone::parse("-02:00").expect("a zone");
        let instant = |word| west.instant(parse_moment(word).expect(word));
        assert_eq!(instant("2026-11-24T12:30:00Z"), at(1_795_523_400));
        assert_eq!(instant("2026-11-24T14:30:00+02:00"), at(1_795_523_400));
        assert_eq!(instant("2026-11-24T10:30"), at(1_795_523_400));
        assert_eq!(instant("2026-11-24"), at(1_795_478_400 + 7200));
        assert_eq!(instant("9999-12-31T23:59:59Z"), at(253_402_300_799));
        assert_eq!(instant("9999-12-31T23:59:59"), at(253_402_300_799 + 7200));
        assert!(parse_moment("yesterday").is_err());
    }
}
