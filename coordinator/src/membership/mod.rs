//! Sessions of the leader with nodes, and the leader's periodic work: failure detection, rebalancing, repair, compaction.
//!
//! | module | what it holds |
//! |---|---|
//! | [`session`] | one session: reports from a node, orders to it |
//! | [`reports`] | what a report changes in the catalog |
//! | [`inventory_digest`] | whether a node holds the parts that the catalog expects |
//! | [`leader_loop`] | the leader's work of every second |
//! | `process_guard` | one process for each node id |
//! | [`leadership`] | whether a node has seen more of the catalog than this leader has |
//! | `rebalance_loop` | placement, copies and excess copies of parts |
//! | [`copy_tracker`] | the copy orders in progress |
//! | [`compaction_loop`] | compactions of small parts |
//! | `identity_loop`, `bootstrap_admin` | signing keys, users and grants for the nodes; the first administrator |
//! | [`node_reports`], [`clock_skew`] | heartbeats, copies and clocks of members, for status reports |
//!
//! Only the leader has sessions. When it loses the leadership it closes them, and nodes connect to the next leader. A new
//! leader waits a full node timeout before it marks any node as unreachable.

mod bootstrap_admin;
pub mod clock_skew;
pub mod compaction_loop;
pub mod copy_tracker;
mod identity_loop;
pub mod inventory_digest;
pub mod leader_loop;
pub mod leadership;
pub mod node_reports;
mod process_guard;
mod rebalance_loop;
pub mod reports;
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
use crate::config::CoordinatorConfig;
use crate::raft::Handle;
use bootstrap_admin::BootstrapAttempts;
use compaction_loop::CompactionState;
use copy_tracker::CopyTracker;
use inventory_digest::{ExpectedDigests, InventoryCheck};
use leadership::Leadership;
use node_reports::NodeReports;
use rebalance_loop::RebalanceState;

/// The metadata key with the leader's peer address, for a node that called another coordinator.
pub const LEADER_HEADER: &str = "x-volley-leader";
/// Maximum number of undelivered orders of a node. When the queue is full its session is closed.
const MAX_QUEUED_ORDERS: usize = 1024;

/// All node sessions of this coordinator, and the leader's periodic work.
pub struct NodeMembership {
    config: Arc<CoordinatorConfig>,
    raft: Handle,
    node_reports: Arc<NodeReports>,
    /// Cancelled when the process is to stop.
    stop: CancellationToken,
    state: Mutex<MembershipState>,
    /// Held from the check that a node has no other session until its new one is open.
    opening: tokio::sync::Mutex<()>,
    next_session: AtomicU64,
    next_order: AtomicU64,
    leadership: Leadership,
    /// Wakes the copy loop: a node has capacity for another copy, or there are parts to copy.
    wake_copies: Notify,
}

#[derive(Default)]
struct MembershipState {
    /// Since when this coordinator leads; `None` while it does not.
    leader_since: Option<Instant>,
    sessions: BTreeMap<NodeId, NodeSession>,
    /// When each node's last report arrived. Set before a node is registered, so that it is not immediately marked as
    /// unreachable.
    last_heard: BTreeMap<NodeId, Instant>,
    /// The newest list of members, which sessions get, and its number.
    members: Members,
    members_generation: u64,
    /// When the list was last sent to some sessions.
    members_batch: Option<Instant>,
    /// The cancelled flights that were last broadcast to all sessions.
    cancelled: Vec<u64>,
    /// When the members were last broadcast, changed or not.
    members_sent: Option<Instant>,
    /// When users and grants were last broadcast.
    identity_sent: Option<Instant>,
    bootstrap: BootstrapAttempts,
    expected: ExpectedDigests,
    copies: CopyTracker,
    compaction: CompactionState,
    rebalance: RebalanceState,
}

struct NodeSession {
    id: u64,
    /// The boot id of the node's process.
    boot: u64,
    orders: OrderSender,
    check: InventoryCheck,
    /// The number of the list of members that was last sent to the node.
    members_generation: u64,
    /// The epoch of the users and grants that were last sent to the node.
    identity_epoch: u64,
    /// Since when the node has not received users and grants that were sent, or are to be; `None`: it has.
    identity_waits_since: Option<Instant>,
    close: CancellationToken,
}

impl NodeSession {
    /// Whether no order waits for the node.
    fn has_received_all(&self) -> bool {
        self.orders.capacity() == self.orders.max_capacity()
    }
}

/// Sends orders to a node.
type OrderSender = mpsc::Sender<Result<NodeOrder, Status>>;

impl NodeMembership {
    /// Starts without sessions.
    pub fn new(
        config: Arc<CoordinatorConfig>,
        raft: Handle,
        node_reports: Arc<NodeReports>,
        stop: CancellationToken,
    ) -> Arc<Self> {
        Arc::new(NodeMembership {
            config,
            raft,
            node_reports,
            stop,
            state: Mutex::default(),
            opening: tokio::sync::Mutex::default(),
            next_session: AtomicU64::new(1),
            next_order: AtomicU64::new(1),
            leadership: Leadership::default(),
            wake_copies: Notify::new(),
        })
    }

    fn new_order(&self, what: What) -> NodeOrder {
        let catalog_index = *self.raft.watch_applied().borrow();
        let catalog_epoch = self.leadership.epoch();
        let order = self.next_order.fetch_add(1, Ordering::Relaxed);
        NodeOrder { order, catalog_index, catalog_epoch, what: Some(what) }
    }

    /// Sends an order to a node in session; returns the order's number. Closes the session if the node's queue is full: no later
    /// order may follow one that the node does not get.
    fn send_order(&self, node: NodeId, what: What) -> Option<u64> {
        let order = self.new_order(what);
        let number = order.order;
        let state = self.state.lock();
        let session = state.sessions.get(&node).filter(|session| !session.close.is_cancelled())?;
        if session.orders.try_send(Ok(order)).is_err() {
            tracing::warn!(%node, "the node does not receive its orders; closing its session");
            session.close.cancel();
            return None;
        }
        Some(number)
    }

    fn broadcast(&self, what: &What) {
        let nodes: Vec<NodeId> = self.state.lock().sessions.keys().copied().collect();
        for node in nodes {
            self.send_order(node, what.clone());
        }
    }

    /// The error for a node that called a coordinator that does not lead, with the leader's address.
    fn not_leader(&self) -> Status {
        let leader = self.raft.leader().filter(|id| *id != self.config.id);
        let addr = leader.and_then(|id| self.raft.peers().get(&id).cloned());
        let mut status = Status::from(Error::unavailable(match &addr {
            Some(addr) => format!("coordinator {} is not the leader; the leader is {addr}", self.config.id),
            None => format!("coordinator {} is not the leader, and knows no leader: try again", self.config.id),
        }));
        if let Some(value) = addr.and_then(|addr| addr.parse().ok()) {
            status.metadata_mut().insert(LEADER_HEADER, value);
        }
        status
    }

    /// All members that a node may have to reach. Coordinators serve Flight on their peer ports too, so members need no
    /// other address of them.
    fn members(&self, catalog: &Catalog) -> Members {
        let peers: Vec<String> = self.raft.peers().values().cloned().collect();
        Members {
            nodes: catalog.nodes().cloned().collect(),
            coordinator_flight: peers.clone(),
            coordinator_peer: peers,
        }
    }

    /// The number of nodes in session with this coordinator.
    pub fn session_count(&self) -> usize {
        self.state.lock().sessions.len()
    }

    /// How long a node may send no report before it is marked as unreachable.
    fn node_timeout(&self) -> Duration {
        self.config.node_timeout()
    }
}
