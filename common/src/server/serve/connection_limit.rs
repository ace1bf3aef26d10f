//! How many connections each port may have: all ports together fewer than the files that the process may open, so that
//! clients of one port can neither close the others nor keep a node from opening parts. Connections that have not begun have
//! fewer places: see `opening_connections`.

use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};

use crate::fairness::KeyedCounts;
use crate::http2::PortKind;
use crate::ip_network::network_of;

/// Maximum number of connections of a port, whatever the process may open.
const MAX_CONNECTIONS: usize = 10_000;
/// Maximum number of connections of the HTTP port: probes and scrapers are few.
const MAX_HTTP_CONNECTIONS: usize = 512;

/// Maximum number of connections of all ports of this kind together.
pub fn of(port: PortKind) -> usize {
    share(port, open_files())
}

/// Maximum number of connections of clients: as configured, but at most half of the files that the process may open; 0: that
/// of [`of`].
pub fn of_clients(configured: usize) -> usize {
    match configured {
        0 => of(PortKind::Flight),
        most => most.min(open_files() / 2).max(1),
    }
}

/// How many files the process may open.
fn open_files() -> usize {
    let files = getrlimit(Resource::Nofile).current.and_then(|files| usize::try_from(files).ok());
    files.unwrap_or(usize::MAX)
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

/// Counts a connection that is closed because of a limit.
pub fn count_refused(port: PortKind, excess: ConnectionExcess) {
    let scope = match excess {
        ConnectionExcess::All => "all",
        ConnectionExcess::Network => "network",
    };
    metrics::counter!("volley_connections_refused_total", "port" => port.label(), "scope" => scope).increment(1);
}

/// Connections that are counted in all and by network, which is an IPv4 address or an IPv6 network of 64 bits.
#[derive(Debug)]
pub struct ConnectionCounts {
    most: usize,
    most_per_network: usize,
    counts: Mutex<KeyedCounts<IpAddr>>,
}

/// Why a connection is one too many.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnectionExcess {
    /// There are too many.
    All,
    /// There are too many of its network.
    Network,
}

impl ConnectionCounts {
    /// At most `most` connections in all, and `most_per_network` of each network.
    pub fn new(most: usize, most_per_network: usize) -> Arc<Self> {
        Arc::new(ConnectionCounts { most, most_per_network, counts: Mutex::default() })
    }

    /// Counts a connection in until the permit is dropped.
    ///
    /// # Errors
    /// Which limit is reached.
    pub fn count_in(self: &Arc<Self>, peer: IpAddr) -> Result<ConnectionPermit, ConnectionExcess> {
        let network = network_of(peer);
        let mut counts = self.counts.lock();
        if counts.all() >= self.most {
            return Err(ConnectionExcess::All);
        }
        if counts.of(&network) >= self.most_per_network {
            return Err(ConnectionExcess::Network);
        }
        counts.add(Some(network));
        Ok(ConnectionPermit { counts: self.clone(), network })
    }

    /// How many connections there are.
    pub fn all(&self) -> usize {
        self.counts.lock().all()
    }

    /// Why the log says that a connection was refused.
    pub fn refusal(&self, excess: ConnectionExcess) -> String {
        match excess {
            ConnectionExcess::All => {
                format!("{} connections are open, the most of this listener (max_connections, open files)", self.most)
            }
            ConnectionExcess::Network => format!(
                "its address has {} connections open, the most that one may have (max_connections_per_address)",
                self.most_per_network
            ),
        }
    }
}

/// A connection that is among the [`ConnectionCounts`].
#[derive(Debug)]
pub struct ConnectionPermit {
    counts: Arc<ConnectionCounts>,
    network: IpAddr,
}

impl Drop for ConnectionPermit {
    fn drop(&mut self) {
        self.counts.counts.lock().remove(&self.network);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
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

    fn admit(counts: &Arc<ConnectionCounts>, peer: &str, count: usize) -> Vec<ConnectionPermit> {
        (0..count).map_while(|_| counts.count_in(peer.parse().ok()?).ok()).collect()
    }

    #[test]
    fn one_network_takes_no_more_than_its_share() {
        let counts = ConnectionCounts::new(20, 10);
        let first = admit(&counts, "192.0.2.1", 80);
        assert_eq!(first.len(), 10);
        assert!(admit(&counts, "::ffff:192.0.2.1", 1).is_empty(), "it is the same address");
        let second = admit(&counts, "2001:db8::1", 6);
        let third = admit(&counts, "2001:db8::2", 80);
        assert_eq!((second.len(), third.len()), (6, 4), "they are of one network");
        assert!(admit(&counts, "192.0.2.2", 1).is_empty(), "all are taken");
        drop(first);
        assert_eq!(admit(&counts, "192.0.2.2", 80).len(), 10);
        drop((second, third));
        assert!(counts.counts.lock().is_empty());
    }

    #[test]
    fn configured_connections_leave_files_over() {
        assert_eq!(of_clients(3), 3);
        assert_eq!(of_clients(0), of(PortKind::Flight));
        assert!(of_clients(usize::MAX) <= open_files() / 2);
    }

    #[test]
    fn refusal_names_the_limit_that_is_reached() {
        let counts = ConnectionCounts::new(3, 2);
        let held = admit(&counts, "192.0.2.1", 5);
        assert_eq!(held.len(), 2);
        let excess = counts.count_in("192.0.2.1".parse().unwrap()).unwrap_err();
        assert!(counts.refusal(excess).contains("2 connections open, the most that one may have"));
        let last = admit(&counts, "192.0.2.2", 5);
        assert_eq!((last.len(), counts.all()), (1, 3));
        let excess = counts.count_in("192.0.2.3".parse().unwrap()).unwrap_err();
        assert!(counts.refusal(excess).contains("max_connections,"));
    }
}
