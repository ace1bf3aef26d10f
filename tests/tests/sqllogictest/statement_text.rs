//! What the text of a statement tells before anything runs it, and names of tables in it.

use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast;

/// Whether the outermost query has an `ORDER BY`.
pub fn is_ordered(sql: &str) -> bool {
    let Ok(statements) = DFParser::parse_sql(sql) else { return false };
    let Some(Statement::Statement(statement)) = statements.front() else { return false };
    matches!(&**statement, ast::Statement::Query(query) if query.order_by.is_some())
}

/// The first word behind comments, in upper case.
pub fn first_word(sql: &str) -> String {
    let is_comment = |line: &&str| line.trim().is_empty() || line.trim_start().starts_with("--");
    let line = sql.lines().find(|line| !is_comment(line)).unwrap_or_default();
    let text = line.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
    text.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default().to_ascii_uppercase()
}

/// The name of a table as a statement has it.
pub fn quoted(name: &TableReference) -> String {
    let parts: Vec<String> = name.to_vec().iter().map(|part| format!("\"{}\"", part.replace('"', "\"\""))).collect();
    parts.join(".")
}

/// The name that the cluster has for a table.
pub fn table_text(name: &TableReference) -> String {
    match name.schema() {
        Some(schema) => format!("{schema}/{}", name.table()),
        None => name.table().into(),
    }
}

/// Its last component.
pub fn lower_name(name: &TableReference) -> String {
    name.table().to_lowercase()
}

#[test]
fn order_is_that_of_the_outermost_query() {
    assert!(is_ordered("WITH a AS (SELECT 1 AS x) SELECT x FROM a ORDER BY x LIMIT 3"));
    assert!(!is_ordered("SELECT x, row_number() OVER (ORDER BY x) FROM (SELECT x FROM t ORDER BY x)"));
}

#[test]
fn first_word_comes_behind_comments_and_parentheses() {
    assert_eq!(first_word("-- SET of rows\n\n  (select 1) UNION (select 2)"), "SELECT");
    assert_eq!(first_word("-- nothing"), "");
}
