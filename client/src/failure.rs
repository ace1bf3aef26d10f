//! Errors of calls whose connection failed: they name the address, what is wrong with it, and what helps.

use std::io;

use tonic::Status;
use volley_common::transport_cause::{transport_cause, transport_error};
use volley_common::{Code, Error};

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

/// The connection failed during a call. UNAUTHENTICATED: the member refused this side's certificate, which trying again does not
/// change. In TLS 1.3 it does that after the handshake of this side has ended.
pub(super) fn broken(uri: &str, cause: &(dyn std::error::Error + 'static)) -> Error {
    match refusal(cause) {
        Some(why) => Error::unauthenticated(format!("{uri} refuses this client: {why}")),
        None => Error::unavailable(format!("no answer from {uri}: {}: {REMEDY}", transport_cause(cause))),
    }
}

/// Why the other side refused this side's certificate: `tls::failure` gives such an error this kind.
fn refusal(error: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut causes = std::iter::successors(Some(error), |error| error.source());
    causes.find_map(|cause| {
        let of_http2 = || cause.downcast_ref::<h2::Error>().and_then(h2::Error::get_io);
        let io = cause.downcast_ref::<io::Error>().or_else(of_http2)?;
        (io.kind() == io::ErrorKind::PermissionDenied).then(|| io.to_string())
    })
}

/// The status of a member, or why there is none.
pub(super) fn of_status(uri: &str, status: Status) -> Error {
    let broken = transport_error(&status).map(|cause| broken(uri, cause));
    let error = Error::from(status);
    match broken {
        Some(refused) if refused.code == Code::Unauthenticated => refused,
        // A reply that breaks the rules of HTTP/2 would do so again: not the connection's fault.
        Some(Error { message, .. }) if error.code != Code::Internal => Error { message, ..error },
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refused_certificate_is_no_dead_server() {
        let refused =
            io::Error::new(io::ErrorKind::PermissionDenied, "it does not trust the CA of this side's certificate");
        let error = of_status("grpc+tls://h:1", Status::from_error(Box::new(refused)));
        assert_eq!(error.code, Code::Unauthenticated, "{error}");
        assert!(error.message.starts_with("grpc+tls://h:1 refuses this client: it does not trust"), "{error}");
        let reset = io::Error::new(io::ErrorKind::ConnectionAborted, "it ended right after the TLS handshake; a hint");
        let error = broken("grpc+tls://h:1", &reset);
        assert_eq!(error.code, Code::Unavailable, "the server may have died");
        assert!(error.message.contains("right after the TLS handshake; a hint"), "{error}");
    }
}
