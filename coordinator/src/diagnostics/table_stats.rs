//! Tables and cluster totals as JSON.

use serde_json::{Value, json};
use volley_common::wire::catalog::{Compression, DescriptorKind, Table};

use crate::catalog::{Catalog, PartRow, expires_ms};

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
        "preserve_batches": spec.preserve_batches,
        "shareable_tickets": spec.shareable_tickets,
        "ttl_s": (spec.ttl_ms != 0).then_some(spec.ttl_ms / 1000),
        "expires_ms": expires_ms(table),
        "stats_columns": (!spec.stats_columns.is_empty()).then_some(&spec.stats_columns),
    })
}

/// How many parts and record batches a version has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartCount {
    /// Parts.
    pub parts: u64,
    /// Record batches of all parts; `None` if an earlier version, which did not count them, wrote one of the parts.
    pub batches: Option<u64>,
}

impl PartCount {
    /// Counts parts.
    pub fn of<'a>(parts: impl Iterator<Item = &'a PartRow>) -> Self {
        parts.fold(PartCount { parts: 0, batches: Some(0) }, |count, part| {
            let known = (part.batches > 0).then_some(u64::from(part.batches));
            PartCount { parts: count.parts + 1, batches: count.batches.zip(known).map(|(sum, more)| sum + more) }
        })
    }
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

#[cfg(test)]
mod tests {
    use volley_common::wire::catalog::{Part, TableSpec};

    use super::*;

    #[test]
    fn table_that_expires_says_when() {
        let table = |ttl_ms| {
            let spec = Some(TableSpec { ttl_ms, ..TableSpec::default() });
            table_json(&Table { spec, changed_ms: 1_000, ..Table::default() })
        };
        assert_eq!((&table(60_000)["ttl_s"], &table(60_000)["expires_ms"]), (&json!(60), &json!(61_000)));
        assert!(table(0)["ttl_s"].is_null() && table(0)["expires_ms"].is_null());
        assert_eq!(table(u64::MAX)["expires_ms"], json!(u64::MAX));
    }

    #[test]
    fn batches_of_a_version_are_unknown_if_one_part_is() {
        let row = |batches| PartRow::from_part(&Part { batches, ..Part::default() });
        let count = |parts: &[PartRow]| PartCount::of(parts.iter());
        assert_eq!(count(&[]), PartCount { parts: 0, batches: Some(0) });
        assert_eq!(count(&[row(3), row(4)]), PartCount { parts: 2, batches: Some(7) });
        assert_eq!(count(&[row(3), row(0)]), PartCount { parts: 2, batches: None }, "an earlier version wrote it");
    }
}
