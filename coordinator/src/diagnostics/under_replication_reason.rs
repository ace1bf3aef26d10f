//! Why a part lacks copies.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use volley_common::clock::span;
use volley_common::listen::host_port;
use volley_common::{NodeId, PartId};

use super::node_condition::condition_text;
use super::replication_health::live_copies;
use crate::catalog::{Catalog, PartRow};
use crate::scheduler::NodeSets;

/// The cluster at one moment: the catalog, the nodes, and the copies in progress.
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

/// Why a part lacks copies.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum UnderReplicationReason {
    /// No live node holds the part; these unreachable nodes do.
    Unreadable(Vec<NodeId>),
    /// The copies of these unreachable nodes still count, because the repair delay has not passed.
    InGrace(Vec<NodeId>),
    /// A copy to this node is in progress.
    Copying(NodeId),
    /// No node without the part is writable.
    NoTarget,
    /// The copy has not been ordered yet.
    Queued,
}

/// Parts and bytes by reason.
pub type ReasonCounts = BTreeMap<UnderReplicationReason, (u64, u64)>;

impl<'a> ClusterSnapshot<'a> {
    /// Combines the catalog with the copies in progress.
    pub fn new(catalog: &'a Catalog, copying: BTreeMap<PartId, NodeId>, now_ms: u64, repair_delay_ms: u64) -> Self {
        let nodes = NodeSets::at(catalog, now_ms, repair_delay_ms);
        ClusterSnapshot { catalog, nodes, copying, now_ms, repair_delay_ms }
    }

    /// Why a part has fewer than `wanted` copies. The copy of the node `leaving` does not count.
    pub fn reason(&self, part: &PartRow, wanted: usize, leaving: Option<NodeId>) -> UnderReplicationReason {
        let holders = || self.catalog.holders(part);
        let live = live_copies(part, &self.nodes.alive);
        if live == 0 {
            return UnderReplicationReason::Unreadable(holders().collect());
        }
        if let Some(target) = self.copying.get(&part.part_id()) {
            return UnderReplicationReason::Copying(*target);
        }
        let in_grace: Vec<NodeId> = holders().filter(|id| self.nodes.in_grace.contains(id)).collect();
        let staying = live - usize::from(leaving.is_some_and(|node| self.nodes.alive.contains(&node)));
        if !in_grace.is_empty() && staying + in_grace.len() >= wanted {
            return UnderReplicationReason::InGrace(in_grace);
        }
        match self.nodes.writable.iter().any(|node| !part.holders.contains(&node.0)) {
            true => UnderReplicationReason::Queued,
            false => UnderReplicationReason::NoTarget,
        }
    }

    /// Reasons as JSON: `[{"kind", "why", "parts", "bytes"}]`.
    pub fn reasons_json(&self, reasons: &ReasonCounts) -> Vec<Value> {
        let entry = |(reason, (parts, bytes)): (&UnderReplicationReason, &(u64, u64))| json!({ "kind": reason.kind(), "why": self.text(reason), "parts": parts, "bytes": bytes });
        reasons.iter().map(entry).collect()
    }

    fn text(&self, reason: &UnderReplicationReason) -> String {
        let list = |nodes: &[NodeId]| nodes.iter().map(|id| self.described(*id)).collect::<Vec<_>>().join(", ");
        match reason {
            UnderReplicationReason::Unreadable(nodes) if nodes.is_empty() => "no node has a copy any more".into(),
            UnderReplicationReason::Unreadable(nodes) => {
                format!("no live node has a copy, only {}: start one of them", list(nodes))
            }
            UnderReplicationReason::InGrace(nodes) => {
                let left = nodes.iter().map(|id| self.grace_left(*id)).max().unwrap_or(0);
                format!("{} may come back: copied to another node in {}", list(nodes), span(left))
            }
            UnderReplicationReason::Copying(node) => format!("a copy to {} is in progress", self.name(*node)),
            UnderReplicationReason::NoTarget => self.no_target_text(),
            UnderReplicationReason::Queued => "queued: only a few copies are made at a time".into(),
        }
    }

    /// Milliseconds for which the copies of an unreachable node still count.
    fn grace_left(&self, id: NodeId) -> u64 {
        let since = self.catalog.node(id).map_or(0, |node| node.unreachable_since_ms);
        since.saturating_add(self.repair_delay_ms).saturating_sub(self.now_ms)
    }

    fn no_target_text(&self) -> String {
        let writable = match self.nodes.writable.len() {
            0 => "no node accepts writes".to_string(),
            1 => "only one node accepts writes, and it has a copy".into(),
            n => format!("only {n} nodes accept writes, and they have copies"),
        };
        let not_writable = self.nodes.alive.difference(&self.nodes.writable);
        let others: Vec<String> = not_writable.map(|id| self.described(*id)).collect();
        let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
        format!("{writable}{others}: start another node, or make room")
    }

    /// A node's id and address.
    fn name(&self, id: NodeId) -> String {
        match self.catalog.node(id) {
            Some(node) => format!("node {id} at {}", host_port(&node.flight_uri)),
            None => format!("node {id}, which was removed"),
        }
    }

    /// A node's id, address and condition.
    fn described(&self, id: NodeId) -> String {
        let text = self.catalog.node(id).map(|node| condition_text(node, self.now_ms)).unwrap_or_default();
        if text.is_empty() { self.name(id) } else { format!("{} ({text})", self.name(id)) }
    }
}

impl UnderReplicationReason {
    /// The reason in one word, for programs.
    pub fn kind(&self) -> &'static str {
        match self {
            UnderReplicationReason::Unreadable(_) => "unreadable",
            UnderReplicationReason::InGrace(_) => "grace",
            UnderReplicationReason::Copying(_) => "copying",
            UnderReplicationReason::NoTarget => "no_target",
            UnderReplicationReason::Queued => "queued",
        }
    }
}
