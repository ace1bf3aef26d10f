//! One session: a node's reports in, orders out.

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
use volley_common::wire::PROTOCOL;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    HolderChange, Node, NodeState, RegisterNode, SetNodeHealth, SetNodeState, UpdateHolders,
};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{
    DeleteParts, Heartbeat, HeldPart, Hello, NodeOrder, NodeReport, SendInventory, Welcome,
};
use volley_common::{Error, NodeId, PartId, Result, listen};

use super::digest::{Check, Digest};
use super::{Membership, Session, WAITING_ORDERS};
use crate::catalog::nodes::removed;
use crate::scheduler::{self, Horizon, Reconciled};
use crate::service::formed;
use crate::service::read::live_ids;

/// A node that opened a session says who it is within so long.
const HELLO_TIME: Duration = Duration::from_secs(10);
/// How often the wording of what is wrong with a node may change in the catalog.
const SAME_TROUBLE: Duration = Duration::from_secs(30);
/// Changes of holders in one command, and parts in one order to delete.
const BATCH: usize = 10_000;
/// Reports that wait to be taken in; when they are so many the node is made to wait.
const WAITING_REPORTS: usize = 32;
/// Parts that a node may report to hold: bounds the memory of one inventory.
const MAX_INVENTORY: usize = 4_000_000;

/// A report, and when it came.
struct Arrived {
    at: Instant,
    report: Report,
}

/// What one session's task keeps to itself.
pub(super) struct Visit {
    node: NodeId,
    session: u64,
    boot: u64,
    /// When the catalog last learned of the node's health.
    told: Instant,
    /// Every table's version when the inventory was asked for.
    before: Horizon,
    /// Parts that it came to hold, or was copying, since then.
    busy: BTreeSet<PartId>,
    inventory: Vec<HeldPart>,
}

impl Visit {
    pub(super) fn new(node: NodeId, session: u64, boot: u64) -> Visit {
        let (told, before) = (Instant::now(), Horizon::new());
        Visit { node, session, boot, told, before, busy: BTreeSet::new(), inventory: Vec::new() }
    }
}

impl Membership {
    /// Begins a session: reads the node's hello, registers it, welcomes it, and serves it in a task.
    ///
    /// # Errors
    /// UNAVAILABLE with the leader's address in the metadata: this coordinator does not lead, or is about to stop.
    /// FAILED_PRECONDITION: a node of another cluster, or of a protocol that is too new or too old.
    pub async fn begin(
        self: Arc<Self>,
        mut reports: Streaming<NodeReport>,
    ) -> Result<impl Stream<Item = Result<NodeOrder, Status>> + Send + 'static, Status> {
        if !self.service.raft.is_leader() || self.service.stop.is_cancelled() {
            return Err(self.not_leading());
        }
        let first = tokio::time::timeout(HELLO_TIME, reports.message())
            .await
            .map_err(|_| Error::deadline("a session begins with a hello, and none came"))??;
        let Some(Report::Hello(hello)) = first.and_then(|report| report.report) else {
            return Err(Error::invalid("a session begins with a hello").into());
        };
        let node = self.check(hello)?;
        let (id, boot) = (NodeId(node.id), node.boot);
        self.state.lock().heard.insert(id, Instant::now());
        self.service.raft.propose_if_leader(Op::RegisterNode(RegisterNode { node: Some(node) })).await?;
        let (orders, waiting) = mpsc::channel(WAITING_ORDERS);
        let end = CancellationToken::new();
        let session = self.welcome(id, orders.clone(), end.clone())?;
        tracing::info!(node = %id, "node in session");
        let visit = Visit::new(id, session, boot);
        tokio::spawn(async move {
            let lost = tokio::select! {
                () = end.cancelled() => false,
                () = self.service.stop.cancelled() => false,
                why = self.serve(visit, reports) => {
                    tracing::warn!(node = %id, why, "the session with a node ended");
                    true
                }
            };
            self.ended(id, session, boot, lost, &orders).await;
        });
        Ok(ReceiverStream::new(waiting))
    }

    /// Who may take part in this cluster.
    fn check(&self, hello: Hello) -> Result<Node> {
        let cluster = formed(&self.service.raft.view())?.id.clone();
        check_protocol(hello.protocol)?;
        let known = if hello.cluster.is_empty() { Relation::Same } else { relation(&cluster, &hello.cluster) };
        if known == Relation::Later {
            return Err(Error::unavailable(format!(
                "this coordinator was left behind: cluster {cluster} was recovered without it, and is {} now",
                hello.cluster
            )));
        }
        if known == Relation::Foreign {
            return Err(Error::precondition(format!(
                "the node's data folder belongs to cluster {}, and this is cluster {cluster}: give it another --data-dir, or other --coordinators",
                hello.cluster
            )));
        }
        let mut node = hello.node.ok_or_else(|| Error::invalid("the hello names no node"))?;
        if self.service.raft.view().was_removed(NodeId(node.id)) {
            return Err(removed(NodeId(node.id)));
        }
        if node.id == 0 || node.boot == 0 {
            return Err(Error::invalid("the hello has no node id or boot id"));
        }
        for uri in node.listeners.iter().map(|listener| &listener.uri).chain([&node.flight_uri]) {
            listen::check_advertise(uri).map_err(|e| e.at("the node's Flight address"))?;
        }
        listen::check_advertise(&node.peer_addr).map_err(|e| e.at("the node's peer address"))?;
        node.state = NodeState::Alive as i32;
        Ok(node)
    }

    /// Puts the session in place of an older one of the same node, with the welcome as its first order.
    pub(super) fn welcome(&self, node: NodeId, orders: super::Orders, end: CancellationToken) -> Result<u64, Status> {
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        // Whoever is told of a change is in session: what the welcome does not say yet comes after it.
        let mut state = self.state.lock();
        let welcome = {
            let catalog = self.service.raft.view();
            let cluster = catalog.cluster().ok_or_else(|| Error::unavailable("the cluster is still being formed"))?;
            Welcome {
                cluster: cluster.id.clone(),
                ticket_key: cluster.ticket_key.clone(),
                heartbeat_ms: self.service.config.heartbeat_ms,
                members: Some(self.members(&catalog)),
                cancelled: catalog.cancelled().copied().collect(),
            }
        };
        let welcome = self.order(What::Welcome(welcome));
        if !self.service.raft.is_leader() || self.service.stop.is_cancelled() {
            return Err(self.not_leading());
        }
        orders.try_send(Ok(welcome)).map_err(|_| Status::internal("a new queue has room"))?;
        let session = Session { id, orders, check: Check::default(), end };
        if let Some(old) = state.sessions.insert(node, session) {
            old.end.cancel();
        }
        Ok(id)
    }

    /// Takes reports until the stream ends; says why it did. What had arrived by then is taken in yet.
    pub(super) async fn serve(
        &self,
        mut visit: Visit,
        reports: impl Stream<Item = Result<NodeReport, Status>> + Unpin,
    ) -> String {
        let node = visit.node;
        let (arrived, mut waiting) = mpsc::channel(WAITING_REPORTS);
        let listening = self.listen(node, reports, arrived);
        let mut taking = pin!(async {
            while let Some(arrived) = waiting.recv().await {
                if let Err(error) = self.take(&mut visit, arrived).await {
                    tracing::warn!(node = %visit.node, %error, "a report could not be taken in");
                }
            }
        });
        let why = tokio::select! {
            biased;
            why = listening => why,
            () = &mut taking => return "its reports came to an end".into(),
        };
        if tokio::time::timeout(self.service.config.deadline(), taking).await.is_err() {
            tracing::warn!(%node, "a node's last reports could not be taken in, in time");
        }
        why
    }

    /// Notes that the node is heard as its reports arrive, however long it takes to take them in; says why they ended.
    async fn listen(
        &self,
        node: NodeId,
        mut reports: impl Stream<Item = Result<NodeReport, Status>> + Unpin,
        arrived: mpsc::Sender<Arrived>,
    ) -> String {
        loop {
            let report = match reports.next().await {
                Some(Ok(report)) => report.report,
                None => return "the node ended it".into(),
                Some(Err(status)) => return status.message().to_string(),
            };
            let at = Instant::now();
            self.state.lock().heard.insert(node, at);
            let Some(report) = report else { continue };
            if arrived.send(Arrived { at, report }).await.is_err() {
                return "nobody takes its reports".into();
            }
        }
    }

    async fn take(&self, visit: &mut Visit, arrived: Arrived) -> Result<()> {
        match arrived.report {
            Report::Hello(_) => Err(Error::invalid("a second hello in one session")),
            Report::Heartbeat(heartbeat) => self.heartbeat(visit, heartbeat, arrived.at).await,
            Report::Held(holding) => self.holding(visit, &holding.parts).await,
            Report::Lost(lost) => {
                tracing::warn!(node = %visit.node, parts = lost.parts.len(), reason = lost.reason, "the node lost parts");
                let gone = |part| HolderChange { part: Some(part), node: visit.node.0, held: false };
                self.update_holders(lost.parts.into_iter().map(gone).collect()).await
            }
            Report::Done(done) => {
                if !done.error.is_empty() {
                    tracing::warn!(node = %visit.node, order = done.order, error = done.error, "an order failed");
                }
                self.order_ended(visit.node, done.order, done.error.is_empty());
                Ok(())
            }
            Report::Inventory(page) => {
                visit.inventory.extend(page.parts);
                if visit.inventory.len() > MAX_INVENTORY {
                    visit.inventory = Vec::new();
                    return Err(Error::exhausted(format!("the node reports more than {MAX_INVENTORY} parts")));
                }
                if page.last { self.reconcile(visit).await } else { Ok(()) }
            }
        }
    }

    async fn heartbeat(&self, visit: &mut Visit, heartbeat: Heartbeat, at: Instant) -> Result<()> {
        self.note_health(visit, &heartbeat).await?;
        let held = Digest { xor: heartbeat.digest, count: heartbeat.parts };
        let apart = Duration::from_millis(self.service.config.heartbeat_ms) * 3 / 4;
        let ask = {
            let mut state = self.state.lock();
            let expected = state.expected.digest(visit.node);
            match (state.sessions.get_mut(&visit.node), expected) {
                (Some(session), Some(expected)) if session.id == visit.session => {
                    session.check.heartbeat(held, expected, at, Instant::now(), apart)
                }
                _ => false,
            }
        };
        if !ask {
            return Ok(());
        }
        visit.before = scheduler::horizon(&*self.service.raft.read().await?);
        visit.inventory = Vec::new();
        visit.busy = self.state.lock().copying.busy_at(visit.node).collect();
        self.tell(visit.node, What::SendInventory(SendInventory {}));
        Ok(())
    }

    /// Keeps the heartbeat, and puts what it says of the node's health into the catalog if that changed. Figures in the
    /// text change with every heartbeat: for those alone not more than twice a minute.
    async fn note_health(&self, visit: &mut Visit, heartbeat: &Heartbeat) -> Result<()> {
        let known = {
            let state = self.state.lock();
            if state.sessions.get(&visit.node).is_none_or(|session| session.id != visit.session) {
                return Ok(());
            }
            self.service.reports.lock().insert(visit.node, heartbeat.clone());
            let catalog = self.service.raft.view();
            catalog.node(visit.node).map(|node| (node.read_only_reason.clone(), node.degraded_reason.clone()))
        };
        let Some((read_only_reason, degraded_reason)) = known else { return Ok(()) };
        let new = (read_only_reason.is_empty(), degraded_reason.is_empty())
            != (heartbeat.read_only_reason.is_empty(), heartbeat.degraded_reason.is_empty());
        let same = read_only_reason == heartbeat.read_only_reason && degraded_reason == heartbeat.degraded_reason;
        if same || !new && visit.told.elapsed() < SAME_TROUBLE {
            return Ok(());
        }
        visit.told = Instant::now();
        if new {
            let (read_only_reason, degraded_reason) = (&heartbeat.read_only_reason, &heartbeat.degraded_reason);
            tracing::warn!(node = %visit.node, read_only_reason, degraded_reason, "a node's health changed");
        }
        let health = SetNodeHealth {
            node: visit.node.0,
            boot: visit.boot,
            read_only_reason: heartbeat.read_only_reason.clone(),
            degraded_reason: heartbeat.degraded_reason.clone(),
        };
        self.service.raft.propose_if_leader(Op::SetNodeHealth(health)).await.map(|_| ())
    }

    /// Parts that the node came to hold go into the catalog, if it knows them.
    async fn holding(&self, visit: &mut Visit, parts: &[HeldPart]) -> Result<()> {
        visit.busy.extend(parts.iter().filter_map(|part| part.id.as_ref()).map(PartId::from));
        let found = {
            let catalog = self.service.raft.read().await?;
            scheduler::reconcile_held(&catalog, visit.node, parts, &live_ids(&catalog))
        };
        self.settle(visit.node, found).await
    }

    /// Compares what the node holds with what the catalog says: corrects the catalog, orders what is dead deleted.
    async fn reconcile(&self, visit: &mut Visit) -> Result<()> {
        let inventory = std::mem::take(&mut visit.inventory);
        let (before, mut busy) = (std::mem::take(&mut visit.before), std::mem::take(&mut visit.busy));
        busy.extend(self.state.lock().copying.busy_at(visit.node));
        let (node, count) = (visit.node, inventory.len());
        let raft = self.service.raft.clone();
        // Everything that was committed is applied here: what is dead now stays dead.
        drop(raft.read().await?);
        let compare = move || {
            let catalog = raft.view();
            scheduler::reconcile(&catalog, node, &inventory, &before, &busy, &live_ids(&catalog))
        };
        let found = blocking(compare).await?;
        self.settle(node, found).await?;
        if let Some(session) = self.state.lock().sessions.get_mut(&node) {
            session.check.reconciled(count, Instant::now());
        }
        Ok(())
    }

    /// Corrects the catalog first, then has the node delete what is not needed.
    async fn settle(&self, node: NodeId, found: Reconciled) -> Result<()> {
        if !found.delete.is_empty() || !found.changes.is_empty() {
            tracing::info!(%node, delete = found.delete.len(), changes = found.changes.len(), "parts compared");
        }
        self.update_holders(found.changes).await?;
        for parts in found.delete.chunks(BATCH) {
            let parts = parts.iter().map(|id| (*id).into()).collect();
            self.tell(node, What::Delete(DeleteParts { parts }));
        }
        Ok(())
    }

    pub(super) async fn update_holders(&self, changes: Vec<HolderChange>) -> Result<()> {
        for changes in changes.chunks(BATCH) {
            self.service.raft.propose_if_leader(Op::UpdateHolders(UpdateHolders { changes: changes.to_vec() })).await?;
        }
        Ok(())
    }

    /// Cleans up after a session. A node that was lost while this coordinator leads counts as silent at once: its
    /// connection broke, so it is not there.
    async fn ended(&self, node: NodeId, session: u64, boot: u64, lost: bool, orders: &super::Orders) {
        let current = {
            let mut state = self.state.lock();
            let current = state.sessions.get(&node).is_some_and(|s| s.id == session);
            if current {
                state.sessions.remove(&node);
                state.copying.lost(node);
                self.service.reports.lock().remove(&node);
            }
            current
        };
        // Best effort: the node may be gone.
        let _ = orders.try_send(Err(self.not_leading()));
        if !(current && lost && self.service.raft.is_leader()) {
            return;
        }
        self.state.lock().heard.remove(&node);
        self.set_silent(node, boot).await;
    }

    /// Has a node counted as silent, unless it has another boot by now.
    pub(super) async fn set_silent(&self, node: NodeId, boot: u64) {
        tracing::warn!(%node, "the node is silent");
        let change = SetNodeState { node: node.0, state: NodeState::Unreachable as i32, boot };
        if let Err(error) = self.service.raft.propose_if_leader(Op::SetNodeState(change)).await {
            tracing::warn!(%node, %error, "cannot mark the node as silent; trying again");
        }
    }
}

/// Versions of the software may be mixed while a cluster is upgraded, but not any.
fn check_protocol(spoken: u32) -> Result<()> {
    if spoken.abs_diff(PROTOCOL) <= 1 {
        return Ok(());
    }
    let remedy = if spoken > PROTOCOL { "upgrade the coordinators first" } else { "upgrade the node" };
    Err(Error::precondition(format!(
        "the node speaks protocol {spoken}, this coordinator {PROTOCOL}, which is too far apart: {remedy}, one version after the other"
    )))
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a task broke: {e}")))
}

#[cfg(test)]
mod tests {
    use volley_common::Code;

    use super::*;

    #[test]
    fn nodes_one_protocol_older_or_newer_are_taken_in() {
        for spoken in [PROTOCOL - 1, PROTOCOL, PROTOCOL + 1] {
            check_protocol(spoken).unwrap();
        }
        let error = check_protocol(PROTOCOL + 2).unwrap_err();
        assert_eq!(error.code, Code::FailedPrecondition);
        assert!(error.message.contains("coordinators first"), "{error}");
    }
}
