//! The nodes at one moment, sorted by what may be done with them.

use std::collections::BTreeSet;

use volley_common::NodeId;

use crate::catalog::Catalog;

/// Who is there, who may be copied to, whose copies count.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// Heard from lately: read from and copied from.
    pub alive: BTreeSet<NodeId>,
    /// Those of them that get new parts.
    pub writable: BTreeSet<NodeId>,
    /// Silent, but their grace is not over: their copies count.
    pub waited: BTreeSet<NodeId>,
    /// To leave: their copies serve, and do not count.
    pub draining: BTreeSet<NodeId>,
    /// Alive, but ill: copied from last.
    pub degraded: BTreeSet<NodeId>,
}

impl Nodes {
    /// As the catalog has them. Since when a node is silent is in the catalog: another leader waits no longer than the
    /// one before would have.
    pub fn at(catalog: &Catalog, now_ms: u64, repair_delay_ms: u64) -> Self {
        let mut nodes = Nodes::default();
        for node in catalog.nodes() {
            let id = NodeId(node.id);
            if node.is_alive() {
                nodes.alive.insert(id);
            } else if !node.draining && now_ms < node.unreachable_since_ms.saturating_add(repair_delay_ms) {
                nodes.waited.insert(id);
            }
            if node.is_writable() {
                nodes.writable.insert(id);
            }
            if node.draining {
                nodes.draining.insert(id);
            }
            if node.is_degraded() {
                nodes.degraded.insert(id);
            }
        }
        nodes
    }

    /// Whether a node's copies count as copies that a part has.
    pub fn stays(&self, id: NodeId) -> bool {
        !self.draining.contains(&id) && (self.alive.contains(&id) || self.waited.contains(&id))
    }

    /// Whether a node's copies can be read now and will be there tomorrow.
    pub fn stays_alive(&self, id: NodeId) -> bool {
        !self.draining.contains(&id) && self.alive.contains(&id)
    }
}
