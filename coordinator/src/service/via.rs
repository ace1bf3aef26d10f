//! By which listener a client came, and so which addresses it is told.

use std::sync::Arc;

use serde_json::{Value, json};
use volley_common::wire::catalog::Node;
use volley_common::{Error, NodeId, Result, clock};

use super::Service;
pub use crate::locations::Locations;

/// One of this coordinator's listeners.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its name; empty for one without.
    pub name: Arc<str>,
    /// Where its clients reach this coordinator: `grpc+tcp://HOST:PORT`.
    pub uri: String,
    /// What they are told.
    pub locations: Locations,
}

/// The way of one call.
#[derive(Clone, Debug)]
pub struct Via {
    /// The listener's name; empty: one without, the nodes' first.
    pub listener: Arc<str>,
    /// Whose addresses are told.
    pub locations: Locations,
    /// Where the client reaches this coordinator by that listener.
    pub own: String,
}

impl Via {
    /// The addresses of these nodes, or the coordinator's in their place, also if none of them is reached by this way.
    pub fn addresses<'a>(&'a self, nodes: &'a [Node]) -> Vec<&'a str> {
        let told: Vec<&str> = match self.locations {
            Locations::Direct => nodes.iter().filter_map(|node| address(node, &self.listener)).collect(),
            Locations::Proxy | Locations::Single => Vec::new(),
        };
        if told.is_empty() && !nodes.is_empty() { vec![&self.own] } else { told }
    }
}

/// Where clients of a listener reach a node. One that has none of that name they do not reach.
pub fn address<'a>(node: &'a Node, listener: &str) -> Option<&'a str> {
    let uri = match node.listeners.is_empty() || listener.is_empty() {
        true => Some(&node.flight_uri),
        false => node.listeners.iter().find(|own| own.name == listener).map(|own| &own.uri),
    };
    uri.map(String::as_str).filter(|uri| !uri.is_empty())
}

impl Service {
    /// Where clients of this way are sent, and what else may keep them from coming through.
    pub fn addresses(&self, via: &Via) -> Value {
        let catalog = self.raft.view();
        let node = |node: &Node| {
            json!({
                "id": NodeId(node.id).to_string(),
                "uri": address(node, &via.listener),
                "software": node.software,
            })
        };
        json!({
            "listener": &*via.listener,
            "locations": via.locations.to_string(),
            "coordinator": via.own,
            "nodes": catalog.nodes().filter(|node| node.is_alive()).map(node).collect::<Vec<_>>(),
            "software": concat!("volley-coordinator ", env!("CARGO_PKG_VERSION")),
            "now_ms": clock::now_ms(),
        })
    }

    /// The way of a call that came by the listener `came_by` and asks, by a header, for `asked`: another listener's name,
    /// `direct`, `proxy` or `single`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it asks for a listener that there is not.
    pub fn via(&self, came_by: &str, asked: Option<&str>) -> Result<Via> {
        let named = |name: &str| self.entries.iter().find(|entry| &*entry.name == name);
        let via = |entry: &Entry, locations| Via { listener: entry.name.clone(), locations, own: entry.uri.clone() };
        let came = match (named(came_by), self.entries.first()) {
            (Some(entry), _) => via(entry, entry.locations),
            // A node has a listener that this coordinator has not.
            (None, Some(first)) => Via { listener: came_by.into(), ..via(first, Locations::Direct) },
            (None, None) => return Err(Error::internal("this coordinator has no listener")),
        };
        match asked {
            None => Ok(came),
            Some("direct") => Ok(Via { locations: Locations::Direct, ..came }),
            Some("proxy") => Ok(Via { locations: Locations::Proxy, ..came }),
            Some("single") => Ok(Via { locations: Locations::Single, ..came }),
            Some(name) => named(name).map(|entry| via(entry, entry.locations)).ok_or_else(|| {
                let known: Vec<&str> = self.entries.iter().map(|e| &*e.name).filter(|name| !name.is_empty()).collect();
                Error::invalid(format!(
                    "there is no listener {name:?}: ask for direct, proxy or single{}",
                    if known.is_empty() { String::new() } else { format!(", or for {}", known.join(", ")) }
                ))
            }),
        }
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
    fn a_write_that_reaches_no_node_goes_to_the_coordinator() {
        let via = |locations| Via { listener: "external".into(), locations, own: "grpc+tcp://c:1".into() };
        let inside = [node(&[("internal", "grpc+tcp://first:1")])];
        let both = [node(&[("internal", "grpc+tcp://first:1"), ("external", "grpc+tcp://outside:1")])];
        assert_eq!(via(Locations::Direct).addresses(&both), ["grpc+tcp://outside:1"]);
        assert_eq!(via(Locations::Direct).addresses(&inside), ["grpc+tcp://c:1"]);
        assert_eq!(via(Locations::Proxy).addresses(&both), ["grpc+tcp://c:1"]);
        assert!(via(Locations::Direct).addresses(&[]).is_empty(), "a committed write goes nowhere");
    }

    #[test]
    fn clients_are_told_the_address_of_their_listener() {
        let two = node(&[("internal", "grpc+tcp://first:1"), ("external", "grpc+tcp://outside:1")]);
        assert_eq!(address(&two, "external"), Some("grpc+tcp://outside:1"));
        assert_eq!(address(&two, "internal"), Some("grpc+tcp://first:1"));
        assert_eq!(address(&two, ""), Some("grpc+tcp://first:1"));
        assert_eq!(address(&two, "other"), None, "it is not reached there");
        assert_eq!(address(&node(&[]), "external"), Some("grpc+tcp://first:1"), "it has no names");
    }
}
