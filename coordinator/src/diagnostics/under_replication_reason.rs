//! Why a part lacks copies.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use volley_common::NodeId;
use volley_common::clock::span;

use super::cluster_snapshot::ClusterSnapshot;
use super::replication_health::live_copies;
use crate::catalog::PartRow;

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

impl UnderReplicationReason {
    /// Why a part has fewer than `wanted` copies. The copy of the node `leaving` does not count.
    pub fn of(snapshot: &ClusterSnapshot<'_>, part: &PartRow, wanted: usize, leaving: Option<NodeId>) -> Self {
        let (catalog, nodes) = (snapshot.catalog, &snapshot.nodes);
        let live = live_copies(part, &nodes.alive);
        if live == 0 {
            return UnderReplicationReason::Unreadable(catalog.holders(part).collect());
        }
        if let Some(target) = snapshot.copying.get(&part.part_id()) {
            return UnderReplicationReason::Copying(*target);
        }
        let in_grace: Vec<NodeId> = catalog.holders(part).filter(|id| nodes.in_grace.contains(id)).collect();
        let staying = live - usize::from(leaving.is_some_and(|node| nodes.alive.contains(&node)));
        if !in_grace.is_empty() && staying + in_grace.len() >= wanted {
            return UnderReplicationReason::InGrace(in_grace);
        }
        match nodes.writable.iter().any(|node| !part.holders.contains(&node.0)) {
            true => UnderReplicationReason::Queued,
            false => UnderReplicationReason::NoTarget,
        }
    }

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

    fn text(&self, snapshot: &ClusterSnapshot<'_>) -> String {
        let list = |nodes: &[NodeId]| nodes.iter().map(|id| snapshot.describe_node(*id)).collect::<Vec<_>>().join(", ");
        match self {
            UnderReplicationReason::Unreadable(nodes) if nodes.is_empty() => "no node has a copy any more".into(),
            UnderReplicationReason::Unreadable(nodes) => {
                format!("no live node has a copy, only {}: start one of them", list(nodes))
            }
            UnderReplicationReason::InGrace(nodes) => {
                let left = nodes.iter().map(|id| snapshot.grace_left(*id)).max().unwrap_or(0);
                format!("{} may come back; otherwise copied to another node in {}", list(nodes), span(left))
            }
            UnderReplicationReason::Copying(node) => format!("a copy to {} is in progress", snapshot.node_name(*node)),
            UnderReplicationReason::NoTarget => no_target_text(snapshot),
            UnderReplicationReason::Queued => "queued: only a few copies are made at a time".into(),
        }
    }
}

fn no_target_text(snapshot: &ClusterSnapshot<'_>) -> String {
    let nodes = &snapshot.nodes;
    let writable = match nodes.writable.len() {
        0 => "no node accepts writes".to_string(),
        1 => "only one node accepts writes, and it has a copy".into(),
        n => format!("only {n} nodes accept writes, and they have copies"),
    };
    let not_writable = nodes.alive.difference(&nodes.writable);
    let others: Vec<String> = not_writable.map(|id| snapshot.describe_node(*id)).collect();
    let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
    format!("{writable}{others}: start another node, or make room")
}

/// Reasons as JSON: `[{"kind", "why", "parts", "bytes"}]`.
pub fn reasons_json(snapshot: &ClusterSnapshot<'_>, reasons: &ReasonCounts) -> Vec<Value> {
    let entry = |(reason, (parts, bytes)): (&UnderReplicationReason, &(u64, u64))| json!({ "kind": reason.kind(), "why": reason.text(snapshot), "parts": parts, "bytes": bytes });
    reasons.iter().map(entry).collect()
}
