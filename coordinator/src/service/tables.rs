//! Tables without a write: create, drop, clear, list, statistics.

use bytes::Bytes;
use serde_json::{Value, json};
use volley_common::identity::Access;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{Clear, CreateTable, DescriptorKind, DropTable, Table};
use volley_common::{Code, Error, Result, TableName};

use crate::catalog::replies::unexpected_reply;
use crate::config::CoordinatorConfig;
use crate::diagnostics::table_stats::{PartCount, table_json, totals_json};
use crate::planner::catalog_limits::CatalogLimits;
use crate::planner::table_options::{NodeCounts, TableOptions, check_keys, check_stats_columns};
use crate::planner::write_targets::write_targets;
use crate::raft::Handle;
use crate::service::columns::{visible_names, withhold_bytes};
use crate::service::live_nodes::wait_for_live_nodes;

/// Tables without a write.
#[derive(Clone)]
pub struct TableService {
    raft: Handle,
    retention_ms: u64,
    limits: CatalogLimits,
    /// Whether the cluster is a development cluster.
    dev: bool,
}

impl TableService {
    /// Works on this catalog.
    pub fn new(raft: Handle, config: &CoordinatorConfig) -> Self {
        TableService { raft, retention_ms: config.retention_ms, limits: config.limits, dev: config.dev }
    }

    /// Creates an empty table. With `if_not_exists` an existing table is returned as it is.
    ///
    /// # Errors
    /// ALREADY_EXISTS. INVALID_ARGUMENT: the schema or keys. UNAVAILABLE: too few live nodes, or no leader.
    pub async fn create_table(
        &self,
        name: &TableName,
        kind: DescriptorKind,
        schema: Bytes,
        options: &TableOptions,
        if_not_exists: bool,
    ) -> Result<Table> {
        wait_for_live_nodes(&self.raft).await;
        let command = {
            let catalog = self.raft.read().await?;
            if let Some(table) = catalog.table_named(name) {
                return if if_not_exists { Ok(table.clone()) } else { Err(already_exists(name)) };
            }
            let nodes = NodeCounts::of(&catalog)?;
            let spec =
                options.spec(None, nodes, self.retention_ms).map_err(|e| e.at(format_args!("table {name:?}")))?;
            check_keys(name, &schema, &spec)?;
            check_stats_columns(name, &schema, &spec)?;
            self.limits.check_table(&catalog, name, &spec, &schema, None)?;
            write_targets(&catalog, &spec)?;
            let (table, kind) = (name.components().to_vec(), kind as i32);
            // The first write places the table.
            CreateTable { table, kind, spec: Some(spec), schema, placement: Vec::new() }
        };
        match self.raft.propose(Op::CreateTable(command)).await {
            Ok(Reply::Table(table)) => Ok(table),
            Ok(other) => Err(unexpected_reply("create_table", &other)),
            Err(error) if error.code == Code::AlreadyExists && if_not_exists => {
                self.raft.read().await?.table_named(name).cloned().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Drops a table; returns whether it existed. Without `if_exists` a missing table is an error.
    ///
    /// # Errors
    /// NOT_FOUND. UNAVAILABLE: no leader.
    pub async fn drop_table(&self, name: &TableName, if_exists: bool) -> Result<bool> {
        match self.raft.propose(Op::DropTable(DropTable { table: name.components().to_vec() })).await {
            Ok(_) => {
                tracing::info!(table = %name, "a table was dropped");
                Ok(true)
            }
            Err(error) if error.code == Code::NotFound && if_exists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops every table and write; only on a development cluster.
    ///
    /// # Errors
    /// PERMISSION_DENIED on any other cluster.
    pub async fn clear(&self) -> Result<()> {
        self.require_dev("clear")?;
        self.raft.propose(Op::Clear(Clear {})).await?;
        Ok(())
    }

    /// Checks that the cluster is a development cluster.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn require_dev(&self, action: &str) -> Result<()> {
        if self.dev {
            return Ok(());
        }
        Err(Error::denied(format!(
            "the action {action} is allowed on a development cluster only: one started by `volley dev`"
        )))
    }

    /// The tables of a prefix that a principal may read, in name order: `{"tables": [{"table", "version", "rows", "bytes", ...}]}`.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are too many. UNAVAILABLE: no leader.
    pub async fn list_tables(&self, access: &Access, prefix: &[String]) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let listed = |table: &&Table| table.name.starts_with(prefix) && access.can_read(&table.name);
        let narrower = "list those of a prefix: {\"prefix\": \"sales/\"}";
        self.limits.check_rows("tables", catalog.tables().filter(listed).count(), narrower)?;
        let tables: Vec<Value> = catalog.tables().filter(listed).map(|table| visible_json(table, access)).collect();
        Ok(json!({ "tables": tables }))
    }

    /// The statistics of one table as a principal sees it, or sums over all tables. Whether it may read them is checked before.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. UNAVAILABLE: no leader.
    pub async fn stats(&self, access: &Access, name: Option<&TableName>) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let Some(name) = name else { return Ok(totals_json(&catalog)) };
        let table = catalog.require_table(name)?;
        let mut stats = visible_json(table, access);
        let count = PartCount::of(catalog.part_rows_at(table.id, table.version));
        stats["parts"] = count.parts.into();
        stats["batches"] = count.batches.into();
        stats["created_ms"] = table.created_ms.into();
        stats["changed_ms"] = table.changed_ms.into();
        Ok(stats)
    }
}

/// A table as actions report it, without the names of columns that a principal may not see, and without the size of all columns.
fn visible_json(table: &Table, access: &Access) -> Value {
    let mut json = table_json(table);
    let Some(permitted) = access.permitted_columns(&table.name) else { return json };
    withhold_bytes(&mut json);
    if let Some(spec) = &table.spec {
        json["shard_by"] = visible_names(&spec.shard_by, &permitted).into();
        if !spec.stats_columns.is_empty() {
            json["stats_columns"] = visible_names(&spec.stats_columns, &permitted).into();
        }
    }
    json
}

fn already_exists(name: &TableName) -> Error {
    Error::exists(format!("table {name:?} exists already: drop it first, or add \"if_not_exists\": true"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::wire::catalog::Role;

    use super::super::testing::ServicesFixture;
    use super::*;

    /// What the actions on one table report.
    async fn reports(fixture: &ServicesFixture, access: &Access) -> Vec<Value> {
        let (services, name) = (&fixture.services, "sales/t".parse().unwrap());
        vec![
            services.tables.list_tables(access, &[]).await.unwrap()["tables"][0].clone(),
            services.tables.stats(access, Some(&name)).await.unwrap(),
            services.admin.list_versions(access, &name).await.unwrap()["versions"][0].clone(),
            services.admin.explain(access, &name).await.unwrap()["shards"][0].clone(),
        ]
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn reader_of_some_columns_gets_no_sizes() {
        let fixture = ServicesFixture::closed().await;
        fixture.create_table("sales/t").await;
        fixture.grant("user:ana", Role::Reader, "sales", &["a"]).await;
        for report in reports(&fixture, &fixture.access("root")).await {
            assert!(report["bytes"].is_u64() || report["bytes"].is_i64(), "{report}");
        }
        for report in reports(&fixture, &fixture.access("ana")).await {
            assert!(report["bytes"].is_null() && report["rows"].is_number(), "{report}");
        }
    }
}
