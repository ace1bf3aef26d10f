//! Bulk ingestion: rows of a do_put that become rows of a table.

use std::collections::BTreeMap;

use arrow_flight::sql::{CommandStatementIngest, TableDefinitionOptions, TableExistsOption, TableNotExistOption};
use datafusion::common::TableReference;
use volley_common::{Error, Result, TableName};

use crate::names::{CATALOG, DEFAULT_SCHEMA, SqlName};

/// Where the rows of an ingest go.
#[derive(Clone, Debug, PartialEq)]
pub struct IngestCommand {
    /// The table. Its name is exact: nothing is folded to lower case.
    pub table: TableName,
    /// What happens to a table that exists, and if none does.
    pub mode: IngestMode,
    /// Whether the client wants the table to end with its session.
    pub temporary: bool,
    /// Options for this server by their names; the values are texts, as those of headers.
    pub options: BTreeMap<String, String>,
}

/// What an ingest does to a table that exists, and if none does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IngestMode {
    /// The table must not exist.
    Create,
    /// The rows are added to those of a table that must exist.
    Append,
    /// The rows replace those of the table, which is created if it does not exist.
    Replace,
    /// The rows are added to those of the table, which is created if it does not exist.
    CreateAppend,
}

impl IngestCommand {
    /// Checks the command.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the table's name, or what to do if it exists. NOT_FOUND: another catalog. UNIMPLEMENTED: a transaction,
    /// or a mode that is not supported.
    pub(super) fn new(command: CommandStatementIngest) -> Result<Self> {
        let CommandStatementIngest {
            table_definition_options,
            table,
            schema,
            catalog,
            temporary,
            transaction_id,
            options,
        } = command;
        if transaction_id.is_some_and(|id| !id.is_empty()) {
            return Err(Error::unimplemented(
                "an ingest in a transaction is not supported: leave the transaction out, an ingest takes effect as a whole or not at all",
            ));
        }
        // An empty name is none for clients that cannot leave it out.
        let or_default = |name: Option<String>, default: &str| match name {
            Some(name) if !name.is_empty() => name,
            _ => default.to_string(),
        };
        let (catalog, schema) = (or_default(catalog, CATALOG), or_default(schema, DEFAULT_SCHEMA));
        let name = SqlName::from_reference(&TableReference::full(catalog, schema, table))?;
        let mode = IngestMode::new(table_definition_options)?;
        Ok(IngestCommand { table: name.table_name()?, mode, temporary, options: options.into_iter().collect() })
    }
}

impl IngestMode {
    fn new(options: Option<TableDefinitionOptions>) -> Result<Self> {
        let incomplete = || {
            Error::invalid(
                "the ingest does not say what to do if the table exists and if it does not: set both fields of table_definition_options",
            )
        };
        let options = options.ok_or_else(incomplete)?;
        let if_missing = TableNotExistOption::try_from(options.if_not_exist).map_err(|_| incomplete())?;
        let if_exists = TableExistsOption::try_from(options.if_exists).map_err(|_| incomplete())?;
        match (if_missing, if_exists) {
            (TableNotExistOption::Unspecified, _) | (_, TableExistsOption::Unspecified) => Err(incomplete()),
            (TableNotExistOption::Create, TableExistsOption::Fail) => Ok(IngestMode::Create),
            (TableNotExistOption::Create, TableExistsOption::Append) => Ok(IngestMode::CreateAppend),
            (TableNotExistOption::Create, TableExistsOption::Replace) => Ok(IngestMode::Replace),
            (TableNotExistOption::Fail, TableExistsOption::Append) => Ok(IngestMode::Append),
            (TableNotExistOption::Fail, TableExistsOption::Replace) => Err(Error::unimplemented(
                "an ingest that replaces only a table that exists is not supported: let it create a table that does not",
            )),
            (TableNotExistOption::Fail, TableExistsOption::Fail) => Err(Error::invalid(
                "the ingest fails if the table exists and if it does not: let it create, append or replace",
            )),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow_flight::sql::ProstMessageExt;
    use bytes::Bytes;
    use prost::Message;
    use volley_common::Code;

    use super::super::command::{SqlCommand, decode};
    use super::*;

    fn command(if_not_exist: i32, if_exists: i32) -> CommandStatementIngest {
        CommandStatementIngest {
            table_definition_options: Some(TableDefinitionOptions { if_not_exist, if_exists }),
            table: "Orders".into(),
            schema: Some("sales/2026".into()),
            catalog: Some("volley".into()),
            temporary: false,
            transaction_id: None,
            options: [("shards".to_string(), "8".to_string())].into(),
        }
    }

    fn decoded(command: &CommandStatementIngest) -> Result<IngestCommand> {
        match decode(&command.as_any().encode_to_vec())? {
            SqlCommand::Ingest(ingest) => Ok(ingest),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn ingest_has_table_mode_and_options() {
        let ingest = decoded(&CommandStatementIngest { temporary: true, ..command(1, 2) }).unwrap();
        assert_eq!(ingest.table, "sales/2026/Orders".parse().unwrap());
        assert_eq!((ingest.mode, ingest.temporary), (IngestMode::CreateAppend, true));
        assert_eq!(ingest.options, [("shards".to_string(), "8".to_string())].into());
    }

    #[test]
    fn schema_and_catalog_may_be_left_out_or_empty() {
        for (catalog, schema) in
            [(None, None), (Some(String::new()), Some(String::new())), (None, Some("default".into()))]
        {
            let ingest = decoded(&CommandStatementIngest { catalog, schema, ..command(1, 1) }).unwrap();
            assert_eq!(ingest.table, "Orders".parse().unwrap());
        }
    }

    #[test]
    fn each_pair_of_options_is_a_mode_or_an_error() {
        for (if_not_exist, if_exists, expected) in [
            (1, 1, Ok(IngestMode::Create)),
            (1, 2, Ok(IngestMode::CreateAppend)),
            (1, 3, Ok(IngestMode::Replace)),
            (2, 2, Ok(IngestMode::Append)),
            (2, 1, Err(Code::InvalidArgument)),
            (2, 3, Err(Code::Unimplemented)),
            (0, 1, Err(Code::InvalidArgument)),
            (1, 0, Err(Code::InvalidArgument)),
            (3, 1, Err(Code::InvalidArgument)),
            (1, -1, Err(Code::InvalidArgument)),
        ] {
            let mode = decoded(&command(if_not_exist, if_exists)).map(|ingest| ingest.mode);
            assert_eq!(mode.map_err(|error| error.code), expected, "{if_not_exist} {if_exists}");
        }
        let unset = CommandStatementIngest { table_definition_options: None, ..command(1, 1) };
        assert!(decoded(&unset).unwrap_err().message.contains("table_definition_options"));
    }

    #[test]
    fn wrong_names_and_transactions_are_refused() {
        for (wrong, code) in [
            (CommandStatementIngest { table: String::new(), ..command(1, 1) }, Code::InvalidArgument),
            (CommandStatementIngest { table: "a//b".into(), ..command(1, 1) }, Code::InvalidArgument),
            (CommandStatementIngest { catalog: Some("main".into()), ..command(1, 1) }, Code::NotFound),
            (
                CommandStatementIngest { transaction_id: Some(Bytes::from_static(b"t")), ..command(1, 1) },
                Code::Unimplemented,
            ),
        ] {
            assert_eq!(decoded(&wrong).unwrap_err().code, code, "{wrong:?}");
        }
        decoded(&CommandStatementIngest { transaction_id: Some(Bytes::new()), ..command(1, 1) }).unwrap();
    }
}
