//! Nodes that come, fall silent, fall ill, drain and go, and the shards that are given new homes for it.

use volley_common::wire::catalog::{
    DrainNode, Node, NodeState, PlaceTables, RegisterNode, RemoveNode, SetNodeHealth, SetNodeState, reply,
};
use volley_common::{Error, NodeId, PartId, Result};

use super::apply::done;
use super::{Catalog, PartRow, RowKey};

impl Catalog {
    pub(super) fn register_node(&mut self, op: &RegisterNode, now: u64) -> Result<reply::Reply> {
        let mut node =
            op.node.clone().filter(|node| node.id != 0).ok_or_else(|| Error::invalid("the node has no id"))?;
        node.set_state(NodeState::Alive);
        node.silent_ms = 0;
        // A drain is the operator's word, not the node's: it outlives a restart.
        node.draining = self.nodes.get(&node.id).is_some_and(|known| known.draining);
        self.abort_writes_of_earlier_boots(node.id, node.boot, now);
        self.touched.insert(RowKey::Node(node.id));
        self.nodes.insert(node.id, node);
        Ok(done())
    }

    /// A node that started anew has forgotten what it was writing.
    fn abort_writes_of_earlier_boots(&mut self, node: u64, boot: u64, now: u64) {
        let open = self.open.iter().filter_map(|id| self.writes.get(id));
        let lost = open.filter(|w| !w.staged && w.writer == node && w.writer_boot != boot);
        for id in lost.map(|w| w.id.clone()).collect::<Vec<_>>() {
            self.end_write(&id, "the node that wrote it was restarted: put the rows again", now);
        }
    }

    pub(super) fn set_node_state(&mut self, op: &SetNodeState, now: u64) -> Result<reply::Reply> {
        let silent_ms = if op.state == NodeState::Silent as i32 { now } else { 0 };
        self.change_node(op.node, op.boot, |node| {
            if node.state != op.state {
                (node.state, node.silent_ms) = (op.state, silent_ms);
            }
        })
    }

    pub(super) fn set_node_health(&mut self, op: &SetNodeHealth) -> Result<reply::Reply> {
        self.change_node(op.node, op.boot, |node| {
            node.refuses.clone_from(&op.refuses);
            node.trouble.clone_from(&op.trouble);
        })
    }

    pub(super) fn drain_node(&mut self, op: &DrainNode) -> Result<reply::Reply> {
        self.change_node(op.node, 0, |node| node.draining = op.draining)
    }

    /// Changes a node; nothing if it has another boot by now (0: whatever it has).
    fn change_node(&mut self, id: u64, boot: u64, change: impl FnOnce(&mut Node)) -> Result<reply::Reply> {
        let node = self.nodes.get_mut(&id).ok_or_else(|| no_node(id))?;
        if boot == 0 || boot == node.boot {
            let before = node.clone();
            change(node);
            if *node != before {
                self.touched.insert(RowKey::Node(id));
            }
        }
        Ok(done())
    }

    pub(super) fn remove_node(&mut self, op: &RemoveNode) -> Result<reply::Reply> {
        if !self.nodes.contains_key(&op.node) {
            return Err(no_node(op.node));
        }
        let held = || self.parts.iter().filter(|part| part.holders.contains(&op.node));
        if let Some(only) = held().find(|part| !self.held_elsewhere(part, op.node)) {
            let table = self.tables.get(&only.table).map(|table| table.name.join("/")).unwrap_or_default();
            return Err(Error::precondition(format!(
                "node {} has the only copy of part {} (shard {} of table {table:?}): drain it first, or wait for the repair",
                NodeId(op.node),
                only.part_id(),
                only.shard
            )));
        }
        let held: Vec<PartId> = held().map(PartRow::part_id).collect();
        for id in held {
            self.set_held(id, op.node, false);
        }
        self.touched.insert(RowKey::Node(op.node));
        self.nodes.remove(&op.node);
        Ok(done())
    }

    /// Whether another node that is in the catalog holds the part.
    fn held_elsewhere(&self, part: &PartRow, node: u64) -> bool {
        part.holders.iter().any(|other| *other != node && self.nodes.contains_key(other))
    }

    /// Records that a node has a part, or no longer has it.
    pub(super) fn set_held(&mut self, id: PartId, node: u64, held: bool) {
        let Some(part) = self.parts.get(id).filter(|part| part.holders.contains(&node) != held) else { return };
        let mut holders = part.holders.to_vec();
        match held {
            true => holders.push(node),
            false => holders.retain(|other| *other != node),
        }
        self.touched.insert(part.key());
        self.parts.set_holders(id, holders);
    }

    pub(super) fn place_tables(&mut self, op: &PlaceTables) -> Result<reply::Reply> {
        for placed in &op.tables {
            let fits = |table: &&mut super::Table| table.placement.len() == placed.placement.len();
            if let Some(table) = self.tables.get_mut(&placed.table).filter(fits) {
                table.placement.clone_from(&placed.placement);
                self.touched.insert(RowKey::Table(placed.table));
            }
        }
        Ok(done())
    }
}

fn no_node(id: u64) -> Error {
    Error::not_found(format!("there is no node {}: cluster status names those that are", NodeId(id)))
}
