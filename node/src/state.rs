//! What all tasks of a node share.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::listen::host_port;
use volley_common::proxy::Relay;
use volley_common::ticket::TicketKey;
use volley_common::wire::{catalog, cluster};
use volley_common::{Error, NodeId, Result, clock};

use crate::config::Config;
pub use crate::coordinators::Coordinators;
use crate::copy::PartCopier;
use crate::storage::PartStore;

/// What all tasks of a node share; one per process, behind an [`Arc`].
pub struct Shared {
    /// The configuration that the process was started with.
    pub config: Config,
    /// The parts on this node's disk.
    pub store: PartStore,
    /// Connections to other members.
    pub relay: Relay,
    /// The cluster's ticket key; `None` until the node's first session.
    pub ticket_key: ArcSwapOption<TicketKey>,
    /// The cluster's id; `None` until the node joined one.
    pub cluster: ArcSwapOption<String>,
    /// Who else is there, as the leader last said.
    pub members: ArcSwap<Members>,
    /// Flights whose tickets are refused.
    pub cancelled: Cancelled,
    /// The coordinators' peer calls, with fail-over.
    pub coordinators: Coordinators,
    /// Puts that are being taken in: what a shutdown waits for.
    pub puts: TaskTracker,
    /// Copies parts from other nodes.
    pub copier: PartCopier,
    /// Where members reach this node: HOST:PORT.
    pub peer_addr: String,
    /// Where clients reach it: `grpc+tcp://HOST:PORT`.
    pub flight_uri: String,
    /// Where the clients of each named listener reach it.
    pub listeners: Vec<catalog::NodeListener>,
    /// Cancelled when the process is to stop.
    pub shutdown: CancellationToken,
}

impl Shared {
    /// This node's id.
    pub fn node(&self) -> NodeId {
        self.store.node()
    }

    /// The ticket key.
    ///
    /// # Errors
    /// UNAVAILABLE before the node has met its coordinators.
    pub fn ticket_key(&self) -> Result<Arc<TicketKey>> {
        self.ticket_key.load_full().ok_or_else(|| {
            Error::unavailable("this node has not yet reached its coordinators and cannot verify tickets: try again")
        })
    }
}

/// The members of the cluster, as the leader last said.
#[derive(Clone, Debug, Default)]
pub struct Members {
    /// Every known node, live or silent.
    pub nodes: BTreeMap<NodeId, catalog::Node>,
    /// Flight addresses (HOST:PORT) of the coordinators.
    pub coordinator_flight: Vec<String>,
    /// Peer addresses (HOST:PORT) of the coordinators, in the same order.
    pub coordinator_peer: Vec<String>,
}

impl Members {
    /// Another node.
    pub fn node(&self, id: NodeId) -> Option<&catalog::Node> {
        self.nodes.get(&id)
    }

    /// Where clients and members' relays reach a node's Flight service, as HOST:PORT.
    pub fn flight_addr(&self, id: NodeId) -> Option<String> {
        self.node(id).map(|node| host_port(&node.flight_uri).to_string())
    }
}

impl From<cluster::Members> for Members {
    fn from(members: cluster::Members) -> Self {
        Members {
            nodes: members.nodes.into_iter().map(|node| (NodeId(node.id), node)).collect(),
            coordinator_flight: members.coordinator_flight,
            coordinator_peer: members.coordinator_peer,
        }
    }
}

/// Flights (FlightInfos) that were cancelled, until their tickets expire.
#[derive(Default)]
pub struct Cancelled(Mutex<HashMap<u64, u64>>);

impl Cancelled {
    /// Whether tickets of this flight are refused now.
    pub fn contains(&self, flight: u64) -> bool {
        self.0.lock().contains_key(&flight)
    }

    /// Adds cancelled flights and forgets those whose time is over.
    pub fn add(&self, flights: &[catalog::Cancelled]) {
        let now = clock::now_ms();
        let mut map = self.0.lock();
        map.retain(|_, until| *until > now);
        map.extend(flights.iter().map(|c| (c.flight, c.until_ms)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancelled_flight_is_forgotten_after_its_time() {
        let cancelled = Cancelled::default();
        let until_ms = clock::now_ms() + 60_000;
        cancelled.add(&[catalog::Cancelled { flight: 1, until_ms }, catalog::Cancelled { flight: 2, until_ms: 1 }]);
        assert!(cancelled.contains(1));
        cancelled.add(&[]);
        assert!(cancelled.contains(1) && !cancelled.contains(2));
    }
}
