//! The client listeners of this coordinator, and the addresses that clients of each get.

use std::fmt;
use std::sync::Arc;

use volley_common::wire::catalog::Node;
use volley_common::{Error, Result};

/// Which addresses the clients of a listener get.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Locations {
    /// The nodes' own addresses.
    #[default]
    Direct,
    /// The coordinator's address: all data goes through the member that the client calls.
    Proxy,
    /// As [`Locations::Proxy`], in a single endpoint: for clients that read only the first endpoint.
    Single,
}

impl std::str::FromStr for Locations {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        match text {
            "direct" => Ok(Locations::Direct),
            "proxy" => Ok(Locations::Proxy),
            "single" => Ok(Locations::Single),
            _ => Err(Error::invalid(format!("{text:?} is not direct, proxy or single"))),
        }
    }
}

impl fmt::Display for Locations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Locations::Direct => "direct",
            Locations::Proxy => "proxy",
            Locations::Single => "single",
        })
    }
}

/// A client listener, as it is configured, or as it applies to one call.
#[derive(Clone, Debug)]
pub struct ClientListener {
    /// The listener's name; empty if it has none.
    pub name: Arc<str>,
    /// Where its clients reach this coordinator: `grpc+tcp://HOST:PORT`, or `grpc+tls://HOST:PORT`.
    pub uri: String,
    /// Whether the configuration gives that address. Otherwise it is where the listener listens, which clients behind a
    /// tunnel or a mapped port may not reach.
    pub is_advertised: bool,
    /// Which addresses its clients get.
    pub locations: Locations,
    /// Whether the connection of the client that calls has TLS, at this coordinator or at the node that it called.
    pub client_tls: bool,
}

/// The beginning of an address with TLS.
const TLS_SCHEME: &str = "grpc+tls://";

/// The location that means the connection by which the FlightInfo arrived. Clients that dial each location fail at it.
pub const REUSE_CONNECTION: &str = "arrow-flight-reuse-connection://?";

impl ClientListener {
    /// The location of what this coordinator serves itself: its address; the client's connection where no address can be
    /// given: for a proxy listener without an advertised one, or if it has no TLS and the client's connection has.
    pub fn own_location(&self) -> &str {
        match self.locations {
            Locations::Proxy if !self.is_advertised => REUSE_CONNECTION,
            Locations::Direct | Locations::Proxy | Locations::Single => self.own_address(),
        }
    }

    /// This coordinator's address, unless it has no TLS and the client's connection has: then that connection.
    pub fn own_address(&self) -> &str {
        if self.permits(&self.uri) { &self.uri } else { REUSE_CONNECTION }
    }

    /// Whether the client may be sent to this address: after a connection with TLS there is none without.
    pub fn permits(&self, uri: &str) -> bool {
        uri.starts_with(TLS_SCHEME) || !(self.client_tls || self.uri.starts_with(TLS_SCHEME))
    }

    /// The address of a node for the listener's clients; `None` if the listener is a proxy, or if its clients do not reach the
    /// node.
    pub fn address_of<'a>(&self, node: &'a Node) -> Option<&'a str> {
        match self.locations {
            Locations::Direct => node_address(node, &self.name).filter(|uri| self.permits(uri)),
            Locations::Proxy | Locations::Single => None,
        }
    }

    /// The addresses of these nodes for the listener's clients; this coordinator's address if its clients reach none of them.
    pub fn addresses<'a>(&'a self, nodes: &'a [Node]) -> Vec<&'a str> {
        let addresses: Vec<&str> = nodes.iter().filter_map(|node| self.address_of(node)).collect();
        if addresses.is_empty() && !nodes.is_empty() { vec![self.own_address()] } else { addresses }
    }
}

/// Where clients of a listener reach a node; `None` if the node has named listeners, but none of that name.
pub fn node_address<'a>(node: &'a Node, listener: &str) -> Option<&'a str> {
    let uri = match node.listeners.is_empty() || listener.is_empty() {
        true => Some(&node.flight_uri),
        false => node.listeners.iter().find(|own| own.name == listener).map(|own| &own.uri),
    };
    uri.map(String::as_str).filter(|uri| !uri.is_empty())
}

/// All client listeners of this coordinator.
#[derive(Debug)]
pub struct ListenerTable(Vec<ClientListener>);

impl ListenerTable {
    /// Holds the listeners, at least one.
    pub fn new(listeners: Vec<ClientListener>) -> Self {
        ListenerTable(listeners)
    }

    /// The name of the first listener.
    pub fn default_name(&self) -> Arc<str> {
        self.0.first().map_or_else(|| "".into(), |first| first.name.clone())
    }

    /// Where clients of the first listener reach this coordinator: `grpc+tcp://HOST:PORT`.
    pub fn default_uri(&self) -> &str {
        self.0.first().map_or("", |first| &first.uri)
    }

    /// The listener that applies to a call: the one that received it, unless the client requests by a header another
    /// listener's name, or `direct`, `proxy` or `single`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the client requests an unknown listener.
    pub fn resolve(&self, received_by: &str, requested: Option<&str>) -> Result<ClientListener> {
        let named = |name: &str| self.0.iter().find(|listener| &*listener.name == name);
        let receiver = match (named(received_by), self.0.first()) {
            (Some(listener), _) => listener.clone(),
            // A node forwarded the call from a listener that only the node has.
            (None, Some(first)) => {
                ClientListener { name: received_by.into(), locations: Locations::Direct, ..first.clone() }
            }
            (None, None) => return Err(Error::internal("this coordinator has no listener")),
        };
        let Some(requested) = requested else { return Ok(receiver) };
        if let Ok(locations) = requested.parse() {
            return Ok(ClientListener { locations, ..receiver });
        }
        named(requested).cloned().ok_or_else(|| {
            let names = self.0.iter().map(|listener| &*listener.name);
            let known: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
            Error::invalid(format!(
                "there is no listener {requested:?}: request direct, proxy or single{}",
                if known.is_empty() { String::new() } else { format!(", or for {}", known.join(", ")) }
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use volley_common::wire::catalog::NodeListener;

    use super::*;

    fn node(listeners: &[(&str, &str)]) -> Node {
        let listener = |(name, uri): &(&str, &str)| NodeListener { name: name.to_string(), uri: uri.to_string() };
        let listeners = listeners.iter().map(listener).collect();
        Node { flight_uri: "grpc+tcp://first:1".into(), listeners, ..Node::default() }
    }

    #[test]
    fn write_without_a_reachable_node_goes_to_the_coordinator() {
        let listener = |locations| ClientListener {
            name: "external".into(),
            uri: "grpc+tcp://c:1".into(),
            is_advertised: true,
            locations,
            client_tls: false,
        };
        let inside = [node(&[("internal", "grpc+tcp://first:1")])];
        let both = [node(&[("internal", "grpc+tcp://first:1"), ("external", "grpc+tcp://outside:1")])];
        assert_eq!(listener(Locations::Direct).addresses(&both), ["grpc+tcp://outside:1"]);
        assert_eq!(listener(Locations::Direct).addresses(&inside), ["grpc+tcp://c:1"]);
        assert_eq!(listener(Locations::Proxy).addresses(&both), ["grpc+tcp://c:1"]);
        assert!(listener(Locations::Direct).addresses(&[]).is_empty(), "a committed write has no targets");
    }

    #[test]
    fn client_with_tls_is_sent_to_no_address_without() {
        let listener = ClientListener {
            name: "".into(),
            uri: "grpc+tls://c:1".into(),
            is_advertised: true,
            locations: Locations::Direct,
            client_tls: false,
        };
        let tls = Node { flight_uri: "grpc+tls://second:1".into(), ..Node::default() };
        assert_eq!(listener.addresses(&[node(&[]), tls]), ["grpc+tls://second:1"]);
        assert_eq!(listener.addresses(&[node(&[])]), ["grpc+tls://c:1"], "through the coordinator");
    }

    /// It called a node that has TLS, which proxies its call.
    #[test]
    fn client_of_a_coordinator_without_tls_keeps_its_connection() {
        let listener = ClientListener {
            name: "".into(),
            uri: "grpc+tcp://c:1".into(),
            is_advertised: true,
            locations: Locations::Direct,
            client_tls: true,
        };
        let tls = Node { flight_uri: "grpc+tls://second:1".into(), ..Node::default() };
        assert_eq!(listener.addresses(&[node(&[]), tls]), ["grpc+tls://second:1"]);
        assert_eq!(listener.addresses(&[node(&[])]), [REUSE_CONNECTION]);
        for locations in [Locations::Direct, Locations::Proxy, Locations::Single] {
            assert_eq!(ClientListener { locations, ..listener.clone() }.own_location(), REUSE_CONNECTION);
        }
        let plaintext = ClientListener { client_tls: false, ..listener };
        assert_eq!((plaintext.own_location(), plaintext.permits("grpc+tcp://n:1")), ("grpc+tcp://c:1", true));
    }

    #[test]
    fn only_a_proxy_without_address_reuses_the_connection() {
        for (locations, is_advertised, expected) in [
            (Locations::Proxy, false, REUSE_CONNECTION),
            (Locations::Proxy, true, "grpc+tcp://c:1"),
            (Locations::Single, false, "grpc+tcp://c:1"),
            (Locations::Direct, false, "grpc+tcp://c:1"),
        ] {
            let (name, uri) = ("".into(), "grpc+tcp://c:1".into());
            let listener = ClientListener { name, uri, is_advertised, locations, client_tls: false };
            assert_eq!(listener.own_location(), expected, "{locations}");
        }
    }

    #[test]
    fn node_address_is_that_of_the_listener() {
        let two = node(&[("internal", "grpc+tcp://first:1"), ("external", "grpc+tcp://outside:1")]);
        assert_eq!(node_address(&two, "external"), Some("grpc+tcp://outside:1"));
        assert_eq!(node_address(&two, "internal"), Some("grpc+tcp://first:1"));
        assert_eq!(node_address(&two, ""), Some("grpc+tcp://first:1"));
        assert_eq!(node_address(&two, "other"), None, "not reachable by that listener");
        assert_eq!(node_address(&node(&[]), "external"), Some("grpc+tcp://first:1"), "a node without names");
    }
}
