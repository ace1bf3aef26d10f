//! Durations and intervals as `volley get` writes them: `-PT1.5S`, `1 years 2 mons`, `3 days 4 hours 5 mins 6.007 secs`.

use arrow::datatypes::{IntervalDayTime, IntervalMonthDayNano, TimeUnit};

const PER_UNIT: i128 = 1_000_000_000;
/// Digits before the point, which no type of 64 bit exceeds: sums of numbers with more could overflow.
const MAX_DIGITS: usize = 20;

/// A decimal number with at most nine digits after the point, in billionths.
fn billionths(text: &str) -> Option<i128> {
    let (sign, digits) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (whole, fraction) = match digits.split_once('.') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None => (digits, ""),
    };
    let all_digits = whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > MAX_DIGITS || fraction.len() > 9 || !all_digits {
        return None;
    }
    let fraction: i128 = format!("{fraction:0<9}").parse().ok()?;
    Some(sign * (whole.parse::<i128>().ok()? * PER_UNIT + fraction))
}

/// Numbers, each before the letter of its unit, in the order of `units`: the sum in billionths of a second.
fn designated(mut text: &str, units: &[(char, i128)]) -> Option<i128> {
    let mut sum = 0;
    for (letter, seconds) in units {
        if let Some((number, rest)) = text.split_once(*letter) {
            sum += billionths(number).filter(|amount| *amount >= 0 && !number.starts_with('-'))? * seconds;
            text = rest;
        }
    }
    text.is_empty().then_some(sum)
}

/// A duration of ISO 8601 in days, hours, minutes and seconds, in the unit, if that holds it.
pub fn duration(text: &str, unit: TimeUnit) -> Option<i64> {
    let (sign, rest) = text.strip_prefix('-').map_or((1, text), |rest| (-1, rest));
    let (days, time) = match rest.strip_prefix('P')?.split_once('T') {
        Some((_, "")) => return None,
        Some(parts) => parts,
        None if rest.len() == 1 => return None,
        None => (&rest[1..], ""),
    };
    let nanos = designated(days, &[('D', 86_400)])? + designated(time, &[('H', 3_600), ('M', 60), ('S', 1)])?;
    let divisor = match unit {
        TimeUnit::Second => PER_UNIT,
        TimeUnit::Millisecond => 1_000_000,
        TimeUnit::Microsecond => 1_000,
        TimeUnit::Nanosecond => 1,
    };
    if nanos % divisor == 0 { i64::try_from(sign * nanos / divisor).ok() } else { None }
}

/// The amounts of an interval.
#[derive(Default)]
struct IntervalText {
    months: i64,
    days: i64,
    nanos: i128,
}

impl IntervalText {
    fn parse(text: &str) -> Option<IntervalText> {
        let mut sum = IntervalText::default();
        let mut words = text.split(' ');
        while let Some(number) = words.next() {
            let amount = billionths(number)?;
            let whole = || i64::try_from(amount / PER_UNIT).ok().filter(|_| amount % PER_UNIT == 0);
            match words.next()? {
                "years" => sum.months = sum.months.checked_add(whole()?.checked_mul(12)?)?,
                "mons" => sum.months = sum.months.checked_add(whole()?)?,
                "days" => sum.days = sum.days.checked_add(whole()?)?,
                "hours" => sum.nanos = sum.nanos.checked_add(amount * 3_600)?,
                "mins" => sum.nanos = sum.nanos.checked_add(amount * 60)?,
                "secs" => sum.nanos = sum.nanos.checked_add(amount)?,
                _ => return None,
            }
        }
        Some(sum)
    }
}

/// An interval of months.
pub fn months(text: &str) -> Option<i32> {
    let IntervalText { months, days, nanos } = IntervalText::parse(text)?;
    if days == 0 && nanos == 0 { months.try_into().ok() } else { None }
}

/// An interval of days and milliseconds.
pub fn days_and_time(text: &str) -> Option<IntervalDayTime> {
    let IntervalText { months, days, nanos } = IntervalText::parse(text)?;
    let exact = months == 0 && nanos % 1_000_000 == 0;
    let interval = IntervalDayTime::new(days.try_into().ok()?, (nanos / 1_000_000).try_into().ok()?);
    exact.then_some(interval)
}

/// An interval of months, days and nanoseconds.
pub fn months_days_and_time(text: &str) -> Option<IntervalMonthDayNano> {
    let IntervalText { months, days, nanos } = IntervalText::parse(text)?;
    Some(IntervalMonthDayNano::new(months.try_into().ok()?, days.try_into().ok()?, nanos.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::*;
    use arrow::util::display::{ArrayFormatter, FormatOptions};

    use super::*;

    fn texts(array: &dyn Array) -> Vec<String> {
        let formatter = ArrayFormatter::try_new(array, &FormatOptions::default()).unwrap();
        (0..array.len()).map(|row| formatter.value(row).to_string()).collect()
    }

    #[test]
    fn exported_durations_are_read_back() {
        let values = [0, 1, -1, 1_500, -1_500, 86_400_000, i64::MAX, -i64::MAX];
        for (unit, array) in [
            (TimeUnit::Millisecond, Arc::new(DurationMillisecondArray::from(values.to_vec())) as ArrayRef),
            (TimeUnit::Microsecond, Arc::new(DurationMicrosecondArray::from(values.to_vec()))),
            (TimeUnit::Nanosecond, Arc::new(DurationNanosecondArray::from(values.to_vec()))),
        ] {
            let back: Vec<_> = texts(&array).iter().map(|text| duration(text, unit)).collect();
            assert_eq!(back, values.map(Some), "{unit:?}");
        }
        assert_eq!(duration("P1DT2H3M4.5S", TimeUnit::Millisecond), Some(93_784_500));
        assert_eq!(duration("PT1.5S", TimeUnit::Second), None);
        for text in ["", "P", "PT", "-P", "1S", "PT1", "PT-1S", "PT1S1H", "P1Y", "PT1.S", "PT.5S", "PT1.0000000001S"] {
            assert_eq!(duration(text, TimeUnit::Nanosecond), None, "{text}");
        }
    }

    #[test]
    fn exported_intervals_are_read_back() {
        let values = [0, 1, -1, 25, -25, i32::MAX, i32::MIN];
        let array = IntervalYearMonthArray::from(values.to_vec());
        assert_eq!(texts(&array).iter().map(|text| months(text)).collect::<Vec<_>>(), values.map(Some));
        let values: Vec<_> = [(0, 0), (1, 0), (-3, -3_723_004), (3, i32::MAX), (i32::MIN, -1)]
            .map(|(days, ms)| IntervalDayTime::new(days, ms))
            .to_vec();
        let back: Vec<_> =
            texts(&IntervalDayTimeArray::from(values.clone())).iter().filter_map(|text| days_and_time(text)).collect();
        assert_eq!(back, values);
        let values: Vec<_> = [(0, 0, 0), (-1, 2, i64::MAX), (5, -6, i64::MIN + 1), (0, 0, -1)]
            .map(|(months, days, nanos)| IntervalMonthDayNano::new(months, days, nanos))
            .to_vec();
        let back: Vec<_> = texts(&IntervalMonthDayNanoArray::from(values.clone()))
            .iter()
            .filter_map(|text| months_days_and_time(text))
            .collect();
        assert_eq!(back, values);
        for text in ["", "1", "1 weeks", "1.5 mons", "days", "1  days", "1 days "] {
            assert!(months_days_and_time(text).is_none(), "{text}");
        }
        assert_eq!((months("1 days"), days_and_time("1 mons"), days_and_time("0.0001 secs")), (None, None, None));
    }
}
