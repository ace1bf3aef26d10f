//! Figures about the cluster, as the JSON that actions answer with.

use serde_json::{Value, json};
use volley_common::wire::catalog::{Compression, DescriptorKind, NodeState, Table, WriteState};
use volley_common::{Error, NodeId, Result, TableName};

use super::{Service, live_nodes};
use crate::catalog::Catalog;

impl Service {
    /// All tables: `{"tables": [{"table", "version", "rows", "bytes", ...}]}`, in the order of their names.
    pub async fn list_tables(&self) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let tables: Vec<Value> = catalog.tables().map(table_json).collect();
        Ok(json!({ "tables": tables }))
    }

    /// Sums over all tables, or the figures of one.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. UNAVAILABLE: no leader.
    pub async fn stats(&self, name: Option<&TableName>) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let Some(name) = name else { return Ok(totals(&catalog)) };
        let table = catalog
            .table_named(name)
            .ok_or_else(|| Error::not_found(format!("there is no table {name:?}: list_tables names those that are")))?;
        let mut stats = table_json(table);
        stats["parts"] = catalog.parts_at(table.id, table.version).len().into();
        stats["created_ms"] = table.created_ms.into();
        stats["changed_ms"] = table.changed_ms.into();
        Ok(stats)
    }

    /// Who is there: coordinators, the leader, nodes, sums.
    pub async fn cluster_status(&self) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let leader = self.raft.leader();
        let coordinators: Vec<Value> = self
            .raft
            .peers()
            .iter()
            .map(|(id, addr)| json!({ "id": id, "peer": addr, "leader": Some(*id) == leader, "answering": *id == self.config.id }))
            .collect();
        let nodes: Vec<Value> = catalog.nodes().map(node_json).collect();
        Ok(json!({
            "cluster": catalog.cluster().map(|c| c.id.clone()),
            "leader": leader,
            "coordinators": coordinators,
            "nodes": nodes,
            "stats": totals(&catalog),
        }))
    }

    /// Says at once whether this coordinator has a leader and nodes.
    pub fn health(&self) -> Value {
        let leader = self.raft.leader();
        let alive = live_nodes(&self.raft.view()).len();
        json!({ "status": if leader.is_some() { "ok" } else { "no leader" }, "leader": leader, "nodes_alive": alive })
    }
}

fn node_json(node: &volley_common::wire::catalog::Node) -> Value {
    let alive = node.state == NodeState::Alive as i32;
    json!({
        "id": NodeId(node.id).to_string(),
        "state": if alive { "alive" } else { "silent" },
        "zone": node.zone,
        "capacity": node.capacity,
        "flight": node.flight_uri,
        "peer": node.peer_addr,
        "software": node.software,
    })
}

/// A table as the actions show it.
pub fn table_json(table: &Table) -> Value {
    let spec = table.spec.clone().unwrap_or_default();
    let by_command = table.kind == DescriptorKind::Command as i32;
    json!({
        "table": table.name.join("/"),
        "descriptor": if by_command { "command" } else { "path" },
        "version": table.version,
        "rows": table.rows,
        "bytes": table.bytes,
        "shards": spec.shards,
        "shard_by": spec.shard_by,
        "replicas": spec.replicas,
        "min_copies": spec.min_copies,
        "compression": match Compression::try_from(spec.compression) {
            Ok(Compression::None) | Err(_) => "none",
            Ok(Compression::Lz4) => "lz4",
            Ok(Compression::Zstd) => "zstd",
        },
    })
}

fn totals(catalog: &Catalog) -> Value {
    let (mut tables, mut rows, mut bytes) = (0u64, 0u64, 0u64);
    for table in catalog.tables() {
        (tables, rows, bytes) = (tables + 1, rows + table.rows, bytes + table.bytes);
    }
    let open = catalog.writes().filter(|write| write.state == WriteState::Open as i32).count();
    json!({
        "tables": tables,
        "rows": rows,
        "bytes": bytes,
        "nodes": catalog.nodes().count(),
        "nodes_alive": live_nodes(catalog).len(),
        "open_writes": open,
    })
}
