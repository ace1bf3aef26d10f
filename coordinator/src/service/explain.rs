//! Where a table is, where it should be, and why not yet; which of its versions can be read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use volley_common::listen::host_port;
use volley_common::wire::catalog::{Table, WriteState};
use volley_common::{NodeId, Result, TableName, clock};

use super::Service;
use super::status::blocking;
use super::survey::live_copies;
use super::why::{Reasons, Scene, condition};
use crate::catalog::{Catalog, PartRow};
use crate::scheduler::replicas;

/// Versions that one answer lists at most, the newest.
const MOST_VERSIONS: usize = 1000;

impl Service {
    /// Where every shard of a table's newest version is, where it should be, and why not yet.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. UNAVAILABLE: no leader.
    pub async fn explain(&self, name: &TableName) -> Result<Value> {
        drop(self.raft.read().await?);
        let (name, raft, live, repair_delay_ms) =
            (name.clone(), self.raft.clone(), self.live(), self.config.repair_delay_ms);
        blocking(move || {
            let catalog = raft.view();
            let table = catalog.require_table(&name)?;
            Ok(explain(&live.scene(&catalog, clock::now_ms(), repair_delay_ms), table))
        })
        .await?
    }

    /// The versions of a table that can be read now, newest first.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. UNAVAILABLE: no leader.
    pub async fn list_versions(&self, name: &TableName) -> Result<Value> {
        drop(self.raft.read().await?);
        let (name, raft) = (name.clone(), self.raft.clone());
        blocking(move || {
            let catalog = raft.view();
            let table = catalog.require_table(&name)?;
            Ok(versions(&catalog, table, clock::now_ms()))
        })
        .await?
    }
}

/// What is known about one shard.
#[derive(Default)]
struct Shard {
    parts: u64,
    rows: u64,
    bytes: u64,
    below: u64,
    unreadable: u64,
    /// Parts that each holder has.
    holders: BTreeMap<NodeId, u64>,
    /// Why copies are missing.
    missing: Reasons,
    /// Parts with copies enough, of which a placed node has none yet.
    moving: u64,
}

impl Shard {
    fn add(&mut self, scene: &Scene<'_>, part: &PartRow, wanted: usize, placed: &[u64]) {
        self.parts += 1;
        self.rows += part.rows;
        self.bytes += part.bytes;
        for node in scene.catalog.holders(part) {
            *self.holders.entry(node).or_default() += 1;
        }
        let live = live_copies(part, &scene.nodes.alive);
        self.unreadable += u64::from(live == 0);
        if live < wanted {
            self.below += 1;
            let found = self.missing.entry(scene.reason(part, wanted, None)).or_default();
            *found = (found.0 + 1, found.1 + part.bytes * (wanted - live) as u64);
        } else {
            self.moving += u64::from(!placed.iter().all(|node| part.holders.contains(node)));
        }
    }

    fn json(&self, scene: &Scene<'_>, number: usize, placed: &[u64]) -> Value {
        let holder = |(id, parts): (&NodeId, &u64)| {
            let mut node = node_ref(scene.catalog, *id);
            node["parts"] = (*parts).into();
            node
        };
        json!({
            "shard": number,
            "parts": self.parts,
            "rows": self.rows,
            "bytes": self.bytes,
            "placed": placed.iter().map(|id| node_ref(scene.catalog, NodeId(*id))).collect::<Vec<_>>(),
            "holders": self.holders.iter().map(holder).collect::<Vec<_>>(),
            "below_replicas": self.below,
            "unreadable": self.unreadable,
            "moving": self.moving,
            "missing": scene.json(&self.missing),
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

pub(super) fn explain(scene: &Scene<'_>, table: &Table) -> Value {
    let wanted = replicas(table);
    let placed = |shard: usize| table.placement.get(shard).map_or(&[][..], |holders| &holders.nodes);
    let mut shards: Vec<Shard> = Vec::new();
    shards.resize_with(table.placement.len(), Shard::default);
    for part in scene.catalog.part_rows_at(table.id, table.version) {
        let at = part.shard as usize;
        if shards.len() <= at {
            shards.resize_with(at + 1, Shard::default);
        }
        shards[at].add(scene, part, wanted, placed(at));
    }
    let sum = |of: fn(&Shard) -> u64| shards.iter().map(of).sum::<u64>();
    json!({
        "table": table.name.join("/"),
        "version": table.version,
        "replicas": wanted,
        "parts": sum(|s| s.parts),
        "below_replicas": sum(|s| s.below),
        "unreadable": sum(|s| s.unreadable),
        "moving": sum(|s| s.moving),
        "shards": shards.iter().enumerate().map(|(at, s)| s.json(scene, at, placed(at))).collect::<Vec<_>>(),
    })
}

/// Rows, bytes and parts of a version.
type Size = (i64, i64, i64);

pub(super) fn versions(catalog: &Catalog, table: &Table, now_ms: u64) -> Value {
    let readable = |version: &u64| catalog.is_readable(table, *version, now_ms);
    let oldest = table.oldest.max(1);
    let mut all = (oldest..=table.version).rev().filter(readable);
    let listed: BTreeSet<u64> = all.by_ref().take(MOST_VERSIONS).collect();
    let (sizes, times) = (sizes(catalog, table, &listed), times(catalog, table));
    let one = |version: &u64| {
        let (rows, bytes, parts) = sizes.get(version).copied().unwrap_or_default();
        let (until_ms, pinned) = kept_until(table, *version, now_ms);
        json!({
            "version": version,
            "made_ms": times.get(version),
            "rows": rows,
            "bytes": bytes,
            "parts": parts,
            "until_ms": until_ms,
            "pinned": pinned,
        })
    };
    json!({
        "table": table.name.join("/"),
        "newest": table.version,
        "versions": listed.iter().rev().map(one).collect::<Vec<_>>(),
        "more": all.count(),
    })
}

/// Until when a version is kept, none while nothing of it was replaced; and whether a pin keeps it.
fn kept_until(table: &Table, version: u64, now_ms: u64) -> (Option<u64>, bool) {
    let pins = table.pins.iter().filter(|pin| pin.version == version && pin.until_ms >= now_ms);
    let pin = pins.map(|pin| pin.until_ms).max();
    let end = table.replaced.iter().find(|replaced| replaced.version > version);
    (end.map(|end| end.until_ms.max(pin.unwrap_or(0))), pin.is_some())
}

/// What each of these versions holds, summed up from what every version brought and took away.
fn sizes(catalog: &Catalog, table: &Table, wanted: &BTreeSet<u64>) -> BTreeMap<u64, Size> {
    let mut changes: BTreeMap<u64, Size> = BTreeMap::new();
    let mut change = |version: u64, sign: i64, part: &PartRow| {
        let sum = changes.entry(version).or_default();
        *sum = (sum.0 + sign * part.rows as i64, sum.1 + sign * part.bytes as i64, sum.2 + sign);
    };
    for part in catalog.all_parts_of(table.id) {
        change(part.added, 1, part);
        if part.removed != 0 {
            change(part.removed, -1, part);
        }
    }
    let mut changes = changes.into_iter().peekable();
    let mut sum = Size::default();
    let at = |version: &u64| {
        while let Some((_, more)) = changes.next_if(|(changed, _)| changed <= version) {
            sum = (sum.0 + more.0, sum.1 + more.1, sum.2 + more.2);
        }
        (*version, sum)
    };
    wanted.iter().map(at).collect()
}

/// When versions were made, as far as that is remembered: by the writes that made them.
fn times(catalog: &Catalog, table: &Table) -> BTreeMap<u64, u64> {
    let made = catalog.writes().filter(|write| {
        write.state == WriteState::Committed as i32 && write.table == table.name && write.ended_ms >= table.created_ms
    });
    let mut times: BTreeMap<u64, u64> =
        made.filter_map(|write| write.outcome.as_ref().map(|outcome| (outcome.version, write.ended_ms))).collect();
    times.entry(table.version).or_insert(table.changed_ms);
    times
}
