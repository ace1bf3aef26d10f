//! The stage of the leader's decisions: scans of all parts, nodes that join, and the loss of a zone.
//!
//! Commands are applied to the catalog in memory only, and copies are made at once: what is measured is the scheduler.

use std::path::Path;
use std::time::{Duration, Instant};

use volley_common::NodeId;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    Command, HolderChange, NodeState, PlaceTables, RegisterNode, SetNodeState, TablePlacement, UpdateHolders, reply,
};
use volley_coordinator::catalog::Catalog;
use volley_coordinator::diagnostics::replication_health::{ReplicationHealth, live_copies};
use volley_coordinator::membership::inventory_digest::ExpectedDigests;
use volley_coordinator::scheduler::repair::{CopyDecision, CopyLoad, next_copy, parts_to_copy, queue_limit};
use volley_coordinator::scheduler::{NodeSets, over_replicated, placement, rebalance};

use crate::figures::{FigureList, ScaleFigure};
use crate::model::{BOOT, ScaleModel};
use crate::storage::open;

/// How long copies of unreachable nodes count, milliseconds.
const REPAIR_DELAY_MS: u64 = 60_000;
/// Tables of one command that changes placements, and holder changes of one command; as the leader has them.
const TABLES_PER_COMMAND: usize = 200;
const CHANGES_PER_COMMAND: usize = 10_000;
/// Excess copies that a scan lists at most.
const MAX_EXCESS: usize = 100_000;
/// Scans of one repair at most, so that the run ends.
const MAX_SCANS: usize = 1000;
/// The goal for moved replicas, and for replicas that a lost zone had, against the least that is possible.
const MOVES_GOAL: f64 = 1.1;

/// Measures the scheduler on the catalog that was filled.
pub fn schedule(model: &ScaleModel, dir: &Path) -> Vec<ScaleFigure> {
    let mut figures = FigureList::new("schedule");
    let (store, state_machine) = open(dir);
    let applied = state_machine.applied();
    store.close();
    let mut catalog = applied.catalog.write();
    let now_ms = catalog.clock_ms() + 1;
    let mut cluster = ScheduledCluster { catalog: &mut catalog, now_ms };
    cluster.scan(&mut figures);
    let (moved, took) = cluster.rebalance();
    figures.seconds("placements computed, without a change of nodes", took);
    figures.count("replicas that this moves", moved);
    cluster.repair(None, &mut figures);
    cluster.join(model, &mut figures);
    cluster.lose_zone(model, &mut figures);
    figures.into_figures()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let began = Instant::now();
    let result = work();
    (result, began.elapsed())
}

/// A cluster whose copies are made as soon as they are ordered.
struct ScheduledCluster<'a> {
    catalog: &'a mut Catalog,
    now_ms: u64,
}

/// What a repair did.
#[derive(Default)]
struct RepairRun {
    copies: u64,
    scans: u64,
    slowest_scan: Duration,
    /// Copies that were ordered after one of a part that needed it less.
    out_of_order: u64,
    took: Duration,
}

impl ScheduledCluster<'_> {
    fn apply(&mut self, op: Op) {
        let reply = self.catalog.apply(&Command { now_ms: self.now_ms, op: Some(op) }).reply;
        assert!(!matches!(reply, Some(reply::Reply::Refusal(_))), "{reply:?}");
        drop(self.catalog.take_changes());
    }

    fn nodes(&self) -> NodeSets {
        NodeSets::at(self.catalog, self.now_ms, REPAIR_DELAY_MS)
    }

    /// The leader's scans of all parts. Those for copies and excess copies are made in slices; the catalog is locked for each of
    /// the others, and no command is applied meanwhile.
    fn scan(&self, figures: &mut FigureList) {
        let nodes = self.nodes();
        let (_, took) = timed(|| parts_to_copy(self.catalog, &nodes, queue_limit(&nodes)));
        figures.seconds("scan for parts to copy", took);
        let (_, took) = timed(|| over_replicated::excess_copies(self.catalog, &nodes, MAX_EXCESS));
        figures.seconds("scan for excess copies", took);
        let (_, took) = timed(|| ExpectedDigests::of(self.catalog, 0));
        figures.seconds("digests of what each node should hold", took);
        let (_, took) = timed(|| ReplicationHealth::of(self.catalog, &nodes.alive, self.now_ms));
        figures.seconds("count of all copies, for status and metrics", took);
    }

    /// Computes and applies placements; returns how many replicas get another node, and how long computing took.
    fn rebalance(&mut self) -> (u64, Duration) {
        let nodes = self.nodes();
        let (changed, took) = timed(|| rebalance::rebalance(self.catalog, &nodes));
        let moved: u64 = changed.iter().map(|table| self.moved_replicas(table)).sum();
        for tables in changed.chunks(TABLES_PER_COMMAND) {
            self.apply(Op::PlaceTables(PlaceTables { tables: tables.to_vec() }));
        }
        (moved, took)
    }

    fn moved_replicas(&self, placed: &TablePlacement) -> u64 {
        let table = self.catalog.table(placed.table).unwrap();
        let moved = (0..).zip(&placed.placement).map(|(shard, new)| {
            let old = placement::placement_of(table, shard);
            new.nodes.iter().filter(|node| !old.contains(node)).count() as u64
        });
        moved.sum()
    }

    /// One node for each hundred joins.
    fn join(&mut self, model: &ScaleModel, figures: &mut FigureList) {
        let joining = (model.nodes / 100).max(1);
        for id in model.nodes + 1..=model.nodes + joining {
            self.apply(Op::RegisterNode(RegisterNode { node: Some(model.node(id)) }));
        }
        let (moved, took) = self.rebalance();
        let least = joining * (model.replicas() / (model.nodes + joining));
        figures.seconds(format!("placements computed, {joining} nodes joined"), took);
        figures.ratio("replicas moved, against the fair shares of these nodes", moved, least).at_most(MOVES_GOAL);
        self.repair(Some("nodes that joined"), figures);
    }

    /// A zone is lost, and of each hundred nodes one of another zone.
    fn lose_zone(&mut self, model: &ScaleModel, figures: &mut FigureList) {
        let all: Vec<u64> = self.catalog.nodes().map(|node| node.id).collect();
        let of_zone = |zone: u64| all.iter().copied().filter(move |id| model.zone(*id) == zone);
        let lost: Vec<u64> = of_zone(0).chain(of_zone(1).take((model.nodes as usize / 100).max(1))).collect();
        let placed = self.catalog.placed_replicas();
        let least: u64 = lost.iter().map(|id| placed.get(&NodeId(*id)).copied().unwrap_or(0)).sum();
        for node in &lost {
            let change = SetNodeState { node: *node, state: NodeState::Unreachable as i32, boot: BOOT };
            self.apply(Op::SetNodeState(change));
        }
        self.now_ms += REPAIR_DELAY_MS + 1;
        let (moved, took) = self.rebalance();
        figures.seconds(format!("placements computed, {} nodes lost", lost.len()), took);
        figures.ratio("replicas moved, against those of the lost nodes", moved, least).at_most(MOVES_GOAL);
        self.repair(Some("a lost zone"), figures);
        let health = ReplicationHealth::of(self.catalog, &self.nodes().alive, self.now_ms);
        figures.count("parts that lack copies afterwards", health.under_replicated).at_most(0.0);
    }

    /// Makes all copies that are needed, and removes those that are not. `of`: what the figures are about; `None`: there are none.
    fn repair(&mut self, of: Option<&str>, figures: &mut FigureList) {
        let run = self.copy_all();
        self.remove_excess();
        let Some(of) = of else { return };
        figures.count(format!("{of}: copies"), run.copies);
        figures.count(format!("{of}: scans for them"), run.scans);
        figures.seconds(format!("{of}: the slowest scan"), run.slowest_scan);
        let each = u32::try_from(run.copies.max(1)).map_or(Duration::ZERO, |copies| run.took / copies);
        figures.seconds(format!("{of}: the leader's time for a copy, without scans"), each);
        figures.count(format!("{of}: copies after less urgent ones"), run.out_of_order).at_most(0.0);
    }

    fn copy_all(&mut self) -> RepairRun {
        let mut run = RepairRun::default();
        let mut least_urgent = (false, 0);
        for _ in 0..MAX_SCANS {
            let nodes = self.nodes();
            let ((queue, _), took) = timed(|| parts_to_copy(self.catalog, &nodes, queue_limit(&nodes)));
            run.slowest_scan = run.slowest_scan.max(took);
            let began = Instant::now();
            let mut changes = Vec::with_capacity(queue.len());
            for id in queue {
                let CopyDecision::Order(copy) = next_copy(self.catalog, &nodes, &CopyLoad::default(), id) else {
                    continue;
                };
                let part = self.catalog.part(id).unwrap();
                let counted = part.holders.iter().filter(|node| nodes.counts_as_replica(NodeId(**node))).count();
                let wanted = placement::replica_count(self.catalog.table(part.table).unwrap());
                let urgency = (counted >= wanted, live_copies(part, &nodes.alive));
                run.out_of_order += u64::from(urgency < least_urgent);
                least_urgent = least_urgent.max(urgency);
                changes.push(HolderChange { part: Some(id.into()), node: copy.to.0, held: true });
            }
            if changes.is_empty() {
                break;
            }
            (run.scans, run.copies) = (run.scans + 1, run.copies + changes.len() as u64);
            self.update_holders(&changes);
            run.took += began.elapsed();
        }
        run
    }

    fn remove_excess(&mut self) {
        for _ in 0..MAX_SCANS {
            let changes = over_replicated::excess_copies(self.catalog, &self.nodes(), MAX_EXCESS);
            if changes.is_empty() {
                return;
            }
            self.update_holders(&changes);
        }
    }

    fn update_holders(&mut self, changes: &[HolderChange]) {
        for changes in changes.chunks(CHANGES_PER_COMMAND) {
            self.apply(Op::UpdateHolders(UpdateHolders { changes: changes.to_vec() }));
        }
    }
}
