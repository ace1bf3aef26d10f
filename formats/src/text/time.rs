//! Dates and times of ISO 8601, and whether a type holds them without changing them.

use std::ops::RangeInclusive;

use arrow::datatypes::{DataType, TimeUnit};

const DAY_SECONDS: i64 = 86_400;
/// The days since 1970 of the calendar by which times are written: the years -262143 to 262142.
const CALENDAR_DAYS: RangeInclusive<i64> = -96_465_292..=95_026_236;
/// The seconds around 1970 that nanoseconds of 64 bit reach.
const NANOSECOND_RANGE: std::ops::Range<i64> = -9_223_372_036..9_223_372_036;

/// How a timestamp says its offset from UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneText {
    /// Not at all.
    Naive,
    /// `Z`.
    Utc,
    /// `+02:00`, in minutes.
    Offset(i16),
}

/// A timestamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimestampText {
    /// Seconds since 1970, of UTC if there is a zone.
    pub seconds: i64,
    nanoseconds: u32,
    /// Digits of the fraction of a second.
    digits: u8,
    /// The zone.
    pub zone: ZoneText,
}

/// `count` digits as a number.
fn number(bytes: &[u8]) -> Option<u32> {
    bytes.iter().try_fold(0, |n, b| b.is_ascii_digit().then(|| n * 10 + u32::from(b - b'0')))
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `YYYY`. A year of more digits has a sign and no zero at its start, one before the year 0 a minus and at least four digits.
fn year(text: &[u8]) -> Option<i64> {
    let [sign @ (b'+' | b'-'), digits @ ..] = text else {
        return if text.len() == 4 { number(text).map(i64::from) } else { None };
    };
    let is_canonical = match digits.len() {
        4 => *sign == b'-' && digits != b"0000",
        5 | 6 => digits[0] != b'0',
        _ => false,
    };
    let year = number(digits.get(..6).unwrap_or(digits)).map(i64::from).filter(|_| is_canonical)?;
    Some(if *sign == b'-' { -year } else { year })
}

/// `YYYY-MM-DD` as days since 1970.
pub fn date(text: &[u8]) -> Option<i32> {
    let days = calendar_day(text).filter(|days| CALENDAR_DAYS.contains(days))?;
    i32::try_from(days).ok()
}

/// As [`date`], of years of up to six digits.
fn calendar_day(text: &[u8]) -> Option<i64> {
    let [y @ .., b'-', m, n, b'-', d, e] = text else { return None };
    let (year, month, day) = (year(y)?, i64::from(number(&[*m, *n])?), i64::from(number(&[*d, *e])?));
    if !(1..=12).contains(&month) || !(1..=days_of_month(year, month)).contains(&day) {
        return None;
    }
    // Hinnant, "days_from_civil": years begin in March, eras have 400 years.
    let shifted = if month <= 2 { year - 1 } else { year };
    let era = shifted.div_euclid(400);
    let year_of_era = shifted.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

/// The time of day at the start of the text: seconds, nanoseconds, digits of the fraction, and the rest.
fn time_of_day(text: &[u8]) -> Option<(i64, u32, u8, &[u8])> {
    let [h, i, b':', m, n, rest @ ..] = text else { return None };
    let (hour, minute) = (number(&[*h, *i])?, number(&[*m, *n])?);
    let (second, rest) = match rest {
        [b':', s, t, rest @ ..] => (number(&[*s, *t])?, rest),
        rest => (0, rest),
    };
    if hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = i64::from(hour * 3600 + minute * 60 + second);
    let [b'.', fraction @ ..] = rest else { return Some((seconds, 0, 0, rest)) };
    let digits = fraction.iter().take_while(|b| b.is_ascii_digit()).count();
    if !(1..=9).contains(&digits) || text.get(5) != Some(&b':') {
        return None;
    }
    let nanoseconds = number(&fraction[..digits])? * 10_u32.pow(9 - digits as u32);
    Some((seconds, nanoseconds, digits as u8, &fraction[digits..]))
}

fn zone(text: &[u8]) -> Option<ZoneText> {
    match text {
        [] => Some(ZoneText::Naive),
        [b'Z'] => Some(ZoneText::Utc),
        [sign @ (b'+' | b'-'), h, i, b':', m, n] => {
            let (hour, minute) = (number(&[*h, *i])? as i16, number(&[*m, *n])? as i16);
            let offset = hour * 60 + minute;
            // -00:00 means that the offset is unknown.
            let valid = hour < 24 && minute < 60 && (*sign == b'+' || offset != 0);
            valid.then_some(ZoneText::Offset(if *sign == b'+' { offset } else { -offset }))
        }
        _ => None,
    }
}

fn per_second(unit: TimeUnit) -> i64 {
    match unit {
        TimeUnit::Second => 1,
        TimeUnit::Millisecond => 1_000,
        TimeUnit::Microsecond => 1_000_000,
        TimeUnit::Nanosecond => 1_000_000_000,
    }
}

/// Seconds and nanoseconds in the unit, if it holds them.
fn in_unit(seconds: i64, nanoseconds: u32, unit: TimeUnit) -> Option<i64> {
    let (factor, nanoseconds) = (per_second(unit), i64::from(nanoseconds));
    let divisor = 1_000_000_000 / factor;
    (nanoseconds % divisor == 0).then_some(())?;
    // The whole second before the least value in nanoseconds is beyond 64 bit.
    let value = i128::from(seconds) * i128::from(factor) + i128::from(nanoseconds / divisor);
    i64::try_from(value).ok()
}

/// `HH:MM[:SS[.F]]` in the unit, if it holds the time.
pub fn time(text: &str, unit: TimeUnit) -> Option<i64> {
    let (seconds, nanoseconds, _, rest) = time_of_day(text.as_bytes())?;
    rest.is_empty().then(|| in_unit(seconds, nanoseconds, unit)).flatten()
}

impl TimestampText {
    /// A date, `T` or a space, `HH:MM[:SS[.F]]` with at most nine digits, and `Z`, `+HH:MM` or nothing.
    pub fn parse(text: &str) -> Option<TimestampText> {
        let bytes = text.as_bytes();
        let date_length = match bytes.first()? {
            b'+' | b'-' => bytes.iter().position(|byte| matches!(byte, b'T' | b' '))?,
            _ => "YYYY-MM-DD".len(),
        };
        let (day, [b'T' | b' ', time @ ..]) = bytes.split_at_checked(date_length)? else { return None };
        let days = calendar_day(day)?;
        let (seconds, nanoseconds, digits, rest) = time_of_day(time)?;
        let zone = zone(rest)?;
        let offset = if let ZoneText::Offset(minutes) = zone { i64::from(minutes) * 60 } else { 0 };
        let seconds = days * DAY_SECONDS + seconds - offset;
        let is_in_calendar = CALENDAR_DAYS.contains(&seconds.div_euclid(DAY_SECONDS));
        is_in_calendar.then_some(TimestampText { seconds, nanoseconds, digits, zone })
    }

    /// The value of a timestamp type, if it holds this one. A date is midnight, where there is no zone.
    pub fn value(text: &str, unit: TimeUnit, zoned: bool) -> Option<i64> {
        if let (Some(days), false) = (date(text.as_bytes()), zoned) {
            return in_unit(i64::from(days) * DAY_SECONDS, 0, unit);
        }
        let parsed = TimestampText::parse(text)?;
        let fits = (parsed.zone != ZoneText::Naive) == zoned;
        fits.then(|| in_unit(parsed.seconds, parsed.nanoseconds, unit)).flatten()
    }
}

/// What is known of the dates and timestamps of a column.
#[derive(Clone, Copy, Debug, Default)]
pub struct TimeStats {
    dates: bool,
    zone: Option<ZoneText>,
    several_zones: bool,
    digits: u8,
    beyond_nanoseconds: bool,
}

impl TimeStats {
    /// Whether there is one.
    pub fn any(&self) -> bool {
        self.dates || self.zone.is_some()
    }

    /// Adds a date.
    pub fn add_date(&mut self, days: i32) {
        self.dates = true;
        self.beyond_nanoseconds |= !NANOSECOND_RANGE.contains(&(i64::from(days) * DAY_SECONDS));
    }

    /// Adds a timestamp.
    pub fn add(&mut self, time: &TimestampText) {
        self.several_zones |= self.zone.is_some_and(|zone| zone != time.zone);
        self.zone = Some(time.zone);
        self.digits = self.digits.max(time.digits);
        self.beyond_nanoseconds |= !NANOSECOND_RANGE.contains(&time.seconds);
    }

    /// Adds what is known of others.
    pub fn merge(&mut self, other: &TimeStats) {
        self.several_zones |= other.several_zones || matches!((self.zone, other.zone), (Some(a), Some(b)) if a != b);
        self.zone = self.zone.or(other.zone);
        self.dates |= other.dates;
        self.digits = self.digits.max(other.digits);
        self.beyond_nanoseconds |= other.beyond_nanoseconds;
    }

    /// The type that holds all of them; text if none does.
    pub fn data_type(&self) -> DataType {
        let unit = match self.digits {
            0 => TimeUnit::Second,
            1..=3 => TimeUnit::Millisecond,
            4..=6 => TimeUnit::Microsecond,
            _ => TimeUnit::Nanosecond,
        };
        let lossy = self.several_zones || (unit == TimeUnit::Nanosecond && self.beyond_nanoseconds);
        match self.zone {
            None => DataType::Date32,
            Some(_) if lossy => DataType::Utf8,
            Some(ZoneText::Naive) => DataType::Timestamp(unit, None),
            // A date has no zone.
            Some(_) if self.dates => DataType::Utf8,
            Some(ZoneText::Utc) => DataType::Timestamp(unit, Some("UTC".into())),
            Some(ZoneText::Offset(minutes)) => {
                let (sign, minutes) = (if minutes < 0 { '-' } else { '+' }, minutes.abs());
                let name = format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60);
                DataType::Timestamp(unit, Some(name.into()))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        assert_eq!((date(b"1970-01-01"), date(b"2024-02-29"), date(b"1969-12-31")), (Some(0), Some(19_782), Some(-1)));
        assert_eq!((date(b"9999-12-31"), date(b"0001-01-01")), (Some(2_932_896), Some(-719_162)));
        for (text, days) in [
            ("+10000-01-01", 2_932_897),
            ("0000-01-01", -719_528),
            ("-0001-12-31", -719_529),
            ("-262143-01-01", -96_465_292),
            ("+262142-12-31", 95_026_236),
        ] {
            assert_eq!(date(text.as_bytes()), Some(days), "{text}");
        }
        for text in ["-262144-12-31", "+262143-01-01", "+9999-01-01", "+010000-01-01", "-0000-01-01", "-001-01-01"] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
        for text in [
            "10000-01-01",
            "+1000000-01-01",
            "+-1000-01-01",
            "-99999999999-01-01",
            "0000-00-00",
            "2023-02-29",
            "2024-13-01",
            "2024-1-01",
            "24-01-01",
            "2024-01-01 ",
            "2024/01/01",
            "",
        ] {
            assert_eq!(date(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn timestamps_keep_the_instant_or_are_refused() {
        let value = TimestampText::value;
        assert_eq!(value("2024-05-01T12:00:00+02:00", TimeUnit::Second, true), Some(1_714_557_600));
        assert_eq!(value("2024-05-01 12:00", TimeUnit::Second, false), Some(1_714_564_800));
        assert_eq!(value("1969-12-31T23:59:59.5Z", TimeUnit::Millisecond, true), Some(-500));
        assert_eq!(value("2024-05-01T12:00:00.500", TimeUnit::Second, false), None);
        assert_eq!(value("2024-05-01T12:00:00", TimeUnit::Second, true), None);
        assert_eq!(value("2024-05-01T12:00:00Z", TimeUnit::Second, false), None);
        assert_eq!(value("9999-12-31T00:00:00Z", TimeUnit::Nanosecond, true), None);
        for (text, expected) in [
            ("1677-09-21T00:12:43.145224192Z", Some(i64::MIN)),
            ("1677-09-21T00:12:43.145224191Z", None),
            ("2262-04-11T23:47:16.854775807Z", Some(i64::MAX)),
            ("2262-04-11T23:47:16.854775808Z", None),
        ] {
            assert_eq!(value(text, TimeUnit::Nanosecond, true), expected, "{text}");
        }
        assert_eq!(value("-0001-12-31T23:59:59Z", TimeUnit::Second, true), Some(-62_167_219_201));
        assert_eq!(value("+10000-01-01 00:00", TimeUnit::Second, false), Some(253_402_300_800));
        // The day after the last one, in a zone that is ahead.
        assert_eq!(value("+262143-01-01T01:59:59+02:00", TimeUnit::Second, true), Some(8_210_266_876_799));
        assert_eq!(value("+262143-01-01T00:00:00Z", TimeUnit::Second, true), None);
        let invalid = ["2024-05-01T24:00:00", "2024-05-01T12:00:60", "2024-05-01T12:00:00.1234567890"];
        for text in invalid.iter().chain(&["2024-05-01T12:00:00-00:00", "2024-05-01T12:00.5", "2024-05-01T12"]) {
            assert_eq!(TimestampText::parse(text), None, "{text}");
        }
        assert_eq!(
            (time("12:00:01.5", TimeUnit::Millisecond), time("25:00", TimeUnit::Second)),
            (Some(43_201_500), None)
        );
    }

    #[test]
    fn time_types_hold_every_value() {
        let types = |texts: &[&str]| {
            let mut stats = TimeStats::default();
            for text in texts {
                match date(text.as_bytes()) {
                    Some(days) => stats.add_date(days),
                    None => stats.add(&TimestampText::parse(text).unwrap()),
                }
            }
            stats.data_type()
        };
        let timestamp = |unit, zone: Option<&str>| DataType::Timestamp(unit, zone.map(Into::into));
        assert_eq!(types(&["2024-05-01", "+10000-01-01", "-0001-12-31"]), DataType::Date32);
        assert_eq!(types(&["2024-05-01", "2024-05-01 10:00"]), timestamp(TimeUnit::Second, None));
        assert_eq!(types(&["2024-05-01T10:00:00.1234+02:00"]), timestamp(TimeUnit::Microsecond, Some("+02:00")));
        assert_eq!(types(&["2024-05-01T10:00:00Z"]), timestamp(TimeUnit::Second, Some("UTC")));
        for texts in [
            ["2024-05-01T10:00:00Z", "2024-05-01T10:00:00+00:00"],
            ["2024-05-01T10:00:00Z", "2024-05-01T10:00:00"],
            ["2024-05-01T10:00:00Z", "2024-05-01"],
            ["2024-05-01T10:00:00.123456789", "1066-05-01"],
        ] {
            assert_eq!(types(&texts), DataType::Utf8, "{texts:?}");
        }
    }
}
