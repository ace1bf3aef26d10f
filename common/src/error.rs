//! The error type of all crates: a gRPC code and a message for the user.
//!
//! The code that detects an error chooses the gRPC code and names the table, part, node or field. Both reach the client
//! unchanged. The codes in use are those of the constructors; the conversions below are the only mapping to and from gRPC.

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
}

/// The metadata key by which a server that is busy tells a client when to repeat a call, in milliseconds (gRPC A6,
/// "pushback").
pub(crate) const RETRY_PUSHBACK: &str = "grpc-retry-pushback-ms";
/// The same for clients and proxies that do not know gRPC's key.
pub(crate) const RETRY_AFTER: &str = "retry-after-ms";

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident,)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Error { code: Code::$code, message: message.into(), retry_after_ms: None }
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
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
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
    /// because it would do so again. The message is never empty, and says why a connection broke.
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
            (None, text) => text.to_string(),
        };
        let retry_after = status.metadata().get(RETRY_PUSHBACK).and_then(|value| value.to_str().ok());
        Error { code, message, retry_after_ms: retry_after.and_then(|value| value.parse().ok()) }
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

impl From<tonic::transport::Error> for Error {
    fn from(error: tonic::transport::Error) -> Self {
        Error::unavailable(transport_cause(&error))
    }
}
