//! Sessions of the leading coordinator with nodes: who was heard from when, what they hold, what they are told.
//!
//! | module | what it holds |
//! |---|---|
//! | [`session`] | one session: a node's reports in, orders out |
//! | [`leader`] | what the leader does every second |
//! | `arranging` | the leader's work on where parts are |
//! | [`digest`] | does a node hold what the catalog says |
//! | [`copying`] | orders to copy that are under way |
//! | [`merging`] | merges of small parts |
//!
//! Only the leader has sessions. One that loses the leadership ends them, and nodes look for the next;
//! a new leader gives every node a full silence period before it calls any silent.

mod arranging;
pub mod copying;
pub mod digest;
pub mod leader;
pub mod merging;
pub mod session;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::{Members, NodeOrder};
use volley_common::{Error, NodeId};

use crate::catalog::Catalog;
use crate::service::Service;
use arranging::Arranging;
use copying::Copying;
use digest::{Check, Expected};
use merging::Merging;

/// The metadata that names the leader's peer address to who came to another coordinator.
pub const LEADER_HEADER: &str = "x-volley-leader";
/// Orders that may wait for a node; one that takes none for so long loses its session.
const WAITING_ORDERS: usize = 1024;

/// All sessions of this coordinator.
pub struct Membership {
    service: Arc<Service>,
    state: Mutex<State>,
    next_session: AtomicU64,
    next_order: AtomicU64,
    /// Somebody has room for another copy, or there is one to make.
    wake: Notify,
}

#[derive(Default)]
struct State {
    /// Since when this coordinator leads; none while it does not.
    led_since: Option<Instant>,
    sessions: BTreeMap<NodeId, Session>,
    /// When a node last spoke; set before it is registered, so that it is not at once called silent.
    heard: BTreeMap<NodeId, Instant>,
    /// What all sessions were last told.
    members: Members,
    cancelled: Vec<u64>,
    expected: Expected,
    copying: Copying,
    merging: Merging,
    arranging: Arranging,
}

struct Session {
    id: u64,
    orders: Orders,
    check: Check,
    end: CancellationToken,
}

/// The way to a node.
type Orders = mpsc::Sender<Result<NodeOrder, Status>>;

impl Membership {
    /// Without any session yet.
    pub fn new(service: Arc<Service>) -> Arc<Self> {
        Arc::new(Membership {
            service,
            state: Mutex::default(),
            next_session: AtomicU64::new(1),
            next_order: AtomicU64::new(1),
            wake: Notify::new(),
        })
    }

    fn order(&self, what: What) -> NodeOrder {
        NodeOrder { order: self.next_order.fetch_add(1, Ordering::Relaxed), what: Some(what) }
    }

    /// Sends an order if the node is in session; gives the order's number. A node that takes no orders is cut off.
    fn tell(&self, node: NodeId, what: What) -> Option<u64> {
        let order = self.order(what);
        let number = order.order;
        let state = self.state.lock();
        let session = state.sessions.get(&node)?;
        if session.orders.try_send(Ok(order)).is_err() {
            tracing::warn!(%node, "the node takes no orders; ending its session");
            session.end.cancel();
            return None;
        }
        Some(number)
    }

    fn tell_all(&self, what: &What) {
        let nodes: Vec<NodeId> = self.state.lock().sessions.keys().copied().collect();
        for node in nodes {
            self.tell(node, what.clone());
        }
    }

    /// What a node is told that came to the wrong coordinator.
    fn not_leading(&self) -> Status {
        let leader = self.service.raft.leader().filter(|id| *id != self.service.config.id);
        let addr = leader.and_then(|id| self.service.raft.peers().get(&id).cloned());
        let mut status = Status::from(Error::unavailable(match &addr {
            Some(addr) => format!("coordinator {} does not lead; {addr} does", self.service.config.id),
            None => format!("coordinator {} does not lead, and knows of no leader: try again", self.service.config.id),
        }));
        if let Some(value) = addr.and_then(|addr| addr.parse().ok()) {
            status.metadata_mut().insert(LEADER_HEADER, value);
        }
        status
    }

    /// Everybody whom a node may have to reach. Coordinators serve Flight on their peer ports too, so that members need
    /// no other address of them.
    fn members(&self, catalog: &Catalog) -> Members {
        let peers: Vec<String> = self.service.raft.peers().values().cloned().collect();
        Members {
            nodes: catalog.nodes().cloned().collect(),
            coordinator_flight: peers.clone(),
            coordinator_peer: peers,
        }
    }

    /// How many nodes are in session with this coordinator.
    pub fn sessions(&self) -> usize {
        self.state.lock().sessions.len()
    }

    fn silence(&self) -> Duration {
        self.service.config.node_timeout()
    }
}
