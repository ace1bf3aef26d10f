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
use crate::planner::capacity::check_capacity;
use crate::planner::table_options::{NodeCounts, TableOptions, check_keys};
use crate::planner::write_targets::write_targets;
use crate::raft::Handle;
use crate::service::columns::visible_names;
use crate::service::live_nodes::wait_for_live_nodes;

/// Tables without a write.
#[derive(Clone)]
pub struct TableService {
    raft: Handle,
    retention_ms: u64,
    /// Whether the cluster is a development cluster.
    dev: bool,
}

impl TableService {
    /// Works on this catalog.
    pub fn new(raft: Handle, config: &CoordinatorConfig) -> Self {
        TableService { raft, retention_ms: config.retention_ms, dev: config.dev }
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
            check_capacity(&catalog, name, &spec, &schema, None)?;
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

    /// The tables that a principal may read, in name order: `{"tables": [{"table", "version", "rows", "bytes", ...}]}`.
    pub async fn list_tables(&self, access: &Access) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let readable = catalog.tables().filter(|table| access.can_read(&table.name));
        let tables: Vec<Value> = readable.map(|table| visible_json(table, access)).collect();
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

/// A table as actions report it, without the names of columns that a principal may not see.
fn visible_json(table: &Table, access: &Access) -> Value {
    let mut json = table_json(table);
    if let (Some(permitted), Some(spec)) = (access.permitted_columns(&table.name), &table.spec) {
        json["shard_by"] = visible_names(&spec.shard_by, &permitted).into();
    }
    json
}

fn already_exists(name: &TableName) -> Error {
    Error::exists(format!("table {name:?} exists already: drop it first, or add \"if_not_exists\": true"))
}
