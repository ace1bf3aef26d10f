//! The error type of all crates: a gRPC code and a message for the user.
//!
//! The code that detects an error chooses the gRPC code and names the table, part, node or field. Both reach the client
//! unchanged. The codes in use are those of the constructors; the conversions below are the only mapping to and from gRPC.

use std::borrow::Cow;
use std::fmt;

pub use tonic::Code;
use tonic::Status;

use crate::transport_cause::{transport_cause, transport_error};

/// A result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as the client sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// The kind of failure: decides which exception a client raises.
    pub code: Code,
    /// What is wrong, with which table, part, node or field, and what to do.
    pub message: String,
    /// If waiting helps: after how many milliseconds the client should repeat the call.
    pub retry_after_ms: Option<u64>,
    /// How the client named the call that failed: by this id the members' logs and audit logs have it. It is not sent back.
    pub request_id: Option<Box<str>>,
}

/// What precedes the name of a call at the end of its error; `)` follows.
const REQUEST_SUFFIX: &str = " (request ";
/// The longest text of an error of a call, its id included; bytes.
const MAX_CALL_TEXT: usize = 2048;

/// The metadata key by which a server that is busy tells a client when to repeat a call, in milliseconds (gRPC A6,
/// "pushback").
pub(crate) const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// The same for clients and proxies that do not know gRPC's key.
pub(crate) const RETRY_AFTER: &str = "retry-after-ms";

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident,)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Error { code: Code::$code, message: message.into(), retry_after_ms: None, request_id: None }
        })*
    };
}

impl Error {
    constructors! {
        /// The request is wrong, independent of the state of the cluster.
        invalid => InvalidArgument,
        /// No such table, version, write or part.
        not_found => NotFound,
        /// The table, or another object to be created, exists already.
        exists => AlreadyExists,
        /// The cluster's state does not allow the request.
        precondition => FailedPrecondition,
        /// A concurrent operation came first; the whole operation may be retried.
        aborted => Aborted,
        /// A limit is reached.
        exhausted => ResourceExhausted,
        /// The member cannot serve the request now: retry, perhaps at another member.
        unavailable => Unavailable,
        /// The caller, or this cluster, does not permit it.
        denied => PermissionDenied,
        /// The caller did not prove who it is.
        unauthenticated => Unauthenticated,
        /// Not supported.
        unimplemented => Unimplemented,
        /// Stored bytes have changed.
        data_loss => DataLoss,
        /// A bug in Volley.
        internal => Internal,
        /// The operation was cancelled.
        cancelled => Cancelled,
        /// The operation took too long.
        deadline => DeadlineExceeded,
    }

    /// The same error with the place where it happened before its message.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
        self
    }

    /// The same error, which passes: the client should repeat the call after this many milliseconds.
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The text by which a member ends the errors of a call that has this name.
    pub(crate) fn request_suffix(id: &str) -> String {
        format!("{REQUEST_SUFFIX}{id})")
    }

    /// The same error, of the call that the client named so. The name of an inner call stays.
    pub fn of_request(mut self, id: &str) -> Self {
        self.request_id.get_or_insert_with(|| id.into());
        self
    }
}

/// The message. That of a client's call ends with the call's id, and has at most 2 KiB: its beginning, and its end, where the
/// remedy is.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(id) = &self.request_id else { return f.write_str(&self.message) };
        let suffix = Error::request_suffix(id);
        f.write_str(&shortened(&self.message, MAX_CALL_TEXT.saturating_sub(suffix.len())))?;
        f.write_str(&suffix)
    }
}

/// A member's text without the name of the call that it ends with: the caller adds it once, however many members passed it on.
fn without_request(text: &str) -> &str {
    let named = text.strip_suffix(')').and_then(|text| text.rsplit_once(REQUEST_SUFFIX));
    match named {
        Some((text, id)) if !text.is_empty() && !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic()) => {
            text
        }
        _ => text,
    }
}

/// A text of at most `max` bytes: the middle of a longer one is left out.
fn shortened(text: &str, max: usize) -> Cow<'_, str> {
    const LEFT_OUT: &str = " … ";
    if text.len() <= max {
        return text.into();
    }
    let room = max.saturating_sub(LEFT_OUT.len());
    let is_boundary = |at: &usize| text.is_char_boundary(*at);
    let head = (0..=room / 2).rev().find(is_boundary).unwrap_or(0);
    let tail = (text.len() - room / 2..=text.len()).find(is_boundary).unwrap_or(text.len());
    format!("{}{LEFT_OUT}{}", &text[..head], &text[tail..]).into()
}

impl std::error::Error for Error {}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        let mut status = Status::new(error.code, error.message);
        if let Some(ms) = error.retry_after_ms {
            for key in [RETRY_PUSHBACK, RETRY_AFTER] {
                status.metadata_mut().insert(key, ms.into());
            }
        }
        status
    }
}

impl From<Status> for Error {
    /// The status of another member. A broken connection, for which tonic gives UNKNOWN, INTERNAL or CANCELLED with a
    /// transport error as its source, becomes UNAVAILABLE; but INTERNAL if the reply itself broke the rules of HTTP/2,
    /// because it would do so again. The message is never empty, and says why a connection broke. It does not name the call, which
    /// the caller knows.
    fn from(status: Status) -> Self {
        let transport = std::error::Error::source(&status);
        let code = match (status.code(), transport) {
            (_, Some(cause)) if is_protocol_violation(cause) => Code::Internal,
            (Code::Unknown | Code::Internal | Code::Cancelled, Some(_)) => Code::Unavailable,
            (code, _) => code,
        };
        let message = match (transport_error(&status), status.message()) {
            (Some(cause), _) => transport_cause(cause),
            (None, "") => format!("the call failed with {code:?}, and no reason was given"),
            (None, text) => without_request(text).to_string(),
        };
        let retry_after = status.metadata().get(RETRY_PUSHBACK).and_then(|value| value.to_str().ok());
        let retry_after_ms = retry_after.and_then(|value| value.parse().ok());
        Error { code, message, retry_after_ms, request_id: None }
    }
}

/// Whether a transport error says that one stream broke the rules of HTTP/2, for example by headers over the receiver's
/// limit. It is the reply's fault, not the connection's: the same call fails at every member.
pub(crate) fn is_protocol_violation(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return match h2.reason() {
                Some(h2::Reason::PROTOCOL_ERROR) => h2.is_reset(),
                // Headers that are far over the limit: this side gave up.
                Some(h2::Reason::ENHANCE_YOUR_CALM) => h2.is_go_away() && h2.is_library(),
                _ => false,
            };
        }
        cause = error.source();
    }
    false
}

/// The name of a gRPC code as the protocol has it.
pub fn code_name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

impl From<tonic::transport::Error> for Error {
    fn from(error: tonic::transport::Error) -> Self {
        Error::unavailable(transport_cause(&error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_of_a_call_in_the_text_of_a_member_is_left_out() {
        for (text, rest) in [
            ("no table (request 00ab)", "no table"),
            ("no table (request a) (request b)", "no table (request a)"),
            ("no table (request a b)", "no table (request a b)"),
            ("no table (request )", "no table (request )"),
            (" (request a)", " (request a)"),
            ("no table", "no table"),
        ] {
            let error = Error::from(Status::not_found(text));
            assert_eq!((error.message.as_str(), error.request_id.as_deref()), (rest, None));
        }
        let named = Error::from(Status::not_found("no table (request 00ab)")).of_request("00ab");
        assert_eq!(named.to_string(), "no table (request 00ab)");
    }

    #[test]
    fn text_of_a_call_ends_with_its_id_and_is_bounded() {
        assert_eq!(Error::invalid("no").to_string(), "no");
        let named = Error::invalid("no").of_request("00ab").of_request("other");
        assert_eq!(named.to_string(), "no (request 00ab)");
        for text in ["x".repeat(5000), "ä".repeat(5000), "漢".repeat(700)] {
            let long = Error::invalid(format!("first {text} remedy")).of_request("00ab").to_string();
            assert!(long.len() <= MAX_CALL_TEXT && long.len() > MAX_CALL_TEXT - 8, "{}", long.len());
            assert!(long.starts_with("first ") && long.ends_with(" remedy (request 00ab)"), "{long}");
        }
        let whole = "x".repeat(MAX_CALL_TEXT - " (request 00ab)".len());
        assert_eq!(Error::invalid(&whole).of_request("00ab").to_string(), format!("{whole} (request 00ab)"));
    }
}
