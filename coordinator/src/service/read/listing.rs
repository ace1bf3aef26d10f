//! Listing tables, with the columns that a reader sees.

use volley_common::identity::Access;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::DescriptorKind;
use volley_common::wire::cluster::TableSummary;
use volley_common::{Error, Result, TableName};

use super::{ReadService, TableListing};
use crate::service::columns::visible_schema;

impl ReadService {
    /// The tables that a principal may read and whose names start with `prefix`.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are too many. UNAVAILABLE: no leader.
    pub async fn list(&self, access: &Access, prefix: &str) -> Result<Vec<TableListing>> {
        self.list_or(access, prefix, "give the beginning of their names as criteria").await
    }

    /// The tables that a query of a principal may name, for a node.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: there are too many, or they do not fit into a message. UNAVAILABLE: no leader.
    pub async fn list_for_queries(&self, access: &Access) -> Result<Vec<TableSummary>> {
        let listed = self.list_or(access, "", "name the table in the query instead of listing all").await?;
        let bytes: usize = listed.iter().map(|listed| listed.table.schema.len()).sum();
        // Names, numbers and lengths are small against the rest of the limit.
        if bytes > MAX_PEER_MESSAGE / 2 {
            return Err(Error::exhausted(format!(
                "the schemas of all {} tables have {bytes} bytes, more than the limit of {}: name the table in the query instead of listing all",
                listed.len(),
                MAX_PEER_MESSAGE / 2
            )));
        }
        let summary = |listed: TableListing| TableSummary {
            table: listed.table.name,
            schema: listed.table.schema,
            rows: listed.table.rows,
            bytes: listed.bytes.unwrap_or_default(),
            version: listed.table.version,
        };
        Ok(listed.into_iter().map(summary).collect())
    }

    /// `narrower`: what to do if there are too many.
    async fn list_or(&self, access: &Access, prefix: &str, narrower: &str) -> Result<Vec<TableListing>> {
        let mut listed = Vec::new();
        {
            let catalog = self.raft.read().await?;
            for table in catalog.tables().filter(|table| access.can_read(&table.name)) {
                let name = TableName::from_components(&table.name)?;
                if name.to_string().starts_with(prefix) {
                    let kind = DescriptorKind::try_from(table.kind).unwrap_or_default();
                    listed.push(TableListing { bytes: Some(table.bytes), table: table.clone(), name, kind });
                }
            }
        }
        self.limits.check_rows("tables", listed.len(), narrower)?;
        if access.is_open() {
            return Ok(listed);
        }
        // Schemas may be large, and many.
        let access = access.clone();
        let visible = tokio::task::spawn_blocking(move || with_visible_schemas(listed, &access)).await;
        visible.map_err(|e| Error::internal(format!("the schemas of the listed tables: {e}")))?
    }
}

/// Leaves out the columns that a principal may not see, and the size of tables with such columns.
fn with_visible_schemas(mut listed: Vec<TableListing>, access: &Access) -> Result<Vec<TableListing>> {
    for TableListing { table, bytes, .. } in &mut listed {
        if let Some(permitted) = access.permitted_columns(&table.name) {
            table.schema = visible_schema(&table.schema, &permitted)?;
            *bytes = None;
        }
    }
    Ok(listed)
}
