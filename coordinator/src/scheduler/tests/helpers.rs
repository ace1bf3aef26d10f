//! Short forms of catalogs, nodes, tables and parts.

use std::collections::BTreeSet;

use volley_common::wire::catalog::{
    Node, NodeState, Part, Row, ShardPlacement, Table, TableSpec, Write, WriteState, row,
};
use volley_common::{NodeId, PartId};

use crate::catalog::Catalog;
use crate::scheduler::NodeSets;

pub const NOW: u64 = 1_000_000;
pub const REPAIR_DELAY: u64 = 1000;

pub fn put(catalog: &mut Catalog, row: row::Row) {
    catalog.insert_row(Row { row: Some(row) });
}

pub fn node(id: u64) -> Node {
    let mut node = Node { id, peer_addr: format!("n{id}:2"), ..Node::default() };
    node.set_state(NodeState::Alive);
    node
}

/// Four nodes and table 1 with two replicas, whose shard 0 is placed on nodes 1 and 2. Write "open" is open, "over" is
/// committed, "ended" is aborted.
pub fn catalog(parts: &[(u128, &[u64])]) -> Catalog {
    let mut catalog = Catalog::default();
    (1..=4).for_each(|id| put(&mut catalog, row::Row::Node(node(id))));
    put(&mut catalog, row::Row::Table(table(1, 2, &[&[1, 2]])));
    for (id, state) in [("open", WriteState::Open), ("over", WriteState::Committed), ("ended", WriteState::Aborted)] {
        put(&mut catalog, row::Row::Write(Write { id: id.into(), state: state as i32, ..Write::default() }));
    }
    for (seq, (id, holders)) in parts.iter().enumerate() {
        put(&mut catalog, row::Row::Part(part(*id, seq as u64, holders)));
    }
    catalog
}

pub fn table(id: u64, replicas: u32, placement: &[&[u64]]) -> Table {
    Table {
        id,
        name: vec![format!("t{id}")],
        version: 3,
        spec: Some(TableSpec { shards: placement.len() as u32, replicas, ..TableSpec::default() }),
        placement: placement.iter().map(|nodes| ShardPlacement { nodes: nodes.to_vec() }).collect(),
        ..Table::default()
    }
}

pub fn part(id: u128, seq: u64, holders: &[u64]) -> Part {
    Part {
        id: Some(PartId(id).into()),
        table: 1,
        added: 3,
        seq,
        bytes: 9,
        crc32c: 8,
        holders: holders.to_vec(),
        ..Part::default()
    }
}

/// Changes a node.
pub fn with(catalog: &mut Catalog, id: u64, change: impl FnOnce(&mut Node)) {
    let mut node = catalog.node(NodeId(id)).unwrap().clone();
    change(&mut node);
    put(catalog, row::Row::Node(node));
}

/// Marks a node as unreachable for `ms` milliseconds.
pub fn unreachable_for(catalog: &mut Catalog, id: u64, ms: u64) {
    with(catalog, id, |node| (node.state, node.unreachable_since_ms) = (NodeState::Unreachable as i32, NOW - ms));
}

pub fn nodes(catalog: &Catalog) -> NodeSets {
    NodeSets::at(catalog, NOW, REPAIR_DELAY)
}

pub fn set(nodes: &[u64]) -> BTreeSet<NodeId> {
    nodes.iter().map(|id| NodeId(*id)).collect()
}
