//! The one error type: a gRPC code and a sentence for the user.
//!
//! Whoever finds the mistake picks the code and names the table, part, node or field; nobody on the
//! way to the client changes either.

use std::fmt;

pub use tonic::Code;
use tonic::Status;

/// Short for results of this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure as the client will see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What kind of failure: decides what the client raises.
    pub code: Code,
    /// What is wrong, with what, and what to do.
    pub message: String,
}

macro_rules! constructors {
    ($($(#[$doc:meta])* $name:ident => $code:ident,)*) => {
        $($(#[$doc])*
        pub fn $name(message: impl Into<String>) -> Self {
            Error { code: Code::$code, message: message.into() }
        })*
    };
}

impl Error {
    constructors! {
        /// The request itself is wrong.
        invalid => InvalidArgument,
        /// No such table, version, write or part.
        not_found => NotFound,
        /// It exists already.
        exists => AlreadyExists,
        /// The request is right, the cluster's state does not allow it.
        precondition => FailedPrecondition,
        /// Someone else came first; the whole operation may be tried again.
        aborted => Aborted,
        /// A limit is reached.
        exhausted => ResourceExhausted,
        /// Not now: try again, perhaps elsewhere.
        unavailable => Unavailable,
        /// Not by this caller, or not on this cluster.
        denied => PermissionDenied,
        /// Not offered.
        unimplemented => Unimplemented,
        /// Stored bytes are not what they were.
        data_loss => DataLoss,
        /// A fault of Volley's own.
        internal => Internal,
        /// Stopped on request.
        cancelled => Cancelled,
        /// The time ran out.
        deadline => DeadlineExceeded,
    }

    /// The same error with where it happened in front.
    pub fn at(mut self, place: impl fmt::Display) -> Self {
        self.message = format!("{place}: {}", self.message);
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
        Status::new(error.code, error.message)
    }
}

impl From<Status> for Error {
    /// A reply of another member; a broken connection (which tonic calls UNKNOWN or INTERNAL with a
    /// transport error behind it) is UNAVAILABLE.
    fn from(status: Status) -> Self {
        let transport = std::error::Error::source(&status).is_some();
        let code = match status.code() {
            Code::Unknown | Code::Internal | Code::Cancelled if transport => Code::Unavailable,
            code => code,
        };
        Error { code, message: status.message().to_string() }
    }
}

impl From<tonic::transport::Error> for Error {
    fn from(error: tonic::transport::Error) -> Self {
        let mut text = error.to_string();
        let mut cause = std::error::Error::source(&error);
        while let Some(inner) = cause {
            text = format!("{text}: {inner}");
            cause = inner.source();
        }
        Error::unavailable(text)
    }
}
