//! Addresses of members: what a user types, and the locations in a FlightInfo.
use std::net::IpAddr;

use volley_common::listen::split_host_port;
use volley_common::{Error, Result};

/// The location of an endpoint that is read over the connection by which the FlightInfo came.
pub const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection";

/// Where an endpoint can be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointLocation {
    /// Over the connection by which the FlightInfo came.
    ReuseConnection,
    /// A member at `HOST:PORT`, without TLS.
    Member(String),
    /// A member at `HOST:PORT`, with TLS.
    TlsMember(String),
}

/// Whether an address demands TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressTls {
    /// `grpc+tcp://`, `http://`.
    No,
    /// `grpc+tls://`, `https://`.
    Yes,
    /// `grpc://`, or no scheme: with TLS if the client has settings of TLS.
    Open,
}

/// The addresses of a text that has one, or several separated by commas. Empty ones are left out.
pub fn split_addresses(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim).filter(|address| !address.is_empty())
}

/// `HOST:PORT` of an address with the scheme `grpc://`, `grpc+tcp://`, `grpc+tls://`, `http://`, `https://` or none; and whether
/// it demands TLS.
///
/// # Errors
/// INVALID_ARGUMENT: another scheme, no host or no port.
pub fn parse_address(address: &str) -> Result<(String, AddressTls)> {
    let text = address.trim().trim_end_matches('/');
    let (scheme, rest) = text.split_once("://").unwrap_or(("grpc", text));
    let bad = |why: &str| {
        Error::invalid(format!("the address {address:?} {why}: write grpc://HOST:PORT, as in grpc://127.0.0.1:8815"))
    };
    let tls = match scheme {
        "grpc" => AddressTls::Open,
        "grpc+tcp" | "http" => AddressTls::No,
        "grpc+tls" | "https" => AddressTls::Yes,
        _ => return Err(bad(&format!("has the unknown scheme {scheme:?}"))),
    };
    if rest.contains('/') {
        return Err(bad("has a path, which members do not have"));
    }
    let (host, port) = rest.rsplit_once(':').ok_or_else(|| bad("has no port"))?;
    if host.is_empty() || (host.contains(':') && !host.starts_with('[')) {
        return Err(bad("has no host (write an IPv6 address in brackets)"));
    }
    match port.parse::<u16>() {
        Ok(port) if port > 0 => Ok((rest.to_string(), tls)),
        _ => Err(bad("has no port between 1 and 65535")),
    }
}

/// `HOST:PORT` of an address, and whether a client dials it by TLS. `has_tls`: the client has settings of TLS.
///
/// # Errors
/// INVALID_ARGUMENT: as [`parse_address`]; or the address is without TLS, and the client has settings of TLS.
pub fn dial_target(address: &str, has_tls: bool) -> Result<(String, bool)> {
    let (addr, demanded) = parse_address(address)?;
    match demanded {
        AddressTls::Yes => Ok((addr, true)),
        AddressTls::Open => Ok((addr, has_tls)),
        AddressTls::No if has_tls => Err(Error::invalid(format!(
            "the address {address:?} is without TLS, but settings of TLS are given: write grpc+tls://{addr}, or leave them out"
        ))),
        AddressTls::No => Ok((addr, false)),
    }
}

/// Whether `HOST:PORT` is on this machine for certain: `localhost`, or an address of the loopback interface.
pub fn is_loopback(addr: &str) -> bool {
    let Ok((host, _)) = split_host_port(addr) else { return false };
    host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok_and(|ip| ip.to_canonical().is_loopback())
}

/// The location that a URI names; none if this client does not support its scheme.
pub fn parse_location(uri: &str) -> Option<EndpointLocation> {
    match uri.split_once("://") {
        Some((REUSE_CONNECTION, _)) => Some(EndpointLocation::ReuseConnection),
        Some(_) => parse_address(uri).ok().map(|(addr, tls)| match tls {
            AddressTls::Yes => EndpointLocation::TlsMember(addr),
            AddressTls::No | AddressTls::Open => EndpointLocation::Member(addr),
        }),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use volley_common::Code;

    use super::*;

    #[test]
    fn all_forms_of_an_address_are_equal() {
        use AddressTls::{No, Open, Yes};
        for (text, tls) in [
            ("grpc://h:1", Open),
            ("h:1", Open),
            (" h:1", Open),
            ("grpc+tcp://h:1", No),
            ("http://h:1/", No),
            ("grpc+tls://h:1", Yes),
            ("https://h:1", Yes),
        ] {
            assert_eq!(parse_address(text).unwrap(), ("h:1".into(), tls), "{text}");
        }
        assert_eq!(parse_address("grpc://[::1]:8815").unwrap().0, "[::1]:8815");
    }

    #[test]
    fn bad_address_error_says_why_and_how() {
        for (text, why) in [
            ("h", "no port"),
            ("h:0", "no port"),
            ("h:x", "no port"),
            (":1", "no host"),
            ("::1:8815", "brackets"),
            ("grpc://h:1/foo", "has a path"),
            ("ftp://h:1", "\"ftp\""),
        ] {
            let error = parse_address(text).unwrap_err();
            assert_eq!(error.code, Code::InvalidArgument);
            assert!(error.message.contains(why), "{text}: {error}");
            assert!(error.message.contains("grpc://HOST:PORT"), "{text}: {error}");
        }
    }

    #[test]
    fn settings_of_tls_decide_for_an_open_address_only() {
        assert_eq!(dial_target("grpc://h:1", true).unwrap(), ("h:1".into(), true));
        assert_eq!(dial_target("grpc://h:1", false).unwrap(), ("h:1".into(), false));
        assert_eq!(dial_target("grpc+tls://h:1", false).unwrap(), ("h:1".into(), true));
        assert!(dial_target("grpc+tcp://h:1", true).unwrap_err().message.contains("grpc+tls://h:1"));
    }

    #[test]
    fn only_addresses_of_this_machine_are_loopback() {
        for addr in ["localhost:1", "LOCALHOST:1", "127.0.0.1:1", "127.8.8.8:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(is_loopback(addr), "{addr}");
        }
        for addr in
            ["0.0.0.0:1", "10.0.0.1:1", "localhost.example:1", "127.0.0.1.example:1", "[::2]:1", "localhost", "::1:1"]
        {
            assert!(!is_loopback(addr), "{addr}");
        }
    }

    #[test]
    fn location_uris_are_parsed() {
        assert_eq!(parse_location("arrow-flight-reuse-connection://?"), Some(EndpointLocation::ReuseConnection));
        assert_eq!(parse_location("grpc+tcp://n:8816"), Some(EndpointLocation::Member("n:8816".into())));
        assert_eq!(parse_location("grpc+tls://n:8816"), Some(EndpointLocation::TlsMember("n:8816".into())));
        assert_eq!(parse_location("grpc+unix:///tmp/s"), None);
        assert_eq!(parse_location(""), None);
    }
}
