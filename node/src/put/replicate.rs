//! Step 4 of a put: the holders of its parts copy them while they are written, and make them durable.
//!
//! Other nodes pull the bytes; this node orders them to (`orders`). It is a holder like others, if the shard is placed here.

mod orders;
mod replicated_part;
mod targets;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::net::member_health::HealthRank;
use volley_common::telemetry::trace::{CallSpan, carry};
use volley_common::wire::catalog;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{DiscardPartsRequest, WritePlan};
use volley_common::{Code, Error, NodeId, PartId, Result};

use self::orders::CopyOrders;
use self::replicated_part::ReplicatedPart;
use self::targets::{ReplicaTargets, choose_targets, other_nodes};
use super::part_events::PartEvent;
use crate::context::PutContext;

/// Copies of complete parts that one put has in progress at once.
const MAX_COPIES: usize = 4;
/// The timeout of discarding a failed write's parts, for each node.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(5);

/// The parts of one write, and the copies of them that are in progress.
pub struct PartReplicator {
    shared: Arc<ReplicatorShared>,
    cancel: CancellationToken,
    parts: Mutex<Vec<Arc<ReplicatedPart>>>,
    /// Those whose last byte is not written.
    growing: Mutex<HashMap<PartId, Arc<ReplicatedPart>>>,
}

/// What the tasks of a [`PartReplicator`] share.
struct ReplicatorShared {
    orders: CopyOrders,
    /// The tasks, and the threads that make parts durable on this node.
    tasks: TaskTracker,
    /// Nodes on which a copy failed.
    failed: Mutex<BTreeSet<NodeId>>,
}

impl PartReplicator {
    /// For a planned write to the table of this name.
    pub fn new(context: Arc<PutContext>, plan: Arc<WritePlan>, table: Vec<String>) -> Self {
        let orders = CopyOrders::new(context, plan, table, Semaphore::new(MAX_COPIES));
        PartReplicator {
            shared: Arc::new(ReplicatorShared { orders, tasks: TaskTracker::new(), failed: Mutex::default() }),
            cancel: CancellationToken::new(),
            parts: Mutex::default(),
            growing: Mutex::default(),
        }
    }

    /// Starts to copy a part that is new. The result is available when enough nodes hold it, or when they cannot.
    pub fn handle(&self, event: PartEvent) -> Option<oneshot::Receiver<Result<()>>> {
        match event {
            PartEvent::Growing(row) => {
                let targets = self.targets(row.shard);
                let part = ReplicatedPart::new(*row, targets.local);
                self.growing.lock().insert(part.id(), part.clone());
                Some(self.start(part, targets))
            }
            PartEvent::Finished(pending) => {
                let known = self.growing.lock().remove(&pending.row.part_id());
                if let Some(part) = known {
                    part.finish(pending);
                    return None;
                }
                let targets = self.targets(pending.row.shard);
                let part = ReplicatedPart::new(pending.row.clone(), targets.local);
                // Before the first order, which then has its content.
                part.finish(pending);
                Some(self.start(part, targets))
            }
        }
    }

    fn targets(&self, shard: u32) -> ReplicaTargets {
        let orders = &self.shared.orders;
        choose_targets(&orders.plan, shard, orders.this_node(), &self.shared.failed_nodes())
    }

    fn start(&self, part: Arc<ReplicatedPart>, targets: ReplicaTargets) -> oneshot::Receiver<Result<()>> {
        self.parts.lock().push(part.clone());
        let (reply, result) = oneshot::channel();
        let task = ReplicationTask { shared: self.shared.clone(), part: part.clone(), reply: Some(reply) };
        let cancel = self.cancel.clone();
        self.shared.tasks.spawn(carry(async move {
            cancel.run_until_cancelled(task.run(targets)).await;
            // No node will copy it from this one.
            part.release();
        }));
        result
    }

    /// The catalog's rows of all complete parts, with their present holders.
    pub fn parts(&self) -> Vec<catalog::Part> {
        self.parts.lock().iter().filter_map(|part| part.row()).collect()
    }

    /// The ids of all parts.
    pub fn part_ids(&self) -> Vec<PartId> {
        self.parts.lock().iter().map(|part| part.id()).collect()
    }

    /// Waits for the copies in progress.
    pub async fn wait(&self) {
        self.shared.tasks.close();
        self.shared.tasks.wait().await;
    }

    /// Cancels all copies; returns when none is ordered or made durable here any more.
    pub async fn cancel(&self) {
        self.cancel.cancel();
        self.wait().await;
        // The writer, which ends too, may wait for the permits of those that were finished in between.
        self.parts.lock().iter().for_each(|part| part.release());
    }

    /// Asks other nodes to discard their copies, after the write was aborted: best effort, within seconds.
    pub async fn discard(&self, write_id: &str) {
        let mut by_node: BTreeMap<NodeId, Vec<catalog::PartId>> = BTreeMap::new();
        for part in self.parts.lock().iter() {
            for node in part.ordered() {
                by_node.entry(node).or_default().push(part.id().into());
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
        let (shared, part, this_node) = (self.shared.clone(), self.part.clone(), self.shared.orders.this_node());
        let copy = |node: NodeId| shared.copy_to(&part, node).map(move |result| CopyEvent::Ended(node, result)).boxed();
        let suspicion = |node: NodeId| shared.suspected(&part, node).map(move |()| CopyEvent::Suspected(node)).boxed();
        let mut running: BTreeSet<NodeId> = targets.first.iter().copied().collect();
        let mut events: FuturesUnordered<_> = running.iter().flat_map(|node| [copy(*node), suspicion(*node)]).collect();
        if targets.local {
            running.insert(this_node);
            events.push(copy(this_node));
        }
        while !running.is_empty()
            && let Some(event) = events.next().await
        {
            // The node to be replaced.
            let (mut failed, is_suspicion) = (None, matches!(event, CopyEvent::Suspected(_)));
            match event {
                CopyEvent::Ended(node, Ok(())) => {
                    running.remove(&node);
                    self.part.add_holder(node, node == this_node);
                    self.reply_if_enough(&targets);
                }
                CopyEvent::Suspected(node) => {
                    // The copy goes on, in case that the node is only slow.
                    if running.contains(&node) && self.reply.is_some() {
                        failed = Some(node);
                    }
                }
                // The disk of this node: it takes no more parts of this put.
                CopyEvent::Ended(node, Err(error)) if node == this_node => return self.end(Err(error)),
                CopyEvent::Ended(node, Err(error)) => {
                    running.remove(&node);
                    tracing::warn!(part = %self.part.id(), %node, %error, "a copy failed");
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
        self.finish(&targets, failures).await;
    }

    fn end(&mut self, result: Result<()>) {
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(result);
        }
    }

    /// If this node is one of the holders, its copy is among those that are waited for: the catalog learns of it with the commit.
    fn reply_if_enough(&mut self, targets: &ReplicaTargets) {
        let holders = self.part.holders();
        if holders.len() >= targets.required && (!targets.local || holders.contains(&self.shared.orders.this_node())) {
            self.end(Ok(()));
        }
    }

    /// No node is left to try: as a last resort this node makes the part durable too, although the shard is not placed here; fails if
    /// there are still too few copies.
    async fn finish(&mut self, targets: &ReplicaTargets, mut failures: CopyFailures) {
        if self.reply.is_none() {
            return;
        }
        let this_node = self.shared.orders.this_node();
        if !targets.local {
            match self.shared.keep(&self.part).await {
                Ok(()) => self.part.add_holder(this_node, true),
                Err(error) => failures.add(this_node, error),
            }
        }
        self.reply_if_enough(targets);
        // RESOURCE_EXHAUSTED is the put's error only if all nodes that failed are full.
        let full = failures.code == Some(Code::ResourceExhausted);
        let error = if full { Error::exhausted } else { Error::unavailable };
        self.end(Err(error(format!(
            "only {} of the {} copies that shard {} of {} needs could be made: {}",
            self.part.holders().len(),
            targets.required,
            self.part.shard(),
            self.shared.orders.table.join("/"),
            failures.texts.join("; ")
        ))));
    }
}

impl ReplicatorShared {
    /// Returns when the part is verified and durable on `node`.
    async fn copy_to(&self, part: &ReplicatedPart, node: NodeId) -> Result<()> {
        if node == self.orders.this_node() {
            return self.keep(part).await;
        }
        let span = CallSpan::begin("put.copy").with("volley.part", || part.id().to_string());
        span.with("volley.node", || node.to_string()).run(self.orders.copy_to(part, node)).await
    }

    /// Makes the part durable on this node, once it is complete. A put that is cancelled meanwhile waits for that.
    async fn keep(&self, part: &ReplicatedPart) -> Result<()> {
        part.finished().await;
        let file = part.take_file().ok_or_else(|| Error::internal("the file of a part was taken before"))?;
        let committing = self.tasks.spawn_blocking(move || file.commit());
        committing.await.unwrap_or_else(|e| Err(Error::internal(format!("making a part durable: {e}"))))
    }

    /// Completes if the node does not answer a probe after the part was complete. Before, a copy whose node hangs ends by itself.
    async fn suspected(&self, part: &ReplicatedPart, node: NodeId) {
        part.finished().await;
        match self.orders.peer_addr(node) {
            Some(addr) => self.orders.context.pool.health(addr).suspected().await,
            None => std::future::pending().await,
        }
    }

    /// Nodes that failed an earlier copy, or hang as far as this node knows.
    fn failed_nodes(&self) -> BTreeSet<NodeId> {
        let (orders, hangs) =
            (&self.orders, |addr: &str| self.orders.context.pool.health(addr).rank() == HealthRank::Silent);
        let silent = other_nodes(&orders.plan, orders.this_node()).filter(|node| hangs(&node.peer_addr));
        self.failed.lock().iter().copied().chain(silent.map(|node| NodeId(node.id))).collect()
    }

    async fn discard_on(&self, node: NodeId, request: DiscardPartsRequest) -> Result<()> {
        let addr = self.orders.peer_addr(node).ok_or_else(|| Error::unavailable("its address is unknown"))?;
        NodeClient::new(self.orders.context.pool.channel(addr)?).discard_parts(request).await?;
        Ok(())
    }
}
