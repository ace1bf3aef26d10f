//! Why a connection failed, in words for a user. tonic's and hyper's own texts ("transport error", "http2 error") do not
//! say it.

use std::error::Error;

use tonic::Status;

/// Texts of layers that say nothing about the cause.
const MEANINGLESS: [&str; 3] = ["transport error", "http2 error", "operation was canceled"];

/// The error of the connection, if it is why a call ended: the other side sent no status.
pub fn transport_error(status: &Status) -> Option<&(dyn Error + 'static)> {
    let transport = Error::source(status)?;
    let mut cause = Some(transport);
    while let Some(error) = cause {
        // A status that passed through a layer of its own.
        if error.is::<Status>() {
            return None;
        }
        cause = error.source();
    }
    Some(transport)
}

/// What went wrong with a connection, to follow its address and a colon.
pub fn transport_cause(error: &(dyn Error + 'static)) -> String {
    let mut innermost = String::new();
    let mut cause = Some(error);
    while let Some(error) = cause {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_timeout) {
            return "it does not answer".into();
        }
        if let Some(http2) = error.downcast_ref::<h2::Error>() {
            return http2_cause(http2);
        }
        innermost = error.to_string();
        cause = error.source();
    }
    if MEANINGLESS.contains(&innermost.as_str()) { "the connection was closed".into() } else { innermost }
}

fn http2_cause(error: &h2::Error) -> String {
    let unreadable = matches!(error.reason(), Some(h2::Reason::FRAME_SIZE_ERROR | h2::Reason::PROTOCOL_ERROR));
    match error.get_io() {
        Some(io) => format!("the connection broke: {io}"),
        None if error.is_library() && error.is_go_away() && unreadable => {
            format!("its answer is not HTTP/2, so it is no member ({error})")
        }
        None if error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) => "it closed the connection".into(),
        None if error.is_remote() && error.reason() == Some(h2::Reason::INADEQUATE_SECURITY) => {
            "it requires TLS: connect by grpc+tls://HOST:PORT".into()
        }
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cause_is_never_the_name_of_a_layer() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        assert_eq!(transport_cause(&io), io.to_string());
        let layer = std::io::Error::other("transport error");
        assert_eq!(transport_cause(&layer), "the connection was closed");
        let refused = h2::Error::from(h2::Reason::REFUSED_STREAM);
        assert!(!MEANINGLESS.contains(&transport_cause(&refused).as_str()));
    }

    #[test]
    fn status_of_a_member_is_no_transport_error() {
        assert!(transport_error(&Status::unavailable("going down")).is_none());
        let broken = Status::from_error(Box::new(std::io::Error::other("http2 error")));
        assert!(transport_error(&broken).is_some());
    }
}
