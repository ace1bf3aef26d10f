//! Where each shard of a table is, where it should be, and why copies are missing.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use volley_common::NodeId;
use volley_common::listen::host_port;
use volley_common::wire::catalog::Table;

use super::cluster_snapshot::ClusterSnapshot;
use super::node_condition::condition;
use super::replication_health::live_copies;
use super::under_replication_reason::{ReasonCounts, UnderReplicationReason, reasons_json};
use crate::catalog::{Catalog, PartRow};
use crate::scheduler::placement::{placement_of, replica_count};

/// The counts of one shard.
#[derive(Default)]
struct ShardLayout {
    parts: u64,
    rows: u64,
    bytes: u64,
    under_replicated: u64,
    unreadable: u64,
    /// Parts by holder.
    holders: BTreeMap<NodeId, u64>,
    /// Why copies are missing.
    missing: ReasonCounts,
    /// Parts with enough copies, but without one on every placed node.
    moving: u64,
}

impl ShardLayout {
    fn add(&mut self, snapshot: &ClusterSnapshot<'_>, part: &PartRow, wanted: usize, placed: &[u64]) {
        self.parts += 1;
        self.rows += part.rows;
        self.bytes += part.bytes;
        for node in snapshot.catalog.holders(part) {
            *self.holders.entry(node).or_default() += 1;
        }
        let live = live_copies(part, &snapshot.nodes.alive);
        self.unreadable += u64::from(live == 0);
        if live < wanted {
            self.under_replicated += 1;
            let reason = UnderReplicationReason::of(snapshot, part, wanted, None);
            let count = self.missing.entry(reason).or_default();
            *count = (count.0 + 1, count.1 + part.bytes * (wanted - live) as u64);
        } else {
            self.moving += u64::from(!placed.iter().all(|node| part.holders.contains(node)));
        }
    }

    fn json(&self, snapshot: &ClusterSnapshot<'_>, number: usize, placed: &[u64]) -> Value {
        let holder = |(id, parts): (&NodeId, &u64)| {
            let mut node = node_ref(snapshot.catalog, *id);
            node["parts"] = (*parts).into();
            node
        };
        json!({
            "shard": number,
            "parts": self.parts,
            "rows": self.rows,
            "bytes": self.bytes,
            "placed": placed.iter().map(|id| node_ref(snapshot.catalog, NodeId(*id))).collect::<Vec<_>>(),
            "holders": self.holders.iter().map(holder).collect::<Vec<_>>(),
            "below_replicas": self.under_replicated,
            "unreadable": self.unreadable,
            "moving": self.moving,
            "missing": reasons_json(snapshot, &self.missing),
        })
    }
}

fn node_ref(catalog: &Catalog, id: NodeId) -> Value {
    let node = catalog.node(id);
    json!({
        "node": id.to_string(),
        "address": node.map(|node| host_port(&node.flight_uri)),
        "condition": node.map_or("removed", condition),
    })
}

/// The layout of a table's newest version as JSON.
pub fn layout_json(snapshot: &ClusterSnapshot<'_>, table: &Table) -> Value {
    let wanted = replica_count(table);
    let placed = |shard: usize| placement_of(table, shard as u32);
    let mut shards: Vec<ShardLayout> = Vec::new();
    let count = table.spec.as_ref().map_or(0, |spec| spec.shards as usize).max(table.placement.len());
    shards.resize_with(count, ShardLayout::default);
    for part in snapshot.catalog.part_rows_at(table.id, table.version) {
        let at = part.shard as usize;
        if shards.len() <= at {
            shards.resize_with(at + 1, ShardLayout::default);
        }
        shards[at].add(snapshot, part, wanted, placed(at));
    }
    let sum = |of: fn(&ShardLayout) -> u64| shards.iter().map(of).sum::<u64>();
    json!({
        "table": table.name.join("/"),
        "version": table.version,
        "replicas": wanted,
        "parts": sum(|s| s.parts),
        "below_replicas": sum(|s| s.under_replicated),
        "unreadable": sum(|s| s.unreadable),
        "moving": sum(|s| s.moving),
        "shards": shards.iter().enumerate().map(|(at, s)| s.json(snapshot, at, placed(at))).collect::<Vec<_>>(),
    })
}
