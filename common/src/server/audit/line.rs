//! One line of the audit log: a JSON object of bounded size, which nothing that a client sends can break or forge.

use arrow::temporal_conversions::timestamp_ms_to_datetime;
use serde::{Serialize, Serializer};

use crate::escape::is_invisible;

/// The longest text of one value, bytes. A name that a client sends may be as long as its whole message.
pub(super) const MAX_TEXT: usize = 1024;

/// One line. An absent value is null.
#[derive(Debug, Serialize)]
pub(super) struct AuditLine {
    /// The kind of the call; its key marks the line as one of the audit log.
    #[serde(rename = "audit")]
    pub kind: &'static str,
    /// When it was recorded, milliseconds since 1970.
    #[serde(rename = "time", serialize_with = "rfc3339")]
    pub time_ms: u64,
    /// Who called.
    pub principal: Option<String>,
    /// How the principal proved who it is.
    pub method: Option<&'static str>,
    /// The id of the token or certificate by which it did.
    pub credential: Option<String>,
    /// The name that a caller who could not be identified gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// The IP address that it came from.
    pub address: Option<String>,
    /// The method or action.
    pub operation: String,
    /// The table, its components joined by `/`.
    pub table: Option<String>,
    /// What else it is about: the user, the id of the token, the grant or the member that an administrator's call changes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// OK or the gRPC code.
    pub result: &'static str,
    /// The message of the error.
    pub reason: Option<String>,
    /// The name that the client gave its call.
    pub request_id: Option<String>,
    /// How many events before this one are missing.
    #[serde(skip_serializing_if = "is_zero")]
    pub dropped: u64,
    /// How many refusals of callers without identity before this one have no line of their own.
    #[serde(skip_serializing_if = "is_zero")]
    pub suppressed: u64,
}

impl AuditLine {
    /// The line as JSON, with its end.
    pub fn to_json(&self) -> String {
        // Texts and numbers cannot fail.
        let mut line = without_invisible(serde_json::to_string(self).unwrap_or_default());
        line.push('\n');
        line
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// `2026-01-31T12:00:00.000Z`.
fn rfc3339<S: Serializer>(ms: &u64, to: S) -> Result<S::Ok, S::Error> {
    let time = i64::try_from(*ms).ok().and_then(timestamp_ms_to_datetime);
    match time {
        Some(time) => to.collect_str(&time.format("%Y-%m-%dT%H:%M:%S%.3fZ")),
        None => to.serialize_none(),
    }
}

/// A text of at most [`MAX_TEXT`] bytes; a longer one ends in `…`.
pub(super) fn bounded(text: &str) -> String {
    if text.len() <= MAX_TEXT {
        return text.into();
    }
    let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    format!("{}…", &text[..end])
}

/// JSON with every character escaped that is not visible: it escapes those of ASCII only, and others move a terminal's cursor or
/// reverse the order of its text too.
fn without_invisible(json: String) -> String {
    if !json.contains(is_invisible) {
        return json;
    }
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        match is_invisible(c) {
            // All of them are below U+10000, which JSON writes in one escape.
            true => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            false => escaped.push(c),
        }
    }
    escaped
}
