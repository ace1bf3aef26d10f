//! Tables and cluster totals as JSON.

use serde_json::{Value, json};
use volley_common::wire::catalog::{Compression, DescriptorKind, Table};

use crate::catalog::Catalog;

/// A table as actions report it.
pub fn table_json(table: &Table) -> Value {
    let spec = table.spec.clone().unwrap_or_default();
    let by_command = table.kind == DescriptorKind::Command as i32;
    json!({
        "table": table.name.join("/"),
        "descriptor": if by_command { "command" } else { "path" },
        "version": table.version,
        "rows": table.rows,
        "bytes": table.bytes,
        "retention_s": spec.retention_ms / 1000,
        "shards": spec.shards,
        "shard_by": spec.shard_by,
        "replicas": spec.replicas,
        "min_copies": spec.min_copies,
        "compression": Compression::try_from(spec.compression).unwrap_or_default().name(),
        "retention_ms": spec.retention_ms,
        "max_endpoints": (spec.max_endpoints != 0).then_some(spec.max_endpoints),
    })
}

/// Sums over all tables, nodes and writes.
pub fn totals_json(catalog: &Catalog) -> Value {
    let (mut tables, mut rows, mut bytes) = (0u64, 0u64, 0u64);
    for table in catalog.tables() {
        (tables, rows, bytes) = (tables + 1, rows + table.rows, bytes + table.bytes);
    }
    json!({
        "tables": tables,
        "rows": rows,
        "bytes": bytes,
        "nodes": catalog.nodes().count(),
        "nodes_alive": catalog.live_nodes().count(),
        "open_writes": catalog.open_writes().count(),
        "finished_writes": catalog.finished_writes(),
    })
}
