//! The cookie of a client's session: the session's id, and the time limit that it has set for its statements.
//!
//! The limit is in the cookie, and so comes with each call to whatever member: nodes run statements and keep no sessions. A client
//! that changes its cookie changes no limit but its own, below that of the nodes.

use std::time::Duration;

use http::HeaderMap;
use http::header::COOKIE;

use crate::options::fields::cut;
use crate::{Error, Result};

/// The cookie's name, as all implementations of Flight have it.
pub const SESSION_COOKIE: &str = "arrow_flight_session_id";
/// The longest time limit, milliseconds: a hundred years, which no clock exceeds.
const MAX_TIMEOUT_MS: u64 = 100 * 365 * 24 * 3_600_000;

/// The value of the cookie.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionCookie {
    /// The session's id, by which the member that made it knows its other options.
    pub id: String,
    /// The time limit of its statements; `None`: that of the nodes.
    pub statement_timeout: Option<StatementTimeout>,
}

/// A time limit that a client has set, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatementTimeout {
    /// Milliseconds, at least one.
    pub ms: u64,
    /// The type of the value, in which the client gets it back.
    pub form: TimeoutForm,
}

/// The type of an option's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutForm {
    /// A text with a unit.
    Text,
    /// Whole seconds.
    Integer,
    /// Seconds.
    Double,
}

impl StatementTimeout {
    /// A limit of so many seconds, rounded up to milliseconds; `None`: 0, which is no limit.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: they are negative, no number, or more than a hundred years.
    pub fn of_seconds(seconds: f64, form: TimeoutForm) -> Result<Option<Self>> {
        of_ms(seconds * 1000.0, form).ok_or_else(|| invalid(&seconds.to_string()))
    }

    /// The same of a text: a number of seconds, or one with a unit, as in `30s`, `1.5 min` or `250ms`.
    ///
    /// # Errors
    /// As [`StatementTimeout::of_seconds`].
    pub fn of_text(text: &str) -> Result<Option<Self>> {
        let ms = ms_of_text(text.trim());
        ms.and_then(|ms| of_ms(ms, TimeoutForm::Text)).ok_or_else(|| invalid(&format!("{:?}", cut(text))))
    }

    /// As a text with a unit.
    pub fn to_text(self) -> String {
        if self.ms.is_multiple_of(1000) { format!("{}s", self.ms / 1000) } else { format!("{}ms", self.ms) }
    }

    /// As a duration.
    pub fn duration(self) -> Duration {
        Duration::from_millis(self.ms)
    }
}

impl SessionCookie {
    /// The cookie among the headers of a call; `None`: there is none. A time limit that no member can have written is none.
    pub fn of_headers(headers: &HeaderMap) -> Option<Self> {
        let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
        let (_, value) = pairs.find(|(name, _)| *name == SESSION_COOKIE)?;
        let value = value.trim_matches('"');
        let (id, timeout) = value.split_once('.').unwrap_or((value, ""));
        Some(SessionCookie { id: id.into(), statement_timeout: timeout_of(timeout) })
    }

    /// The text of the header `set-cookie` that sets it.
    pub fn to_header(&self) -> String {
        let timeout = self.statement_timeout.map(|timeout| format!(".{}{}", letter(timeout.form), timeout.ms));
        format!("{SESSION_COOKIE}={}{}", self.id, timeout.unwrap_or_default())
    }
}

/// Inside: 0 is no limit. `None`: it is none that can be.
fn of_ms(ms: f64, form: TimeoutForm) -> Option<Option<StatementTimeout>> {
    let is_valid = (0.0..=MAX_TIMEOUT_MS as f64).contains(&ms);
    is_valid.then(|| (ms > 0.0).then_some(StatementTimeout { ms: ms.ceil() as u64, form }))
}

fn ms_of_text(text: &str) -> Option<f64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let unit = match text[digits..].trim_start() {
        "ms" => 1.0,
        "" | "s" => 1000.0,
        "min" => 60_000.0,
        "h" => 3_600_000.0,
        "d" => 86_400_000.0,
        _ => return None,
    };
    let number: f64 = text[..digits].parse().ok()?;
    Some(number * unit)
}

fn invalid(value: &str) -> Error {
    Error::invalid(format!(
        "the option statement_timeout is {value}: give seconds, or a text with one of the units ms, s, min, h and d, as in 30s; 0 is no limit but that of the nodes"
    ))
}

fn letter(form: TimeoutForm) -> char {
    match form {
        TimeoutForm::Text => 't',
        TimeoutForm::Integer => 'i',
        TimeoutForm::Double => 'd',
    }
}

fn timeout_of(text: &str) -> Option<StatementTimeout> {
    let forms = [TimeoutForm::Text, TimeoutForm::Integer, TimeoutForm::Double];
    let form = forms.into_iter().find(|form| text.starts_with(letter(*form)))?;
    let ms = text[1..].parse::<u64>().ok().filter(|ms| (1..=MAX_TIMEOUT_MS).contains(ms))?;
    Some(StatementTimeout { ms, form })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    fn ms(timeout: Result<Option<StatementTimeout>>) -> Option<u64> {
        timeout.unwrap().map(|timeout| timeout.ms)
    }

    #[test]
    fn text_has_a_unit_or_is_in_seconds() {
        for (text, expected) in [
            ("30", 30_000),
            ("30s", 30_000),
            (" 1.5 min", 90_000),
            ("3ms", 3),
            ("250 ms", 250),
            ("0.0001", 1),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
        ] {
            assert_eq!(ms(StatementTimeout::of_text(text)), Some(expected), "{text}");
        }
        assert_eq!(["0", "0ms"].map(|text| ms(StatementTimeout::of_text(text))), [None, None]);
        for wrong in
            ["", "s", "-1", "1e3", "soon", "5m", "1.2.3s", "NaN", "inf", "99999999999999999999", "1S", "1\u{e4}"]
        {
            let error = StatementTimeout::of_text(wrong).unwrap_err();
            assert!(error.code == Code::InvalidArgument && error.message.contains("30s"), "{wrong}: {error}");
        }
    }

    #[test]
    fn seconds_are_neither_negative_nor_endless() {
        let of = |seconds| StatementTimeout::of_seconds(seconds, TimeoutForm::Double);
        assert_eq!((ms(of(1.5)), ms(of(0.0)), ms(of(1e-9))), (Some(1500), None, Some(1)));
        for wrong in [-1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(of(wrong).unwrap_err().code, Code::InvalidArgument, "{wrong}");
        }
    }

    fn read(cookies: &[&str]) -> Option<SessionCookie> {
        let mut headers = HeaderMap::new();
        for cookie in cookies {
            headers.append(COOKIE, cookie.parse().unwrap());
        }
        SessionCookie::of_headers(&headers)
    }

    #[test]
    fn cookie_is_read_back_with_its_time_limit() {
        for form in [TimeoutForm::Text, TimeoutForm::Integer, TimeoutForm::Double] {
            let cookie =
                SessionCookie { id: "17".into(), statement_timeout: Some(StatementTimeout { ms: 1500, form }) };
            assert_eq!(read(&[&cookie.to_header()]), Some(cookie));
        }
        let plain = SessionCookie { id: "17".into(), statement_timeout: None };
        assert_eq!(plain.to_header(), "arrow_flight_session_id=17");
        assert_eq!(read(&["a=b; arrow_flight_session_id=17"]), Some(plain.clone()));
        assert_eq!(read(&["a=b", "arrow_flight_session_id=\"17\"; c=d"]), Some(plain.clone()));
        assert_eq!((read(&[]), read(&["a=b"])), (None, None));
        for foreign in ["17.", "17.t0", "17.x5", "17.t-5", "17.t5.5", "17.t99999999999999999999"] {
            assert_eq!(read(&[&format!("arrow_flight_session_id={foreign}")]), Some(plain.clone()), "{foreign}");
        }
    }

    #[test]
    fn limit_is_told_in_the_largest_whole_unit() {
        let text = |ms| StatementTimeout { ms, form: TimeoutForm::Text }.to_text();
        assert_eq!((text(1500), text(90_000)), ("1500ms".to_string(), "90s".to_string()));
    }
}
