//! What the cluster says of itself, of catalogs made by hand.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use volley_common::wire::catalog::{
    Holders, Node, NodeState, Part, Pin, Replaced, Row, Table, TableSpec, Write, WriteOutcome, WriteState, row,
};
use volley_common::{Code, NodeId, PartId};

use super::admin::{check_drained, drain_json, find_node};
use super::explain::{explain, versions};
use super::read::live_ids;
use super::survey::{Health, Survey};
use super::why::Scene;
use crate::catalog::Catalog;
use crate::scheduler::Nodes;

const NOW: u64 = 1_000_000;
const GRACE: u64 = 60_000;

/// Four nodes, of which 1 has been silent for 10 s and 2 for 10 min, unless `alive`; table "a/t", version 5, two
/// replicas, its one shard placed on 1 and 3.
struct World {
    catalog: Catalog,
}

impl World {
    fn new(alive: bool) -> World {
        let mut world = World { catalog: Catalog::default() };
        for (id, unreachable_since_ms) in [(1, NOW - 10_000), (2, NOW - 600_000), (3, 0), (4, 0)] {
            let silent = !alive && unreachable_since_ms > 0;
            let state = if silent { NodeState::Unreachable } else { NodeState::Alive };
            world.node(Node {
                unreachable_since_ms: if silent { unreachable_since_ms } else { 0 },
                state: state as i32,
                ..node(id)
            });
        }
        world.table(Table::default());
        world
    }

    fn put(&mut self, row: row::Row) {
        self.catalog.insert_row(Row { row: Some(row) });
    }

    fn node(&mut self, node: Node) {
        self.put(row::Row::Node(node));
    }

    fn table(&mut self, more: Table) {
        let spec = Some(TableSpec { shards: 1, replicas: 2, ..TableSpec::default() });
        let placement = vec![Holders { nodes: vec![1, 3] }];
        let name = vec!["a".into(), "t".into()];
        self.put(row::Row::Table(Table { id: 1, name, version: 5, changed_ms: 900, spec, placement, ..more }));
    }

    fn part(&mut self, id: u64, holders: &[u64], versions: (u64, u64)) {
        let (added, removed) = versions;
        let part = Part { table: 1, seq: id, rows: 10, bytes: 100, added, removed, ..Part::default() };
        self.put(row::Row::Part(Part { id: Some(PartId(id.into()).into()), holders: holders.to_vec(), ..part }));
    }

    fn with(parts: &[(u64, &[u64])]) -> World {
        let mut world = World::new(false);
        parts.iter().for_each(|(id, holders)| world.part(*id, holders, (5, 0)));
        world
    }

    fn survey(&self) -> Survey {
        Survey::of(&self.catalog, &live_ids(&self.catalog), NOW)
    }

    fn scene(&self) -> Scene<'_> {
        let nodes = Nodes::at(&self.catalog, NOW, GRACE);
        Scene { catalog: &self.catalog, nodes, copying: BTreeMap::new(), now_ms: NOW, repair_delay_ms: GRACE }
    }

    fn shard(&self) -> Value {
        explain(&self.scene(), self.catalog.table(1).unwrap())["shards"][0].clone()
    }

    /// Why parts of the shard lack copies: kind and text.
    fn why(&self) -> Vec<(String, String)> {
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
fn a_cluster_is_green_while_every_part_has_its_copies_on_live_nodes() {
    let survey = World::with(&[(1, &[3, 4]), (2, &[3, 4, 1])]).survey();
    assert_eq!((survey.health(), survey.parts, survey.below), (Health::Green, 2, 0));
    assert_eq!(survey.held[&NodeId(3)], (2, 200));
    assert_eq!(World::with(&[]).survey().health(), Health::Green);
}

#[test]
fn a_copy_on_a_silent_node_makes_it_yellow() {
    let survey = World::with(&[(1, &[3, 4]), (2, &[3, 1])]).survey();
    assert_eq!((survey.health(), survey.below, survey.below_bytes, survey.unreadable), (Health::Yellow, 1, 100, 0));
}

#[test]
fn a_part_without_a_live_holder_makes_it_red_and_is_named() {
    for holders in [&[1, 2][..], &[]] {
        let survey = World::with(&[(1, &[3, 4]), (7, holders)]).survey();
        assert_eq!((survey.health(), survey.below, survey.unreadable), (Health::Red, 1, 1));
        let named = &survey.named[0];
        assert_eq!(
            (named.table.as_str(), named.shard, named.part, named.holders.len()),
            ("a/t", 0, PartId(7), holders.len())
        );
    }
}

#[test]
fn at_most_a_hundred_unreadable_parts_are_named() {
    let mut world = World::new(false);
    (0..150).for_each(|id| world.part(id, &[1], (5, 0)));
    let survey = world.survey();
    assert_eq!((survey.unreadable, survey.named.len()), (150, 100));
}

#[test]
fn an_older_version_counts_while_it_can_be_read() {
    let health = |until_ms: u64, pins: Vec<Pin>, dropped_ms: u64| {
        let mut world = World::new(false);
        let replaced = vec![Replaced { version: 5, until_ms, ..Replaced::default() }];
        world.table(Table { replaced, pins, dropped_ms, ..Table::default() });
        world.part(1, &[1], (3, 5));
        world.survey().health()
    };
    assert_eq!(health(NOW + 1, vec![], 0), Health::Red);
    assert_eq!(health(NOW - 1, vec![], 0), Health::Green, "its time is over");
    assert_eq!(health(NOW - 1, vec![Pin { version: 3, until_ms: NOW + 1 }], 0), Health::Red, "pinned");
    assert_eq!(health(NOW - 1, vec![Pin { version: 2, until_ms: NOW + 1 }], 0), Health::Green, "another is pinned");
    assert_eq!(health(NOW + 1, vec![], 7), Health::Green, "dropped");
}

#[test]
fn it_is_explained_where_a_shard_is_and_should_be() {
    let world = World::with(&[(1, &[3, 4]), (2, &[3, 1])]);
    let shard = world.shard();
    let nodes = |key: &str| shard[key].as_array().unwrap().iter().map(|n| n["address"].clone()).collect::<Vec<_>>();
    assert_eq!(nodes("placed"), ["n1:8816", "n3:8816"]);
    assert_eq!(nodes("holders"), ["n1:8816", "n3:8816", "n4:8816"]);
    assert_eq!(
        shard["holders"][0],
        json!({ "node": "0000000000000001", "address": "n1:8816", "condition": "silent", "parts": 1 })
    );
    let figures =
        ["parts", "rows", "bytes", "below_replicas", "unreadable", "moving"].map(|key| shard[key].as_u64().unwrap());
    assert_eq!(figures, [2, 20, 200, 1, 0, 1]);
}

#[test]
fn every_missing_copy_has_its_reason() {
    let why = |holders: &[u64]| World::with(&[(1, holders)]).why().remove(0);
    let (kind, text) = why(&[3, 1]);
    assert!(kind == "grace" && text.contains("n1:8816 (silent for 10 s)") && text.contains("in 50 s"), "{text}");
    let (kind, text) = why(&[3, 2]);
    assert!(kind == "queued" && text.contains("turn"), "{kind}: {text}");
    let (kind, text) = why(&[1, 2]);
    assert!(kind == "unreadable" && text.contains("n2:8816 (silent for 10 min)"), "{text}");
    assert_eq!(why(&[]), ("unreadable".into(), "no node has a copy any longer".into()));
}

#[test]
fn a_copy_under_way_names_where_it_goes() {
    let world = World::with(&[(1, &[3, 2])]);
    let mut scene = world.scene();
    scene.copying.insert(PartId(1), NodeId(4));
    let shard = explain(&scene, world.catalog.table(1).unwrap())["shards"][0].clone();
    assert_eq!(shard["missing"][0]["kind"], "copying");
    assert!(shard["missing"][0]["why"].as_str().unwrap().contains("n4:8816"), "{shard}");
}

#[test]
fn who_refuses_parts_is_named_with_its_reason() {
    let mut world = World::with(&[(1, &[3, 2])]);
    world.node(Node { read_only_reason: "disk 96 % full".into(), ..node(4) });
    let (kind, text) = world.why().remove(0);
    assert!(kind == "no_target" && text.contains("n4:8816 (takes no parts: disk 96 % full)"), "{kind}: {text}");
    world.node(Node { draining: true, ..node(4) });
    assert!(world.why()[0].1.contains("n4:8816 (draining)"));
}

#[test]
fn a_drain_is_done_when_other_live_nodes_have_enough() {
    let mut world = World::new(true);
    world.node(Node { draining: true, ..node(3) });
    world.part(1, &[3, 4, 1], (5, 0));
    assert_eq!(drain_json(&world.scene(), NodeId(3)).unwrap()["done"], true);
    check_drained(&world.scene(), NodeId(3)).unwrap();

    world.part(2, &[3, 4], (5, 0));
    let left = drain_json(&world.scene(), NodeId(3)).unwrap();
    assert_eq!((&left["parts_left"], &left["bytes_left"], &left["done"]), (&json!(1), &json!(100), &json!(false)));
    assert_eq!(left["why"][0]["kind"], "queued");
    let error = check_drained(&world.scene(), NodeId(3)).unwrap_err();
    assert_eq!(error.code, Code::FailedPrecondition);
    assert!(error.message.contains("1 of its parts"), "{error}");
}

#[test]
fn a_drain_waits_for_open_writes_and_is_never_done_for_the_last_node() {
    let mut world = World::new(true);
    world.node(Node { draining: true, ..node(3) });
    let parts = vec![Part { holders: vec![3, 4], ..Part::default() }];
    world.put(row::Row::Write(Write {
        id: "nightly".into(),
        parts,
        state: WriteState::Open as i32,
        ..Write::default()
    }));
    let left = drain_json(&world.scene(), NodeId(3)).unwrap();
    assert_eq!(left["done"], false);
    assert!(left["why"][0]["why"].as_str().unwrap().contains("nightly"));

    let mut alone = World { catalog: Catalog::default() };
    alone.node(Node { draining: true, ..node(3) });
    alone.table(Table::default());
    alone.part(1, &[3], (5, 0));
    let left = drain_json(&alone.scene(), NodeId(3)).unwrap();
    assert_eq!((&left["done"], &left["why"][0]["kind"]), (&json!(false), &json!("no_target")));
}

#[test]
fn fewer_nodes_than_copies_do_not_keep_a_drain_from_its_end() {
    let mut world = World { catalog: Catalog::default() };
    world.node(node(4));
    world.node(Node { draining: true, ..node(3) });
    world.table(Table::default());
    world.part(1, &[3, 4], (5, 0));
    assert_eq!(drain_json(&world.scene(), NodeId(3)).unwrap()["done"], true);
}

#[test]
fn a_node_is_found_by_its_id_its_first_digits_or_its_address() {
    let mut world = World::new(true);
    world.node(Node { flight_uri: "grpc+tcp://x:1".into(), ..node(0xabcd_0000_0000_0001) });
    world.node(Node { flight_uri: "grpc+tcp://y:1".into(), ..node(0xabcd_1000_0000_0000) });
    let find = |text: &str| find_node(&world.catalog, text).map(|node| node.id);
    for text in ["abcd0", "ABCD000000000001", "x:1", "grpc+tcp://x:1"] {
        assert_eq!(find(text).unwrap(), 0xabcd_0000_0000_0001, "{text}");
    }
    assert_eq!(find("n3:8826").unwrap(), 3, "its peer address");
    let several = find("abcd").unwrap_err();
    assert_eq!(several.code, Code::InvalidArgument);
    assert!(several.message.contains("abcd000000000001, abcd100000000000"), "{several}");
    assert_eq!(find("ffff").unwrap_err().code, Code::NotFound);
    assert_eq!(find("z:1").unwrap_err().code, Code::NotFound);
    for text in ["abc", "", "node3"] {
        assert_eq!(find(text).unwrap_err().code, Code::InvalidArgument, "{text:?}");
    }
}

#[test]
fn versions_come_with_their_sizes_times_and_ends() {
    let mut world = World::new(true);
    // Version 4 replaced what 2 and 3 had; 5 appended to it.
    let replaced = vec![Replaced { version: 4, until_ms: NOW + 5, ..Replaced::default() }];
    let pins = vec![Pin { version: 3, until_ms: NOW + 9 }];
    world.table(Table { replaced, pins, oldest: 2, ..Table::default() });
    for (id, versions) in [(1, (2, 4)), (2, (3, 4)), (3, (4, 0)), (4, (5, 0)), (5, (5, 0))] {
        world.part(id, &[3], versions);
    }
    let outcome = Some(WriteOutcome { version: 4, ..WriteOutcome::default() });
    let (table, state) = (vec!["a".into(), "t".into()], WriteState::Committed as i32);
    world.put(row::Row::Write(Write { id: "w".into(), table, state, outcome, ended_ms: 800, ..Write::default() }));
    let listed = versions(&world.catalog, world.catalog.table(1).unwrap(), NOW);
    let of = |key: &str| listed["versions"].as_array().unwrap().iter().map(|v| v[key].clone()).collect::<Vec<_>>();
    assert_eq!(of("version"), [5, 4, 3, 2]);
    assert_eq!(of("rows"), [30, 10, 20, 10]);
    assert_eq!(of("bytes"), [300, 100, 200, 100]);
    assert_eq!(of("parts"), [3, 1, 2, 1]);
    assert_eq!(of("made_ms"), [json!(900), json!(800), Value::Null, Value::Null]);
    assert_eq!(of("until_ms"), [Value::Null, Value::Null, json!(NOW + 9), json!(NOW + 5)]);
    assert_eq!(of("pinned"), [false, false, true, false]);
    assert_eq!((&listed["newest"], &listed["more"]), (&json!(5), &json!(0)));

    let later = versions(&world.catalog, world.catalog.table(1).unwrap(), NOW + 7);
    let left: Vec<&Value> = later["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(left, [5, 4, 3], "2 is over, 3 is pinned");
}

#[test]
fn of_many_versions_the_newest_are_listed() {
    let mut world = World::new(true);
    world.table(Table::default());
    let spec = world.catalog.table(1).unwrap().clone();
    world.put(row::Row::Table(Table { version: 3000, ..spec }));
    let listed = versions(&world.catalog, world.catalog.table(1).unwrap(), NOW);
    assert_eq!(listed["versions"].as_array().unwrap().len(), 1000);
    assert_eq!((&listed["versions"][0]["version"], &listed["more"]), (&json!(3000), &json!(2000)));
}
