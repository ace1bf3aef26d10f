//! Loopback addresses that one cluster has to itself, and the ports on them.

use std::net::TcpListener;

/// The Flight port of coordinators.
pub const COORDINATOR_PORT: u16 = 8815;
/// The Flight port of nodes.
pub const NODE_PORT: u16 = 8816;
/// The offset from a member's Flight port to its peer port.
pub const PEER_OFFSET: u16 = 10;
/// The offset from a member's Flight port to its HTTP port.
pub const HTTP_OFFSET: u16 = 20;

/// Bound while a network is in use; no member listens there.
const GUARD: (u8, u16) = (254, 8800);
/// The last part of the first node's address; the first coordinator's is 1.
const FIRST_NODE: u8 = 101;
/// The offset from the address where others reach a member behind a proxy to the one where it listens.
const BEHIND_PROXY: u8 = 40;

/// A network `127.A.B.*` that no other cluster on this machine uses, until it is dropped.
///
/// Members have the usual ports on addresses of their own: a peer list can be written before its members run, a
/// restarted member keeps its address, and tests do not compete for ports.
pub struct LoopbackNetwork {
    prefix: String,
    _guard: TcpListener,
}

impl LoopbackNetwork {
    /// Reserves a free network.
    pub fn reserve() -> LoopbackNetwork {
        for _ in 0..1000 {
            let prefix = format!("127.{}.{}", rand::random_range(1..=254), rand::random_range(0..=254));
            if let Ok(guard) = TcpListener::bind((format!("{prefix}.{}", GUARD.0), GUARD.1)) {
                return LoopbackNetwork { prefix, _guard: guard };
            }
        }
        panic!("no free address among 127.0.0.0/8: does this system have only 127.0.0.1?");
    }

    /// A host of the network, `last` from 1 to 253.
    pub fn host(&self, last: u8) -> String {
        format!("{}.{last}", self.prefix)
    }

    /// The host of the coordinator with this index, from 0.
    pub fn coordinator(&self, index: usize) -> String {
        self.host(index as u8 + 1)
    }

    /// The host of the node with this index, from 0.
    pub fn node(&self, index: usize) -> String {
        self.host(index as u8 + FIRST_NODE)
    }

    /// Where the coordinator with this index listens if a proxy uses its own host.
    pub fn coordinator_behind_proxy(&self, index: usize) -> String {
        self.host(index as u8 + 1 + BEHIND_PROXY)
    }

    /// Where the node with this index listens if a proxy uses its own host.
    pub fn node_behind_proxy(&self, index: usize) -> String {
        self.host(index as u8 + FIRST_NODE + BEHIND_PROXY)
    }
}
