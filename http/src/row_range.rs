//! Parts of a table by rows: `Range: rows=100-199`.

use volley_common::{Error, Result};

/// The unit of ranges.
pub(crate) const UNIT: &str = "rows";

/// Consecutive rows of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RowRange {
    /// The first row, from 0 on.
    pub first: u64,
    /// The last one; none: to the end.
    pub last: Option<u64>,
}

impl RowRange {
    /// What a header asks for; none if its unit is another one, which is ignored. `total`: how many rows there are, if that is known.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is no range, has several, or begins after the last row.
    pub fn parse(header: &str, total: Option<u64>) -> Result<Option<Self>> {
        let Some((unit, range)) = header.split_once('=') else { return Ok(None) };
        if unit.trim() != UNIT {
            return Ok(None);
        }
        if range.contains(',') {
            return Err(Error::invalid("the header range has several ranges: request one at a time"));
        }
        let bounds = range.trim().split_once('-').and_then(|(first, last)| Some((number(first)?, number(last)?)));
        let range = match bounds {
            Some((Some(first), last)) if last.is_none_or(|last| last >= first) => RowRange { first, last },
            Some((None, Some(suffix))) if suffix > 0 => {
                let total = total.ok_or_else(|| {
                    Error::invalid(
                        "the last rows of a read with a filter cannot be requested: their number is not known",
                    )
                })?;
                RowRange { first: total.saturating_sub(suffix), last: None }
            }
            _ => return Err(Error::invalid("the header range is not as rows=0-99, rows=100- or rows=-100")),
        };
        match total {
            Some(total) if range.first >= total => {
                Err(Error::invalid(format!("the range begins with row {}, and there are {total}", range.first)))
            }
            _ => Ok(Some(range)),
        }
    }

    /// How many rows it has at most; none: all that follow.
    pub fn rows(&self) -> Option<u64> {
        self.last.map(|last| (last - self.first).saturating_add(1))
    }

    /// The header `content-range`.
    pub fn content_range(&self, total: Option<u64>) -> String {
        let last = match (self.last, total) {
            (Some(last), Some(total)) => Some(last.min(total - 1)),
            (None, Some(total)) => Some(total - 1),
            (last, None) => last,
        };
        let shown = |number: Option<u64>| number.map_or("*".into(), |number| number.to_string());
        format!("{UNIT} {}-{}/{}", self.first, shown(last), shown(total))
    }
}

/// A number that may be missing; none if it is something else.
fn number(text: &str) -> Option<Option<u64>> {
    match text.trim() {
        "" => Some(None),
        text if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok().map(Some),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn range_selects_rows() {
        let range = |header: &str, total| RowRange::parse(header, total).unwrap().unwrap();
        for (header, total, rows, content) in [
            ("rows=0-9", Some(100), Some(10), "rows 0-9/100"),
            ("rows=90-200", Some(100), Some(111), "rows 90-99/100"),
            ("rows=90-", Some(100), None, "rows 90-99/100"),
            ("rows=-3", Some(100), None, "rows 97-99/100"),
            ("rows=-300", Some(100), None, "rows 0-99/100"),
            (" rows = 5 - 5 ", Some(100), Some(1), "rows 5-5/100"),
            ("rows=5-", None, None, "rows 5-*/*"),
            ("rows=5-9", None, Some(5), "rows 5-9/*"),
            ("rows=0-18446744073709551615", Some(1), Some(u64::MAX), "rows 0-0/1"),
        ] {
            let range = range(header, total);
            assert_eq!((range.rows(), range.content_range(total).as_str()), (rows, content), "{header}");
        }
    }

    #[test]
    fn other_units_are_ignored_and_nonsense_refused() {
        for header in ["bytes=0-9", "rows", ""] {
            assert_eq!(RowRange::parse(header, Some(9)).unwrap(), None, "{header}");
        }
        for header in [
            "rows=",
            "rows=-",
            "rows=a-b",
            "rows=9-1",
            "rows=-0",
            "rows=0-1,3-4",
            "rows=9-",
            "rows=0x1-",
            "rows=--1",
            "rows=99999999999999999999-",
            "rows=1-2-3",
        ] {
            assert!(RowRange::parse(header, Some(9)).is_err(), "{header}");
        }
        assert!(RowRange::parse("rows=-3", None).is_err());
    }
}
