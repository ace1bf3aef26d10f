//! The open writes, for operators.

use serde_json::{Value, json};
use volley_common::identity::Access;
use volley_common::wire::catalog::{Write, WriteMode};

use crate::catalog::Catalog;

/// Maximum number of writes that one reply lists.
const MAX_LISTED: usize = 200;
/// What replaces the name of a table that a principal may not read, and the id of its write.
const HIDDEN: &str = "(hidden)";

/// The open writes as JSON, the first `MAX_LISTED` of them.
pub fn writes_json(catalog: &Catalog, access: &Access) -> Value {
    let mut open = catalog.open_writes();
    let listed: Vec<Value> = open.by_ref().take(MAX_LISTED).map(|write| write_json(catalog, write, access)).collect();
    json!({ "writes": listed, "more": open.count() })
}

fn write_json(catalog: &Catalog, write: &Write, access: &Access) -> Value {
    let (mut parts, mut rows, mut bytes) = (0u64, 0u64, 0u64);
    for part in catalog.staged_parts(write) {
        (parts, rows, bytes) = (parts + 1, rows + part.rows, bytes + part.bytes);
    }
    let mode = match WriteMode::try_from(write.mode).unwrap_or_default() {
        _ if write.query_result => "query result",
        WriteMode::Replace => "replace",
        WriteMode::Create => "create",
        WriteMode::Append => "append",
        WriteMode::Compact => "compaction",
    };
    // An id can be made of the table's name.
    let (id, table) = match access.can_read(&write.table) {
        true => (write.id.as_str(), write.table.join("/")),
        false => (HIDDEN, HIDDEN.to_string()),
    };
    json!({
        "write_id": id,
        "table": table,
        "mode": mode,
        "staged": write.staged,
        "parts": parts,
        "rows": rows,
        "bytes": bytes,
        "lease_until_ms": Some(write.lease_until_ms).filter(|until| *until > 0),
    })
}
