//! How many connections each port may have: all ports together fewer than the files that the process may open, so that
//! clients of one port can neither close the others nor keep a node from opening parts.
//!
//! Connections that are not open yet, of which anybody may begin any number, have a smaller limit of their own, and each
//! address half of that: who sends half a handshake takes no place from those who are served.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};

use crate::http2::PortKind;

/// Maximum number of connections of a port, whatever the process may open.
const MAX_CONNECTIONS: usize = 10_000;
/// Maximum number of connections of the HTTP port: probes and scrapers are few.
const MAX_HTTP_CONNECTIONS: usize = 512;

/// At least this many connections of a listener may be in their opening.
const MIN_OPENING: usize = 16;

/// Maximum number of connections of all ports of this kind together.
pub fn of(port: PortKind) -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    share(port, files.unwrap_or(usize::MAX))
}

/// The share of a process that may open this many files: half for clients, an eighth for members, a sixteenth for HTTP; the
/// rest is for files.
fn share(port: PortKind, files: usize) -> usize {
    match port {
        PortKind::Flight => (files / 2).min(MAX_CONNECTIONS),
        PortKind::Peer => (files / 8).min(MAX_CONNECTIONS),
        PortKind::Http => (files / 16).min(MAX_HTTP_CONNECTIONS),
    }
    .max(1)
}

/// The connections of one listener that are accepted, and of which the beginning is awaited.
#[derive(Debug)]
pub struct OpeningConnections {
    limit: usize,
    by_network: Mutex<HashMap<IpAddr, usize>>,
}

impl OpeningConnections {
    /// Those of a listener with this many connections.
    pub fn new(connections: usize) -> Arc<Self> {
        Arc::new(OpeningConnections { limit: (connections / 4).max(MIN_OPENING), by_network: Mutex::default() })
    }

    /// Counts a connection in until the permit is dropped; `None` if there are too many, or too many of its network.
    pub fn admit(self: &Arc<Self>, peer: IpAddr) -> Option<OpeningPermit> {
        let network = network_of(peer);
        let mut by_network = self.by_network.lock();
        let all: usize = by_network.values().sum();
        let own = by_network.get(&network).copied().unwrap_or(0);
        if all >= self.limit || own >= self.limit / 2 {
            return None;
        }
        by_network.insert(network, own + 1);
        drop(by_network);
        Some(OpeningPermit { opening: self.clone(), network })
    }
}

/// A connection that is among the [`OpeningConnections`].
#[derive(Debug)]
pub struct OpeningPermit {
    opening: Arc<OpeningConnections>,
    network: IpAddr,
}

impl Drop for OpeningPermit {
    fn drop(&mut self) {
        let mut by_network = self.opening.by_network.lock();
        if let Some(own) = by_network.get_mut(&self.network) {
            *own -= 1;
            if *own == 0 {
                by_network.remove(&self.network);
            }
        }
    }
}

/// An IPv4 address, or the 64 bits of an IPv6 address that are a network's: its owner has all addresses in it.
fn network_of(peer: IpAddr) -> IpAddr {
    match peer.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_ports_together_leave_files_over() {
        for files in [64, 1024, 4096, 20_000, 1 << 20] {
            let all: usize =
                [PortKind::Flight, PortKind::Peer, PortKind::Http].map(|port| share(port, files)).iter().sum();
            assert!(all <= files * 3 / 4, "{all} of {files}");
        }
    }
    #[test]
    fn one_address_takes_half_of_the_opening_connections() {
        let opening = OpeningConnections::new(80);
        let admit = |peer: &str, count: usize| -> Vec<OpeningPermit> {
            (0..count).map_while(|_| opening.admit(peer.parse().ok()?)).collect()
        };
        let first = admit("192.0.2.1", 80);
        assert_eq!(first.len(), 10);
        assert!(admit("::ffff:192.0.2.1", 1).is_empty(), "it is the same address");
        let second = admit("2001:db8::1", 6);
        let third = admit("2001:db8::2", 80);
        assert_eq!((second.len(), third.len()), (6, 4), "they are of one network");
        assert!(admit("192.0.2.2", 1).is_empty(), "all are taken");
        drop(first);
        assert_eq!(admit("192.0.2.2", 80).len(), 10);
        drop((second, third));
        assert!(opening.by_network.lock().is_empty());
        assert_eq!(OpeningConnections::new(1).limit, MIN_OPENING);
    }
}
