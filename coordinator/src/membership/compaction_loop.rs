//! Compactions of small parts: which are in progress, which tables back off, and ordering the next.
//!
//! A compaction is a write in the catalog, so a new leader knows those in progress. The state here may be lost: tables
//! that had nothing to compact, and failures.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{AbortWrite, BeginWrite, Part, Write, WriteMode, WriteState};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::{CompactParts, WritePlan};
use volley_common::{Error, NodeId, Result};

use super::NodeMembership;
use crate::catalog::replies::unexpected_reply;
use crate::catalog::{Catalog, PartRow};
use crate::catalog_scan::scan_catalog;
use crate::planner::write_targets::{retarget, write_targets};
use crate::scheduler::compaction::{CompactionLimits, CompactionPlan, plan_compaction};

/// Concurrent compactions of one node.
const MAX_PER_NODE: usize = 2;
/// Maximum number of compactions that begin in one round.
const MAX_PER_ROUND: usize = 16;
/// The lease of a compaction, which its node renews. Without renewal it is aborted, because its order was lost.
const LEASE_MS: u64 = 30_000;
/// How long a table backs off after a failed compaction. Doubles with every failure up to the maximum.
const INITIAL_BACKOFF: Duration = Duration::from_secs(5);
const MAX_BACKOFF: Duration = Duration::from_secs(3600);

/// What the leader keeps about compactions between rounds.
#[derive(Default)]
pub struct CompactionState {
    /// Versions of tables (by id) in which there was nothing to compact.
    idle: BTreeMap<u64, u64>,
    /// The live and the writable nodes of the last round. `idle` is valid only for these.
    nodes: (BTreeSet<NodeId>, BTreeSet<NodeId>),
    /// Ordered compactions: write id → table id.
    ordered: BTreeMap<String, u64>,
    backoffs: BTreeMap<u64, Backoff>,
}

#[derive(Clone, Copy)]
struct Backoff {
    until: Instant,
    failures: u32,
}

/// The input of one round.
struct CompactionRound {
    /// Tables that may need a compaction.
    tables: Vec<u64>,
    alive: BTreeSet<NodeId>,
    /// Writable nodes, and the number of compactions of each.
    load: BTreeMap<NodeId, usize>,
}

impl CompactionState {
    /// Records how ordered compactions ended, and selects the tables of the next round.
    fn begin_round(&mut self, catalog: &Catalog, now: Instant) -> CompactionRound {
        self.record_ended(catalog, now);
        let alive = catalog.live_node_ids().clone();
        let mut load: BTreeMap<NodeId, usize> = catalog.writable_nodes().map(|node| (NodeId(node.id), 0)).collect();
        let nodes = (alive.clone(), load.keys().copied().collect());
        if self.nodes != nodes {
            (self.nodes, self.idle) = (nodes, BTreeMap::new());
        }
        let mut busy = BTreeSet::new();
        for write in open_compactions(catalog) {
            busy.insert(write.table_id);
            load.entry(NodeId(write.writer)).and_modify(|compactions| *compactions += 1);
        }
        let backs_off = |id: &u64| self.backoffs.get(id).is_some_and(|backoff| backoff.until > now);
        let tables = catalog.tables().filter(|table| self.idle.get(&table.id) != Some(&table.version));
        let tables = tables.map(|table| table.id).filter(|id| !busy.contains(id) && !backs_off(id)).collect();
        CompactionRound { tables, alive, load }
    }

    fn record_ended(&mut self, catalog: &Catalog, now: Instant) {
        let state = |id: &String| catalog.write(id).map(|write| write.state());
        let ended: Vec<String> =
            self.ordered.keys().filter(|id| state(id) != Some(WriteState::Open)).cloned().collect();
        for id in ended {
            let Some(table) = self.ordered.remove(&id) else { continue };
            if state(&id) == Some(WriteState::Committed) {
                self.backoffs.remove(&table);
            } else {
                self.record_failure(table, now);
            }
        }
        let exists = |table: &u64| catalog.table(*table).is_some_and(|table| table.dropped_ms == 0);
        self.backoffs.retain(|table, _| exists(table));
        self.idle.retain(|table, _| exists(table));
    }

    fn record_failure(&mut self, table: u64, now: Instant) {
        let failures = self.backoffs.get(&table).map_or(0, |backoff| backoff.failures);
        let length = INITIAL_BACKOFF.saturating_mul(1 << failures.min(16)).min(MAX_BACKOFF);
        self.backoffs.insert(table, Backoff { until: now + length, failures: failures + 1 });
    }
}

/// The result of one round.
#[derive(Default)]
struct CompactionDecision {
    /// Compactions to order.
    plans: Vec<CompactionPlan>,
    /// (table, version) without anything to compact.
    idle: Vec<(u64, u64)>,
}

fn decide(catalog: &Catalog, mut round: CompactionRound, limits: &CompactionLimits) -> CompactionDecision {
    let mut decision = CompactionDecision::default();
    for table in round.tables.iter().filter_map(|id| catalog.table(*id)) {
        let with_capacity = round.load.iter().filter(|(_, compactions)| **compactions < MAX_PER_NODE);
        let free: BTreeSet<NodeId> = with_capacity.map(|(node, _)| *node).collect();
        if free.is_empty() || decision.plans.len() >= MAX_PER_ROUND {
            break;
        }
        match plan_compaction(catalog, table, &round.alive, &free, limits) {
            Some(plan) => {
                round.load.entry(plan.node).and_modify(|compactions| *compactions += 1);
                decision.plans.push(plan);
            }
            None => decision.idle.push((table.id, table.version)),
        }
    }
    decision
}

fn open_compactions(catalog: &Catalog) -> impl Iterator<Item = &Write> {
    catalog.open_writes().filter(|write| write.mode() == WriteMode::Compact)
}

/// The command that begins a compaction, and its sources as the order contains them.
fn begin_command(catalog: &Catalog, plan: &CompactionPlan) -> Option<(BeginWrite, Vec<Part>)> {
    let (table, node) = (catalog.table(plan.table)?, catalog.node(plan.node)?);
    let begin = BeginWrite {
        // File names on nodes contain this id, and existing files have this prefix.
        id: format!("merge-{:032x}", rand::random::<u128>()),
        table: table.name.clone(),
        kind: table.kind,
        mode: WriteMode::Compact as i32,
        writer: node.id,
        writer_boot: node.boot,
        attempt: rand::random(),
        lease_ms: LEASE_MS,
        table_id: table.id,
        sources: plan.sources.iter().map(|id| (*id).into()).collect(),
        ..BeginWrite::default()
    };
    let parts: Option<Vec<Part>> = plan.sources.iter().map(|id| catalog.part(*id).map(PartRow::to_part)).collect();
    Some((begin, parts?))
}

impl NodeMembership {
    /// Orders the compactions that are due, and aborts those whose node is unreachable.
    pub(super) async fn order_compactions(&self) {
        self.abort_orphaned_compactions().await;
        let round = {
            let catalog = self.raft.view();
            self.state.lock().compaction.begin_round(&catalog, Instant::now())
        };
        if round.tables.is_empty() || round.load.is_empty() {
            return;
        }
        let decision =
            scan_catalog(&self.raft, move |catalog| decide(catalog, round, &CompactionLimits::default())).await;
        let Ok(CompactionDecision { plans, idle }) = decision else { return };
        self.state.lock().compaction.idle.extend(idle);
        for plan in plans {
            if let Err(error) = self.order_compaction(&plan).await {
                tracing::warn!(table = plan.table, node = %plan.node, %error, "cannot begin a compaction");
                self.state.lock().compaction.record_failure(plan.table, Instant::now());
            }
        }
    }

    async fn order_compaction(&self, plan: &CompactionPlan) -> Result<()> {
        let (begin, sources, nodes) = {
            let catalog = self.raft.view();
            let Some((begin, sources)) = begin_command(&catalog, plan) else { return Ok(()) };
            let spec = catalog.table(plan.table).and_then(|table| table.spec.clone()).unwrap_or_default();
            (begin, sources, write_targets(&catalog, &spec)?)
        };
        let write = match self.raft.propose_if_leader(Op::BeginWrite(begin)).await? {
            Reply::Write(write) => retarget(write, &nodes),
            other => return Err(unexpected_reply("begin_write", &other)),
        };
        tracing::debug!(table = write.table.join("/"), node = %plan.node, parts = sources.len(), "compacting small parts");
        let (id, attempt) = (write.id.clone(), write.attempt);
        let write_plan = WritePlan { write: Some(write), nodes, lease_ms: LEASE_MS, spreads: false };
        let order = What::Compact(CompactParts { plan: Some(write_plan), sources });
        if self.send_order(plan.node, order).is_none() {
            self.abort_compaction(&id, attempt, "its node is not in session").await?;
            return Err(Error::unavailable("its node is not in session"));
        }
        metrics::counter!("volley_compactions_ordered_total").increment(1);
        self.state.lock().compaction.ordered.insert(id, plan.table);
        Ok(())
    }

    /// Aborts compactions whose node is not alive, so that another node can compact the table.
    async fn abort_orphaned_compactions(&self) {
        let orphans: Vec<(String, u64)> = {
            let catalog = self.raft.view();
            let alive = catalog.live_node_ids();
            let orphaned = open_compactions(&catalog).filter(|write| !alive.contains(&NodeId(write.writer)));
            orphaned.map(|write| (write.id.clone(), write.attempt)).collect()
        };
        for (id, attempt) in orphans {
            if let Err(error) = self.abort_compaction(&id, attempt, "its node is unreachable").await {
                tracing::warn!(write = id, %error, "cannot abort a compaction whose node is unreachable; trying again");
            }
        }
    }

    async fn abort_compaction(&self, write: &str, attempt: u64, reason: &str) -> Result<()> {
        let abort = AbortWrite { write: write.to_string(), reason: reason.to_string(), attempt };
        self.raft.propose(Op::AbortWrite(abort)).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
