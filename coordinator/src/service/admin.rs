//! What operators do with nodes: drain them, take that back, remove them.

use serde_json::{Value, json};
use volley_common::listen::host_port;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{DrainNode, Node, RemoveNode, Write};
use volley_common::{Error, NodeId, Result, clock};

use super::Service;
use super::status::blocking;
use super::why::{Reasons, Scene, condition};
use crate::catalog::{Catalog, PartRow};
use crate::scheduler::replicas;

/// Digits of a node's id that name it at least.
const PREFIX: usize = 4;

impl Service {
    /// Begins to drain a node, unless only its state is asked for, and says what is left to copy. Repeated calls are how a
    /// drain is followed.
    ///
    /// # Errors
    /// NOT_FOUND, INVALID_ARGUMENT: no node, or several, of that name. UNAVAILABLE: no leader.
    pub async fn drain_node(&self, node: &str, begin: bool) -> Result<Value> {
        let id = self.node_id(node).await?;
        let draining = |catalog: &Catalog| catalog.node(id).is_some_and(|node| node.draining);
        if begin && !draining(&self.raft.view()) {
            tracing::info!(node = %id, "an operator drains the node");
            self.raft.propose(Op::DrainNode(DrainNode { node: id.0, draining: true })).await?;
        }
        drop(self.raft.read().await?);
        let (raft, live, repair_delay_ms) = (self.raft.clone(), self.live(), self.config.repair_delay_ms);
        blocking(move || {
            let catalog = raft.view();
            drain_json(&live.scene(&catalog, clock::now_ms(), repair_delay_ms), id)
        })
        .await?
    }

    /// Takes a drain back: the node takes parts again, and keeps what it still has.
    ///
    /// # Errors
    /// As [`Service::drain_node`].
    pub async fn undrain_node(&self, node: &str) -> Result<Value> {
        let id = self.node_id(node).await?;
        tracing::info!(node = %id, "an operator takes the drain of the node back");
        self.raft.propose(Op::DrainNode(DrainNode { node: id.0, draining: false })).await?;
        Ok(json!({ "node": id.to_string(), "draining": false }))
    }

    /// Forgets a node.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: it is alive and not drained, or no other live node has something that it has. As [`Service::drain_node`].
    pub async fn remove_node(&self, node: &str) -> Result<Value> {
        let id = self.node_id(node).await?;
        let (raft, live, repair_delay_ms) = (self.raft.clone(), self.live(), self.config.repair_delay_ms);
        blocking(move || {
            let catalog = raft.view();
            check_drained(&live.scene(&catalog, clock::now_ms(), repair_delay_ms), id)
        })
        .await??;
        tracing::info!(node = %id, "an operator removes the node");
        self.raft.propose(Op::RemoveNode(RemoveNode { node: id.0 })).await?;
        Ok(json!({ "node": id.to_string(), "removed": true }))
    }

    async fn node_id(&self, text: &str) -> Result<NodeId> {
        find_node(&*self.raft.read().await?, text).map(|node| NodeId(node.id))
    }
}

/// The node that is meant by an id, the first digits of one, or an address.
///
/// # Errors
/// NOT_FOUND: none is. INVALID_ARGUMENT: several are, or it is neither.
pub(super) fn find_node<'a>(catalog: &'a Catalog, text: &str) -> Result<&'a Node> {
    let wanted = text.trim().to_ascii_lowercase();
    let address = host_port(&wanted);
    let by_address = |node: &&Node| host_port(&node.flight_uri) == address || node.peer_addr == address;
    if let Some(node) = catalog.nodes().find(by_address) {
        return Ok(node);
    }
    let hex = wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !(wanted.contains(':') || hex && wanted.len() >= PREFIX) {
        return Err(Error::invalid(format!(
            "{text:?} names no node: give its HOST:PORT, its id, or at least the first {PREFIX} digits of that"
        )));
    }
    let found: Vec<&Node> = catalog.nodes().filter(|node| NodeId(node.id).to_string().starts_with(&wanted)).collect();
    match found.as_slice() {
        [] => Err(Error::not_found(format!("there is no node {text:?}: `volley nodes` lists those that are"))),
        [one] => Ok(one),
        several => {
            let ids: Vec<String> = several.iter().map(|node| NodeId(node.id).to_string()).collect();
            Err(Error::invalid(format!("{text:?} may be any of {}: give more digits", ids.join(", "))))
        }
    }
}

/// What a node still has that too few others have.
#[derive(Default)]
struct Left {
    parts: u64,
    bytes: u64,
    why: Reasons,
    /// Writes that are not committed yet and have parts there.
    writes: Vec<String>,
}

impl Left {
    fn of(scene: &Scene<'_>, node: NodeId) -> Self {
        let mut left = Left::default();
        let stays = |id: &u64| *id != node.0 && scene.nodes.stays_alive(NodeId(*id));
        let others = scene.catalog.nodes().filter(|other| stays(&other.id)).count();
        for part in scene.catalog.all_parts().filter(|part| part.holders.contains(&node.0)) {
            let wanted = wanted_elsewhere(scene, part, others);
            if part.holders.iter().filter(|holder| stays(holder)).count() < wanted {
                let why = left.why.entry(scene.reason(part, wanted, Some(node))).or_default();
                *why = (why.0 + 1, why.1 + part.bytes);
                (left.parts, left.bytes) = (left.parts + 1, left.bytes + part.bytes);
            }
        }
        let here = |write: &&Write| write.parts.iter().any(|part| part.holders.contains(&node.0));
        left.writes = scene.catalog.open_writes().filter(here).map(|write| write.id.clone()).collect();
        left
    }

    fn is_none(&self) -> bool {
        self.parts == 0 && self.writes.is_empty()
    }
}

/// Copies that a part should have on other nodes: as its table says, but not more than there are nodes.
fn wanted_elsewhere(scene: &Scene<'_>, part: &PartRow, others: usize) -> usize {
    scene.catalog.table(part.table).map_or(1, replicas).min(others).max(1)
}

pub(super) fn drain_json(scene: &Scene<'_>, id: NodeId) -> Result<Value> {
    let node = scene.catalog.node(id).ok_or_else(|| gone(id))?;
    let left = Left::of(scene, id);
    let mut why = scene.json(&left.why);
    why.extend(left.writes.iter().map(|write| {
        json!({ "kind": "write", "why": format!("write {write:?} is not committed yet"), "parts": 0, "bytes": 0 })
    }));
    Ok(json!({
        "node": id.to_string(),
        "address": host_port(&node.flight_uri),
        "condition": condition(node),
        "draining": node.draining,
        "parts_left": left.parts,
        "bytes_left": left.bytes,
        "done": node.draining && left.is_none(),
        "why": why,
    }))
}

/// Refuses to remove a node whose drain is not at its end. (Whether it may go at all is for the catalog to say.)
pub(super) fn check_drained(scene: &Scene<'_>, id: NodeId) -> Result<()> {
    let node = scene.catalog.node(id).ok_or_else(|| gone(id))?;
    if !node.is_alive() || !node.draining {
        return Ok(());
    }
    let left = Left::of(scene, id);
    if left.is_none() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "node {id} is not drained yet: {} of its parts have too few copies elsewhere, and {} open writes have parts on it; `volley drain {id}` waits for them",
        left.parts,
        left.writes.len()
    )))
}

fn gone(id: NodeId) -> Error {
    Error::not_found(format!("there is no node {id} any longer"))
}
