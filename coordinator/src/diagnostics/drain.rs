//! How far a node's drain is.

use serde_json::{Value, json};
use volley_common::listen::host_port;
use volley_common::wire::catalog::{Part, Write};
use volley_common::{Error, NodeId, Result};

use super::cluster_snapshot::ClusterSnapshot;
use super::node_condition::condition;
use super::under_replication_reason::{ReasonCounts, UnderReplicationReason, reasons_json};
use crate::catalog::PartRow;
use crate::scheduler::placement::replica_count;

/// What a node still holds that too few other nodes hold.
#[derive(Default)]
struct DrainProgress {
    parts: u64,
    bytes: u64,
    reasons: ReasonCounts,
    /// Uncommitted writes with parts on the node.
    writes: Vec<String>,
}

impl DrainProgress {
    fn of(snapshot: &ClusterSnapshot<'_>, node: NodeId) -> Self {
        let mut progress = DrainProgress::default();
        let stays = |id: &u64| *id != node.0 && snapshot.nodes.counts_as_live_replica(NodeId(*id));
        let others = snapshot.catalog.nodes().filter(|other| stays(&other.id)).count();
        for part in snapshot.catalog.all_parts().filter(|part| part.holders.contains(&node.0)) {
            let wanted = copies_wanted_elsewhere(snapshot, part, others);
            if part.holders.iter().filter(|holder| stays(holder)).count() < wanted {
                let reason = UnderReplicationReason::of(snapshot, part, wanted, Some(node));
                let count = progress.reasons.entry(reason).or_default();
                *count = (count.0 + 1, count.1 + part.bytes);
                progress.parts += 1;
                progress.bytes += part.bytes;
            }
        }
        let (catalog, held) = (snapshot.catalog, |part: &Part| part.holders.contains(&node.0));
        let on_node = |write: &&Write| catalog.staged_parts(write).any(held);
        progress.writes = catalog.open_writes().filter(on_node).map(|write| write.id.clone()).collect();
        progress
    }

    fn is_done(&self) -> bool {
        self.parts == 0 && self.writes.is_empty()
    }
}

/// The copies that a part should have on other nodes: as many as its table has replicas, but no more than there are nodes.
fn copies_wanted_elsewhere(snapshot: &ClusterSnapshot<'_>, part: &PartRow, others: usize) -> usize {
    snapshot.catalog.table(part.table).map_or(1, replica_count).min(others).max(1)
}

/// A node's drain as JSON: what is left, and why.
///
/// # Errors
/// NOT_FOUND: the node does not exist.
pub fn drain_json(snapshot: &ClusterSnapshot<'_>, id: NodeId) -> Result<Value> {
    let node = snapshot.catalog.node(id).ok_or_else(|| no_node(id))?;
    let progress = DrainProgress::of(snapshot, id);
    let mut reasons = reasons_json(snapshot, &progress.reasons);
    reasons.extend(progress.writes.iter().map(|write| {
        json!({ "kind": "write", "why": format!("write {write:?} is not committed yet"), "parts": 0, "bytes": 0 })
    }));
    Ok(json!({
        "node": id.to_string(),
        "address": host_port(&node.flight_uri),
        "condition": condition(node),
        "draining": node.draining,
        "parts_left": progress.parts,
        "bytes_left": progress.bytes,
        "done": node.draining && progress.is_done(),
        "why": reasons,
    }))
}

/// Checks that a live draining node can be removed because its drain is done. Whether any other node can be removed is
/// decided by the catalog.
///
/// # Errors
/// FAILED_PRECONDITION: the drain is not done. NOT_FOUND: the node does not exist.
pub fn check_drained(snapshot: &ClusterSnapshot<'_>, id: NodeId) -> Result<()> {
    let node = snapshot.catalog.node(id).ok_or_else(|| no_node(id))?;
    if !node.is_alive() || !node.draining {
        return Ok(());
    }
    let progress = DrainProgress::of(snapshot, id);
    if progress.is_done() {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "node {id} is not drained yet: {} of its parts have too few copies on other nodes, and {} open writes have parts on it; `volley drain {id}` waits for them",
        progress.parts,
        progress.writes.len()
    )))
}

fn no_node(id: NodeId) -> Error {
    Error::not_found(format!("there is no node {id} any more"))
}
