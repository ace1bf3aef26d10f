//! The cluster at one moment, as the reports see it.

use std::collections::BTreeMap;

use volley_common::listen::host_port;
use volley_common::{NodeId, PartId};

use super::node_condition::condition_text;
use crate::catalog::Catalog;
use crate::scheduler::NodeSets;

/// The catalog, the nodes by state, and the copies in progress.
pub struct ClusterSnapshot<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// The nodes by state.
    pub nodes: NodeSets,
    /// Parts that are being copied, and to which node. Only the leader knows them.
    pub copying: BTreeMap<PartId, NodeId>,
    /// The current time, milliseconds since 1970.
    pub now_ms: u64,
    /// How long the copies of an unreachable node count.
    pub repair_delay_ms: u64,
}

impl<'a> ClusterSnapshot<'a> {
    /// Combines the catalog with the copies in progress.
    pub fn new(catalog: &'a Catalog, copying: BTreeMap<PartId, NodeId>, now_ms: u64, repair_delay_ms: u64) -> Self {
        let nodes = NodeSets::at(catalog, now_ms, repair_delay_ms);
        ClusterSnapshot { catalog, nodes, copying, now_ms, repair_delay_ms }
    }

    /// Milliseconds for which the copies of an unreachable node still count.
    pub fn grace_left(&self, id: NodeId) -> u64 {
        let since = self.catalog.node(id).map_or(0, |node| node.unreachable_since_ms);
        since.saturating_add(self.repair_delay_ms).saturating_sub(self.now_ms)
    }

    /// A node's id and address.
    pub fn node_name(&self, id: NodeId) -> String {
        match self.catalog.node(id) {
            Some(node) => format!("node {id} at {}", host_port(&node.flight_uri)),
            None => format!("node {id}, which was removed"),
        }
    }

    /// A node's id, address and condition.
    pub fn describe_node(&self, id: NodeId) -> String {
        let text = self.catalog.node(id).map(|node| condition_text(node, self.now_ms)).unwrap_or_default();
        if text.is_empty() { self.node_name(id) } else { format!("{} ({text})", self.node_name(id)) }
    }
}
