//! One process for each node id: while a node is in session, another process with its id is refused, such as one that was
//! started on a copy of its data folder. Both would have the same parts in the catalog, but not on disk.

use std::time::{Duration, Instant};

use tokio::sync::MutexGuard;
use volley_common::listen::host_port;
use volley_common::wire::catalog::Node;
use volley_common::{Error, NodeId, Result};

use super::{NodeMembership, OrderSender};

/// A process that ended may have reports on their way. After this many heartbeat intervals they have arrived.
const IN_FLIGHT: u32 = 1;
/// The period in which a process in session is heard, in heartbeat intervals: one that lives reports after `IN_FLIGHT`.
const PERIOD: u32 = 3;

impl NodeMembership {
    /// Waits until no other process has a session as this node: until the session of an earlier process of the node ends, as
    /// it does when that process ends, or when it is silent for the node timeout. The node registers and opens its session
    /// while it holds the guard.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: another process goes on reporting as this node.
    pub(super) async fn require_only_process(&self, node: &Node) -> Result<MutexGuard<'_, ()>> {
        let heartbeat = Duration::from_millis(self.config.heartbeat_ms);
        let began = Instant::now();
        loop {
            let opening = self.opening.lock().await;
            let Some(other) = self.session_of_another_process(node) else { return Ok(opening) };
            drop(opening);
            if tokio::time::timeout(heartbeat * PERIOD, other.closed()).await.is_ok() {
                continue;
            }
            let heard = self.state.lock().last_heard.get(&NodeId(node.id)).copied();
            if heard.is_some_and(|at| at.duration_since(began) > heartbeat * IN_FLIGHT) {
                return Err(self.in_use(node));
            }
        }
    }

    /// The orders of the session that another process has as this node, if the stream of that session is still open.
    fn session_of_another_process(&self, node: &Node) -> Option<OrderSender> {
        let state = self.state.lock();
        let session = state.sessions.get(&NodeId(node.id)).filter(|session| session.boot != node.boot)?;
        Some(session.orders.clone()).filter(|orders| !orders.is_closed())
    }

    fn in_use(&self, node: &Node) -> Error {
        let id = NodeId(node.id);
        let other = self.raft.view().node(id).map(|other| host_port(&other.flight_uri).to_string());
        let other = other.unwrap_or_else(|| "another address".into());
        tracing::error!(node = %id, address = %host_port(&node.flight_uri), other, "a second process has the id of a node in session; it is refused");
        Error::precondition(format!(
            "node {id} is in session at {other}, and this process has the same id: its data folder is a copy of that node's; start it with an empty --data-dir, and it joins as a new node"
        ))
    }
}
