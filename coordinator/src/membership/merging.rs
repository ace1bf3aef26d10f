//! Merges of small parts: which are under way, which tables rest, and ordering the next.
//!
//! A merge is a write of the catalog's, so that a new leader sees what is under way. What is kept here is only what
//! may be forgotten: where nothing was to be done when last looked, and what failed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{BeginWrite, Part, Write, WriteMode, WriteState};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::{CompactParts, WritePlan};
use volley_common::{Error, NodeId, Result};

use super::Membership;
use crate::catalog::{Catalog, PartRow};
use crate::merging::{Limits, MergePlan, merge_of};
use crate::service::homes::{homes, redirected};
use crate::service::read::live_ids;
use crate::service::writable_nodes;

/// Merges that a node has at once.
const PER_NODE: usize = 2;
/// Merges that begin in one round.
const AT_ONCE: usize = 16;
/// A merge of which nothing is heard for so long is over: its order was lost. The node renews it.
const LEASE_MS: u64 = 30_000;
/// How long a table rests after a merge of it failed: twice as long every time, up to the most.
const REST: Duration = Duration::from_secs(5);
const LONGEST_REST: Duration = Duration::from_secs(3600);

/// What the leader remembers of merges.
#[derive(Default)]
pub struct Merging {
    /// Tables that had nothing to merge, and in which version.
    looked: BTreeMap<u64, u64>,
    /// The nodes that there were then: with others there may be.
    nodes: (BTreeSet<NodeId>, BTreeSet<NodeId>),
    /// Merges that were ordered: write id → table.
    ordered: BTreeMap<String, u64>,
    rests: BTreeMap<u64, Rest>,
}

#[derive(Clone, Copy)]
struct Rest {
    until: Instant,
    times: u32,
}

/// What a round begins with.
struct Round {
    tables: Vec<u64>,
    alive: BTreeSet<NodeId>,
    /// Nodes that take parts, and how many merges each has.
    load: BTreeMap<NodeId, usize>,
}

impl Merging {
    /// Takes in how ordered merges ended, and says which tables are worth a look.
    fn begin_round(&mut self, catalog: &Catalog, now: Instant) -> Round {
        self.settle(catalog, now);
        let alive = live_ids(catalog);
        let mut load: BTreeMap<NodeId, usize> =
            writable_nodes(catalog).iter().map(|node| (NodeId(node.id), 0)).collect();
        let nodes = (alive.clone(), load.keys().copied().collect());
        if self.nodes != nodes {
            (self.nodes, self.looked) = (nodes, BTreeMap::new());
        }
        let mut busy = BTreeSet::new();
        for write in open_merges(catalog) {
            busy.insert(write.table_id);
            load.entry(NodeId(write.writer)).and_modify(|merges| *merges += 1);
        }
        let rests = |id: &u64| self.rests.get(id).is_some_and(|rest| rest.until > now);
        let tables = catalog.tables().filter(|table| self.looked.get(&table.id) != Some(&table.version));
        let tables = tables.map(|table| table.id).filter(|id| !busy.contains(id) && !rests(id)).collect();
        Round { tables, alive, load }
    }

    fn settle(&mut self, catalog: &Catalog, now: Instant) {
        let state = |id: &String| catalog.write(id).map(Write::state);
        let ended: Vec<String> =
            self.ordered.keys().filter(|id| state(id) != Some(WriteState::Open)).cloned().collect();
        for id in ended {
            let Some(table) = self.ordered.remove(&id) else { continue };
            if state(&id) == Some(WriteState::Committed) {
                self.rests.remove(&table);
            } else {
                self.failed(table, now);
            }
        }
        let there = |table: &u64| catalog.table(*table).is_some_and(|table| table.dropped_ms == 0);
        self.rests.retain(|table, _| there(table));
        self.looked.retain(|table, _| there(table));
    }

    fn failed(&mut self, table: u64, now: Instant) {
        let times = self.rests.get(&table).map_or(0, |rest| rest.times);
        let length = REST.saturating_mul(1 << times.min(16)).min(LONGEST_REST);
        self.rests.insert(table, Rest { until: now + length, times: times + 1 });
    }
}

/// What a round decides: merges to order, and tables (with their versions) that need none.
#[derive(Default)]
struct Decided {
    merges: Vec<MergePlan>,
    idle: Vec<(u64, u64)>,
}

fn decide(catalog: &Catalog, mut round: Round, limits: &Limits) -> Decided {
    let mut decided = Decided::default();
    for table in round.tables.iter().filter_map(|id| catalog.table(*id)) {
        let free: BTreeSet<NodeId> =
            round.load.iter().filter(|(_, merges)| **merges < PER_NODE).map(|(node, _)| *node).collect();
        if free.is_empty() || decided.merges.len() >= AT_ONCE {
            break;
        }
        match merge_of(catalog, table, &round.alive, &free, limits) {
            Some(plan) => {
                round.load.entry(plan.node).and_modify(|merges| *merges += 1);
                decided.merges.push(plan);
            }
            None => decided.idle.push((table.id, table.version)),
        }
    }
    decided
}

fn open_merges(catalog: &Catalog) -> impl Iterator<Item = &Write> {
    catalog.open_writes().filter(|write| write.mode() == WriteMode::Compact)
}

/// The command that begins a merge, and the parts as its node is told them.
fn command(catalog: &Catalog, plan: &MergePlan) -> Option<(BeginWrite, Vec<Part>)> {
    let (table, node) = (catalog.table(plan.table)?, catalog.node(plan.node)?);
    let begin = BeginWrite {
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

impl Membership {
    /// Orders the merges that are wanted now, and ends those whose node is gone.
    pub(super) async fn order_merges(self: &Arc<Self>) {
        self.end_orphans().await;
        let round = {
            let catalog = self.service.raft.view();
            self.state.lock().merging.begin_round(&catalog, Instant::now())
        };
        if round.tables.is_empty() || round.load.is_empty() {
            return;
        }
        let raft = self.service.raft.clone();
        let decided = tokio::task::spawn_blocking(move || decide(&raft.view(), round, &Limits::default())).await;
        let Ok(Decided { merges, idle }) = decided else { return };
        self.state.lock().merging.looked.extend(idle);
        for plan in merges {
            if let Err(error) = self.order_merge(&plan).await {
                tracing::warn!(table = plan.table, node = %plan.node, %error, "a merge of small parts could not begin");
                self.state.lock().merging.failed(plan.table, Instant::now());
            }
        }
    }

    async fn order_merge(&self, plan: &MergePlan) -> Result<()> {
        let (begin, sources, nodes) = {
            let catalog = self.service.raft.view();
            let Some((begin, sources)) = command(&catalog, plan) else { return Ok(()) };
            let spec = catalog.table(plan.table).and_then(|table| table.spec.clone()).unwrap_or_default();
            (begin, sources, homes(&catalog, &spec)?)
        };
        let write = match self.service.raft.propose_if_leader(Op::BeginWrite(begin)).await? {
            Reply::Write(write) => redirected(write, &nodes),
            other => return Err(crate::service::write::unexpected("a merge", &other)),
        };
        tracing::debug!(table = write.table.join("/"), node = %plan.node, parts = sources.len(), "merging small parts");
        let (id, attempt) = (write.id.clone(), write.attempt);
        let merge = CompactParts { plan: Some(WritePlan { write: Some(write), nodes, lease_ms: LEASE_MS }), sources };
        if self.tell(plan.node, What::Compact(merge)).is_none() {
            self.end_merge(&id, attempt, "its node is not in session").await?;
            return Err(Error::unavailable("its node is not in session"));
        }
        self.state.lock().merging.ordered.insert(id, plan.table);
        Ok(())
    }

    /// Ends merges whose node is no longer heard from, so that another one can go on.
    async fn end_orphans(&self) {
        let orphans: Vec<(String, u64)> = {
            let catalog = self.service.raft.view();
            let alive = live_ids(&catalog);
            let orphaned = open_merges(&catalog).filter(|write| !alive.contains(&NodeId(write.writer)));
            orphaned.map(|write| (write.id.clone(), write.attempt)).collect()
        };
        for (id, attempt) in orphans {
            if let Err(error) = self.end_merge(&id, attempt, "its node is no longer heard from").await {
                tracing::warn!(write = id, %error, "a merge whose node is gone could not be ended; trying again");
            }
        }
    }

    async fn end_merge(&self, write: &str, attempt: u64, reason: &str) -> Result<()> {
        self.service.abort_write(write.to_string(), reason.to_string(), attempt).await
    }
}

#[cfg(test)]
mod tests;
