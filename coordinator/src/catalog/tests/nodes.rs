//! Node state, health, drain and removal.

use std::collections::BTreeSet;

use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    DrainNode, HolderChange, NodeState, PlaceTables, RemoveNode, SetNodeHealth, SetNodeState, TablePlacement,
    UpdateHolders,
};
use volley_common::wire::catalog::{ShardPlacement, WriteMode, WriteState};
use volley_common::{Code, NodeId, PartId};

use super::helpers::*;
use crate::catalog::RowKey;

fn unreachable(id: u64, boot: u64) -> Op {
    Op::SetNodeState(SetNodeState { node: id, state: NodeState::Unreachable as i32, boot })
}

fn drain(node: u64, draining: bool) -> Op {
    Op::DrainNode(DrainNode { node, draining })
}

fn remove(node: u64) -> Op {
    Op::RemoveNode(RemoveNode { node })
}

fn held(part: u128, node: u64, held: bool) -> Op {
    let change = HolderChange { part: Some(PartId(part).into()), node, held };
    Op::UpdateHolders(UpdateHolders { changes: vec![change] })
}

#[test]
fn ids_of_live_nodes_follow_their_states() {
    let mut fixture = CatalogFixture::new();
    let count = |fixture: &CatalogFixture| {
        let alive: BTreeSet<NodeId> = fixture.catalog.live_nodes().map(|node| NodeId(node.id)).collect();
        assert_eq!(*fixture.catalog.live_node_ids(), alive);
        alive.len()
    };
    let all = count(&fixture);
    fixture.must_apply(unreachable(1, 11));
    assert_eq!(count(&fixture), all - 1);
    fixture.must_apply(remove(1));
    assert_eq!(count(&fixture), all - 1);
    fixture.catalog.remove_row(&RowKey::Node(2));
    assert_eq!(count(&fixture), all - 2);
}

#[test]
fn unreachable_time_is_set_once_and_cleared_on_return() {
    let mut fixture = CatalogFixture::new();
    let since = fixture.now;
    fixture.must_apply(unreachable(1, 11));
    fixture.now += 500;
    fixture.must_apply(unreachable(1, 11));
    assert_eq!(fixture.catalog.node(NodeId(1)).unwrap().unreachable_since_ms, since);
    fixture.must_apply(unreachable(2, 7));
    assert_eq!(fixture.catalog.node(NodeId(2)).unwrap().state, NodeState::Alive as i32, "another boot");
    fixture.must_apply(node(1, 21));
    assert_eq!(fixture.catalog.node(NodeId(1)).unwrap().unreachable_since_ms, 0);
}

#[test]
fn health_ends_with_a_boot_and_a_drain_survives_it() {
    let mut fixture = CatalogFixture::new();
    let health =
        |boot| SetNodeHealth { node: 1, boot, read_only_reason: "disk full".into(), degraded_reason: "slow".into() };
    fixture.must_apply(Op::SetNodeHealth(health(10)));
    assert_eq!(fixture.catalog.node(NodeId(1)).unwrap().read_only_reason, "");
    fixture.must_apply(Op::SetNodeHealth(health(11)));
    assert_eq!(fixture.catalog.node(NodeId(1)).unwrap().read_only_reason, "disk full");
    fixture.must_apply(drain(1, true));
    fixture.must_apply(node(1, 21));
    let node = fixture.catalog.node(NodeId(1)).unwrap();
    assert_eq!((node.draining, node.read_only_reason.as_str(), node.degraded_reason.as_str()), (true, "", ""));
    fixture.must_apply(drain(1, false));
    assert!(!fixture.catalog.node(NodeId(1)).unwrap().draining);
}

#[test]
fn certificate_name_is_kept_until_the_removal() {
    let mut fixture = CatalogFixture::new();
    let name = |fixture: &CatalogFixture| fixture.catalog.node(NodeId(1)).map(|node| node.certificate_name.clone());
    assert_eq!(name(&fixture).unwrap(), "");
    let Op::RegisterNode(mut by_tls) = node(1, 21) else { panic!("another command") };
    by_tls.node.as_mut().unwrap().certificate_name = "n1".into();
    fixture.must_apply(Op::RegisterNode(by_tls));
    assert_eq!(name(&fixture).unwrap(), "n1");
    fixture.must_apply(node(1, 31));
    assert_eq!(name(&fixture).unwrap(), "n1", "it registered without TLS");
    fixture.must_apply(unreachable(1, 31));
    fixture.must_apply(remove(1));
    assert!(fixture.catalog.rows().all(|row| !format!("{row:?}").contains("n1\"")), "another node may have the name");
}

#[test]
fn active_node_or_last_live_holder_is_not_removed() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Create, &[4]);
    assert!(fixture.must_reject(remove(1), Code::FailedPrecondition).contains("drain it first"));
    fixture.must_apply(drain(1, true));
    fixture.must_apply(unreachable(2, 12));
    let why = fixture.must_reject(remove(1), Code::FailedPrecondition);
    assert!(why.contains("shard 0 of table \"t\"") && why.contains("drop the table"), "{why}");
    fixture.must_apply(unreachable(1, 11));
    let why = fixture.must_reject(remove(1), Code::FailedPrecondition);
    let remedy = format!("start it or another node that has the part ({}), or drop the table", NodeId(2));
    assert!(why.contains("no live node has part") && why.contains(&remedy) && !why.contains("drain"), "{why}");
    fixture.must_apply(node(1, 11));
    fixture.drop_table("t");
    let why = fixture.must_reject(remove(1), Code::FailedPrecondition);
    assert!(why.contains("wait until the retention") && !why.contains("drop the table"), "{why}");
    fixture.must_apply(node(2, 12));
    fixture.must_apply(remove(1));
    fixture.must_reject(remove(9), Code::NotFound);
}

#[test]
fn removal_changes_only_the_node_row() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Create, &[1, 2, 3]);
    fixture.must_apply(drain(1, true));
    fixture.catalog.take_changes();
    fixture.must_apply(remove(1));
    let changed: Vec<RowKey> = fixture.catalog.take_changes().into_iter().map(|change| change.key).collect();
    assert_eq!(changed, [RowKey::Node(1)]);
    fixture.must_apply(held(2, 1, false));
    assert_eq!(fixture.catalog.part(PartId(2)).unwrap().holders[..], [2], "the leader deletes them later");
}

#[test]
fn only_holder_of_an_open_write_is_not_removed() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(staged("w", "t"));
    fixture.must_apply(Op::StageParts(stage("w", 1, &[4])));
    fixture.must_apply(unreachable(1, 11));
    fixture.must_apply(unreachable(2, 12));
    assert!(fixture.must_reject(remove(1), Code::FailedPrecondition).contains("write \"w\""));
    fixture.must_apply(node(2, 12));
    fixture.must_apply(remove(1));
}

#[test]
fn removed_node_cannot_return_and_its_puts_abort() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Create, &[4]);
    fixture.begin(begin("open", "u", WriteMode::Create));
    fixture.must_apply(drain(1, true));
    fixture.must_apply(remove(1));
    assert!(fixture.catalog.was_removed(NodeId(1)) && !fixture.catalog.was_removed(NodeId(2)));
    assert!(fixture.catalog.node(NodeId(1)).is_none() && fixture.catalog.nodes().all(|node| node.id == 2));
    assert_eq!(fixture.catalog.write("open").unwrap().state, WriteState::Aborted as i32);
    assert!(fixture.must_reject(node(1, 31), Code::FailedPrecondition).contains("empty --data-dir"));
    for op in [unreachable(1, 0), drain(1, false)] {
        fixture.must_reject(op, Code::NotFound);
    }
    fixture.must_apply(held(4, 1, false));
    fixture.must_apply(held(4, 1, true));
    assert_eq!(fixture.catalog.part(PartId(4)).unwrap().holders[..], [2]);
    fixture.must_apply(remove(1));
}

#[test]
fn placement_is_ignored_after_a_change_of_shards() {
    let mut fixture = CatalogFixture::new();
    fixture.put("w", "t", WriteMode::Create, &[4]);
    let table = fixture.table("t").id;
    let place = |shards: usize, nodes: Vec<u64>| {
        let tables = vec![TablePlacement { table, placement: vec![ShardPlacement { nodes }; shards] }];
        Op::PlaceTables(PlaceTables { tables })
    };
    fixture.must_apply(place(3, vec![9]));
    assert_eq!(fixture.table("t").placement[3].nodes, [1, 2]);
    fixture.must_apply(place(4, vec![2, 3]));
    assert_eq!(fixture.table("t").placement[3].nodes, [2, 3]);
}

#[test]
fn placed_replicas_are_counted_through_appends_moves_and_drops() {
    let mut fixture = CatalogFixture::new();
    let counts = |fixture: &CatalogFixture| {
        let placed = fixture.catalog.placed_replicas().iter();
        placed.map(|(node, count)| (node.0, *count)).collect::<Vec<_>>()
    };
    fixture.put("w", "t", WriteMode::Create, &[4]);
    fixture.put("v", "u", WriteMode::Create, &[5]);
    assert_eq!(counts(&fixture), [(1, 8), (2, 8)]);
    fixture.put("a", "t", WriteMode::Append, &[6]);
    fixture.put("r", "t", WriteMode::Replace, &[7]);
    assert_eq!(counts(&fixture), [(1, 8), (2, 8)]);
    let placement = vec![ShardPlacement { nodes: vec![2, 3] }; 4];
    let tables = vec![TablePlacement { table: fixture.table("t").id, placement }];
    for _ in 0..2 {
        fixture.must_apply(Op::PlaceTables(PlaceTables { tables: tables.clone() }));
        assert_eq!(counts(&fixture), [(1, 4), (2, 8), (3, 4)]);
    }
    fixture.drop_table("t");
    assert_eq!(counts(&fixture), [(1, 4), (2, 4)]);
    fixture.drop_table("u");
    assert_eq!(counts(&fixture), []);
}

#[test]
fn commit_ignores_or_rejects_copies_on_removed_nodes() {
    let mut fixture = CatalogFixture::new();
    fixture.begin(begin("w", "t", WriteMode::Create));
    fixture.must_apply(drain(2, true));
    fixture.must_apply(remove(2));
    let mut only_there = commit("w", &[1, 2]);
    only_there.parts[1].holders = vec![2];
    let message = fixture.must_reject(Op::CommitWrite(only_there), Code::Aborted);
    assert!(message.contains("removed from the cluster"), "{message}");
    fixture.apply(Op::CommitWrite(commit("w", &[1])));
    assert_eq!(*fixture.catalog.part(PartId(1)).unwrap().holders, [1]);
}
