//! One session: reports from a node, orders to it.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Status, Streaming};
use volley_common::cluster_id::{Relation, relation};
use volley_common::local_read::socket_hints::is_sound;
use volley_common::tls::Caller;
use volley_common::wire::PROTOCOL;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{Node, NodeState, RegisterNode, SetNodeState};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{HeldPart, Hello, NodeOrder, NodeReport, Welcome};
use volley_common::{Error, NodeId, PartId, Result, listen};

use super::inventory_digest::InventoryCheck;
use super::{MAX_QUEUED_ORDERS, NodeMembership, NodeSession, OrderSender};
use crate::catalog::nodes::removed_node;
use crate::directory_updates::identity_snapshot;
use crate::node_claims::check_registration;
use crate::scheduler::reconcile::{CatalogHistory, VersionSnapshot};

/// How long a node that opened a session may take to send its hello.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum number of reports of a node that wait to be handled; beyond that the node is slowed down.
const MAX_QUEUED_REPORTS: usize = 32;

/// A report and the time of its arrival.
pub(super) struct ReceivedReport {
    pub(super) at: Instant,
    pub(super) report: Report,
}

/// The state of one session that only its own task uses.
pub struct SessionState {
    pub(super) node: NodeId,
    pub(super) session: u64,
    pub(super) boot: u64,
    /// When the node's health was last written to the catalog.
    pub(super) health_written: Instant,
    /// Every table's version when the inventory was requested.
    pub(super) before: VersionSnapshot,
    /// Parts that the node was copying, or reported as new, since the inventory was requested.
    pub(super) busy: BTreeSet<PartId>,
    /// The pages of the inventory that have arrived.
    pub(super) inventory: Vec<HeldPart>,
    /// Whether the catalog may have lost commits of the node's parts. Complete once the node is reconciled.
    pub(super) history: CatalogHistory,
}

impl SessionState {
    /// That of a session of the catalog's complete history: its node, its id, and the boot id of the node's process.
    pub fn new(node: NodeId, session: u64, boot: u64) -> SessionState {
        SessionState {
            node,
            session,
            boot,
            health_written: Instant::now(),
            before: VersionSnapshot::new(),
            busy: BTreeSet::new(),
            inventory: Vec::new(),
            history: CatalogHistory::Complete,
        }
    }
}

impl NodeMembership {
    /// Begins a session: reads the node's hello, registers it, sends the welcome, and serves the session in a task.
    ///
    /// # Errors
    /// UNAVAILABLE with the leader's address in the metadata: this coordinator does not lead, or is stopping.
    /// FAILED_PRECONDITION: a node of another cluster, with a protocol that is too new or too old, or with the id of a node in
    /// session. PERMISSION_DENIED: the caller is not a node, or its certificate is not that of this node. UNAVAILABLE: another
    /// node has its certificate.
    pub async fn begin_session(
        self: Arc<Self>,
        caller: Caller,
        mut reports: Streaming<NodeReport>,
    ) -> Result<impl Stream<Item = Result<NodeOrder, Status>> + Send + 'static, Status> {
        let certificate_name = caller.node_name()?.unwrap_or_default().to_string();
        if !self.raft.is_leader() || self.stop.is_cancelled() {
            return Err(self.not_leader());
        }
        let first = tokio::time::timeout(HELLO_TIMEOUT, reports.message())
            .await
            .map_err(|_| Error::deadline("a session begins with a hello, and none arrived"))??;
        let Some(Report::Hello(hello)) = first.and_then(|report| report.report) else {
            return Err(Error::invalid("a session begins with a hello").into());
        };
        let history = self.history_since(&hello).await?;
        // The certificate proves the name, not the hello.
        let node = Node { certificate_name, ..self.check_hello(hello)? };
        let (id, boot) = (NodeId(node.id), node.boot);
        self.check_name(&caller, id)?;
        let opening = self.require_only_process(&node).await?;
        // Another process may have registered meanwhile.
        self.check_name(&caller, id)?;
        self.state.lock().last_heard.insert(id, Instant::now());
        self.raft.propose_if_leader(Op::RegisterNode(RegisterNode { node: Some(node) })).await?;
        let (orders, queued_orders) = mpsc::channel(MAX_QUEUED_ORDERS);
        let close = CancellationToken::new();
        let session = self.open_session(id, boot, orders.clone(), close.clone(), history)?;
        drop(opening);
        tracing::info!(node = %id, "session with a node began");
        if history == CatalogHistory::Recovered {
            tracing::warn!(node = %id, "the catalog was recovered or is older than this node has seen: parts of the node that it does not list are orphaned: set aside in orphaned/");
        }
        let state = SessionState { history, ..SessionState::new(id, session, boot) };
        tokio::spawn(async move {
            let lost = tokio::select! {
                () = close.cancelled() => false,
                () = self.stop.cancelled() => false,
                reason = self.serve_session(state, reports) => {
                    tracing::warn!(node = %id, reason, "session with a node ended");
                    true
                }
            };
            self.end_session(id, session, boot, lost, &orders).await;
        });
        Ok(ReceiverStream::new(queued_orders))
    }

    /// Checks that the node may register with the certificate of its caller.
    fn check_name(&self, caller: &Caller, node: NodeId) -> Result<()> {
        // Before the catalog is locked: it reads it.
        let now_ms = self.raft.now_ms();
        check_registration(&self.raft.view(), caller, node, now_ms, self.config.repair_delay_ms)
    }

    /// Whether the catalog may have lost commits since the node's inventory was last reconciled: by a recovery, or because it
    /// was restored from a copy that is older than what the node has seen.
    async fn history_since(&self, hello: &Hello) -> Result<CatalogHistory> {
        self.begin_leadership().await?;
        let reconciled = if hello.reconciled.is_empty() { &hello.cluster } else { &hello.reconciled };
        let is_same = reconciled.is_empty() || *reconciled == self.raft.view().require_cluster()?.id;
        let lost = !is_same || self.leadership.has_lost(hello.catalog_epoch, hello.catalog_index);
        Ok(if lost { CatalogHistory::Recovered } else { CatalogHistory::Complete })
    }

    /// Notes how far the catalog is early in this term, before its first node registers.
    pub(super) async fn begin_leadership(&self) -> Result<()> {
        let term = self.raft.metrics().current_term;
        if !self.leadership.is_known(term) {
            // After this everything that earlier leaders committed is applied here.
            drop(self.raft.read().await?);
            self.leadership.begin(term, *self.raft.watch_applied().borrow());
        }
        Ok(())
    }

    /// Checks that a node may join this cluster; returns its row.
    fn check_hello(&self, hello: Hello) -> Result<Node> {
        let cluster = self.raft.view().require_cluster()?.id.clone();
        check_protocol(hello.protocol)?;
        let known = if hello.cluster.is_empty() { Relation::Same } else { relation(&cluster, &hello.cluster) };
        if known == Relation::Later {
            return Err(Error::unavailable(format!(
                "this coordinator is superseded: cluster {cluster} was recovered without it, and is {} now",
                hello.cluster
            )));
        }
        if known == Relation::Foreign {
            return Err(Error::precondition(format!(
                "the node's data folder belongs to cluster {}, and this is cluster {cluster}: give it another --data-dir, or other --coordinators",
                hello.cluster
            )));
        }
        let mut node = hello.node.ok_or_else(|| Error::invalid("the hello has no node"))?;
        if self.raft.view().was_removed(NodeId(node.id)) {
            return Err(removed_node(NodeId(node.id)));
        }
        if node.id == 0 || node.boot == 0 {
            return Err(Error::invalid("the hello has no node id or boot id"));
        }
        for uri in node.listeners.iter().map(|listener| &listener.uri).chain([&node.flight_uri]) {
            listen::check_advertise(uri).map_err(|e| e.at("the node's Flight address"))?;
        }
        listen::check_advertise(&node.peer_addr).map_err(|e| e.at("the node's peer address"))?;
        // A node on a system without boot ids has one that no client can use.
        node.local_socket = node.local_socket.filter(is_sound);
        node.state = NodeState::Alive as i32;
        Ok(node)
    }

    /// Opens the session, closes an older one of the same node, and sends the welcome as the first order; returns the session's id.
    ///
    /// # Errors
    /// UNAVAILABLE: this coordinator does not lead, is stopping, or its cluster is not formed.
    pub fn open_session(
        &self,
        node: NodeId,
        boot: u64,
        orders: OrderSender,
        close: CancellationToken,
        history: CatalogHistory,
    ) -> Result<u64, Status> {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        // Before the lock, because it may be large. A later one is sent to this session, which has the epoch of this one.
        let identity = identity_snapshot(&self.raft.view(), &self.config);
        let identity_epoch = identity.epoch;
        // Broadcasts take this lock: a change that the welcome does not contain yet is broadcast to this session later.
        let mut state = self.state.lock();
        let welcome = {
            let catalog = self.raft.view();
            let cluster = catalog.require_cluster()?;
            Welcome {
                cluster: cluster.id.clone(),
                ticket_key: cluster.ticket_key.clone(),
                heartbeat_ms: self.config.heartbeat_ms,
                members: Some(self.members(&catalog)),
                cancelled: catalog.cancelled().copied().collect(),
                recovered: history == CatalogHistory::Recovered,
                identity: Some(identity),
                lease_ms: self.config.lease_ms,
            }
        };
        let welcome = self.new_order(What::Welcome(welcome));
        if !self.raft.is_leader() || self.stop.is_cancelled() {
            return Err(self.not_leader());
        }
        orders.try_send(Ok(welcome)).map_err(|_| Status::internal("a new queue has room"))?;
        let session = NodeSession {
            id,
            boot,
            orders,
            check: InventoryCheck::default(),
            // The welcome has this list, or a newer one.
            members_generation: state.members_generation,
            identity_epoch,
            identity_waits_since: None,
            close,
        };
        if let Some(old) = state.sessions.insert(node, session) {
            old.close.cancel();
        }
        Ok(id)
    }

    /// Handles reports until the stream ends, including those that arrived before; returns why it ended.
    pub async fn serve_session(
        &self,
        mut session: SessionState,
        reports: impl Stream<Item = Result<NodeReport, Status>> + Unpin,
    ) -> String {
        let node = session.node;
        let (received, mut queued_reports) = mpsc::channel(MAX_QUEUED_REPORTS);
        let receiving = self.receive_reports(node, reports, received);
        let mut handling = pin!(async {
            while let Some(received) = queued_reports.recv().await {
                if let Err(error) = self.handle_report(&mut session, received).await {
                    tracing::warn!(%node, %error, "cannot handle a report of a node");
                }
            }
        });
        let reason = tokio::select! {
            biased;
            reason = receiving => reason,
            () = &mut handling => return "its reports ended".into(),
        };
        if tokio::time::timeout(self.config.server.request_timeout(), handling).await.is_err() {
            tracing::warn!(%node, "timed out handling the last reports of a node");
        }
        reason
    }

    /// Records the arrival of reports, independently of how long handling them takes; returns why they ended.
    async fn receive_reports(
        &self,
        node: NodeId,
        mut reports: impl Stream<Item = Result<NodeReport, Status>> + Unpin,
        received: mpsc::Sender<ReceivedReport>,
    ) -> String {
        loop {
            let report = match reports.next().await {
                Some(Ok(report)) => report.report,
                None => return "the node closed it".into(),
                Some(Err(status)) => return status.message().to_string(),
            };
            let at = Instant::now();
            self.state.lock().last_heard.insert(node, at);
            let Some(report) = report else { continue };
            if received.send(ReceivedReport { at, report }).await.is_err() {
                return "its reports are no longer handled".into();
            }
        }
    }

    /// Cleans up after a session. If the session broke (`lost`) while this coordinator leads, the node is immediately
    /// marked as unreachable.
    async fn end_session(&self, node: NodeId, session: u64, boot: u64, lost: bool, orders: &OrderSender) {
        let is_current = {
            let mut state = self.state.lock();
            let is_current = state.sessions.get(&node).is_some_and(|s| s.id == session);
            if is_current {
                state.sessions.remove(&node);
                state.copies.forget_node(node);
                self.node_reports.heartbeats.lock().remove(&node);
            }
            is_current
        };
        // Best effort: the node may be gone.
        let _ = orders.try_send(Err(self.not_leader()));
        if !(is_current && lost && self.raft.is_leader()) {
            return;
        }
        self.state.lock().last_heard.remove(&node);
        self.set_unreachable(node, boot).await;
    }

    /// Marks a node as unreachable in the catalog, unless it has restarted since.
    pub(super) async fn set_unreachable(&self, node: NodeId, boot: u64) {
        tracing::warn!(%node, "the node is unreachable");
        let change = SetNodeState { node: node.0, state: NodeState::Unreachable as i32, boot };
        match self.raft.propose_if_leader(Op::SetNodeState(change)).await {
            Ok(_) => metrics::counter!("volley_nodes_lost_total").increment(1),
            Err(error) => tracing::warn!(%node, %error, "cannot mark the node as unreachable; trying again"),
        }
    }
}

/// Checks that a node's protocol version differs by at most one, as during a rolling upgrade.
fn check_protocol(version: u32) -> Result<()> {
    if version.abs_diff(PROTOCOL) <= 1 {
        return Ok(());
    }
    let remedy = if version > PROTOCOL { "upgrade the coordinators first" } else { "upgrade the node" };
    Err(Error::precondition(format!(
        "the node has protocol version {version} and this coordinator {PROTOCOL}, which is too far apart: {remedy}, one version at a time"
    )))
}

#[cfg(test)]
mod tests {
    use volley_common::Code;

    use super::*;

    #[test]
    fn protocol_may_differ_by_one_version() {
        for version in [PROTOCOL - 1, PROTOCOL, PROTOCOL + 1] {
            check_protocol(version).unwrap();
        }
        let error = check_protocol(PROTOCOL + 2).unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("coordinators first"), "{error}");
    }
}
