//! Clauses that the parser knows and the engine would ignore: with them a query would give other rows than it says.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Cte, Expr, FunctionArg, GroupByExpr, NamedWindowExpr, Query, Select, SelectFlavor, SelectItem, SetExpr,
    SetQuantifier, TableAlias, TableFactor, Visit, WindowType, visit_expressions,
};
use volley_common::{Error, Result};

/// Checks the clauses of a query, without those of the queries in it.
///
/// # Errors
/// UNIMPLEMENTED: one would be ignored.
pub(super) fn check_query(query: &Query) -> Result<()> {
    let Query { order_by, for_clause, settings, format_clause, pipe_operators, .. } = query;
    refuse(for_clause.is_some(), "FOR XML, FOR JSON and FOR BROWSE", "rows are Arrow: leave it out")?;
    refuse(settings.is_some(), "SETTINGS", "a statement's settings are those of the server: leave it out")?;
    refuse(format_clause.is_some(), "FORMAT", "rows are Arrow: leave it out")?;
    refuse(!pipe_operators.is_empty(), "a query with |>", "write SELECT ... FROM (SELECT ...)")?;
    refuse(names_window(order_by), "OVER with a window's name in ORDER BY", "write the window itself")
}

/// Checks a query of WITH.
///
/// # Errors
/// UNIMPLEMENTED: a clause of it would be ignored.
pub(super) fn check_cte(cte: &Cte, is_recursive: bool) -> Result<()> {
    check_alias(Some(&cte.alias))?;
    refuse(cte.from.is_some(), "FROM after a WITH query", "leave it out")?;
    let Query { with, body, order_by, limit_clause, fetch, .. } = cte.query.as_ref();
    let SetExpr::SetOperation { set_quantifier, .. } = body.as_ref() else { return Ok(()) };
    if !is_recursive {
        return Ok(());
    }
    let has_clause = with.is_some() || order_by.is_some() || limit_clause.is_some() || fetch.is_some();
    refuse(
        has_clause,
        "WITH, ORDER BY or LIMIT within a query of WITH RECURSIVE",
        "write it in the query that reads the rows, and end the recursion by WHERE",
    )?;
    let by_name =
        matches!(set_quantifier, SetQuantifier::ByName | SetQuantifier::AllByName | SetQuantifier::DistinctByName);
    refuse(by_name, "BY NAME in a query of WITH RECURSIVE", "write the columns in one order")
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
    refuse(select_modifiers.is_some(), "a modifier of SELECT", "leave it out")?;
    let has_no_select = matches!(select.flavor, SelectFlavor::FromFirstNoSelect);
    refuse(has_no_select, "FROM without SELECT", "write SELECT * FROM")?;
    refuse(select.projection.iter().any(is_filtered_wildcard), "* ILIKE", "name the columns")?;
    check_windows(select)
}

/// Checks the windows that have a name. The engine knows them in the columns of the SELECT only.
fn check_windows(select: &Select) -> Result<()> {
    let is_based =
        |window: &NamedWindowExpr| matches!(window, NamedWindowExpr::WindowSpec(spec) if spec.window_name.is_some());
    let based = select.named_window.iter().any(|window| is_based(&window.1));
    refuse(based, "a window that is based on another one", "write all of it")?;
    let elsewhere = names_window(&select.qualify) || names_window(&select.having) || names_window(&select.distinct);
    refuse(elsewhere, "OVER with a window's name in QUALIFY, HAVING or DISTINCT ON", "write the window itself")
}

/// Checks what follows a table's name.
///
/// # Errors
/// UNIMPLEMENTED: it would be ignored.
pub(super) fn check_factor(factor: &TableFactor) -> Result<()> {
    let sample = match factor {
        TableFactor::Table { alias, with_hints, version, with_ordinality, partitions, json_path, sample, .. } => {
            check_alias(alias.as_ref())?;
            let has_index = alias.as_ref().is_some_and(|alias| alias.at.is_some());
            refuse(version.is_some(), "this form of time travel", "write FOR VERSION AS OF with a number")?;
            refuse_ordinality(*with_ordinality || has_index)?;
            refuse(!with_hints.is_empty(), "a hint after a table's name", "leave it out")?;
            refuse(!partitions.is_empty(), "PARTITION after a table's name", "write WHERE")?;
            refuse(json_path.is_some(), "a path after a table's name", "write unnest(...)")?;
            sample.as_ref()
        }
        TableFactor::Derived { alias, sample, .. } => {
            check_alias(alias.as_ref())?;
            sample.as_ref()
        }
        TableFactor::Function { args, with_ordinality, alias, .. } => {
            check_alias(alias.as_ref())?;
            refuse_ordinality(*with_ordinality)?;
            let has_names = args.iter().any(|argument| !matches!(argument, FunctionArg::Unnamed(_)));
            refuse(has_names, "an argument with a name", "write the values in their order")?;
            None
        }
        TableFactor::UNNEST { alias, .. } | TableFactor::NestedJoin { alias, .. } => {
            check_alias(alias.as_ref())?;
            None
        }
        _ => None,
    };
    refuse(sample.is_some(), "TABLESAMPLE", "write WHERE random() < 0.1")
}

fn check_alias(alias: Option<&TableAlias>) -> Result<()> {
    let has_types = alias.is_some_and(|alias| alias.columns.iter().any(|column| column.data_type.is_some()));
    refuse(has_types, "a type after a column's new name", "write CAST in a SELECT")
}

fn refuse_ordinality(is_given: bool) -> Result<()> {
    refuse(is_given, "WITH ORDINALITY and AT", "write row_number() OVER ()")
}

/// Whether it has a window function whose window is given by its name.
fn names_window<V: Visit>(clause: &V) -> bool {
    let found = visit_expressions(clause, |expr| match expr {
        Expr::Function(function) if matches!(function.over, Some(WindowType::NamedWindow(_))) => ControlFlow::Break(()),
        _ => ControlFlow::Continue(()),
    });
    found.is_break()
}

fn is_filtered_wildcard(item: &SelectItem) -> bool {
    match item {
        SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) => options.opt_ilike.is_some(),
        _ => false,
    }
}

fn refuse(is_given: bool, clause: &str, instead: &str) -> Result<()> {
    match is_given {
        true => Err(Error::unimplemented(format!("{clause} is not supported: {instead}"))),
        false => Ok(()),
    }
}
