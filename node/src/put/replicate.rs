//! Step 4 of a put: sealed parts are copied to their holders, while the next parts are being written.
//!
//! Other nodes pull the copies; this node orders them to.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::net::member_health::HealthRank;
use volley_common::wire::catalog;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{CopyPart, DiscardPartsRequest, WritePlan};
use volley_common::{Code, Error, NodeId, Result};

use crate::context::PutContext;

/// Copies that one put has in progress at once.
const MAX_COPIES: usize = 4;
/// The timeout of a copy, to which one second is added for every ten megabytes.
const COPY_TIMEOUT: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_PER_SECOND: u64 = 10_000_000;
/// The timeout of discarding a failed write's parts, for each node.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of one write, and the copies of them that are in progress.
pub struct PartReplicator {
    shared: Arc<ReplicatorShared>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    parts: Mutex<Vec<Arc<ReplicatedPart>>>,
}

/// What the tasks of a [`PartReplicator`] share.
struct ReplicatorShared {
    context: Arc<PutContext>,
    plan: Arc<WritePlan>,
    /// The table's name.
    table: Vec<String>,
    permits: Semaphore,
    /// Nodes on which a copy failed.
    failed: Mutex<BTreeSet<NodeId>>,
}

/// A part and its copies.
struct ReplicatedPart {
    part: catalog::Part,
    holders: Mutex<Vec<NodeId>>,
    /// Nodes that were ordered to copy it.
    ordered: Mutex<Vec<NodeId>>,
}

impl ReplicatedPart {
    /// The catalog's row for the part, with its present holders.
    fn row(&self) -> catalog::Part {
        let holders = self.holders.lock().iter().map(|id| id.0).collect();
        catalog::Part { holders, ..self.part.clone() }
    }
}

impl PartReplicator {
    /// For a planned write to the table of this name.
    pub fn new(context: Arc<PutContext>, plan: Arc<WritePlan>, table: Vec<String>) -> Self {
        let (permits, failed) = (Semaphore::new(MAX_COPIES), Mutex::default());
        PartReplicator {
            shared: Arc::new(ReplicatorShared { context, plan, table, permits, failed }),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            parts: Mutex::default(),
        }
    }

    /// Starts to copy a sealed part. The result is available when enough nodes hold it, or when they cannot.
    pub fn start(&self, part: catalog::Part) -> oneshot::Receiver<Result<()>> {
        let this_node = self.shared.context.store.node();
        let targets = choose_targets(&self.shared.plan, part.shard, this_node, &self.shared.failed_nodes());
        let holders = if targets.local { vec![this_node] } else { Vec::new() };
        let part = Arc::new(ReplicatedPart { part, holders: Mutex::new(holders), ordered: Mutex::default() });
        self.parts.lock().push(part.clone());
        let (reply, result) = oneshot::channel();
        let task = ReplicationTask { shared: self.shared.clone(), part, reply: Some(reply) };
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move { cancel.run_until_cancelled(task.run(targets)).await });
        result
    }

    /// The catalog's rows of all parts, with their present holders.
    pub fn parts(&self) -> Vec<catalog::Part> {
        self.parts.lock().iter().map(|part| part.row()).collect()
    }

    /// Waits for the copies in progress.
    pub async fn wait(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Cancels all copies; returns when none is ordered any more.
    pub async fn cancel(&self) {
        self.cancel.cancel();
        self.wait().await;
    }

    /// Asks other nodes to discard their copies, after the write was aborted: best effort, within seconds.
    pub async fn discard(&self, write_id: &str) {
        let mut by_node: BTreeMap<NodeId, Vec<catalog::PartId>> = BTreeMap::new();
        for part in self.parts.lock().iter() {
            for node in part.ordered.lock().iter() {
                by_node.entry(*node).or_default().extend(part.part.id);
            }
        }
        let calls = by_node.into_iter().map(|(node, parts)| {
            let request = DiscardPartsRequest { write: write_id.into(), parts };
            async move {
                let call = self.shared.discard_on(node, request);
                if let Ok(Err(error)) = tokio::time::timeout(DISCARD_TIMEOUT, call).await {
                    tracing::debug!(%node, %error, "a failed write's parts stay until the next inventory");
                }
            }
        });
        futures::future::join_all(calls).await;
    }
}

/// Copies one part until all chosen nodes hold it or no substitute is left.
struct ReplicationTask {
    shared: Arc<ReplicatorShared>,
    part: Arc<ReplicatedPart>,
    /// Where the result is sent; `None` after that.
    reply: Option<oneshot::Sender<Result<()>>>,
}

/// Why copies of a part could not be made.
#[derive(Default)]
struct CopyFailures {
    texts: Vec<String>,
    /// The common code of all, or UNAVAILABLE.
    code: Option<Code>,
}

impl CopyFailures {
    fn add(&mut self, node: NodeId, error: Error) {
        let same = self.code.is_none_or(|code| code == error.code);
        self.code = Some(if same { error.code } else { Code::Unavailable });
        self.texts.push(format!("node {node}: {error}"));
    }
}

/// What happens while a part is copied.
enum CopyEvent {
    /// The copy was made, or failed.
    Ended(NodeId, Result<()>),
    /// The node did not answer a probe.
    Suspected(NodeId),
}

impl ReplicationTask {
    async fn run(mut self, mut targets: ReplicaTargets) {
        let mut failures = CopyFailures::default();
        // Nodes for which a substitute was started.
        let mut replaced = BTreeSet::new();
        self.reply_if_enough(targets.required);
        let (shared, part) = (self.shared.clone(), self.part.clone());
        let copy = |node: NodeId| shared.copy_to(&part, node).map(move |result| CopyEvent::Ended(node, result)).boxed();
        let suspicion = |node: NodeId| shared.suspected(node).map(move |()| CopyEvent::Suspected(node)).boxed();
        let mut running: BTreeSet<NodeId> = targets.first.iter().copied().collect();
        let mut events: FuturesUnordered<_> = running.iter().flat_map(|node| [copy(*node), suspicion(*node)]).collect();
        while !running.is_empty()
            && let Some(event) = events.next().await
        {
            // The node to be replaced.
            let (mut failed, is_suspicion) = (None, matches!(event, CopyEvent::Suspected(_)));
            match event {
                CopyEvent::Ended(node, Ok(())) => {
                    running.remove(&node);
                    self.part.holders.lock().push(node);
                    self.reply_if_enough(targets.required);
                }
                CopyEvent::Suspected(node) => {
                    // The copy goes on, in case that the node is only slow.
                    if running.contains(&node) && self.reply.is_some() {
                        failed = Some(node);
                    }
                }
                CopyEvent::Ended(node, Err(error)) => {
                    running.remove(&node);
                    tracing::warn!(part = %self.part.part.part_id(), %node, %error, "a copy failed");
                    failures.add(node, error);
                    failed = Some(node);
                }
            }
            self.shared.failed.lock().extend(failed);
            if failed.is_some_and(|node| replaced.insert(node))
                && let Some(node) = targets.substitutes.pop_front()
            {
                running.insert(node);
                // If a substitute does not answer either, the nodes are busy, and further copies would make them busier.
                events.extend(std::iter::once(copy(node)).chain((!is_suspicion).then(|| suspicion(node))));
            }
        }
        self.finish(&targets, &failures);
    }

    fn reply_if_enough(&mut self, required: usize) {
        if self.part.holders.lock().len() >= required
            && let Some(reply) = self.reply.take()
        {
            let _ = reply.send(Ok(()));
        }
    }

    /// No node is left to try: as a last resort this node keeps the part too, although the shard is not placed here; fails if
    /// there are still too few copies.
    fn finish(&mut self, targets: &ReplicaTargets, failures: &CopyFailures) {
        if self.reply.is_none() {
            return;
        }
        let this_node = self.shared.context.store.node();
        let mut holders = self.part.holders.lock();
        if !holders.contains(&this_node) {
            holders.push(this_node);
        }
        let held = holders.len();
        drop(holders);
        self.reply_if_enough(targets.required);
        if let Some(reply) = self.reply.take() {
            // RESOURCE_EXHAUSTED is the put's error only if all nodes that failed are full.
            let full = failures.code == Some(Code::ResourceExhausted);
            let error = if full { Error::exhausted } else { Error::unavailable };
            let _ = reply.send(Err(error(format!(
                "only {held} of the {} copies that shard {} of {} needs could be made: {}",
                targets.required,
                self.part.part.shard,
                self.shared.table.join("/"),
                failures.texts.join("; ")
            ))));
        }
    }
}

impl ReplicatorShared {
    /// Orders `node` to pull the part. Returns when its copy is verified and durable.
    async fn copy_to(&self, part: &ReplicatedPart, node: NodeId) -> Result<()> {
        let addr = self.peer_addr(node).ok_or_else(|| Error::unavailable("it is not in the cluster"))?;
        let _permit = self.permits.acquire().await.map_err(|_| Error::cancelled("the node is stopping"))?;
        part.ordered.lock().push(node);
        let order = CopyPart {
            part: Some(part.part.clone()),
            table: self.table.clone(),
            sources: self.sources(&part.holders.lock()),
            background: false,
        };
        let timeout = COPY_TIMEOUT + Duration::from_secs(part.part.bytes / SLOWEST_BYTES_PER_SECOND);
        let mut client = NodeClient::new(self.context.pool.channel(addr)?);
        let copy = async { client.copy_part(order).await.map(|_| ()).map_err(Error::from) };
        match tokio::time::timeout(timeout, self.context.pool.while_answering(addr, copy)).await {
            Ok(result) => result,
            Err(_) => Err(Error::unavailable(format!("it took more than {} s", timeout.as_secs()))),
        }
    }

    /// Completes if the node does not answer a probe.
    async fn suspected(&self, node: NodeId) {
        match self.peer_addr(node) {
            Some(addr) => self.context.pool.health(addr).suspected().await,
            None => std::future::pending().await,
        }
    }

    /// Nodes that failed an earlier copy, or hang as far as this node knows.
    fn failed_nodes(&self) -> BTreeSet<NodeId> {
        let hangs = |addr: &str| self.context.pool.health(addr).rank() == HealthRank::Silent;
        let silent = other_nodes(&self.plan, self.context.store.node()).filter(|node| hangs(&node.peer_addr));
        self.failed.lock().iter().copied().chain(silent.map(|node| NodeId(node.id))).collect()
    }

    /// Peer addresses that have the part: this node, then the other holders.
    fn sources(&self, holders: &[NodeId]) -> Vec<String> {
        let this_node = self.context.store.node();
        let others = holders.iter().filter(|id| **id != this_node).filter_map(|id| self.peer_addr(*id));
        std::iter::once(self.context.peer_addr.clone()).chain(others.map(String::from)).collect()
    }

    async fn discard_on(&self, node: NodeId, request: DiscardPartsRequest) -> Result<()> {
        let addr = self.peer_addr(node).ok_or_else(|| Error::unavailable("its address is unknown"))?;
        NodeClient::new(self.context.pool.channel(addr)?).discard_parts(request).await?;
        Ok(())
    }

    fn peer_addr(&self, node: NodeId) -> Option<&str> {
        self.plan.nodes.iter().find(|n| n.id == node.0).map(|n| n.peer_addr.as_str())
    }
}

/// The nodes of the plan but `this_node`, whose own health is never looked up: a member is compared with all whose health is known,
/// and a node that is cut off from the others still answers itself.
fn other_nodes(plan: &WritePlan, this_node: NodeId) -> impl Iterator<Item = &catalog::Node> {
    plan.nodes.iter().filter(move |node| node.id != this_node.0)
}

/// The nodes that are to hold a part.
#[derive(Clone, Debug, PartialEq)]
struct ReplicaTargets {
    /// This node is one of the shard's holders: its copy counts from the start.
    local: bool,
    /// The other nodes that are ordered to copy it first.
    first: Vec<NodeId>,
    /// Nodes that replace failed ones, in this order.
    substitutes: VecDeque<NodeId>,
    /// The number of copies, including this node's if it counts, at which the put continues.
    required: usize,
}

/// Chooses the holders of a part of `shard` that `this_node` writes. Nodes that `failed` earlier parts come last.
fn choose_targets(plan: &WritePlan, shard: u32, this_node: NodeId, failed: &BTreeSet<NodeId>) -> ReplicaTargets {
    let write = plan.write.as_ref();
    let placed: Vec<NodeId> = write
        .and_then(|w| w.placement.get(shard as usize))
        .map(|holders| holders.nodes.iter().copied().map(NodeId).collect())
        .unwrap_or_default();
    let min_copies = write.and_then(|w| w.spec.as_ref()).map_or(1, |spec| spec.min_copies);
    let mut substitutes: Vec<NodeId> = plan.nodes.iter().map(|n| NodeId(n.id)).collect();
    substitutes.retain(|id| *id != this_node && !placed.contains(id));
    if !substitutes.is_empty() {
        // Spreads the shards over the substitutes.
        let at = shard as usize % substitutes.len();
        substitutes.rotate_left(at);
    }
    let mut first: Vec<NodeId> = placed.iter().copied().filter(|id| *id != this_node).collect();
    replace_failed(&mut first, &mut substitutes, failed);
    ReplicaTargets {
        local: placed.is_empty() || placed.contains(&this_node),
        first,
        substitutes: substitutes.into(),
        required: (min_copies as usize).clamp(1, placed.len().max(1)),
    }
}

/// Replaces nodes that failed by substitutes that did not, while there are any.
fn replace_failed(first: &mut [NodeId], substitutes: &mut Vec<NodeId>, failed: &BTreeSet<NodeId>) {
    substitutes.sort_by_key(|id| failed.contains(id));
    for place in first.iter_mut().filter(|id| failed.contains(id)) {
        if substitutes.first().is_some_and(|id| !failed.contains(id)) {
            substitutes.push(*place);
            *place = substitutes.remove(0);
        }
    }
}

#[cfg(test)]
mod tests;
