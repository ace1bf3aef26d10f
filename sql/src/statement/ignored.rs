//! Clauses that the parser knows and the engine would ignore: with them a query would give other rows than it says.

use datafusion::sql::sqlparser::ast::{GroupByExpr, Query, Select, TableFactor};
use volley_common::{Error, Result};

/// Checks the clauses of a query, without those of the queries in it.
///
/// # Errors
/// UNIMPLEMENTED: one would be ignored.
pub(super) fn check_query(query: &Query) -> Result<()> {
    let Query { for_clause, settings, format_clause, .. } = query;
    refuse(for_clause.is_some(), "FOR XML, FOR JSON and FOR BROWSE", "rows are Arrow: leave it out")?;
    refuse(settings.is_some(), "SETTINGS", "a statement's settings are those of the server: leave it out")?;
    refuse(format_clause.is_some(), "FORMAT", "rows are Arrow: leave it out")
}

/// Checks the clauses of a SELECT.
///
/// # Errors
/// UNIMPLEMENTED: one would be ignored.
pub(super) fn check_select(select: &Select) -> Result<()> {
    let Select { exclude, prewhere, connect_by, group_by, distribute_by, value_table_mode, select_modifiers, .. } =
        select;
    let (GroupByExpr::All(modifiers) | GroupByExpr::Expressions(_, modifiers)) = group_by;
    refuse(
        !modifiers.is_empty(),
        "GROUP BY ... WITH",
        "write GROUP BY CUBE (...), ROLLUP (...) or GROUPING SETS (...)",
    )?;
    refuse(prewhere.is_some(), "PREWHERE", "write WHERE")?;
    refuse(!connect_by.is_empty(), "CONNECT BY", "write WITH RECURSIVE")?;
    refuse(!distribute_by.is_empty(), "DISTRIBUTE BY", "rows have no place: leave it out")?;
    refuse(value_table_mode.is_some(), "SELECT AS STRUCT and SELECT AS VALUE", "write struct(...)")?;
    refuse(exclude.is_some(), "EXCLUDE after the columns", "write * EXCLUDE (...)")?;
    refuse(select_modifiers.is_some(), "a modifier of SELECT", "leave it out")
}

/// Checks what follows a table's name.
///
/// # Errors
/// UNIMPLEMENTED: it would be ignored.
pub(super) fn check_factor(factor: &TableFactor) -> Result<()> {
    let sample = match factor {
        TableFactor::Table { alias, with_hints, version, with_ordinality, partitions, json_path, sample, .. } => {
            let has_index = alias.as_ref().is_some_and(|alias| alias.at.is_some());
            refuse(version.is_some(), "this form of time travel", "write FOR VERSION AS OF with a number")?;
            refuse(*with_ordinality || has_index, "WITH ORDINALITY and AT", "write row_number() OVER ()")?;
            refuse(!with_hints.is_empty(), "a hint after a table's name", "leave it out")?;
            refuse(!partitions.is_empty(), "PARTITION after a table's name", "write WHERE")?;
            refuse(json_path.is_some(), "a path after a table's name", "write unnest(...)")?;
            sample.as_ref()
        }
        TableFactor::Derived { sample, .. } => sample.as_ref(),
        _ => None,
    };
    refuse(sample.is_some(), "TABLESAMPLE", "write WHERE random() < 0.1")
}

fn refuse(is_given: bool, clause: &str, instead: &str) -> Result<()> {
    match is_given {
        true => Err(Error::unimplemented(format!("{clause} is not supported: {instead}"))),
        false => Ok(()),
    }
}
