//! The nodes at one moment, grouped by what the scheduler may use them for.

use std::collections::BTreeSet;

use volley_common::NodeId;

use crate::catalog::Catalog;

/// Sets of nodes by state. A node may be in several.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSets {
    /// Alive: can be read and copied from.
    pub alive: BTreeSet<NodeId>,
    /// The subset of `alive` that gets new parts.
    pub writable: BTreeSet<NodeId>,
    /// Unreachable, but within the repair delay: their copies still count.
    pub in_grace: BTreeSet<NodeId>,
    /// Draining: their copies serve readers, and do not count.
    pub draining: BTreeSet<NodeId>,
    /// Slow or with read errors: copied from last.
    pub degraded: BTreeSet<NodeId>,
}

impl NodeSets {
    /// Groups the catalog's nodes. The catalog records since when a node is unreachable, so a new leader continues the
    /// repair delay that the previous one began.
    pub fn at(catalog: &Catalog, now_ms: u64, repair_delay_ms: u64) -> Self {
        let mut sets = NodeSets::default();
        for node in catalog.nodes() {
            let id = NodeId(node.id);
            if node.is_alive() {
                sets.alive.insert(id);
            } else if !node.draining && now_ms < node.unreachable_since_ms.saturating_add(repair_delay_ms) {
                sets.in_grace.insert(id);
            }
            if node.is_writable() {
                sets.writable.insert(id);
            }
            if node.draining {
                sets.draining.insert(id);
            }
            if node.is_degraded() {
                sets.degraded.insert(id);
            }
        }
        sets
    }

    /// Whether copies on a node count as replicas: it is alive or in grace, and not draining.
    pub fn counts_as_replica(&self, id: NodeId) -> bool {
        !self.draining.contains(&id) && (self.alive.contains(&id) || self.in_grace.contains(&id))
    }

    /// Whether copies on a node count as replicas that can be read now: it is alive and not draining.
    pub fn counts_as_live_replica(&self, id: NodeId) -> bool {
        !self.draining.contains(&id) && self.alive.contains(&id)
    }
}
