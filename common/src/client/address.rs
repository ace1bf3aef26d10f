//! URIs of members: what a user types, and what a FlightInfo's locations say.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

use crate::serve::FRAME_SIZE;
use crate::{Error, Result};

/// The location that stands for the connection by which the FlightInfo came.
pub const REUSE: &str = "arrow-flight-reuse-connection";

/// Flow control of one stream: what a stalled reader makes the client hold, 4 MiB.
const STREAM_WINDOW: u32 = 4 << 20;
/// Flow control of a connection, 1 GiB: room for 256 stalled streams, so that they cannot starve the one that is read.
const CONNECTION_WINDOW: u32 = 1 << 30;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEPALIVE: Duration = Duration::from_secs(5);

/// Where a ticket may be redeemed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The connection by which the client came.
    Origin,
    /// A member at `HOST:PORT`.
    Member(String),
}

/// `HOST:PORT` out of what a user typed: with `grpc://`, `grpc+tcp://`, `http://` or no scheme.
///
/// # Errors
/// INVALID_ARGUMENT: another scheme, no host or no port.
pub fn parse(address: &str) -> Result<String> {
    let text = address.trim().trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
    let bad = |why: &str| {
        Error::invalid(format!("the address {address:?} {why}: write grpc://HOST:PORT, as in grpc://127.0.0.1:8815"))
    };
    match scheme {
        "grpc" | "grpc+tcp" | "http" => {}
        "grpc+tls" | "https" => return Err(bad("asks for TLS, which this client does not speak yet")),
        _ => return Err(bad(&format!("has the unknown scheme {scheme:?}"))),
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
    if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
        return Err(bad("has no host (an IPv6 one stands in brackets)"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok(rest.to_string()),
        _ => Err(bad("has no port between 1 and 65535")),
    }
}

/// The target of a location; none if this client cannot use it (another scheme).
pub fn target(uri: &str) -> Option<Target> {
    match uri.split_once("://") {
        Some((REUSE, _)) => Some(Target::Origin),
        Some(_) => parse(uri).ok().map(Target::Member),
        None => None,
    }
}

/// How to connect to `HOST:PORT`.
pub(super) fn endpoint(address: &str) -> Result<Endpoint> {
    let endpoint = Channel::from_shared(format!("http://{address}"))
        .map_err(|e| Error::invalid(format!("the address {address:?} cannot be read: {e}")))?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_SIZE)
        .http2_keep_alive_interval(KEEPALIVE)
        .keep_alive_timeout(KEEPALIVE))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Code;

    #[test]
    fn every_plain_form_names_the_same_member() {
        for text in ["grpc://h:1", "grpc+tcp://h:1", "http://h:1/", "h:1", " h:1"] {
            assert_eq!(parse(text).unwrap(), "h:1", "{text}");
        }
        assert_eq!(parse("grpc://[::1]:8815").unwrap(), "[::1]:8815");
    }

    #[test]
    fn bad_addresses_say_why_and_how() {
        for (text, why) in [
            ("h", "no port"),
            ("h:0", "no port"),
            ("h:x", "no port"),
            (":1", "no host"),
            ("::1:8815", "brackets"),
            ("grpc+tls://h:1", "TLS"),
            ("ftp://h:1", "\"ftp\""),
        ] {
            let error = parse(text).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains(why), "{text}: {error}");
            assert!(error.message.contains("grpc://HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn locations_become_targets() {
        assert_eq!(target("arrow-flight-reuse-connection://?"), Some(Target::Origin));
        assert_eq!(target("grpc+tcp://n:8816"), Some(Target::Member("n:8816".into())));
        assert_eq!(target("grpc+tls://n:8816"), None);
        assert_eq!(target(""), None);
    }
}
