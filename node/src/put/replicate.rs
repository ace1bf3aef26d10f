//! Sealed parts → their holders, while the next part is being written.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use volley_common::wire::catalog;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{CopyPart, DiscardPartsRequest, WritePlan};
use volley_common::{Code, Error, NodeId, Result};

use crate::state::Shared;

/// Copies that one put has going at once.
const MAX_COPIES: usize = 4;
/// A copy may take this long, and one second more for every ten megabytes.
const COPY_TIME: Duration = Duration::from_secs(30);
const SLOWEST_BYTES_PER_SECOND: u64 = 10_000_000;
/// How long discarding a failed write's parts is tried on each node.
const DISCARD_TIME: Duration = Duration::from_secs(5);

/// Which nodes are to hold a part, and in which order others take their places.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// This node is one of the shard's holders: its copy counts from the start.
    pub local: bool,
    /// The other nodes that are asked first.
    pub first: Vec<NodeId>,
    /// Who is asked when one of them fails.
    pub spare: VecDeque<NodeId>,
    /// Copies, this node's included if it counts, after which the put goes on.
    pub need: usize,
}

/// Chooses the nodes for a part of `shard`, written by the node `me`; those that `failed` earlier parts come last.
pub fn choose(plan: &WritePlan, shard: u32, me: NodeId, failed: &BTreeSet<NodeId>) -> Choice {
    let write = plan.write.as_ref();
    let placed: Vec<NodeId> = write
        .and_then(|w| w.placement.get(shard as usize))
        .map(|holders| holders.nodes.iter().copied().map(NodeId).collect())
        .unwrap_or_default();
    let min_copies = write.and_then(|w| w.spec.as_ref()).map_or(1, |spec| spec.min_copies);
    let mut spare: Vec<NodeId> = plan.nodes.iter().map(|n| NodeId(n.id)).collect();
    spare.retain(|id| *id != me && !placed.contains(id));
    if !spare.is_empty() {
        // Not every shard's part should fall back on the same node.
        let at = shard as usize % spare.len();
        spare.rotate_left(at);
    }
    let mut first: Vec<NodeId> = placed.iter().copied().filter(|id| *id != me).collect();
    prefer_sound(&mut first, &mut spare, failed);
    Choice {
        local: placed.is_empty() || placed.contains(&me),
        first,
        spare: spare.into(),
        need: (min_copies as usize).clamp(1, placed.len().max(1)),
    }
}

/// Gives the places of nodes that failed to sound spare ones, while there are any.
fn prefer_sound(first: &mut [NodeId], spare: &mut Vec<NodeId>, failed: &BTreeSet<NodeId>) {
    spare.sort_by_key(|id| failed.contains(id));
    for place in first.iter_mut().filter(|id| failed.contains(id)) {
        if spare.first().is_some_and(|id| !failed.contains(id)) {
            spare.push(*place);
            *place = spare.remove(0);
        }
    }
}

/// A part on its way to its holders.
pub struct Copying {
    part: catalog::Part,
    holders: Mutex<Vec<NodeId>>,
    asked: Mutex<Vec<NodeId>>,
}

impl Copying {
    /// The catalog's row for the part, with those that hold it by now.
    pub fn row(&self) -> catalog::Part {
        let holders = self.holders.lock().iter().map(|id| id.0).collect();
        catalog::Part { holders, ..self.part.clone() }
    }
}

/// All parts of one put on their way.
pub struct Replication {
    state: Arc<Shared>,
    plan: Arc<WritePlan>,
    table: Vec<String>,
    room: Arc<Semaphore>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    parts: Mutex<Vec<Arc<Copying>>>,
    /// Nodes on which a copy failed.
    failed: Arc<Mutex<BTreeSet<NodeId>>>,
}

impl Replication {
    /// For a write as planned, of the table of this name.
    pub fn new(state: Arc<Shared>, plan: Arc<WritePlan>, table: Vec<String>) -> Self {
        Replication {
            state,
            plan,
            table,
            room: Arc::new(Semaphore::new(MAX_COPIES)),
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            parts: Mutex::default(),
            failed: Arc::default(),
        }
    }

    /// Begins to copy a sealed part; the answer comes when enough nodes have it, or cannot.
    pub fn begin(&self, part: catalog::Part) -> oneshot::Receiver<Result<()>> {
        let choice = choose(&self.plan, part.shard, self.state.node(), &self.failed.lock());
        let holders = if choice.local { vec![self.state.node()] } else { Vec::new() };
        let copying = Arc::new(Copying { part, holders: Mutex::new(holders), asked: Mutex::default() });
        self.parts.lock().push(copying.clone());
        let (tell, told) = oneshot::channel();
        let task = PartTask {
            state: self.state.clone(),
            plan: self.plan.clone(),
            table: self.table.clone(),
            room: self.room.clone(),
            copying,
            failed: self.failed.clone(),
            tell: Some(tell),
        };
        let cancel = self.cancel.clone();
        self.tasks.spawn(async move { cancel.run_until_cancelled(task.run(choice)).await });
        told
    }

    /// The catalog's rows of all parts.
    pub fn rows(&self) -> Vec<catalog::Part> {
        self.parts.lock().iter().map(|copying| copying.row()).collect()
    }

    /// Waits for the copies that are still under way.
    pub async fn finish(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Stops all copying and has other nodes discard what they have; best effort, within seconds.
    pub async fn discard(&self, write: &str) {
        self.cancel.cancel();
        self.finish().await;
        let mut by_node: BTreeMap<NodeId, Vec<catalog::PartId>> = BTreeMap::new();
        for copying in self.parts.lock().iter() {
            for node in copying.asked.lock().iter() {
                by_node.entry(*node).or_default().extend(copying.part.id);
            }
        }
        let calls = by_node.into_iter().map(|(node, parts)| {
            let request = DiscardPartsRequest { write: write.into(), parts };
            async move {
                let call = discard_on(&self.state, &self.plan, node, request);
                if let Ok(Err(error)) = tokio::time::timeout(DISCARD_TIME, call).await {
                    tracing::debug!(%node, %error, "a failed write's parts stay until the next inventory");
                }
            }
        });
        futures::future::join_all(calls).await;
    }
}

async fn discard_on(state: &Shared, plan: &WritePlan, node: NodeId, request: DiscardPartsRequest) -> Result<()> {
    let addr = peer_addr(plan, node).ok_or_else(|| Error::unavailable("its address is unknown"))?;
    NodeClient::new(state.pool.channel(addr)?).discard_parts(request).await?;
    Ok(())
}

fn peer_addr(plan: &WritePlan, node: NodeId) -> Option<&str> {
    plan.nodes.iter().find(|n| n.id == node.0).map(|n| n.peer_addr.as_str())
}

/// Copies one part until all chosen nodes have it or nobody is left to ask.
struct PartTask {
    state: Arc<Shared>,
    plan: Arc<WritePlan>,
    table: Vec<String>,
    room: Arc<Semaphore>,
    copying: Arc<Copying>,
    failed: Arc<Mutex<BTreeSet<NodeId>>>,
    tell: Option<oneshot::Sender<Result<()>>>,
}

impl PartTask {
    async fn run(mut self, mut choice: Choice) {
        let mut failures = Vec::new();
        let mut code = None;
        self.tell_if_enough(choice.need);
        let this = Arc::new((self.state.clone(), self.plan.clone(), self.table.clone(), self.room.clone()));
        let ask = |node: NodeId, copying: Arc<Copying>| {
            let this = this.clone();
            async move { (node, copy_to(&this.0, &this.1, &this.2, &this.3, &copying, node).await) }
        };
        let mut pending: FuturesUnordered<_> =
            choice.first.iter().map(|node| ask(*node, self.copying.clone())).collect();
        while let Some((node, result)) = pending.next().await {
            match result {
                Ok(()) => {
                    self.copying.holders.lock().push(node);
                    self.tell_if_enough(choice.need);
                }
                Err(error) => {
                    tracing::warn!(part = %self.copying.part.part_id(), %node, %error, "a copy failed");
                    failures.push(format!("node {node}: {error}"));
                    // Only if all of them are full is it a matter of space.
                    let same = code.is_none_or(|code| code == error.code);
                    code = Some(if same { error.code } else { Code::Unavailable });
                    self.failed.lock().insert(node);
                    if let Some(next) = choice.spare.pop_front() {
                        pending.push(ask(next, self.copying.clone()));
                    }
                }
            }
        }
        self.settle(&choice, &failures, code == Some(Code::ResourceExhausted));
    }

    /// Nobody is left to ask: this node's own copy counts if it must.
    fn settle(&mut self, choice: &Choice, failures: &[String], full: bool) {
        if self.tell.is_none() {
            return;
        }
        let me = self.state.node();
        let mut holders = self.copying.holders.lock();
        if !holders.contains(&me) {
            holders.push(me);
        }
        let have = holders.len();
        drop(holders);
        self.tell_if_enough(choice.need);
        if let Some(tell) = self.tell.take() {
            let error = if full { Error::exhausted } else { Error::unavailable };
            let _ = tell.send(Err(error(format!(
                "only {have} of the {} copies that shard {} of {} needs could be made: {}",
                choice.need,
                self.copying.part.shard,
                self.table.join("/"),
                failures.join("; ")
            ))));
        }
    }

    fn tell_if_enough(&mut self, need: usize) {
        if self.copying.holders.lock().len() >= need
            && let Some(tell) = self.tell.take()
        {
            let _ = tell.send(Ok(()));
        }
    }
}

/// Has `node` pull the part from here; returns when its copy is verified and durable.
async fn copy_to(
    state: &Shared,
    plan: &WritePlan,
    table: &[String],
    room: &Semaphore,
    copying: &Copying,
    node: NodeId,
) -> Result<()> {
    let addr = peer_addr(plan, node).ok_or_else(|| Error::unavailable("it is not there"))?;
    let _room = room.acquire().await.map_err(|_| Error::cancelled("the node is stopping"))?;
    copying.asked.lock().push(node);
    let order = CopyPart {
        part: Some(copying.part.clone()),
        table: table.to_vec(),
        sources: sources(state, plan, &copying.holders.lock()),
        background: false,
    };
    let deadline = COPY_TIME + Duration::from_secs(copying.part.bytes / SLOWEST_BYTES_PER_SECOND);
    let mut client = NodeClient::new(state.pool.channel(addr)?);
    match tokio::time::timeout(deadline, client.copy_part(order)).await {
        Ok(reply) => reply.map(|_| ()).map_err(Error::from),
        Err(_) => Err(Error::unavailable(format!("it took more than {} s", deadline.as_secs()))),
    }
}

/// Where a part can be pulled from: here, then those that have it already.
fn sources(state: &Shared, plan: &WritePlan, holders: &[NodeId]) -> Vec<String> {
    let others = holders.iter().filter(|id| **id != state.node()).filter_map(|id| peer_addr(plan, *id));
    std::iter::once(state.peer_addr.clone()).chain(others.map(String::from)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(placement: &[&[u64]], min_copies: u32, nodes: &[u64]) -> WritePlan {
        let spec = catalog::TableSpec { min_copies, ..Default::default() };
        let placement = placement.iter().map(|ids| catalog::Holders { nodes: ids.to_vec() }).collect();
        WritePlan {
            write: Some(catalog::Write { spec: Some(spec), placement, ..Default::default() }),
            nodes: nodes.iter().map(|id| catalog::Node { id: *id, ..Default::default() }).collect(),
            lease_ms: 0,
        }
    }

    fn none() -> BTreeSet<NodeId> {
        BTreeSet::new()
    }

    #[test]
    fn the_writers_copy_counts_only_where_the_shard_is_placed() {
        let plan = plan(&[&[1, 2], &[2, 3]], 2, &[1, 2, 3, 4]);
        let own = choose(&plan, 0, NodeId(1), &none());
        assert_eq!((own.local, own.first, own.need), (true, vec![NodeId(2)], 2));
        let other = choose(&plan, 1, NodeId(1), &none());
        assert_eq!((other.local, other.first, other.need), (false, vec![NodeId(2), NodeId(3)], 2));
    }

    #[test]
    fn spares_are_live_nodes_that_are_neither_placed_nor_the_writer() {
        let plan = plan(&[&[1, 2], &[1, 2]], 2, &[1, 2, 3, 4, 5]);
        assert_eq!(choose(&plan, 0, NodeId(3), &none()).spare, [NodeId(4), NodeId(5)]);
        assert_eq!(choose(&plan, 1, NodeId(3), &none()).spare, [NodeId(5), NodeId(4)]);
    }

    #[test]
    fn no_more_copies_are_needed_than_nodes_were_placed() {
        assert_eq!(choose(&plan(&[&[1]], 2, &[1]), 0, NodeId(1), &none()).need, 1);
        assert_eq!(choose(&plan(&[&[1, 2, 3]], 0, &[1, 2, 3]), 0, NodeId(1), &none()).need, 1);
        let nowhere = choose(&plan(&[], 1, &[1]), 0, NodeId(1), &none());
        assert!(nowhere.local && nowhere.first.is_empty() && nowhere.spare.is_empty());
    }

    #[test]
    fn nodes_that_failed_are_asked_last() {
        let plan = plan(&[&[1, 2, 3]], 2, &[1, 2, 3, 4, 5]);
        let choice = choose(&plan, 0, NodeId(1), &[NodeId(2), NodeId(4)].into());
        assert_eq!(choice.first, [NodeId(5), NodeId(3)]);
        assert_eq!(choice.spare, [NodeId(4), NodeId(2)]);
        let all_failed = choose(&plan, 0, NodeId(1), &(2..6).map(NodeId).collect());
        assert_eq!(all_failed.first, [NodeId(2), NodeId(3)]);
    }
}
