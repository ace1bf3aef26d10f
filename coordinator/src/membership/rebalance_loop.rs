//! The leader's work on the placement of parts: new placements, missing copies, excess copies.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{HolderChange, PlaceTables};
use volley_common::wire::cluster::DeleteParts;
use volley_common::wire::cluster::node_order::What;
use volley_common::{NodeId, PartId, Result};

use super::NodeMembership;
use crate::catalog::{Catalog, PartRow};
use crate::catalog_scan::{scan_catalog, scan_parts};
use crate::scheduler::repair::{CopyCapacity, CopyDecision, CopyOrder, CopyScan};
use crate::scheduler::{NodeSets, over_replicated, rebalance, repair};

/// Maximum number of parts of the queue that are examined at a time.
const MAX_EXAMINED: usize = 512;
/// Maximum number of excess copies that one scan removes.
const MAX_EXCESS: usize = 100_000;
/// Maximum number of tables in one command that changes placements.
const TABLES_PER_COMMAND: usize = 200;
/// Scans of the catalog take at most one in this many units of time.
const IDLE_FACTOR: u32 = 20;
/// Placements are computed at least this often, because tables are created, and immediately after nodes joined or left.
const PLACEMENT_INTERVAL: Duration = Duration::from_secs(5);

/// What the leader keeps between rounds.
#[derive(Default)]
pub(super) struct RebalanceState {
    /// Parts that need a copy, the most urgent first.
    queue: VecDeque<PartId>,
    last_scan: Option<ScanResult>,
    /// The nodes for which placements were last computed, when, and how long that took.
    last_placement: Option<(NodeSets, Instant, Duration)>,
    /// Whether copies may be ordered: every known node had the time to connect to this leader.
    enabled: bool,
}

/// A scan of all parts.
struct ScanResult {
    applied: u64,
    nodes: NodeSets,
    started: Instant,
    took: Duration,
    /// Whether there was nothing to do.
    idle: bool,
}

impl NodeMembership {
    /// Runs once a second: scans all parts if there may be work, acts on the result, and wakes the copy loop.
    pub(super) async fn rebalance(&self) {
        self.close_removed_sessions();
        let nodes = self.node_sets();
        let enabled = self.knows_all_nodes(&nodes);
        self.state.lock().rebalance.enabled = enabled;
        if !enabled {
            return;
        }
        if let Err(error) = self.scan_parts(nodes).await {
            tracing::warn!(%error, "rebalancing parts failed; trying again");
        }
        self.wake_copies.notify_one();
    }

    fn node_sets(&self) -> NodeSets {
        let now_ms = self.raft.now_ms();
        NodeSets::at(&self.raft.view(), now_ms, self.config.repair_delay_ms)
    }

    /// Whether every node is in session, or a new leader has waited a node timeout for those that are still connecting.
    fn knows_all_nodes(&self, nodes: &NodeSets) -> bool {
        let known = self.raft.view().nodes().count();
        let state = self.state.lock();
        let all_in_session = nodes.alive.len() == known && nodes.alive.iter().all(|id| state.sessions.contains_key(id));
        all_in_session || state.leader_since.is_some_and(|since| since.elapsed() >= self.node_timeout())
    }

    fn close_removed_sessions(&self) {
        let catalog = self.raft.view();
        let state = self.state.lock();
        for (_, session) in state.sessions.iter().filter(|(id, _)| catalog.was_removed(**id)) {
            session.close.cancel();
        }
    }

    async fn scan_parts(&self, nodes: NodeSets) -> Result<()> {
        let (applied, started) = (*self.raft.watch_applied().borrow(), Instant::now());
        if !self.scan_is_due(applied, &nodes, started) {
            return Ok(());
        }
        let placement_due = self.placement_is_due(&nodes);
        let placement_unchanged = !placement_due || self.update_placement(&nodes).await?;
        let scan_started = Instant::now();
        let scanned_nodes = nodes.clone();
        let state = (CopyScan::new(repair::queue_limit(&nodes)), Vec::new());
        let scan =
            move |catalog: &Catalog, parts: &[&PartRow], (copies, excess): &mut (CopyScan, Vec<HolderChange>)| {
                copies.examine(catalog, &scanned_nodes, parts.iter().copied());
                // Right after a change of placement the copies at the old nodes are still needed.
                if placement_unchanged && excess.len() < MAX_EXCESS {
                    let limit = MAX_EXCESS - excess.len();
                    let parts = parts.iter().copied();
                    excess.extend(over_replicated::excess_copies_of(catalog, &scanned_nodes, limit, parts));
                }
            };
        let finish = |(copies, excess): (CopyScan, Vec<HolderChange>)| (copies.finish().0, excess);
        let (queue, excess) = scan_parts(&self.raft, state, scan, finish).await?;
        let idle = placement_due && placement_unchanged && queue.is_empty() && excess.is_empty();
        {
            let mut state = self.state.lock();
            state.rebalance.queue = queue.into();
            let took = scan_started.elapsed();
            state.rebalance.last_scan = Some(ScanResult { applied, nodes, started, took, idle });
        }
        self.remove_excess_copies(excess).await
    }

    /// Whether the catalog or the nodes changed since an idle scan, and the last scan was long enough ago.
    fn scan_is_due(&self, applied: u64, nodes: &NodeSets, now: Instant) -> bool {
        let mut state = self.state.lock();
        state.copies.expire(now);
        state.rebalance.last_scan.as_ref().is_none_or(|last| {
            let unchanged = last.idle && last.applied == applied && last.nodes == *nodes;
            !unchanged && now.duration_since(last.started) >= last.took * IDLE_FACTOR
        })
    }

    fn placement_is_due(&self, nodes: &NodeSets) -> bool {
        self.state.lock().rebalance.last_placement.as_ref().is_none_or(|(last_nodes, at, took)| {
            last_nodes != nodes || at.elapsed() >= PLACEMENT_INTERVAL.max(*took * IDLE_FACTOR)
        })
    }

    /// Computes placements and writes the changed ones to the catalog; returns whether none changed.
    async fn update_placement(&self, nodes: &NodeSets) -> Result<bool> {
        let (scanned_nodes, started) = (nodes.clone(), Instant::now());
        let changed = scan_catalog(&self.raft, move |catalog| rebalance::rebalance(catalog, &scanned_nodes)).await?;
        let took = started.elapsed();
        if !changed.is_empty() {
            tracing::info!(tables = changed.len(), "nodes joined or left: the placement of shards changes");
        }
        for tables in changed.chunks(TABLES_PER_COMMAND) {
            self.raft.propose_if_leader(Op::PlaceTables(PlaceTables { tables: tables.to_vec() })).await?;
        }
        self.state.lock().rebalance.last_placement = Some((nodes.clone(), started, took));
        Ok(changed.is_empty())
    }

    /// Removes copies from the catalog first; then deletes them on their nodes, if the catalog still does not need
    /// them. If a delete order is lost, the node's next inventory repeats it.
    async fn remove_excess_copies(&self, excess: Vec<HolderChange>) -> Result<()> {
        if excess.is_empty() {
            return Ok(());
        }
        let on_removed_nodes = {
            let catalog = self.raft.view();
            excess.iter().filter(|change| catalog.was_removed(NodeId(change.node))).count()
        };
        let misplaced = excess.len() - on_removed_nodes;
        if on_removed_nodes > 0 {
            tracing::info!(copies = on_removed_nodes, "copies on removed nodes no longer count");
        }
        if misplaced > 0 {
            tracing::info!(copies = misplaced, "every placed node has a copy: misplaced copies are deleted");
        }
        self.update_holders(excess.clone()).await?;
        metrics::counter!("volley_excess_copies_deleted_total").increment(excess.len() as u64);
        let deletions = over_replicated::deletions(&self.raft.view(), &self.node_sets(), &excess);
        for (node, parts) in deletions {
            self.send_order(node, What::Delete(DeleteParts { parts: parts.into_iter().map(Into::into).collect() }));
        }
        Ok(())
    }

    /// Orders copies whenever nodes have capacity, until the process stops.
    pub(super) async fn run_copy_loop(&self) {
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.wake_copies.notified() => {}
            }
            if self.raft.is_leader() && self.state.lock().rebalance.enabled {
                self.order_copies();
            }
        }
    }

    /// Sends as many copy orders as nodes have capacity for, the most urgent first.
    fn order_copies(&self) {
        let (nodes, now) = (self.node_sets(), Instant::now());
        for (id, copy) in self.next_copies(&nodes, now) {
            let kind = if copy.moves { "rebalance" } else { "repair" };
            if let Some(number) = self.send_order(copy.to, What::Copy(copy.order)) {
                metrics::counter!("volley_repair_copies_ordered_total", "kind" => kind).increment(1);
                self.state.lock().copies.start(id, copy.to, copy.from, number, now);
            }
        }
    }

    fn next_copies(&self, nodes: &NodeSets, now: Instant) -> Vec<(PartId, CopyOrder)> {
        let catalog = self.raft.view();
        let mut state = self.state.lock();
        let mut load = state.copies.load();
        let mut capacity = CopyCapacity::of(&load, nodes);
        let (mut copies, mut waiting) = (Vec::new(), Vec::new());
        for _ in 0..MAX_EXAMINED {
            if capacity.is_exhausted() {
                break;
            }
            let Some(id) = state.rebalance.queue.pop_front() else { break };
            if state.copies.is_busy(id, now) {
                continue;
            }
            match repair::next_copy(&catalog, nodes, &load, id) {
                CopyDecision::Order(copy) if state.sessions.contains_key(&copy.to) => {
                    load.add(&copy);
                    capacity.add(&load, &copy);
                    copies.push((id, *copy));
                }
                CopyDecision::Wait => waiting.push(id),
                CopyDecision::Order(_) | CopyDecision::Skip => {}
            }
        }
        waiting.into_iter().rev().for_each(|id| state.rebalance.queue.push_front(id));
        copies
    }

    /// Records the end of an order, which may have been a copy: then the node has capacity for another.
    pub(super) fn finish_copy(&self, node: NodeId, number: u64, copied: bool) {
        self.state.lock().copies.finish(node, number, copied, Instant::now());
        self.wake_copies.notify_one();
    }
}
