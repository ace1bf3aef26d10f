//! Replies about catalogs, schemas and tables.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, BinaryArray, BooleanArray, RecordBatch, StringArray};
use arrow::compute::like;
use arrow::datatypes::SchemaRef;
use arrow_flight::error::FlightError;
use arrow_flight::sql::metadata::{GetCatalogsBuilder, GetDbSchemasBuilder};
use arrow_flight::sql::{CommandGetDbSchemas, CommandGetTableTypes, CommandGetTables};
use bytes::Bytes;
use volley_common::ipc::schema::schema_message;
use volley_common::{Error, Result, name};

use super::reply::MAX_MESSAGE_BYTES;
use crate::names::{CATALOG, DEFAULT_SCHEMA, SqlName};
use crate::source::ListedTable;

/// The type of all tables.
const TABLE: &str = "TABLE";
/// Longest pattern, bytes: twice the longest name, for one with an escape before each character.
const MAX_PATTERN_BYTES: usize = 2 * name::MAX_BYTES;
/// Most bytes of the schemas of all tables in one reply.
const MAX_SCHEMA_BYTES: usize = 256 << 20;

/// The schema of [`catalogs`].
pub(super) fn catalogs_schema() -> SchemaRef {
    GetCatalogsBuilder::new().schema()
}

/// The only catalog.
pub(super) fn catalogs() -> Result<RecordBatch> {
    let mut builder = GetCatalogsBuilder::new();
    builder.append(CATALOG);
    built(builder.build())
}

/// The schema of [`table_types`].
pub(super) fn table_types_schema() -> SchemaRef {
    CommandGetTableTypes {}.into_builder().schema()
}

/// The only type of tables.
pub(super) fn table_types() -> Result<RecordBatch> {
    let mut builder = CommandGetTableTypes {}.into_builder();
    builder.append(TABLE);
    built(builder.build())
}

/// The schema of [`db_schemas`].
pub(super) fn db_schemas_schema() -> SchemaRef {
    CommandGetDbSchemas::default().into_builder().schema()
}

/// The schemas of the tables, and the default one, which exists without tables.
///
/// # Errors
/// INVALID_ARGUMENT: the pattern is too long.
pub(super) fn db_schemas(command: &CommandGetDbSchemas, tables: &[ListedTable]) -> Result<RecordBatch> {
    let used = tables.iter().map(|table| SqlName::of(&table.name).schema);
    let schemas: BTreeSet<String> = used.chain([DEFAULT_SCHEMA.to_string()]).collect();
    let is_selected = matching(command.db_schema_filter_pattern.as_deref(), schemas.iter().map(String::as_str))?;
    let mut builder = GetDbSchemasBuilder::new(command.catalog.clone(), None::<String>);
    for (schema, is_selected) in schemas.iter().zip(is_selected.values().iter()) {
        if is_selected {
            builder.append(CATALOG, schema);
        }
    }
    built(builder.build())
}

/// The schema of [`tables`].
pub(super) fn tables_schema(include_schema: bool) -> SchemaRef {
    CommandGetTables { include_schema, ..CommandGetTables::default() }.into_builder().schema()
}

/// The tables that the command selects, in the order of schema and name.
///
/// # Errors
/// INVALID_ARGUMENT: a pattern is too long. RESOURCE_EXHAUSTED: the schema of a table, or of all of them, is too large.
pub(super) fn tables(command: &CommandGetTables, tables: &[ListedTable]) -> Result<RecordBatch> {
    let selected = selected_tables(command, tables)?;
    let rows = selected.len();
    let constant = |value: &str| Arc::new(StringArray::from_iter_values(std::iter::repeat_n(value, rows))) as ArrayRef;
    let names = |name: fn(&SqlName) -> &str| {
        Arc::new(StringArray::from_iter_values(selected.iter().map(|(table, _)| name(table)))) as ArrayRef
    };
    let mut columns =
        vec![constant(CATALOG), names(|name| name.schema.as_str()), names(|name| name.table.as_str()), constant(TABLE)];
    if command.include_schema {
        columns.push(Arc::new(BinaryArray::from_iter_values(schemas_of(&selected)?)));
    }
    RecordBatch::try_new(tables_schema(command.include_schema), columns)
        .map_err(|e| Error::internal(format!("the list of tables cannot be built: {e}")))
}

fn selected_tables<'a>(
    command: &CommandGetTables,
    tables: &'a [ListedTable],
) -> Result<Vec<(SqlName, &'a ListedTable)>> {
    let CommandGetTables { catalog, db_schema_filter_pattern, table_name_filter_pattern, table_types, .. } = command;
    let mut named: Vec<_> = tables.iter().map(|table| (SqlName::of(&table.name), table)).collect();
    named.sort_by(|(one, _), (other, _)| one.cmp(other));
    let in_schema = matching(db_schema_filter_pattern.as_deref(), named.iter().map(|(name, _)| name.schema.as_str()))?;
    let in_name = matching(table_name_filter_pattern.as_deref(), named.iter().map(|(name, _)| name.table.as_str()))?;
    let is_of_type = table_types.is_empty() || table_types.iter().any(|wanted| wanted == TABLE);
    if !is_of_type || catalog.as_deref().is_some_and(|catalog| catalog != CATALOG) {
        return Ok(Vec::new());
    }
    let is_selected = in_schema.values().iter().zip(in_name.values()).map(|(schema, name)| schema && name);
    Ok(named.into_iter().zip(is_selected).filter_map(|(table, is_selected)| is_selected.then_some(table)).collect())
}

/// The schema messages of tables.
fn schemas_of(tables: &[(SqlName, &ListedTable)]) -> Result<Vec<Bytes>> {
    let mut messages = Vec::with_capacity(tables.len());
    let mut bytes = 0;
    for (name, table) in tables {
        let message = schema_message(&table.schema).map_err(|error| error.at(format!("table {name}")))?;
        bytes += message.len();
        if message.len() > MAX_MESSAGE_BYTES {
            return Err(Error::exhausted(format!(
                "the schema of table {name} has {} bytes, and a message at most {MAX_MESSAGE_BYTES}: leave the table out by a pattern, or the schemas by include_schema",
                message.len()
            )));
        }
        if bytes > MAX_SCHEMA_BYTES {
            return Err(Error::exhausted(format!(
                "the schemas of all these tables have more than {MAX_SCHEMA_BYTES} bytes: choose fewer tables by a pattern, or leave the schemas out by include_schema"
            )));
        }
        messages.push(message);
    }
    Ok(messages)
}

/// Whether each name matches a pattern of LIKE, in which `\` is the escape character; without a pattern all do.
fn matching<'a>(pattern: Option<&str>, names: impl Iterator<Item = &'a str>) -> Result<BooleanArray> {
    let names = StringArray::from_iter_values(names);
    let Some(pattern) = pattern else { return Ok(BooleanArray::from(vec![true; names.len()])) };
    if pattern.len() > MAX_PATTERN_BYTES {
        return Err(Error::invalid(format!(
            "a pattern has {} bytes, more than the limit of {MAX_PATTERN_BYTES}: no name is that long",
            pattern.len()
        )));
    }
    like(&names, &StringArray::new_scalar(pattern))
        .map_err(|e| Error::invalid(format!("the pattern {pattern:?} cannot be used: {e}")))
}

fn built(batch: Result<RecordBatch, FlightError>) -> Result<RecordBatch> {
    batch.map_err(|e| Error::internal(format!("the reply of a metadata command cannot be built: {e}")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
