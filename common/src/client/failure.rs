//! Errors of calls whose connection failed: they name the address, what is wrong with it, and what helps.

use std::io;

use tonic::Status;

use crate::transport_cause::{transport_cause, transport_error};
use crate::{Code, Error};

/// What helps if an address does not answer as a member does.
const REMEDY: &str =
    "check that it is the Flight port of a member and that the member runs, or use the address of another member";

/// No connection was made. `uri`: the address with its scheme, here and below. UNAUTHENTICATED: one side does not trust the
/// other's certificate, which trying again does not change.
pub(super) fn unreachable(uri: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    let message = format!("cannot reach {uri}: {}", transport_cause(cause));
    match is_failed_handshake(cause) {
        true => Error::unauthenticated(format!(
            "{message}; check --tls-ca, --tls-server-name, and the certificates of both sides"
        )),
        false => Error::unavailable(message),
    }
}

/// Whether a handshake of TLS ended with a finding about the other side: rustls gives such errors this kind, and the system
/// none of a connection.
fn is_failed_handshake(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.any(|cause| {
        cause.downcast_ref().is_some_and(|io: &io::Error| {
            matches!(io.kind(), io::ErrorKind::InvalidData | io::ErrorKind::PermissionDenied)
        })
    })
}

/// The connection failed during a call.
pub(super) fn broken(uri: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::unavailable(format!("no answer from {uri}: {}: {REMEDY}", transport_cause(cause)))
}

/// The status of a member, or why there is none.
pub(super) fn of_status(uri: &str, status: Status) -> Error {
    let broken = transport_error(&status).map(|cause| broken(uri, cause).message);
    let error = Error::from(status);
    match broken {
        // A reply that breaks the rules of HTTP/2 would do so again: not the connection's fault.
        Some(message) if error.code != Code::Internal => Error { message, ..error },
        Some(_) => error.at(format!("the reply of {uri} cannot be read")),
        None => error,
    }
}

/// The member accepts connections and does not answer.
pub(super) fn silent(uri: &str) -> Error {
    Error::unavailable(format!(
        "{uri} does not answer, although it accepts connections: its process may hang; {REMEDY}"
    ))
}
