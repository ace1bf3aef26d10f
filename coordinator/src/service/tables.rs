//! Tables made, dropped and cleared without a write.

use bytes::Bytes;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::reply::Reply;
use volley_common::wire::catalog::{Clear, CreateTable, DescriptorKind, DropTable, Table};
use volley_common::{Code, Error, Result, TableName};

use super::homes::homes;
use super::spec::{Choice, check_keys, placement};
use super::write::unexpected;
use super::{Service, need_nodes};

impl Service {
    /// Makes an empty table. With `if_not_exists` one that is there is answered as it is.
    ///
    /// # Errors
    /// ALREADY_EXISTS; INVALID_ARGUMENT: the schema or keys; UNAVAILABLE: not enough live nodes, or no leader.
    pub async fn create_table(
        &self,
        name: &TableName,
        kind: DescriptorKind,
        schema: Bytes,
        choice: &Choice,
        if_not_exists: bool,
    ) -> Result<Table> {
        let command = {
            let catalog = self.raft.read().await?;
            if let Some(table) = catalog.table_named(name) {
                return if if_not_exists { Ok(table.clone()) } else { Err(exists(name)) };
            }
            let live = need_nodes(&catalog)?;
            let spec = choice.spec(None, live, self.config.retention_ms)?;
            check_keys(name, &schema, &spec)?;
            let placement = placement(&catalog, name, &spec, None, &homes(&catalog, &spec)?);
            CreateTable { table: name.components().to_vec(), kind: kind as i32, spec: Some(spec), schema, placement }
        };
        match self.raft.propose(Op::CreateTable(command)).await {
            Ok(Reply::Table(table)) => Ok(table),
            Ok(other) => Err(unexpected("create_table", &other)),
            Err(error) if error.code == Code::AlreadyExists && if_not_exists => {
                self.raft.read().await?.table_named(name).cloned().ok_or(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Drops a table; says whether there was one. Without `if_exists` a missing one is an error.
    ///
    /// # Errors
    /// NOT_FOUND; UNAVAILABLE: no leader.
    pub async fn drop_table(&self, name: &TableName, if_exists: bool) -> Result<bool> {
        match self.raft.propose(Op::DropTable(DropTable { table: name.components().to_vec() })).await {
            Ok(_) => Ok(true),
            Err(error) if error.code == Code::NotFound && if_exists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Drops every table and write; only on a development cluster.
    ///
    /// # Errors
    /// PERMISSION_DENIED elsewhere.
    pub async fn clear(&self) -> Result<()> {
        self.only_dev("clear")?;
        self.raft.propose(Op::Clear(Clear {})).await?;
        Ok(())
    }

    /// Refuses what only a development cluster allows.
    ///
    /// # Errors
    /// PERMISSION_DENIED.
    pub fn only_dev(&self, action: &str) -> Result<()> {
        if self.config.dev {
            return Ok(());
        }
        Err(Error::denied(format!(
            "the action {action} is allowed on a development cluster only: one started by `volley dev`"
        )))
    }
}

fn exists(name: &TableName) -> Error {
    Error::exists(format!("table {name:?} exists already: drop it first, or add \"if_not_exists\": true"))
}
