//! Where a request came from.

use std::net::SocketAddr;

use tonic::Extensions;

/// The address at the other end of a connection: of the client, or of what forwards to this listener. An extension of every
/// request that a listener passes to its service, with TLS or without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerAddress(pub SocketAddr);

impl PeerAddress {
    /// The address of a connection. A listener on `::` sees clients of IPv4 by addresses such as `::ffff:127.0.0.1`: this is
    /// the address of IPv4, so that one client has one address, and loopback is loopback.
    pub fn of_connection(peer: SocketAddr) -> Self {
        PeerAddress(SocketAddr::new(peer.ip().to_canonical(), peer.port()))
    }

    /// The address that a request came from, from the request's extensions; `None` if no listener has marked it.
    pub fn of(extensions: &Extensions) -> Option<SocketAddr> {
        extensions.get::<PeerAddress>().map(|peer| peer.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mapped_address_is_that_of_ipv4() {
        for (peer, expected) in [
            ("[::ffff:127.0.0.1]:5", "127.0.0.1:5"),
            ("[::ffff:10.1.2.3]:5", "10.1.2.3:5"),
            ("[::1]:5", "[::1]:5"),
            ("10.1.2.3:5", "10.1.2.3:5"),
        ] {
            let found = PeerAddress::of_connection(peer.parse().unwrap());
            assert_eq!(found.0.to_string(), expected);
        }
    }

    #[test]
    fn request_without_a_listener_has_no_address() {
        assert_eq!(PeerAddress::of(&Extensions::new()), None);
    }
}
