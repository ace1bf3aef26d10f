//! Numbers, sizes and times for people. What comes from the cluster is shown with its invisible characters escaped.

use arrow::temporal_conversions::timestamp_ms_to_datetime;
use serde_json::Value;
use volley_common::counts;
use volley_common::escape::escape_invisible;

/// What stands for an unknown value.
pub(crate) const UNKNOWN: &str = "–";

/// A figure with its name.
pub(crate) struct FigureTile {
    pub label: &'static str,
    pub value: String,
    pub note: String,
    pub tone: &'static str,
}

impl FigureTile {
    /// A figure that is as it should be.
    pub fn new(label: &'static str, value: impl Into<String>, note: impl Into<String>) -> Self {
        FigureTile { label, value: value.into(), note: note.into(), tone: "" }
    }

    /// The same; `tone`: `warn` or `bad`, if `is_off`.
    pub fn off_if(self, is_off: bool, tone: &'static str) -> Self {
        FigureTile { tone: if is_off { tone } else { "" }, ..self }
    }
}

/// A number of JSON that is not negative.
pub(crate) fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().filter(|number| *number >= 0.0).map(|number| number as u64))
}

/// A text of JSON; empty if it is none.
pub(crate) fn text(value: &Value) -> String {
    escape_invisible(value.as_str().unwrap_or_default()).into_owned()
}

/// A count with separators.
pub(crate) fn count(number: u64) -> String {
    counts::count(i64::try_from(number).unwrap_or(i64::MAX))
}

/// `1 part`, `2 parts`.
pub(crate) fn plural(number: u64, word: &str) -> String {
    counts::plural(i64::try_from(number).unwrap_or(i64::MAX), word)
}

/// A count of JSON.
pub(crate) fn count_of(value: &Value) -> String {
    number(value).map_or_else(|| UNKNOWN.into(), count)
}

/// A size in decimal units: 1 kB is 1,000 B.
pub(crate) fn size(bytes: u64) -> String {
    scaled(bytes as f64, &["B", "kB", "MB", "GB", "TB", "PB", "EB"])
}

/// A size of JSON.
pub(crate) fn size_of(value: &Value) -> String {
    number(value).map_or_else(|| UNKNOWN.into(), size)
}

/// A value with three digits, in the unit in which it is less than 1,000; units are thousands apart.
pub(crate) fn scaled(mut value: f64, units: &[&str]) -> String {
    let mut units = units.iter();
    let mut unit = units.next().copied().unwrap_or_default();
    let is_scaled = value >= 999.5;
    while value >= 999.5
        && let Some(next) = units.next()
    {
        value /= 1000.0;
        unit = next;
    }
    let text = match value {
        _ if !is_scaled && value.fract() == 0.0 => format!("{value:.0}"),
        v if v < 9.995 => format!("{v:.2}"),
        v if v < 99.95 => format!("{v:.1}"),
        v => format!("{v:.0}"),
    };
    format!("{text} {unit}").trim_end().to_string()
}

/// Milliseconds since 1970 as a UTC date and time.
pub(crate) fn utc(ms: u64) -> String {
    let time = i64::try_from(ms).ok().and_then(timestamp_ms_to_datetime);
    time.map_or_else(|| UNKNOWN.into(), |time| time.format("%Y-%m-%d %H:%M:%S").to_string())
}

/// A time of JSON, milliseconds since 1970.
pub(crate) fn utc_of(value: &Value) -> String {
    number(value).filter(|ms| *ms > 0).map_or_else(|| UNKNOWN.into(), utc)
}

/// The items of an array of JSON; none if it is no array.
pub(crate) fn items(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

/// A value of JSON as an option is written: texts and numbers as they are, lists with commas.
pub(crate) fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(_) => text(value),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(", "),
        other => escape_invisible(&other.to_string()).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_400, "999 kB"),
            (999_900, "1.00 MB"),
            (5_000_000_000_000, "5.00 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(scaled(0.25, &["s"]), "0.25 s");
        assert_eq!((size_of(&json!(null)), count_of(&json!(1234))), ("–".into(), "1,234".into()));
    }

    #[test]
    fn times_are_utc_and_texts_show_what_is_invisible() {
        assert_eq!((utc(0), utc_of(&json!(0))), ("1970-01-01 00:00:00".into(), "–".into()));
        assert_eq!(text(&json!("a\u{202e}b\n")), "a\\u{202e}b\\n");
        assert_eq!(plain(&json!(["a", 7, true])), "a, 7, true");
    }
}
