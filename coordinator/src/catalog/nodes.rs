//! Commands about nodes (registration, state, health, drain, removal), holders of parts and placement of shards.

use std::collections::btree_map::Entry;

use volley_common::wire::catalog::{
    DrainNode, Node, NodeState, PlaceTables, RegisterNode, RemoveNode, SetNodeHealth, SetNodeState, Table, reply,
};
use volley_common::{Error, NodeId, PartId, Result};

use super::Catalog;
use super::apply::done;

impl Catalog {
    pub(super) fn register_node(&mut self, op: &RegisterNode, now: u64) -> Result<reply::Reply> {
        let mut node =
            op.node.clone().filter(|node| node.id != 0).ok_or_else(|| Error::invalid("the node has no id"))?;
        if self.was_removed(NodeId(node.id)) {
            return Err(removed_node(NodeId(node.id)));
        }
        node.set_state(NodeState::Alive);
        node.unreachable_since_ms = 0;
        let known = self.nodes.get(&node.id);
        // The operator decides about a drain, not the node: it survives a restart.
        node.draining = known.is_some_and(|known| known.draining);
        // A node without TLS stays bound to its certificate. The leader refuses another name before it proposes the command:
        // a refusal here would let coordinators disagree that were of an older version when the name was recorded.
        if node.certificate_name.is_empty() {
            node.certificate_name = known.map(|known| known.certificate_name.clone()).unwrap_or_default();
        }
        self.abort_writes_of_earlier_boots(node.id, node.boot, now);
        self.upsert_node(node);
        Ok(done())
    }

    /// Aborts the puts that the node lost by restarting.
    fn abort_writes_of_earlier_boots(&mut self, node: u64, boot: u64, now: u64) {
        let open = self.open.values();
        let lost = open.filter(|w| !w.staged && w.writer == node && w.writer_boot != boot);
        for id in lost.map(|w| w.id.clone()).collect::<Vec<_>>() {
            self.record_aborted(&id, "the node that wrote it was restarted: put the rows again", now);
        }
    }

    pub(super) fn set_node_state(&mut self, op: &SetNodeState, now: u64) -> Result<reply::Reply> {
        let unreachable_since_ms = if op.state == NodeState::Unreachable as i32 { now } else { 0 };
        self.change_node(op.node, op.boot, |node| {
            if node.state != op.state {
                (node.state, node.unreachable_since_ms) = (op.state, unreachable_since_ms);
            }
        })
    }

    pub(super) fn set_node_health(&mut self, op: &SetNodeHealth) -> Result<reply::Reply> {
        self.change_node(op.node, op.boot, |node| {
            node.read_only_reason.clone_from(&op.read_only_reason);
            node.degraded_reason.clone_from(&op.degraded_reason);
        })
    }

    pub(super) fn drain_node(&mut self, op: &DrainNode) -> Result<reply::Reply> {
        self.change_node(op.node, 0, |node| node.draining = op.draining)
    }

    /// Changes a node, unless its boot is no longer `boot` (0: any boot).
    fn change_node(&mut self, id: u64, boot: u64, change: impl FnOnce(&mut Node)) -> Result<reply::Reply> {
        let known = self.node(NodeId(id)).ok_or_else(|| no_node(id))?;
        if boot == 0 || boot == known.boot {
            let mut node = known.clone();
            change(&mut node);
            if node != *known {
                self.upsert_node(node);
            }
        }
        Ok(done())
    }

    /// Removes a node permanently. Its row stays as a tombstone, so that it cannot rejoin with its old parts. Its
    /// copies no longer count; the leader deletes them from the parts in batches, because there may be millions.
    pub(super) fn remove_node(&mut self, op: &RemoveNode, now: u64) -> Result<reply::Reply> {
        if self.was_removed(NodeId(op.node)) {
            return Ok(done());
        }
        let node = self.nodes.get(&op.node).ok_or_else(|| no_node(op.node))?;
        if node.is_alive() && !node.draining {
            return Err(Error::precondition(format!(
                "node {} is alive: drain it first, or stop it if its copies may be lost",
                NodeId(op.node)
            )));
        }
        self.check_dispensable(op.node)?;
        let writing = self.open_writes().filter(|write| !write.staged && write.writer == op.node);
        for id in writing.map(|write| write.id.clone()).collect::<Vec<_>>() {
            self.record_aborted(&id, "the node that wrote it was removed: put the rows again through another", now);
        }
        let tombstone = Node { id: op.node, state: NodeState::Removed as i32, ..Node::default() };
        self.upsert_node(tombstone);
        Ok(done())
    }

    /// Checks that every part of the node, of a version or of an open write, has a copy on another live node.
    fn check_dispensable(&self, node: u64) -> Result<()> {
        let alive = |id: &u64| self.nodes.get(id).is_some_and(|other| other.is_alive());
        let only = |holders: &[u64]| holders.contains(&node) && !holders.iter().any(|id| *id != node && alive(id));
        if let Some(part) = self.parts.iter().find(|part| only(&part.holders)) {
            let table = self.tables.get(&part.table);
            let name = table.map(|table| table.name.join("/")).unwrap_or_default();
            let last = match table.is_some_and(|table| table.dropped_ms != 0) {
                true => "wait until the retention of the table ends, which is dropped and can be restored until then",
                false => "drop the table, and wait until its retention ends",
            };
            let (id, part_id, shard) = (NodeId(node), part.part_id(), part.shard);
            return Err(Error::precondition(match alive(&node) {
                true => format!(
                    "no live node but {id} has part {part_id} (shard {shard} of table {name:?}): drain the node first, start the other nodes that have the part, or {last}"
                ),
                false => {
                    let others = part.holders.iter().filter(|id| **id != node && self.node(NodeId(**id)).is_some());
                    let others: Vec<String> = others.map(|id| NodeId(*id).to_string()).collect();
                    let start = match others.is_empty() {
                        true => "start it".to_string(),
                        false => format!("start it or another node that has the part ({})", others.join(", ")),
                    };
                    format!(
                        "no live node has part {part_id} (shard {shard} of table {name:?}), and node {id} has a copy: {start}, or {last}"
                    )
                }
            }));
        }
        match self.open_writes().find(|write| self.staged_parts(write).any(|part| only(&part.holders))) {
            None => Ok(()),
            Some(write) => Err(Error::precondition(format!(
                "without node {} no live node has the parts of write {:?}, which is not committed yet: commit or abort it first",
                NodeId(node),
                write.id
            ))),
        }
    }

    /// Records whether a node holds a part.
    pub(super) fn set_held(&mut self, id: PartId, node: u64, held: bool) {
        if held && self.was_removed(NodeId(node)) {
            return;
        }
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
            let same_shards = |table: &&Table| table.placement.len() == placed.placement.len();
            if let Some(table) = self.tables.get(&placed.table).filter(same_shards).cloned() {
                self.upsert_table(Table { placement: placed.placement.clone(), ..table });
            }
        }
        Ok(done())
    }

    pub(super) fn count_placement(&mut self, table: &Table) {
        for node in table.placement.iter().flat_map(|shard| &shard.nodes) {
            *self.placed.entry(NodeId(*node)).or_default() += 1;
        }
    }

    pub(super) fn uncount_placement(&mut self, table: &Table) {
        for node in table.placement.iter().flat_map(|shard| &shard.nodes) {
            if let Entry::Occupied(mut count) = self.placed.entry(NodeId(*node)) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

/// The error for a node that tries to rejoin after its removal.
pub fn removed_node(id: NodeId) -> Error {
    Error::precondition(format!(
        "node {id} was removed from this cluster: give it an empty --data-dir, and it joins as a new node"
    ))
}

fn no_node(id: u64) -> Error {
    Error::not_found(format!("there is no node {}: `volley nodes` lists the nodes", NodeId(id)))
}
