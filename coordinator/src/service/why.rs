//! Pure: why a part has not all its copies yet, in words.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use volley_common::clock::span;
use volley_common::listen::host_port;
use volley_common::wire::catalog::Node;
use volley_common::{NodeId, PartId};

use super::survey::live_copies;
use crate::catalog::{Catalog, PartRow};
use crate::scheduler::Nodes;

/// The nodes at one moment, and what is under way between them.
pub struct Scene<'a> {
    /// The catalog.
    pub catalog: &'a Catalog,
    /// Who is there, who takes parts, whose copies count.
    pub nodes: Nodes,
    /// Parts that are being copied, and to which node.
    pub copying: BTreeMap<PartId, NodeId>,
    /// Now.
    pub now_ms: u64,
    /// How long a silent node's copies count.
    pub repair_delay_ms: u64,
}

/// Why a copy is missing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// No live node has the part; these silent ones do.
    Unreadable(Vec<NodeId>),
    /// The copies of these silent nodes still count: their grace is not over.
    Grace(Vec<NodeId>),
    /// It is under way to this node.
    Copying(NodeId),
    /// No node without the part takes parts.
    NoTarget,
    /// It waits for its turn.
    Queued,
}

/// Reasons, how many parts each is of, and their bytes.
pub type Reasons = BTreeMap<Reason, (u64, u64)>;

impl<'a> Scene<'a> {
    /// Why a part has not `wanted` copies; `leaving` is a node whose copy does not count.
    pub fn reason(&self, part: &PartRow, wanted: usize, leaving: Option<NodeId>) -> Reason {
        let holders = || self.catalog.holders(part);
        let live = live_copies(part, &self.nodes.alive);
        if live == 0 {
            return Reason::Unreadable(holders().collect());
        }
        if let Some(target) = self.copying.get(&part.part_id()) {
            return Reason::Copying(*target);
        }
        let waited: Vec<NodeId> = holders().filter(|id| self.nodes.waited.contains(id)).collect();
        let staying = live - usize::from(leaving.is_some_and(|node| self.nodes.alive.contains(&node)));
        if !waited.is_empty() && staying + waited.len() >= wanted {
            return Reason::Grace(waited);
        }
        match self.nodes.writable.iter().any(|node| !part.holders.contains(&node.0)) {
            true => Reason::Queued,
            false => Reason::NoTarget,
        }
    }

    /// Milliseconds that a silent node's copies still count.
    fn grace_left(&self, id: NodeId) -> u64 {
        let since = self.catalog.node(id).map_or(0, |node| node.unreachable_since_ms);
        since.saturating_add(self.repair_delay_ms).saturating_sub(self.now_ms)
    }

    /// Reasons as answers show them: `[{"kind", "why", "parts", "bytes"}]`.
    pub fn json(&self, reasons: &Reasons) -> Vec<Value> {
        let one = |(reason, (parts, bytes)): (&Reason, &(u64, u64))| json!({ "kind": reason.kind(), "why": self.text(reason), "parts": parts, "bytes": bytes });
        reasons.iter().map(one).collect()
    }

    fn text(&self, reason: &Reason) -> String {
        let list = |nodes: &[NodeId]| nodes.iter().map(|id| self.described(*id)).collect::<Vec<_>>().join(", ");
        match reason {
            Reason::Unreadable(nodes) if nodes.is_empty() => "no node has a copy any longer".into(),
            Reason::Unreadable(nodes) => format!("no live node has a copy, only {}: start one of them", list(nodes)),
            Reason::Grace(nodes) => {
                let left = nodes.iter().map(|id| self.grace_left(*id)).max().unwrap_or(0);
                format!("{} may come back: copied elsewhere in {}", list(nodes), span(left))
            }
            Reason::Copying(node) => format!("a copy to {} is under way", self.name(*node)),
            Reason::NoTarget => self.no_target(),
            Reason::Queued => "waits for its turn: copies are made a few at a time".into(),
        }
    }

    fn no_target(&self) -> String {
        let not: Vec<NodeId> = self.nodes.alive.difference(&self.nodes.writable).copied().collect();
        let writable_nodes = match self.nodes.writable.len() {
            0 => "no node takes parts".to_string(),
            1 => "only one node takes parts, and has it".into(),
            n => format!("only {n} nodes take parts, and have it"),
        };
        let others: Vec<String> = not.into_iter().map(|id| self.described(id)).collect();
        let others = if others.is_empty() { String::new() } else { format!(" ({})", others.join(", ")) };
        format!("{writable_nodes}{others}: start another node, or make room")
    }

    /// Who a node is: id and address.
    fn name(&self, id: NodeId) -> String {
        match self.catalog.node(id) {
            Some(node) => format!("node {id} at {}", host_port(&node.flight_uri)),
            None => format!("node {id}, which was removed"),
        }
    }

    /// Who a node is, and what is wrong with it.
    fn described(&self, id: NodeId) -> String {
        let text = self.catalog.node(id).map(|node| condition_text(node, self.now_ms)).unwrap_or_default();
        if text.is_empty() { self.name(id) } else { format!("{} ({text})", self.name(id)) }
    }
}

impl Reason {
    /// A word for machines.
    pub fn kind(&self) -> &'static str {
        match self {
            Reason::Unreadable(_) => "unreadable",
            Reason::Grace(_) => "grace",
            Reason::Copying(_) => "copying",
            Reason::NoTarget => "no_target",
            Reason::Queued => "queued",
        }
    }
}

/// A node in one word: `silent`, `draining`, `refusing`, `degraded` or `ok`.
pub fn condition(node: &Node) -> &'static str {
    match () {
        () if !node.is_alive() => "silent",
        () if node.draining => "draining",
        () if !node.read_only_reason.is_empty() => "refusing",
        () if node.is_degraded() => "degraded",
        () => "ok",
    }
}

/// What is to be said of a node besides; empty if nothing is.
pub fn condition_text(node: &Node, now_ms: u64) -> String {
    let mut said = Vec::new();
    if !node.is_alive() {
        said.push(match node.unreachable_since_ms {
            0 => "silent".into(),
            since => format!("silent for {}", span(now_ms.saturating_sub(since))),
        });
    }
    if node.draining {
        said.push("draining".into());
    }
    if !node.read_only_reason.is_empty() {
        said.push(format!("takes no parts: {}", node.read_only_reason));
    }
    if node.is_degraded() {
        said.push(node.degraded_reason.clone());
    }
    said.join("; ")
}
