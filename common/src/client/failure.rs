//! Errors of calls whose connection failed: they name the address, what is wrong with it, and what helps.

use tonic::Status;

use crate::transport_cause::{transport_cause, transport_error};
use crate::{Code, Error};

/// What helps if an address does not answer as a member does.
const REMEDY: &str =
    "check that it is the Flight port of a member and that the member runs, or use the address of another member";

/// No connection was made. `uri`: the address with its scheme.
pub(super) fn unreachable(uri: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::unavailable(format!("cannot reach {uri}: {}", transport_cause(cause)))
}

/// The connection failed during a call.
pub(super) fn broken(address: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    Error::unavailable(format!("no answer from grpc://{address}: {}: {REMEDY}", transport_cause(cause)))
}

/// The status of a member, or why there is none.
pub(super) fn of_status(address: &str, status: Status) -> Error {
    let broken = transport_error(&status).map(|cause| broken(address, cause).message);
    let error = Error::from(status);
    match broken {
        // A reply that breaks the rules of HTTP/2 would do so again: not the connection's fault.
        Some(message) if error.code != Code::Internal => Error { message, ..error },
        Some(_) => error.at(format!("the reply of grpc://{address} cannot be read")),
        None => error,
    }
}

/// The member accepts connections and does not answer.
pub(super) fn silent(address: &str) -> Error {
    Error::unavailable(format!(
        "grpc://{address} does not answer, although it accepts connections: its process may hang; {REMEDY}"
    ))
}
