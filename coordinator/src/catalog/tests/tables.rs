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
fn cluster_is_formed_only_once() {
    let mut fixture = CatalogFixture::new();
    fixture.must_apply(Op::FormCluster(FormCluster { id: "other".into(), ticket_key: Bytes::new() }));
    assert_eq!(fixture.catalog.cluster().unwrap().id, "c");
}

#[test]
fn create_table_before_the_cluster_exists_fails() {
    let mut catalog = Catalog::default();
    let reply = catalog.apply(&Command { now_ms: 1, op: Some(create("t")) });
    assert!(matches!(reply.reply, Some(Answer::Refusal(r)) if r.code == Code::FailedPrecondition as i32));
}

#[test]
fn unknown_command_is_rejected() {
    let reply = Catalog::default().apply(&Command { now_ms: 1, op: None });
    assert!(matches!(reply.reply, Some(Answer::Refusal(r)) if r.code == Code::Unimplemented as i32));
}

#[test]
fn node_state_changes_only_for_its_boot() {
    let mut fixture = CatalogFixture::new();
    let set = |boot, node| Op::SetNodeState(SetNodeState { node, state: NodeState::Unreachable as i32, boot });
    fixture.must_apply(set(99, 1));
    assert_eq!(fixture.catalog.node(NodeId(1)).unwrap().state(), NodeState::Alive);
    fixture.must_apply(set(11, 1));
    assert_eq!(fixture.catalog.node(NodeId(1)).unwrap().state(), NodeState::Unreachable);
    fixture.must_apply(node(1, 11));
    assert_eq!(fixture.catalog.node(NodeId(1)).unwrap().state(), NodeState::Alive);
    fixture.must_reject(set(0, 7), Code::NotFound);
    fixture.must_reject(node(0, 1), Code::InvalidArgument);
}

#[test]
fn tables_are_created_listed_by_name_and_dropped() {
    let mut fixture = CatalogFixture::new();
    for table in ["b", "a/z", "a", "a-"] {
        assert!(matches!(fixture.apply(create(table)), Answer::Table(t) if t.version == 1 && t.rows == 0));
    }
    let names: Vec<String> = fixture.catalog.tables().map(|t| t.name.join("/")).collect();
    assert_eq!(names, ["a", "a/z", "a-", "b"]);
    assert!(fixture.must_reject(create("a/z"), Code::AlreadyExists).contains("a/z"));
    fixture.must_reject(create("bad//name"), Code::InvalidArgument);
    fixture.drop_table("a/z");
    assert_eq!(fixture.catalog.tables().count(), 3);
    let missing = fixture.must_reject(Op::DropTable(DropTable { table: name("a/z") }), Code::NotFound);
    assert!(missing.contains("a/z"), "{missing}");
}

#[test]
fn dropped_name_is_free_at_once_and_parts_expire_later() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w1", "t", WriteMode::Create, &[1, 2]);
    let old = fixture.table("t").id;
    fixture.drop_table("t");
    fixture.put("w2", "t", WriteMode::Create, &[3]);
    assert_ne!(fixture.table("t").id, old);
    assert_eq!(fixture.parts(old, 1), [1, 2]);
    fixture.now += RETENTION + 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
    fixture.must_apply(Op::Expire(keep(u64::MAX)));
    assert!(fixture.catalog.table(old).is_none() && fixture.catalog.part(PartId(1)).is_none());
    assert_eq!(fixture.parts(fixture.table("t").id, 1), [3]);
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(u64::MAX)));
}

#[test]
fn dropped_empty_table_is_purged() {
    let mut fixture = CatalogFixture::new();
    fixture.apply(create("t"));
    fixture.drop_table("t");
    fixture.now += RETENTION + 1;
    fixture.must_apply(Op::Expire(keep(u64::MAX)));
    assert_eq!(fixture.catalog.all_tables().count(), 0);
}

#[test]
fn holder_changes_apply_and_skip_unknown_parts() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Create, &[1]);
    fixture.catalog.take_changes();
    let change = |part: u128, node, held| HolderChange { part: Some(PartId(part).into()), node, held };
    let mut update = |changes: Vec<HolderChange>| {
        fixture.must_apply(Op::UpdateHolders(UpdateHolders { changes }));
        (fixture.catalog.part(PartId(1)).unwrap().holders.to_vec(), fixture.catalog.take_changes().len())
    };
    assert_eq!(update(vec![change(1, 3, true), change(9, 3, true)]), (vec![1, 2, 3], 1));
    assert_eq!(update(vec![change(1, 3, true), change(1, 8, false)]), (vec![1, 2, 3], 0));
    assert_eq!(update(vec![change(1, 1, false), change(1, 2, false), change(1, 3, false)]), (vec![], 1));
}

#[test]
fn cancelled_flights_expire() {
    let mut fixture = CatalogFixture::new();
    let until_ms = fixture.now + 50;
    fixture.must_apply(Op::CancelFlight(CancelFlight { flight: 5, until_ms }));
    fixture.must_apply(Op::CancelFlight(CancelFlight { flight: 5, until_ms: until_ms - 20 }));
    fixture.now = until_ms;
    assert!(!fixture.catalog.needs_expiry(fixture.now, &keep(0)));
    assert_eq!(fixture.catalog.cancelled().map(|c| c.until_ms).collect::<Vec<_>>(), [until_ms]);
    fixture.now += 1;
    assert!(fixture.catalog.needs_expiry(fixture.now, &keep(0)));
    fixture.must_apply(Op::Expire(Expire::default()));
    assert_eq!(fixture.catalog.cancelled().count(), 0);
}

#[test]
fn clear_keeps_the_cluster_and_its_nodes() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Create, &[1]);
    fixture.begin(staged("s", "u"));
    fixture.must_apply(Op::Clear(Clear {}));
    assert_eq!(
        (fixture.catalog.all_tables().count(), fixture.catalog.part_count(), fixture.catalog.writes().count()),
        (0, 0, 0)
    );
    assert_eq!(fixture.catalog.nodes().count(), 2);
    assert_eq!(fixture.put("w", "t", WriteMode::Create, &[1]).version, 1);
}
