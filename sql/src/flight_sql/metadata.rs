//! The commands that ask what there is: catalogs, schemas, tables, keys, types, and what the server supports.
//!
//! Their replies name only tables that the caller may see, because only those are in the list that they are computed from.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::sql::{Command, CommandGetDbSchemas, CommandGetTables};
use volley_common::{Error, Result};

use super::{catalog_batches, key_schemas, sql_info, type_info};
use crate::source::ListedTable;

/// A question about the tables or the server.
#[derive(Clone, Debug, PartialEq)]
pub enum MetadataCommand {
    /// The catalogs: there is one.
    Catalogs,
    /// The schemas.
    DbSchemas(CommandGetDbSchemas),
    /// The tables.
    Tables(CommandGetTables),
    /// The types of tables: there is one.
    TableTypes,
    /// What the server supports; the numbers that are asked for, or none for all.
    SqlInfo(Vec<u32>),
    /// The types of SQL, or one of them.
    XdbcTypeInfo(Option<i32>),
    /// The primary keys of a table: there are none.
    PrimaryKeys,
    /// The foreign keys that refer to a table: there are none.
    ExportedKeys,
    /// The foreign keys of a table: there are none.
    ImportedKeys,
    /// The foreign keys between two tables: there are none.
    CrossReference,
}

impl MetadataCommand {
    /// The question of a command, if it is one.
    pub(super) fn new(command: Command) -> Option<Self> {
        Some(match command {
            Command::CommandGetCatalogs(_) => MetadataCommand::Catalogs,
            Command::CommandGetDbSchemas(command) => MetadataCommand::DbSchemas(command),
            Command::CommandGetTables(command) => MetadataCommand::Tables(command),
            Command::CommandGetTableTypes(_) => MetadataCommand::TableTypes,
            Command::CommandGetSqlInfo(command) => MetadataCommand::SqlInfo(command.info),
            Command::CommandGetXdbcTypeInfo(command) => MetadataCommand::XdbcTypeInfo(command.data_type),
            Command::CommandGetPrimaryKeys(_) => MetadataCommand::PrimaryKeys,
            Command::CommandGetExportedKeys(_) => MetadataCommand::ExportedKeys,
            Command::CommandGetImportedKeys(_) => MetadataCommand::ImportedKeys,
            Command::CommandGetCrossReference(_) => MetadataCommand::CrossReference,
            _ => return None,
        })
    }

    /// Whether the reply depends on the tables: [`MetadataCommand::batch`] then needs their list.
    pub fn needs_tables(&self) -> bool {
        matches!(self, MetadataCommand::DbSchemas(_) | MetadataCommand::Tables(_))
    }

    /// The schema of the reply, exactly that of [`MetadataCommand::batch`].
    pub fn schema(&self) -> SchemaRef {
        match self {
            MetadataCommand::Catalogs => catalog_batches::catalogs_schema(),
            MetadataCommand::DbSchemas(_) => catalog_batches::db_schemas_schema(),
            MetadataCommand::Tables(command) => catalog_batches::tables_schema(command.include_schema),
            MetadataCommand::TableTypes => catalog_batches::table_types_schema(),
            MetadataCommand::SqlInfo(_) => sql_info::schema(),
            MetadataCommand::XdbcTypeInfo(_) => type_info::schema(),
            MetadataCommand::PrimaryKeys => key_schemas::primary_keys(),
            MetadataCommand::ExportedKeys | MetadataCommand::ImportedKeys | MetadataCommand::CrossReference => {
                key_schemas::foreign_keys()
            }
        }
    }

    /// The reply. `tables`: all that the caller may see, in any order. A row has less than 4 MiB; all rows may have more.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a pattern is too long. RESOURCE_EXHAUSTED: the schemas of tables are too large.
    pub fn batch(&self, tables: &[ListedTable]) -> Result<RecordBatch> {
        let batch = match self {
            MetadataCommand::Catalogs => catalog_batches::catalogs()?,
            MetadataCommand::DbSchemas(command) => catalog_batches::db_schemas(command, tables)?,
            MetadataCommand::Tables(command) => catalog_batches::tables(command, tables)?,
            MetadataCommand::TableTypes => catalog_batches::table_types()?,
            MetadataCommand::SqlInfo(numbers) => sql_info::batch(numbers)?,
            MetadataCommand::XdbcTypeInfo(data_type) => type_info::batch(*data_type)?,
            MetadataCommand::PrimaryKeys
            | MetadataCommand::ExportedKeys
            | MetadataCommand::ImportedKeys
            | MetadataCommand::CrossReference => RecordBatch::new_empty(self.schema()),
        };
        // The FlightInfo has promised this schema, nullability included.
        RecordBatch::try_new(self.schema(), batch.columns().to_vec())
            .map_err(|e| Error::internal(format!("the reply of a metadata command has another schema: {e}")))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;

    use arrow::datatypes::{DataType, Field, Schema};
    use arrow_flight::FlightData;
    use arrow_flight::sql::{
        CommandGetCatalogs, CommandGetCrossReference, CommandGetExportedKeys, CommandGetImportedKeys,
        CommandGetPrimaryKeys, CommandGetSqlInfo, CommandGetTableTypes, CommandGetXdbcTypeInfo, ProstMessageExt,
    };
    use prost::Message;
    use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
    use volley_common::ipc::encode::encode_batch;
    use volley_common::ipc::schema::{flight_header, schema_message};

    use super::super::command::{SqlCommand, decode};
    use super::*;

    fn decoded(message: &impl ProstMessageExt) -> MetadataCommand {
        match decode(&message.as_any().encode_to_vec()).unwrap() {
            SqlCommand::Metadata(command) => command,
            other => panic!("{other:?}"),
        }
    }

    fn all() -> Vec<MetadataCommand> {
        let table = || "t".to_string();
        vec![
            decoded(&CommandGetCatalogs {}),
            decoded(&CommandGetDbSchemas::default()),
            decoded(&CommandGetTables::default()),
            decoded(&CommandGetTables { include_schema: true, ..CommandGetTables::default() }),
            decoded(&CommandGetTableTypes {}),
            decoded(&CommandGetSqlInfo { info: vec![] }),
            decoded(&CommandGetXdbcTypeInfo { data_type: None }),
            decoded(&CommandGetPrimaryKeys { table: table(), ..CommandGetPrimaryKeys::default() }),
            decoded(&CommandGetExportedKeys { table: table(), ..CommandGetExportedKeys::default() }),
            decoded(&CommandGetImportedKeys { table: table(), ..CommandGetImportedKeys::default() }),
            decoded(&CommandGetCrossReference { pk_table: table(), ..CommandGetCrossReference::default() }),
        ]
    }

    fn tables() -> Vec<ListedTable> {
        let schema = Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, false)]));
        let name = "a/t".parse().unwrap();
        vec![ListedTable { name, schema, rows: 1, bytes: 8, version: 1 }]
    }

    #[test]
    fn commands_are_decoded_with_their_arguments() {
        let schemas = CommandGetDbSchemas { catalog: Some("c".into()), db_schema_filter_pattern: Some("a%".into()) };
        assert_eq!(decoded(&schemas), MetadataCommand::DbSchemas(schemas));
        let some = CommandGetTables { table_types: vec!["TABLE".into()], include_schema: true, ..Default::default() };
        assert_eq!(decoded(&some), MetadataCommand::Tables(some));
        assert_eq!(decoded(&CommandGetSqlInfo { info: vec![7, 500] }), MetadataCommand::SqlInfo(vec![7, 500]));
        let types = decoded(&CommandGetXdbcTypeInfo { data_type: Some(-5) });
        assert_eq!(types, MetadataCommand::XdbcTypeInfo(Some(-5)));
    }

    #[test]
    fn rows_of_every_command_have_the_promised_schema_as_sent() {
        for command in all() {
            let batch = command.batch(&tables()).unwrap();
            assert_eq!(batch.schema(), command.schema(), "{command:?}");
            let mut decoder = BatchDecoder::new(4 << 20);
            let header = flight_header(&schema_message(&command.schema()).unwrap());
            decoder.push(FlightData::new().with_data_header(header)).unwrap();
            let (dictionaries, rows) = encode_batch(&batch).unwrap();
            assert!(dictionaries.is_empty());
            let DecodedMessage::Batch(received) = decoder.push((&rows).into()).unwrap() else { panic!() };
            assert_eq!(received, batch, "{command:?}");
        }
    }

    #[test]
    fn tables_are_needed_only_where_they_change_the_reply() {
        for command in all() {
            let is_same = command.batch(&tables()).unwrap() == command.batch(&[]).unwrap();
            assert_ne!(is_same, command.needs_tables(), "{command:?}");
        }
    }

    #[test]
    fn there_are_no_keys() {
        for command in all().split_off(7) {
            assert_eq!(command.batch(&tables()).unwrap().num_rows(), 0, "{command:?}");
        }
    }
}
