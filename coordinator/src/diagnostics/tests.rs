//! Tests of the reports on hand-made catalogs.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use volley_common::wire::catalog::{
    Node, NodeState, Part, Pin, Replaced, Row, ShardPlacement, Table, TableSpec, Write, WriteOutcome, WriteState, row,
};
use volley_common::{Code, NodeId, PartId};

use super::cluster_snapshot::ClusterSnapshot;
use super::drain::{check_drained, drain_json};
use super::replication_health::{ClusterHealth, ReplicationHealth};
use super::table_layout::layout_json;
use super::versions::versions_json;
use crate::catalog::Catalog;

const NOW: u64 = 1_000_000;
const REPAIR_DELAY: u64 = 60_000;

/// Four nodes, and table "a/t" at version 5 with two replicas, whose single shard is placed on nodes 1 and 3.
struct ClusterFixture {
    catalog: Catalog,
}

impl ClusterFixture {
    /// Unless `alive`, node 1 has been unreachable for 10 s, and node 2 for 10 min.
    fn new(alive: bool) -> ClusterFixture {
        let mut cluster = ClusterFixture { catalog: Catalog::default() };
        for (id, unreachable_since_ms) in [(1, NOW - 10_000), (2, NOW - 600_000), (3, 0), (4, 0)] {
            let unreachable = !alive && unreachable_since_ms > 0;
            let state = if unreachable { NodeState::Unreachable } else { NodeState::Alive };
            cluster.node(Node {
                unreachable_since_ms: if unreachable { unreachable_since_ms } else { 0 },
                state: state as i32,
                ..node(id)
            });
        }
        cluster.table(Table::default());
        cluster
    }

    fn put(&mut self, row: row::Row) {
        self.catalog.insert_row(Row { row: Some(row) });
    }

    fn node(&mut self, node: Node) {
        self.put(row::Row::Node(node));
    }

    fn table(&mut self, more: Table) {
        let spec = Some(TableSpec { shards: 1, replicas: 2, ..TableSpec::default() });
        let placement = vec![ShardPlacement { nodes: vec![1, 3] }];
        let name = vec!["a".into(), "t".into()];
        self.put(row::Row::Table(Table { id: 1, name, version: 5, changed_ms: 900, spec, placement, ..more }));
    }

    fn part(&mut self, id: u64, holders: &[u64], versions: (u64, u64)) {
        let (added, removed) = versions;
        let part = Part { table: 1, seq: id, rows: 10, bytes: 100, added, removed, ..Part::default() };
        self.put(row::Row::Part(Part { id: Some(PartId(id.into()).into()), holders: holders.to_vec(), ..part }));
    }

    fn with(parts: &[(u64, &[u64])]) -> ClusterFixture {
        let mut cluster = ClusterFixture::new(false);
        parts.iter().for_each(|(id, holders)| cluster.part(*id, holders, (5, 0)));
        cluster
    }

    fn health(&self) -> ReplicationHealth {
        ReplicationHealth::of(&self.catalog, self.catalog.live_node_ids(), NOW)
    }

    fn snapshot(&self) -> ClusterSnapshot<'_> {
        ClusterSnapshot::new(&self.catalog, BTreeMap::new(), NOW, REPAIR_DELAY)
    }

    fn shard(&self) -> Value {
        layout_json(&self.snapshot(), self.catalog.table(1).unwrap())["shards"][0].clone()
    }

    /// Kind and text of the reasons why parts of the shard lack copies.
    fn reasons(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap().to_string();
        let shard = self.shard();
        shard["missing"].as_array().unwrap().iter().map(|one| (text(&one["kind"]), text(&one["why"]))).collect()
    }
}

fn node(id: u64) -> Node {
    let state = NodeState::Alive as i32;
    Node {
        id,
        flight_uri: format!("grpc+tcp://n{id}:8816"),
        peer_addr: format!("n{id}:8826"),
        state,
        ..Node::default()
    }
}

#[test]
fn cluster_is_green_while_all_copies_are_on_live_nodes() {
    let health = ClusterFixture::with(&[(1, &[3, 4]), (2, &[3, 4, 1])]).health();
    assert_eq!((health.cluster_health(false), health.parts, health.under_replicated), (ClusterHealth::Green, 2, 0));
    assert_eq!(health.held[&NodeId(3)], (2, 200));
    assert_eq!(ClusterFixture::with(&[]).health().cluster_health(false), ClusterHealth::Green);
}

#[test]
fn unreachable_member_makes_the_cluster_yellow() {
    assert_eq!(ClusterFixture::with(&[(1, &[3, 4])]).health().cluster_health(true), ClusterHealth::Yellow);
    assert_eq!(ClusterFixture::with(&[(7, &[1])]).health().cluster_health(true), ClusterHealth::Red);
}

#[test]
fn copy_on_an_unreachable_node_makes_the_cluster_yellow() {
    let health = ClusterFixture::with(&[(1, &[3, 4]), (2, &[3, 1])]).health();
    assert_eq!(
        (health.cluster_health(false), health.under_replicated, health.bytes_to_copy, health.unreadable),
        (ClusterHealth::Yellow, 1, 100, 0)
    );
}

#[test]
fn part_without_a_live_holder_makes_the_cluster_red() {
    for holders in [&[1, 2][..], &[]] {
        let health = ClusterFixture::with(&[(1, &[3, 4]), (7, holders)]).health();
        assert_eq!(
            (health.cluster_health(false), health.under_replicated, health.unreadable),
            (ClusterHealth::Red, 1, 1)
        );
        let first = &health.listed[0];
        assert_eq!(
            (first.table.as_str(), first.shard, first.part, first.holders.len()),
            ("a/t", 0, PartId(7), holders.len())
        );
    }
}

#[test]
fn at_most_a_hundred_unreadable_parts_are_listed() {
    let mut cluster = ClusterFixture::new(false);
    (0..150).for_each(|id| cluster.part(id, &[1], (5, 0)));
    let health = cluster.health();
    assert_eq!((health.unreadable, health.listed.len()), (150, 100));
}

#[test]
fn older_version_counts_while_it_is_readable() {
    let health = |until_ms: u64, pins: Vec<Pin>, dropped_ms: u64| {
        let mut cluster = ClusterFixture::new(false);
        let replaced = vec![Replaced { version: 5, until_ms, ..Replaced::default() }];
        cluster.table(Table { replaced, pins, dropped_ms, ..Table::default() });
        cluster.part(1, &[1], (3, 5));
        cluster.health().cluster_health(false)
    };
    assert_eq!(health(NOW + 1, vec![], 0), ClusterHealth::Red);
    assert_eq!(health(NOW - 1, vec![], 0), ClusterHealth::Green, "its retention has passed");
    assert_eq!(health(NOW - 1, vec![Pin { version: 3, until_ms: NOW + 1 }], 0), ClusterHealth::Red, "pinned");
    assert_eq!(
        health(NOW - 1, vec![Pin { version: 2, until_ms: NOW + 1 }], 0),
        ClusterHealth::Green,
        "another is pinned"
    );
    assert_eq!(health(NOW + 1, vec![], 7), ClusterHealth::Green, "dropped");
}

#[test]
fn layout_lists_placed_nodes_and_holders_of_a_shard() {
    let cluster = ClusterFixture::with(&[(1, &[3, 4]), (2, &[3, 1])]);
    let shard = cluster.shard();
    let nodes = |key: &str| shard[key].as_array().unwrap().iter().map(|n| n["address"].clone()).collect::<Vec<_>>();
    assert_eq!(nodes("placed"), ["n1:8816", "n3:8816"]);
    assert_eq!(nodes("holders"), ["n1:8816", "n3:8816", "n4:8816"]);
    assert_eq!(
        shard["holders"][0],
        json!({ "node": "0000000000000001", "address": "n1:8816", "condition": "silent", "parts": 1 })
    );
    let counts =
        ["parts", "rows", "bytes", "below_replicas", "unreadable", "moving"].map(|key| shard[key].as_u64().unwrap());
    assert_eq!(counts, [2, 20, 200, 1, 0, 1]);
}

#[test]
fn missing_copy_has_a_reason() {
    let reason = |holders: &[u64]| ClusterFixture::with(&[(1, holders)]).reasons().remove(0);
    let (kind, text) = reason(&[3, 1]);
    assert!(kind == "grace" && text.contains("n1:8816 (unreachable for 10 s)") && text.contains("in 50 s"), "{text}");
    let (kind, text) = reason(&[3, 2]);
    assert!(kind == "queued" && text.contains("queued"), "{kind}: {text}");
    let (kind, text) = reason(&[1, 2]);
    assert!(kind == "unreadable" && text.contains("n2:8816 (unreachable for 10 min)"), "{text}");
    assert_eq!(reason(&[]), ("unreadable".into(), "no node has a copy any more".into()));
}

#[test]
fn copy_in_progress_names_its_target() {
    let cluster = ClusterFixture::with(&[(1, &[3, 2])]);
    let mut snapshot = cluster.snapshot();
    snapshot.copying.insert(PartId(1), NodeId(4));
    let shard = layout_json(&snapshot, cluster.catalog.table(1).unwrap())["shards"][0].clone();
    assert_eq!(shard["missing"][0]["kind"], "copying");
    assert!(shard["missing"][0]["why"].as_str().unwrap().contains("n4:8816"), "{shard}");
}

#[test]
fn node_that_accepts_no_writes_is_named_with_its_reason() {
    let mut cluster = ClusterFixture::with(&[(1, &[3, 2])]);
    cluster.node(Node { read_only_reason: "disk 96 % full".into(), ..node(4) });
    let (kind, text) = cluster.reasons().remove(0);
    assert!(kind == "no_target" && text.contains("n4:8816 (not accepting writes: disk 96 % full)"), "{kind}: {text}");
    cluster.node(Node { draining: true, ..node(4) });
    assert!(cluster.reasons()[0].1.contains("n4:8816 (draining)"));
}

#[test]
fn drain_is_done_when_other_live_nodes_have_enough_copies() {
    let mut cluster = ClusterFixture::new(true);
    cluster.node(Node { draining: true, ..node(3) });
    cluster.part(1, &[3, 4, 1], (5, 0));
    assert_eq!(drain_json(&cluster.snapshot(), NodeId(3)).unwrap()["done"], true);
    check_drained(&cluster.snapshot(), NodeId(3)).unwrap();

    cluster.part(2, &[3, 4], (5, 0));
    let left = drain_json(&cluster.snapshot(), NodeId(3)).unwrap();
    assert_eq!((&left["parts_left"], &left["bytes_left"], &left["done"]), (&json!(1), &json!(100), &json!(false)));
    assert_eq!(left["why"][0]["kind"], "queued");
    let error = check_drained(&cluster.snapshot(), NodeId(3)).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains("1 of its parts"), "{error}");
}

#[test]
fn drain_waits_for_open_writes_and_never_ends_on_the_last_node() {
    let mut cluster = ClusterFixture::new(true);
    cluster.node(Node { draining: true, ..node(3) });
    let parts = vec![Part { holders: vec![3, 4], ..Part::default() }];
    cluster.put(row::Row::Write(Write {
        id: "nightly".into(),
        parts,
        state: WriteState::Open as i32,
        ..Write::default()
    }));
    let left = drain_json(&cluster.snapshot(), NodeId(3)).unwrap();
    assert_eq!(left["done"], false);
    assert!(left["why"][0]["why"].as_str().unwrap().contains("nightly"));

    let mut alone = ClusterFixture { catalog: Catalog::default() };
    alone.node(Node { draining: true, ..node(3) });
    alone.table(Table::default());
    alone.part(1, &[3], (5, 0));
    let left = drain_json(&alone.snapshot(), NodeId(3)).unwrap();
    assert_eq!((&left["done"], &left["why"][0]["kind"]), (&json!(false), &json!("no_target")));
}

#[test]
fn drain_ends_with_fewer_nodes_than_replicas() {
    let mut cluster = ClusterFixture { catalog: Catalog::default() };
    cluster.node(node(4));
    cluster.node(Node { draining: true, ..node(3) });
    cluster.table(Table::default());
    cluster.part(1, &[3, 4], (5, 0));
    assert_eq!(drain_json(&cluster.snapshot(), NodeId(3)).unwrap()["done"], true);
}

#[test]
fn versions_are_listed_with_sizes_times_and_ends() {
    let mut cluster = ClusterFixture::new(true);
    // Version 4 replaced what 2 and 3 had; 5 appended to it.
    let replaced = vec![Replaced { version: 4, until_ms: NOW + 5, at_ms: 800, ..Replaced::default() }];
    let pins = vec![Pin { version: 3, until_ms: NOW + 9 }];
    cluster.table(Table { replaced, pins, oldest: 2, ..Table::default() });
    for (id, versions) in [(1, (2, 4)), (2, (3, 4)), (3, (4, 0)), (4, (5, 0)), (5, (5, 0))] {
        cluster.part(id, &[3], versions);
    }
    let outcome = Some(WriteOutcome { version: 4, ..WriteOutcome::default() });
    let (table, state) = (vec!["a".into(), "t".into()], WriteState::Committed as i32);
    cluster.put(row::Row::Write(Write { id: "w".into(), table, state, outcome, ended_ms: 800, ..Write::default() }));
    let listed = versions_json(&cluster.catalog, cluster.catalog.table(1).unwrap(), NOW);
    let of = |key: &str| listed["versions"].as_array().unwrap().iter().map(|v| v[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("version"), [5, 4, 3, 2]);
    assert_eq!(of("rows"), [30, 10, 20, 10]);
    assert_eq!(of("bytes"), [300, 100, 200, 100]);
    assert_eq!(of("parts"), [3, 1, 2, 1]);
    assert_eq!(of("made_ms"), [json!(900), json!(800), Value::Null, Value::Null]);
    assert_eq!(of("until_ms"), [Value::Null, Value::Null, json!(NOW + 9), json!(NOW + 5)]);
    assert_eq!(of("pinned"), [false, false, true, false]);
    assert_eq!((&listed["newest"], &listed["more"]), (&json!(5), &json!(0)));
    let replaced_by = json!({ "version": 4, "kind": "replace", "restored": null, "write": null, "at_ms": 800 });
    assert_eq!(of("replaced_by"), [Value::Null, Value::Null, replaced_by.clone(), replaced_by]);

    let later = versions_json(&cluster.catalog, cluster.catalog.table(1).unwrap(), NOW + 7);
    let left: Vec<&Value> = later["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(left, [5, 4, 3], "2 has expired, 3 is pinned");
}

#[test]
fn only_the_newest_of_many_versions_are_listed() {
    let mut cluster = ClusterFixture::new(true);
    cluster.table(Table::default());
    let spec = cluster.catalog.table(1).unwrap().clone();
    cluster.put(row::Row::Table(Table { version: 3000, ..spec }));
    let listed = versions_json(&cluster.catalog, cluster.catalog.table(1).unwrap(), NOW);
    assert_eq!(listed["versions"].as_array().unwrap().len(), 1000);
    assert_eq!((&listed["versions"][0]["version"], &listed["more"]), (&json!(3000), &json!(2000)));
}
