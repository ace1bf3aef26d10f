//! Nodes that fall silent, fall ill, drain and go.

use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{
    DrainNode, HolderChange, NodeState, PlaceTables, RemoveNode, SetNodeHealth, SetNodeState, TablePlacement,
    UpdateHolders,
};
use volley_common::wire::catalog::{Holders, WriteMode, WriteState};
use volley_common::{Code, NodeId, PartId};

use super::helpers::*;
use crate::catalog::RowKey;

fn silent(id: u64, boot: u64) -> Op {
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
fn silence_is_dated_once_and_ends_with_the_next_word() {
    let mut world = World::new();
    let since = world.now;
    world.done(silent(1, 11));
    world.now += 500;
    world.done(silent(1, 11));
    assert_eq!(world.catalog.node(NodeId(1)).unwrap().unreachable_since_ms, since);
    world.done(silent(2, 7));
    assert_eq!(world.catalog.node(NodeId(2)).unwrap().state, NodeState::Alive as i32, "another boot");
    world.done(node(1, 21));
    assert_eq!(world.catalog.node(NodeId(1)).unwrap().unreachable_since_ms, 0);
}

#[test]
fn health_is_of_one_boot_and_a_drain_outlives_it() {
    let mut world = World::new();
    let health =
        |boot| SetNodeHealth { node: 1, boot, read_only_reason: "disk full".into(), degraded_reason: "slow".into() };
    world.done(Op::SetNodeHealth(health(10)));
    assert_eq!(world.catalog.node(NodeId(1)).unwrap().read_only_reason, "");
    world.done(Op::SetNodeHealth(health(11)));
    assert_eq!(world.catalog.node(NodeId(1)).unwrap().read_only_reason, "disk full");
    world.done(drain(1, true));
    world.done(node(1, 21));
    let node = world.catalog.node(NodeId(1)).unwrap();
    assert_eq!((node.draining, node.read_only_reason.as_str(), node.degraded_reason.as_str()), (true, "", ""));
    world.done(drain(1, false));
    assert!(!world.catalog.node(NodeId(1)).unwrap().draining);
}

#[test]
fn a_node_that_works_or_has_the_last_live_copy_is_not_removed() {
    let mut world = World::new();
    world.put("w", "t", WriteMode::Create, &[4]);
    assert!(world.refused(remove(1), Code::FailedPrecondition).contains("drain it first"));
    world.done(drain(1, true));
    world.done(silent(2, 12));
    let why = world.refused(remove(1), Code::FailedPrecondition);
    assert!(why.contains("shard 0 of table \"t\""), "{why}");
    world.done(node(2, 12));
    world.done(remove(1));
    world.refused(remove(9), Code::NotFound);
}

#[test]
fn a_removal_changes_no_part_however_many_the_node_has() {
    let mut world = World::new();
    world.put("w", "t", WriteMode::Create, &[1, 2, 3]);
    world.done(drain(1, true));
    world.catalog.take_changes();
    world.done(remove(1));
    let changed: Vec<RowKey> = world.catalog.take_changes().into_iter().map(|change| change.key).collect();
    assert_eq!(changed, [RowKey::Node(1)]);
    world.done(held(2, 1, false));
    assert_eq!(world.catalog.part(PartId(2)).unwrap().holders[..], [2], "the leader takes them off");
}

#[test]
fn a_node_with_the_only_parts_of_an_open_write_is_not_removed() {
    let mut world = World::new();
    world.begin(staged("w", "t"));
    world.done(Op::StageParts(stage("w", 1, &[4])));
    world.done(silent(1, 11));
    world.done(silent(2, 12));
    assert!(world.refused(remove(1), Code::FailedPrecondition).contains("write \"w\""));
    world.done(node(2, 12));
    world.done(remove(1));
}

#[test]
fn a_removed_node_is_gone_for_good_and_its_puts_with_it() {
    let mut world = World::new();
    world.put("w", "t", WriteMode::Create, &[4]);
    world.begin(begin("open", "u", WriteMode::Create));
    world.done(drain(1, true));
    world.done(remove(1));
    assert!(world.catalog.was_removed(NodeId(1)) && !world.catalog.was_removed(NodeId(2)));
    assert!(world.catalog.node(NodeId(1)).is_none() && world.catalog.nodes().all(|node| node.id == 2));
    assert_eq!(world.catalog.write("open").unwrap().state, WriteState::Aborted as i32);
    assert!(world.refused(node(1, 31), Code::FailedPrecondition).contains("empty --data-dir"));
    for op in [silent(1, 0), drain(1, false)] {
        world.refused(op, Code::NotFound);
    }
    world.done(held(4, 1, false));
    world.done(held(4, 1, true));
    assert_eq!(world.catalog.part(PartId(4)).unwrap().holders[..], [2]);
    world.done(remove(1));
}

#[test]
fn shards_get_new_homes_unless_their_number_changed() {
    let mut world = World::new();
    world.put("w", "t", WriteMode::Create, &[4]);
    let table = world.table("t").id;
    let place = |shards: usize, nodes: Vec<u64>| {
        let tables = vec![TablePlacement { table, placement: vec![Holders { nodes }; shards] }];
        Op::PlaceTables(PlaceTables { tables })
    };
    world.done(place(3, vec![9]));
    assert_eq!(world.table("t").placement[3].nodes, [1, 2]);
    world.done(place(4, vec![2, 3]));
    assert_eq!(world.table("t").placement[3].nodes, [2, 3]);
}

#[test]
fn a_put_that_ends_after_its_node_was_removed_counts_without_it_or_is_aborted() {
    let mut world = World::new();
    world.begin(begin("w", "t", WriteMode::Create));
    world.done(drain(2, true));
    world.done(remove(2));
    let mut only_there = commit("w", &[1, 2]);
    only_there.parts[1].holders = vec![2];
    let message = world.refused(Op::CommitWrite(only_there), Code::Aborted);
    assert!(message.contains("removed from the cluster"), "{message}");
    world.apply(Op::CommitWrite(commit("w", &[1])));
    assert_eq!(*world.catalog.part(PartId(1)).unwrap().holders, [1]);
}
