use bytes::Bytes;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply as Answer;
use volley_common::wire::catalog::{
    CancelFlight, Clear, Command, CreateTable, DropTable, Expire, FormCluster, HolderChange, NodeState, SetNodeState,
    UpdateHolders, WriteMode,
};
use volley_common::{Code, NodeId, PartId};

use super::helpers::*;
use crate::catalog::Catalog;

fn create(table: &str) -> Op {
    Op::CreateTable(CreateTable { table: name(table), spec: Some(spec()), schema: schema(), ..CreateTable::default() })
}

#[test]
fn a_cluster_is_formed_once() {
    let mut world = World::new();
    world.done(Op::FormCluster(FormCluster { id: "other".into(), ticket_key: Bytes::new() }));
    assert_eq!(world.catalog.cluster().unwrap().id, "c");
}

#[test]
fn nothing_is_made_before_the_cluster_is() {
    let mut catalog = Catalog::default();
    let reply = catalog.apply(&Command { now_ms: 1, op: Some(create("t")) });
    assert!(matches!(reply.reply, Some(Answer::Refusal(r)) if r.code == Code::FailedPrecondition as i32));
}

#[test]
fn a_command_of_a_newer_version_is_refused() {
    let reply = Catalog::default().apply(&Command { now_ms: 1, op: None });
    assert!(matches!(reply.reply, Some(Answer::Refusal(r)) if r.code == Code::Unimplemented as i32));
}

#[test]
fn a_nodes_state_changes_only_for_its_boot() {
    let mut world = World::new();
    let set = |boot, node| Op::SetNodeState(SetNodeState { node, state: NodeState::Unreachable as i32, boot });
    world.done(set(99, 1));
    assert_eq!(world.catalog.node(NodeId(1)).unwrap().state(), NodeState::Alive);
    world.done(set(11, 1));
    assert_eq!(world.catalog.node(NodeId(1)).unwrap().state(), NodeState::Unreachable);
    world.done(node(1, 11));
    assert_eq!(world.catalog.node(NodeId(1)).unwrap().state(), NodeState::Alive);
    world.refused(set(0, 7), Code::NotFound);
    world.refused(node(0, 1), Code::InvalidArgument);
}

#[test]
fn tables_are_made_listed_by_name_and_dropped() {
    let mut world = World::new();
    for table in ["b", "a/z", "a", "a-"] {
        assert!(matches!(world.apply(create(table)), Answer::Table(t) if t.version == 1 && t.rows == 0));
    }
    let names: Vec<String> = world.catalog.tables().map(|t| t.name.join("/")).collect();
    assert_eq!(names, ["a", "a/z", "a-", "b"]);
    assert!(world.refused(create("a/z"), Code::AlreadyExists).contains("a/z"));
    world.refused(create("bad//name"), Code::InvalidArgument);
    world.drop_table("a/z");
    assert_eq!(world.catalog.tables().count(), 3);
    let missing = world.refused(Op::DropTable(DropTable { table: name("a/z") }), Code::NotFound);
    assert!(missing.contains("a/z"), "{missing}");
}

#[test]
fn a_dropped_tables_name_is_free_at_once_and_its_parts_go_later() {
    let mut world = World::new();
    world.put("w1", "t", WriteMode::Create, &[1, 2]);
    let old = world.table("t").id;
    world.drop_table("t");
    world.put("w2", "t", WriteMode::Create, &[3]);
    assert_ne!(world.table("t").id, old);
    assert_eq!(world.parts(old, 1), [1, 2]);
    world.now += RETENTION + 1;
    assert!(world.catalog.needs_expiry(world.now, u64::MAX));
    world.done(Op::Expire(Expire { write_id_retention_ms: u64::MAX }));
    assert!(world.catalog.table(old).is_none() && world.catalog.part(PartId(1)).is_none());
    assert_eq!(world.parts(world.table("t").id, 1), [3]);
    assert!(!world.catalog.needs_expiry(world.now, u64::MAX));
}

#[test]
fn a_dropped_empty_table_is_deleted_too() {
    let mut world = World::new();
    world.apply(create("t"));
    world.drop_table("t");
    world.now += RETENTION + 1;
    world.done(Op::Expire(Expire { write_id_retention_ms: u64::MAX }));
    assert_eq!(world.catalog.all_tables().count(), 0);
}

#[test]
fn holders_come_and_go_and_unknown_parts_are_skipped() {
    let mut world = World::new();
    world.put("w", "t", WriteMode::Create, &[1]);
    world.catalog.take_changes();
    let change = |part: u128, node, held| HolderChange { part: Some(PartId(part).into()), node, held };
    let mut update = |changes: Vec<HolderChange>| {
        world.done(Op::UpdateHolders(UpdateHolders { changes }));
        (world.catalog.part(PartId(1)).unwrap().holders.to_vec(), world.catalog.take_changes().len())
    };
    assert_eq!(update(vec![change(1, 3, true), change(9, 3, true)]), (vec![1, 2, 3], 1));
    assert_eq!(update(vec![change(1, 3, true), change(1, 8, false)]), (vec![1, 2, 3], 0));
    assert_eq!(update(vec![change(1, 1, false), change(1, 2, false), change(1, 3, false)]), (vec![], 1));
}

#[test]
fn cancelled_flights_are_kept_until_their_time() {
    let mut world = World::new();
    let until_ms = world.now + 50;
    world.done(Op::CancelFlight(CancelFlight { flight: 5, until_ms }));
    world.done(Op::CancelFlight(CancelFlight { flight: 5, until_ms: until_ms - 20 }));
    world.now = until_ms;
    assert!(!world.catalog.needs_expiry(world.now, 0));
    assert_eq!(world.catalog.cancelled().map(|c| c.until_ms).collect::<Vec<_>>(), [until_ms]);
    world.now += 1;
    assert!(world.catalog.needs_expiry(world.now, 0));
    world.done(Op::Expire(Expire::default()));
    assert_eq!(world.catalog.cancelled().count(), 0);
}

#[test]
fn clear_leaves_the_cluster_and_its_nodes() {
    let mut world = World::new();
    world.put("w", "t", WriteMode::Create, &[1]);
    world.begin(staged("s", "u"));
    world.done(Op::Clear(Clear {}));
    assert_eq!(
        (world.catalog.all_tables().count(), world.catalog.part_count(), world.catalog.writes().count()),
        (0, 0, 0)
    );
    assert_eq!(world.catalog.nodes().count(), 2);
    assert_eq!(world.put("w", "t", WriteMode::Create, &[1]).version, 1);
}
