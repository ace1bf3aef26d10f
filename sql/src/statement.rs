//! The text of one statement, parsed and classified: what becomes an ordinary read, what the engine runs, what changes
//! tables, and what is refused.
//!
//! Unquoted names are folded to lower case. `FROM t FOR VERSION AS OF 7` reads version 7 of `t`: in the text for the engine
//! this is table `"t@7"`, with `t` as its alias unless it has one, so that two versions of a table can be joined. A table
//! that is really named so is written `"t@7@"` in that text; [`TableAt::reference`] and [`TableAt::from_reference`] have the
//! rule. Parameters are `$1`, `$2` in the engine's text, also where the client's has `?`.
//!
//! | module | what it has |
//! |---|---|
//! | `rewrite` | versions and parameters in the text for the engine |
//! | `tables` | the tables that a statement reads, and how much it can grow when it is planned |
//! | `substitution` | what planning copies to where a SELECT names it |
//! | `ignored` | clauses that would have no effect |
//! | `unsound` | what the engine would answer wrongly |
//! | `plain_read`, `filter_levels` | which SELECT needs no engine |
//! | `classify` | what kind of statement it is |
//! | `refuse` | what to do instead of a statement that is not supported |
//! | `create` | CREATE TABLE: types and options |

use arrow::datatypes::SchemaRef;
use datafusion::common::TableReference;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{Query, Statement as SqlParserStatement};
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;
use serde_json::{Map, Value};
use volley_common::{Error, Result, TableName};

use crate::names::{CATALOG, SqlName};
use crate::parsing::{parse_tokens, reparse};
use crate::predicate::limits;

mod classify;
mod create;
mod filter_levels;
mod ignored;
mod plain_read;
mod refuse;
mod rewrite;
mod substitution;
mod tables;
mod unsound;

/// Most bytes of a statement's text.
pub const MAX_STATEMENT_BYTES: usize = 256 * 1024;

/// The beginning of errors' sentences.
const WHAT: &str = "the statement";

/// A statement, by what carries it out.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlStatement {
    /// Columns, a filter and a limit over one table: an ordinary read.
    Read(PlainRead),
    /// The engine runs it.
    Query(QueryStatement),
    /// It changes a table.
    Update(UpdateStatement),
}

/// A read that needs no engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlainRead {
    /// The table.
    pub table: TableName,
    /// This version instead of the newest.
    pub version: Option<u64>,
    /// The columns in this order, each once; none for all. Whether they exist is not checked.
    pub columns: Option<Vec<String>>,
    /// The text of the filter, for [`crate::predicate::Predicate::parse`].
    pub filter: Option<String>,
    /// The most rows, after the filter.
    pub limit: Option<u64>,
}

/// A statement that the engine runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryStatement {
    /// As the engine gets it: one statement, with tables as [`TableAt::reference`] names them.
    pub sql: String,
    /// Each table and version that it reads, once, without those of `information_schema`.
    pub tables: Vec<TableAt>,
    /// What it gives.
    pub kind: QueryKind,
}

/// What a statement of the engine gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueryKind {
    /// Rows of a query.
    Select,
    /// A plan.
    Explain {
        /// Whether the query runs, and the plan has figures.
        analyze: bool,
    },
    /// SHOW TABLES, SHOW COLUMNS, SHOW FUNCTIONS, or a setting.
    Show,
    /// The columns of a table.
    Describe,
}

/// A table at a version.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TableAt {
    /// The table.
    pub name: TableName,
    /// The version; none for the newest.
    pub version: Option<u64>,
}

impl TableAt {
    /// How [`QueryStatement::sql`] names the table, with catalog and schema. Different tables and versions have different
    /// references.
    pub fn reference(&self) -> TableReference {
        let SqlName { schema, table } = SqlName::of(&self.name);
        TableReference::full(CATALOG, schema, versioned(&table, self.version))
    }

    /// The table and version that a name in [`QueryStatement::sql`] means.
    ///
    /// # Errors
    /// NOT_FOUND: another catalog. INVALID_ARGUMENT: no table can have this name.
    pub fn from_reference(reference: &TableReference) -> Result<Self> {
        let SqlName { schema, table } = SqlName::from_reference(reference)?;
        let (table, version) = split_version(&table);
        let name = SqlName { schema, table: table.into() }.table_name()?;
        Ok(TableAt { name, version })
    }
}

/// A table's name in the engine's text: the version after an `@`. A name that could be read as such ends in an `@`.
fn versioned(table: &str, version: Option<u64>) -> String {
    match version {
        Some(version) => format!("{table}@{version}"),
        None if looks_versioned(table) => format!("{table}@"),
        None => table.to_string(),
    }
}

/// Whether a table's name ends in an `@` and any number of digits.
fn looks_versioned(table: &str) -> bool {
    table.rsplit_once('@').is_some_and(|(_, end)| end.bytes().all(|b| b.is_ascii_digit()))
}

/// Undoes [`versioned`].
fn split_version(text: &str) -> (&str, Option<u64>) {
    match text.rsplit_once('@') {
        Some((table, "")) => (table, None),
        Some((table, version)) if looks_versioned(text) => match version.parse() {
            Ok(version) => (table, Some(version)),
            // `versioned` writes no such number.
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

/// A statement that changes a table.
#[derive(Clone, Debug, PartialEq)]
pub enum UpdateStatement {
    /// An empty table.
    CreateTable(CreateTable),
    /// A table with the rows of a query.
    CreateTableAs {
        /// The table. Its schema is empty: the query's is used.
        table: CreateTable,
        /// Its rows.
        query: QueryStatement,
    },
    /// More rows for a table.
    Insert {
        /// The table.
        table: TableName,
        /// The columns that the query's columns are for, in their order; none: all, in the table's order.
        columns: Option<Vec<String>>,
        /// The rows; VALUES, too.
        query: QueryStatement,
    },
    /// The end of a table.
    DropTable {
        /// The table.
        table: TableName,
        /// Whether a table that does not exist is no error.
        if_exists: bool,
    },
}

/// A table to be created.
#[derive(Clone, Debug, PartialEq)]
pub struct CreateTable {
    /// The table.
    pub name: TableName,
    /// Its columns. Text is Utf8, a timestamp with time zone is in UTC.
    pub schema: SchemaRef,
    /// Whether a table that exists is left as it is, without an error.
    pub if_not_exists: bool,
    /// Whether a table that exists is replaced.
    pub or_replace: bool,
    /// Options by their names in descriptors, for example `shard_by`.
    pub options: Map<String, Value>,
}

/// Parses one statement; a semicolon may follow.
///
/// ```
/// use volley_sql::statement::{SqlStatement, parse};
///
/// let SqlStatement::Read(read) = parse("SELECT id, price FROM sales.orders WHERE price > 10 LIMIT 5")? else { panic!() };
/// assert_eq!(read.table.to_string(), "sales/orders");
/// assert_eq!(read.filter.as_deref(), Some("price > 10"));
///
/// let SqlStatement::Query(query) = parse("SELECT count(*) FROM orders FOR VERSION AS OF 7")? else { panic!() };
/// assert_eq!(query.sql, "SELECT count(*) FROM \"orders@7\" AS \"orders\"");
/// assert_eq!(query.tables[0].version, Some(7));
/// # Ok::<(), volley_common::Error>(())
/// ```
///
/// # Errors
/// INVALID_ARGUMENT: no statement, several, too long, nested too deeply, or wrong. NOT_FOUND: another catalog.
/// UNIMPLEMENTED: a statement that is not supported; the error says what to do instead.
pub fn parse(sql: &str) -> Result<SqlStatement> {
    let mut tokens = limits::tokenize(sql, MAX_STATEMENT_BYTES, WHAT)?;
    if limits::is_blank(&tokens) {
        return Err(Error::invalid("there is no statement: give one such as SELECT * FROM my_table LIMIT 10"));
    }
    let versions = rewrite::mark_versions(&mut tokens)?;
    let parameters = rewrite::number_parameters(&mut tokens)?;
    let mut statement = only_statement(tokens)?;
    let renamed = rewrite::rename_tables(&mut statement, versions)?;
    let text = match renamed || parameters > 0 {
        // The client's text would not do.
        true => None,
        false => Some(sql.trim()),
    };
    classify::classify(statement, text)
}

/// The only statement of a text.
fn only_statement(tokens: Vec<TokenWithSpan>) -> Result<Statement> {
    let mut statements = parse_tokens(tokens, |parser| parser.parse_statements())?;
    match (statements.pop_front(), statements.len()) {
        (Some(statement), 0) => Ok(statement),
        (first, more) => Err(Error::invalid(format!(
            "{} statements are given: send them one at a time",
            usize::from(first.is_some()) + more
        ))),
    }
}

/// A query within another statement, as a statement of its own.
fn query_statement(query: &Query) -> Result<QueryStatement> {
    let tables = tables::of_query(query)?;
    let statement = Statement::Statement(Box::new(SqlParserStatement::Query(Box::new(query.clone()))));
    Ok(QueryStatement { sql: displayed(&statement)?, tables, kind: QueryKind::Select })
}

/// The text of a statement that was changed after it was parsed.
///
/// # Errors
/// UNIMPLEMENTED: the text would mean something else.
fn displayed(statement: &Statement) -> Result<String> {
    let text = statement.to_string();
    match reparse(&text, |parser| parser.parse_statements()) {
        Ok(again) if again.len() == 1 && again.front() == Some(statement) => Ok(text),
        Ok(_) | Err(_) => Err(Error::unimplemented(
            "the statement cannot be rewritten for the engine: write it with $1 instead of ?, without FOR VERSION AS OF, and with a query of its own instead of one within INSERT or CREATE TABLE",
        )),
    }
}

#[cfg(test)]
mod tests;
