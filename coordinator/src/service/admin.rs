//! Operators' actions: drain and remove nodes, add and remove coordinators, inspect tables.

use std::sync::Arc;

use serde_json::{Value, json};
use volley_common::identity::Access;
use volley_common::listen::{self, host_port};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{DrainNode, Node, RemoveNode};
use volley_common::{Error, NodeId, Result, TableName};

use crate::catalog::Catalog;
use crate::catalog_scan::scan_catalog;
use crate::config::CoordinatorConfig;
use crate::diagnostics::cluster_snapshot::ClusterSnapshot;
use crate::diagnostics::drain::{check_drained, drain_json};
use crate::diagnostics::open_writes::writes_json;
use crate::diagnostics::table_layout::layout_json;
use crate::diagnostics::versions::versions_json;
use crate::membership::node_reports::NodeReports;
use crate::raft::Handle;
use crate::service::columns::withhold_bytes;

/// The fewest digits that identify a node by a prefix of its id.
const MIN_ID_PREFIX: usize = 4;

/// Operators' actions.
#[derive(Clone)]
pub struct AdminService {
    raft: Handle,
    node_reports: Arc<NodeReports>,
    repair_delay_ms: u64,
}

impl AdminService {
    /// Works on this catalog.
    pub fn new(raft: Handle, node_reports: Arc<NodeReports>, config: &CoordinatorConfig) -> Self {
        AdminService { raft, node_reports, repair_delay_ms: config.repair_delay_ms }
    }

    /// Begins to drain a node (with `begin`), and reports what is left to copy. Repeated calls follow the drain.
    ///
    /// # Errors
    /// NOT_FOUND, INVALID_ARGUMENT: `node` identifies no node, or several. UNAVAILABLE: no leader.
    pub async fn drain_node(&self, node: &str, begin: bool) -> Result<Value> {
        let id = self.node_id(node).await?;
        let is_draining = |catalog: &Catalog| catalog.node(id).is_some_and(|node| node.draining);
        if begin && !is_draining(&self.raft.view()) {
            tracing::info!(node = %id, "an operator drains the node");
            self.raft.propose(Op::DrainNode(DrainNode { node: id.0, draining: true })).await?;
        }
        drop(self.raft.read().await?);
        self.scan_snapshot(move |snapshot| drain_json(snapshot, id)).await?
    }

    /// Cancels a drain: the node accepts writes again, and keeps the parts that it still has.
    ///
    /// # Errors
    /// As [`AdminService::drain_node`].
    pub async fn undrain_node(&self, node: &str) -> Result<Value> {
        let id = self.node_id(node).await?;
        tracing::info!(node = %id, "an operator cancels the drain of the node");
        self.raft.propose(Op::DrainNode(DrainNode { node: id.0, draining: false })).await?;
        Ok(json!({ "node": id.to_string(), "draining": false }))
    }

    /// Removes a node from the cluster.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: it is alive and not drained, or some part has no other live holder. As
    /// [`AdminService::drain_node`].
    pub async fn remove_node(&self, node: &str) -> Result<Value> {
        let id = self.node_id(node).await?;
        self.scan_snapshot(move |snapshot| check_drained(snapshot, id)).await??;
        tracing::info!(node = %id, "an operator removes the node");
        self.raft.propose(Op::RemoveNode(RemoveNode { node: id.0 })).await?;
        Ok(json!({ "node": id.to_string(), "removed": true }))
    }

    async fn node_id(&self, text: &str) -> Result<NodeId> {
        find_node(&*self.raft.read().await?, text).map(|node| NodeId(node.id))
    }

    /// Where every shard of a table's newest version is, where it should be, and why copies are missing. A reader of some columns
    /// gets no sizes in bytes.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. UNAVAILABLE: no leader.
    pub async fn explain(&self, access: &Access, name: &TableName) -> Result<Value> {
        drop(self.raft.read().await?);
        let (is_restricted, name) = (access.permitted_columns(name.components()).is_some(), name.clone());
        let layout = move |snapshot: &ClusterSnapshot<'_>| {
            let table = snapshot.catalog.require_table(&name)?;
            Ok(layout_json(snapshot, table))
        };
        let explained: Result<Value> = self.scan_snapshot(layout).await?;
        Ok(visible_sizes(explained?, is_restricted))
    }

    /// The readable versions of a table, newest first. A reader of some columns gets no sizes in bytes.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. UNAVAILABLE: no leader.
    pub async fn list_versions(&self, access: &Access, name: &TableName) -> Result<Value> {
        drop(self.raft.read().await?);
        let (is_restricted, name) = (access.permitted_columns(name.components()).is_some(), name.clone());
        let now_ms = self.raft.now_ms();
        let versions = move |catalog: &Catalog| {
            let table = catalog.require_table(&name)?;
            Ok(versions_json(catalog, table, now_ms))
        };
        let listed: Result<Value> = scan_catalog(&self.raft, versions).await?;
        Ok(visible_sizes(listed?, is_restricted))
    }

    /// The open writes: `{"writes": [{"write_id", "table", "mode", "staged", "rows", "bytes", "parts", "lease_until_ms"}], "more"}`, with
    /// what is staged so far. Tables that the principal may not read are not named.
    ///
    /// # Errors
    /// UNAVAILABLE: no leader.
    pub async fn list_writes(&self, access: &Access) -> Result<Value> {
        drop(self.raft.read().await?);
        let access = access.clone();
        scan_catalog(&self.raft, move |catalog: &Catalog| writes_json(catalog, &access)).await
    }

    /// Runs `work` on the local catalog and, on the leader, the copies in progress.
    async fn scan_snapshot<T: Send + 'static>(
        &self,
        work: impl FnOnce(&ClusterSnapshot<'_>) -> T + Send + 'static,
    ) -> Result<T> {
        let copying = match self.raft.is_leader() {
            true => self.node_reports.copying.lock().clone(),
            false => Default::default(),
        };
        let (now_ms, repair_delay_ms) = (self.raft.now_ms(), self.repair_delay_ms);
        let scan = move |catalog: &Catalog| work(&ClusterSnapshot::new(catalog, copying, now_ms, repair_delay_ms));
        scan_catalog(&self.raft, scan).await
    }

    /// Adds a coordinator that was started with `--join`, and waits until it votes: `{"coordinators": [{"id",
    /// "peer"}]}`. A repeated call continues to wait, or returns immediately.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: not an address. ALREADY_EXISTS: the id has another address, or the address another id.
    /// FAILED_PRECONDITION: another coordinator answers there, or its data folder belongs to another cluster or was removed.
    /// UNAVAILABLE: it does not answer, or did not catch up in time.
    pub async fn add_coordinator(&self, id: u64, peer: &str) -> Result<Value> {
        if id == 0 {
            return Err(Error::invalid("a coordinator's id is at least 1"));
        }
        let peer = listen::check_advertise(peer.trim()).map_err(|e| e.at("the coordinator's peer address"))?;
        self.raft.add_coordinator(id, peer).await?;
        Ok(self.coordinators_json())
    }

    /// Removes a coordinator, and waits until the others have agreed: `{"coordinators": [{"id", "peer"}]}`. Succeeds
    /// immediately if it was removed already.
    ///
    /// # Errors
    /// NOT_FOUND: there never was such a coordinator. FAILED_PRECONDITION: it is the last one, or too few of the others are up.
    pub async fn remove_coordinator(&self, id: u64) -> Result<Value> {
        self.raft.remove_coordinator(id).await?;
        Ok(self.coordinators_json())
    }

    fn coordinators_json(&self) -> Value {
        let list: Vec<Value> = self.raft.peers().iter().map(|(id, peer)| json!({ "id": id, "peer": peer })).collect();
        json!({ "coordinators": list })
    }
}

fn visible_sizes(mut report: Value, is_restricted: bool) -> Value {
    if is_restricted {
        withhold_bytes(&mut report);
    }
    report
}

/// Finds a node by its id, by a prefix of it, or by an address.
///
/// # Errors
/// NOT_FOUND: no node matches. INVALID_ARGUMENT: several match, or the text is neither an id nor an address.
fn find_node<'a>(catalog: &'a Catalog, text: &str) -> Result<&'a Node> {
    let wanted = text.trim().to_ascii_lowercase();
    let address = host_port(&wanted);
    let by_address = |node: &&Node| host_port(&node.flight_uri) == address || node.peer_addr == address;
    if let Some(node) = catalog.nodes().find(by_address) {
        return Ok(node);
    }
    let is_hex = wanted.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !(wanted.contains(':') || is_hex && wanted.len() >= MIN_ID_PREFIX) {
        return Err(Error::invalid(format!(
            "{text:?} identifies no node: give its HOST:PORT, its id, or at least the first {MIN_ID_PREFIX} digits of the id"
        )));
    }
    let found: Vec<&Node> = catalog.nodes().filter(|node| NodeId(node.id).to_string().starts_with(&wanted)).collect();
    match found.as_slice() {
        [] => Err(Error::not_found(format!("there is no node {text:?}: `volley nodes` lists the nodes"))),
        [one] => Ok(one),
        several => {
            let ids: Vec<String> = several.iter().map(|node| NodeId(node.id).to_string()).collect();
            Err(Error::invalid(format!("{text:?} matches several nodes ({}): give more digits", ids.join(", "))))
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::catalog::{Row, row};

    use super::*;

    #[test]
    fn node_is_found_by_id_prefix_or_address() {
        let mut catalog = Catalog::default();
        for (id, host) in [(3, "n3"), (0xabcd_0000_0000_0001, "x"), (0xabcd_1000_0000_0000, "y")] {
            let (flight_uri, peer_addr) = (format!("grpc+tcp://{host}:1"), format!("{host}:8826"));
            let node = Node { id, flight_uri, peer_addr, ..Node::default() };
            catalog.insert_row(Row { row: Some(row::Row::Node(node)) });
        }
        let find = |text: &str| find_node(&catalog, text).map(|node| node.id);
        for text in ["abcd0", "ABCD000000000001", "x:1", "grpc+tcp://x:1"] {
            assert_eq!(find(text).unwrap(), 0xabcd_0000_0000_0001, "{text}");
        }
        assert_eq!(find("n3:8826").unwrap(), 3, "its peer address");
        let several = find("abcd").unwrap_err();
        assert_eq!(several.code, Code::InvalidArgument);
        assert!(several.message.contains("abcd000000000001, abcd100000000000"), "{several}");
        assert_eq!(find("ffff").unwrap_err().code, Code::NotFound);
        assert_eq!(find("z:1").unwrap_err().code, Code::NotFound);
        for text in ["abc", "", "node3"] {
            assert_eq!(find(text).unwrap_err().code, Code::InvalidArgument, "{text:?}");
        }
    }
}
