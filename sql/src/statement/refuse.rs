//! What to do instead of a statement that is not supported.

use datafusion::sql::sqlparser::ast::Statement;
use volley_common::Error;

/// The error of a statement that is neither a query nor a change that is supported.
pub(super) fn unsupported(statement: &Statement) -> Error {
    let instead = match statement {
        Statement::Update(_) | Statement::Delete(_) | Statement::Merge(_) => {
            "rows do not change: write CREATE OR REPLACE TABLE name AS SELECT with the rows as they are to be, or put them with mode replace"
        }
        Statement::Truncate(_) => "write CREATE OR REPLACE TABLE, or put an empty table with mode replace",
        Statement::AlterTable(_) | Statement::RenameTable(_) => {
            "columns do not change: write CREATE OR REPLACE TABLE name AS SELECT with the columns as they are to be"
        }
        Statement::Insert(_) => "INSERT is a statement of its own, not part of a query",
        Statement::CreateTable(_) => "CREATE TABLE is a statement of its own, not part of a query",
        Statement::Copy { .. }
        | Statement::CopyIntoSnowflake { .. }
        | Statement::Unload { .. }
        | Statement::LoadData { .. } => {
            return copy();
        }
        Statement::Grant(_) | Statement::Revoke(_) | Statement::Deny(_) => "use volley grant and volley revoke",
        Statement::CreateUser(_) | Statement::AlterUser(_) | Statement::CreateRole(_) | Statement::AlterRole { .. } => {
            "use volley user"
        }
        Statement::StartTransaction { .. }
        | Statement::Commit { .. }
        | Statement::Rollback { .. }
        | Statement::Savepoint { .. }
        | Statement::ReleaseSavepoint { .. } => {
            "each statement takes effect by itself, in whole or not at all: leave it out, or turn on autocommit"
        }
        Statement::Set(_) | Statement::Reset(_) => return settings(),
        Statement::Use(_) => "name the schema with the table, as in \"a/b\".t",
        Statement::CreateSchema { .. } | Statement::CreateDatabase { .. } => {
            "a schema exists while it has tables: create the table"
        }
        Statement::CreateView(_) => "store the rows: write CREATE TABLE name AS SELECT",
        Statement::CreateIndex(_) | Statement::Analyze(_) | Statement::Vacuum(_) | Statement::OptimizeTable { .. } => {
            "nothing of this kind is needed: leave it out"
        }
        Statement::Prepare { .. } | Statement::Execute { .. } | Statement::Deallocate { .. } => {
            "use the prepared statements of the client's driver"
        }
        Statement::Drop { .. } => "only DROP TABLE name, with IF EXISTS or without, is supported",
        Statement::ShowCreate { .. } => "DESCRIBE has a table's columns",
        Statement::ShowSchemas { .. } | Statement::ShowDatabases { .. } | Statement::ShowCatalogs { .. } => {
            "information_schema.schemata has the schemas"
        }
        _ => "statements are SELECT, EXPLAIN, CREATE TABLE, INSERT, DROP TABLE, SHOW TABLES and DESCRIBE",
    };
    Error::unimplemented(format!("{} is not supported: {instead}", keyword(statement)))
}

/// COPY, and what else moves files.
pub(super) fn copy() -> Error {
    Error::unimplemented("COPY is not supported, since servers read and write no files: use volley get and volley put")
}

/// CREATE EXTERNAL TABLE.
pub(super) fn external_table() -> Error {
    Error::unimplemented("CREATE EXTERNAL TABLE is not supported, since servers read no files: use volley put")
}

/// SET and RESET.
pub(super) fn settings() -> Error {
    Error::unimplemented(
        "SET and RESET are not supported: a statement's settings are those of the server, leave it out",
    )
}

/// The statement's keyword, with what it creates, changes, drops or shows.
fn keyword(statement: &Statement) -> String {
    let text = statement.to_string();
    let mut words = text
        .split(|c: char| !c.is_ascii_alphabetic())
        .filter(|word| !matches!(*word, "" | "OR" | "REPLACE"))
        .map(str::to_ascii_uppercase);
    let first = words.next().unwrap_or_else(|| "this statement".into());
    match (first.as_str(), words.next()) {
        ("CREATE" | "ALTER" | "DROP" | "SHOW", Some(second)) => format!("{first} {second}"),
        _ => first,
    }
}
