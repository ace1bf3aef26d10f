//! Restores old versions of tables, and dropped tables.

use serde_json::{Value, json};
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{RestoreVersion, Restored, TableSpec};
use volley_common::{Error, Result, TableName};

use crate::catalog::Catalog;
use crate::catalog::replies::unexpected_reply;
use crate::config::CoordinatorConfig;
use crate::planner::catalog_limits::CatalogLimits;
use crate::planner::table_options::placement;
use crate::planner::write_targets::write_targets;
use crate::raft::Handle;
use crate::service::live_nodes::wait_for_live_nodes;

/// Restores old versions of tables, and dropped tables.
#[derive(Clone)]
pub struct RestoreService {
    raft: Handle,
    limits: CatalogLimits,
}

impl RestoreService {
    /// Works on this catalog.
    pub fn new(raft: Handle, config: &CoordinatorConfig) -> Self {
        RestoreService { raft, limits: config.limits }
    }

    /// Makes an old version of a table the newest one, or undoes the drop of a table (without `version`), or both:
    /// `{"table", "version", "restored", "replaced", "rows", "bytes", "parts", "undropped"}`.
    ///
    /// # Errors
    /// NOT_FOUND: no such table or version is kept. ALREADY_EXISTS: the dropped table's name is in use. FAILED_PRECONDITION:
    /// the version is the newest, or the table was not dropped, or the columns of the version are not known. ABORTED: the
    /// table changed meanwhile. RESOURCE_EXHAUSTED: the restored table exceeds a limit of the catalog.
    pub async fn restore_version(&self, name: &TableName, version: Option<u64>) -> Result<Value> {
        if version == Some(0) {
            return Err(Error::invalid("the \"version\" of restore_version is at least 1"));
        }
        wait_for_live_nodes(&self.raft).await;
        let now_ms = self.raft.now_ms();
        let command = plan(&self.limits, &*self.raft.read().await?, name, version, now_ms)?;
        match self.raft.propose(Op::RestoreVersion(command)).await? {
            Reply::Restored(restored) => {
                tracing::info!(table = %name, restored = restored.restored, "a version was restored");
                Ok(restored_json(name, &restored))
            }
            other => Err(unexpected_reply("restore_version", &other)),
        }
    }

    /// Until when the drop of a table can be undone, milliseconds since 1970; none if it cannot.
    pub async fn restorable_until_ms(&self, name: &TableName) -> Option<u64> {
        let now_ms = self.raft.now_ms();
        let catalog = self.raft.read().await.ok()?;
        let dropped = catalog.dropped_table(name.components(), now_ms)?;
        dropped.replaced.last().map(|end| end.until_ms)
    }
}

fn plan(
    limits: &CatalogLimits,
    catalog: &Catalog,
    name: &TableName,
    version: Option<u64>,
    now_ms: u64,
) -> Result<RestoreVersion> {
    let dropped = catalog.dropped_table(name.components(), now_ms);
    let table = match (catalog.table_named(name), version) {
        (Some(table), Some(_)) => Some(table),
        (Some(table), None) => Some(dropped.unwrap_or(table)),
        (None, _) => dropped,
    };
    let table = table.ok_or_else(|| {
        Error::not_found(format!("there is no table {name:?}, and none of this name was dropped within its retention"))
    })?;
    let layout = catalog.layout_to_restore(table, version.unwrap_or(table.version))?;
    let spec = layout.spec.unwrap_or_default();
    limits.check_capacity(catalog, name, &spec, &layout.schema, Some(table))?;
    let replicas = table.spec.as_ref().map_or(0, |spec| spec.replicas);
    let is_placed = |spec: &TableSpec| spec.shards as usize == table.placement.len() && spec.replicas == replicas;
    let placement = match version {
        Some(_) if !is_placed(&spec) => placement(catalog, name, &spec, Some(table), &write_targets(catalog, &spec)?),
        _ => Vec::new(),
    };
    Ok(RestoreVersion {
        table: name.components().to_vec(),
        version: version.unwrap_or_default(),
        table_id: table.id,
        base_version: table.version,
        placement,
    })
}

fn restored_json(name: &TableName, restored: &Restored) -> Value {
    let outcome = restored.outcome.clone().unwrap_or_default();
    json!({
        "table": name.to_string(),
        "version": outcome.version,
        "restored": restored.restored,
        "replaced": Some(restored.replaced).filter(|version| *version > 0),
        "rows": outcome.rows,
        "bytes": outcome.bytes,
        "parts": outcome.parts,
        "undropped": restored.undropped,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Code;
    use volley_common::wire::catalog::{Replaced, Row, Table, row};

    use super::*;
    use crate::catalog::RowKey;

    fn insert(catalog: &mut Catalog, id: u64, dropped_ms: u64) {
        let end = Replaced { version: 2, until_ms: 1000, at_ms: dropped_ms, ..Replaced::default() };
        let table = Table {
            id,
            name: vec![id.to_string()],
            version: 1,
            spec: Some(TableSpec { shards: 4096, replicas: 2, ..TableSpec::default() }),
            dropped_ms,
            replaced: if dropped_ms == 0 { vec![] } else { vec![end] },
            ..Table::default()
        };
        catalog.insert_row(Row { row: Some(row::Row::Table(table)) });
    }

    #[test]
    fn dropped_table_comes_back_only_within_the_limits() {
        let mut catalog = Catalog::default();
        (1..=122).for_each(|id| insert(&mut catalog, id, 0));
        insert(&mut catalog, 123, 5);
        let name: TableName = "123".parse().unwrap();
        let error = plan(&CatalogLimits::default(), &catalog, &name, None, 10).unwrap_err();
        assert!(error.code == Code::ResourceExhausted && error.message.contains("shards"), "{error}");
        catalog.remove_row(&RowKey::Table(1));
        assert_eq!(plan(&CatalogLimits::default(), &catalog, &name, None, 10).unwrap().table_id, 123);
    }
}
