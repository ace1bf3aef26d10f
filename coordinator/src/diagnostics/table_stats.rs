//! Tables and cluster totals as JSON.

use serde_json::{Value, json};
use volley_common::wire::catalog::{Compression, DescriptorKind, Table, WriteState};

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
        "compression": match Compression::try_from(spec.compression) {
            Ok(Compression::None) | Err(_) => "none",
            Ok(Compression::Lz4) => "lz4",
            Ok(Compression::Zstd) => "zstd",
        },
    })
}

/// Sums over all tables, nodes and writes.
pub fn totals_json(catalog: &Catalog) -> Value {
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
        "nodes_alive": catalog.live_nodes().count(),
        "open_writes": open,
    })
}
