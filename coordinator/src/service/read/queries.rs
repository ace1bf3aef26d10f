//! Plans of whole tables for a node that runs a query over them.

use prost::Message;
use volley_common::identity::Access;
use volley_common::options::Options;
use volley_common::partition;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::Table;
use volley_common::wire::cluster::{PartFilter, PlanTablesRequest, PlannedTable, TableVersion};
use volley_common::{Error, Result, TableName};

use super::part_pruning::PartPruning;
use super::similar_tables::require_table;
use super::{ReadService, ResolvedRead};
use crate::catalog::Catalog;
use crate::raft::CatalogView;
use crate::service::live_nodes::wait_for_live_nodes;

/// Maximum number of tables of a query: all are planned while the catalog is locked.
const MAX_TABLES: usize = 128;

/// A table that a query reads.
#[derive(Clone, Debug)]
pub struct QueriedTable {
    /// Its name.
    pub name: TableName,
    /// The version; `None`: the newest.
    pub version: Option<u64>,
    /// Its id, if the query was planned before; `None`: the table that has the name.
    pub id: Option<u64>,
    /// Which of its parts are left out; `None`: none.
    pub part_filter: Option<PartFilter>,
}

impl QueriedTable {
    fn of(table: &TableVersion) -> Result<Self> {
        let TableVersion { table: name, version, table_id } = table;
        let id = Some(*table_id).filter(|id| *id != 0);
        Ok(QueriedTable { name: TableName::from_components(name)?, version: *version, id, part_filter: None })
    }

    /// The table. One that was dropped is readable as long as its tickets are.
    ///
    /// # Errors
    /// NOT_FOUND: there is none of this name or id.
    fn find<'c>(&self, catalog: &'c Catalog, access: &Access) -> Result<&'c Table> {
        let Some(id) = self.id else { return require_table(catalog, access, &self.name) };
        let kept = catalog.table(id).filter(|table| table.name == self.name.components());
        // As a ticket that expired.
        kept.ok_or_else(|| {
            Error::not_found(format!("the ticket for table {:?} has expired: call get_flight_info again", self.name))
        })
    }
}

/// The tables of a request.
///
/// # Errors
/// INVALID_ARGUMENT: an invalid name, or too many tables.
pub fn queried_tables(request: &PlanTablesRequest) -> Result<Vec<QueriedTable>> {
    let PlanTablesRequest { tables, filters } = request;
    if tables.len() > MAX_TABLES {
        return Err(Error::invalid(format!(
            "the query has {} tables, more than the limit of {MAX_TABLES}: split it into several",
            tables.len()
        )));
    }
    let mut filters = filters.iter();
    let table = |table: &TableVersion| -> Result<QueriedTable> {
        Ok(QueriedTable { part_filter: filters.next().cloned(), ..QueriedTable::of(table)? })
    };
    tables.iter().map(table).collect()
}

impl ReadService {
    /// Plans reads of whole tables by one linearizable read, in this order: of all columns that the principal may see, and of all parts
    /// that the table's filter does not exclude. Whether it may read the tables is checked before. The plans are for members: their
    /// tickets have the whole schema of the table.
    ///
    /// # Errors
    /// NOT_FOUND: no such table or version. UNAVAILABLE: a shard without a live holder, or no leader. RESOURCE_EXHAUSTED: the plans
    /// do not fit into a message.
    pub async fn plan_tables(&self, access: &Access, tables: &[QueriedTable]) -> Result<Vec<PlannedTable>> {
        let listener = self.listeners.default_name();
        let plan = |catalog: CatalogView| {
            let resolve = |table: &QueriedTable| -> Result<(ResolvedRead, bool)> {
                let options = Options { version: table.version, ..Options::default() };
                let permitted = access.permitted_columns(table.name.components());
                let pruning = PartPruning::new(table.part_filter.as_ref(), permitted);
                let found = table.find(&catalog, access)?;
                let read = self.resolve_read(&catalog, found, &options, pruning.as_ref(), |_| 1, &listener)?;
                // What is not known exactly must not decide which rows are joined.
                let has_layout = catalog.layout_to_restore(found, read.version).is_ok();
                Ok((read, has_layout))
            };
            tables.iter().map(resolve).collect::<Result<Vec<(ResolvedRead, bool)>>>()
        };
        wait_for_live_nodes(&self.raft).await;
        let targets = self.raft.read_with(plan).await??;
        let mut planned = Vec::with_capacity(targets.len());
        for (target, has_layout) in targets {
            planned.push(self.plan_table(access, target, has_layout).await?);
        }
        let bytes: usize = planned.iter().map(Message::encoded_len).sum();
        // Each has a tag and a length in the reply.
        if bytes + 16 * planned.len() > MAX_PEER_MESSAGE {
            return Err(Error::exhausted(format!(
                "the plans of the query's {} tables have {bytes} bytes, more than the limit of {MAX_PEER_MESSAGE}: they have too many parts; put the tables again in larger batches",
                planned.len()
            )));
        }
        Ok(planned)
    }

    /// `has_layout`: whether the version had the layout of `target` without a doubt.
    async fn plan_table(&self, access: &Access, target: ResolvedRead, has_layout: bool) -> Result<PlannedTable> {
        let visible = target.select_columns(access, &Options::default()).await?;
        let in_ticket = match visible.in_ticket(target.version_plan.has_parts()) {
            // The columns are indexes in it.
            (schema, columns) if schema.is_empty() => (target.layout.schema.clone(), columns),
            with_schema => with_schema,
        };
        let suffix = target.version_plan.endpoints.first().map_or(&[][..], |endpoint| &endpoint.ticket_suffix);
        let ticket = self.signer(access, &target, in_ticket, &Options::default()).ticket(suffix);
        let spec = target.layout.spec.unwrap_or_default();
        let permitted = access.permitted_columns(&target.table);
        let is_whole = permitted.is_none();
        // By some of its key columns a table is not partitioned.
        let shows_keys = permitted.is_none_or(|permitted| spec.shard_by.iter().all(|key| permitted.contains(key)));
        let has_shards = has_layout && shows_keys && !spec.shard_by.is_empty();
        Ok(PlannedTable {
            ticket: ticket.into(),
            rows: target.version_plan.rows,
            // Hidden columns have a size, too.
            bytes: if is_whole { target.version_plan.bytes } else { 0 },
            shard_by: if shows_keys { spec.shard_by } else { Vec::new() },
            shards: spec.shards,
            visible_schema: visible.schema,
            partition_algorithm: if has_shards { partition::ALGORITHM } else { 0 },
            part_shards: if has_shards { target.version_plan.part_shards.clone() } else { Vec::new() },
        })
    }
}

#[cfg(test)]
mod tests;
