//! Which SELECT needs no engine: columns as they are, a filter and a limit over one table.
//!
//! In doubt a query goes to the engine, which is right for all. So every clause is named here, and must be absent.

use std::collections::HashSet;
use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    Expr, Function, FunctionArg, FunctionArgExpr, FunctionArguments, GroupByExpr, Ident, LimitClause, ObjectNamePart,
    Query, Select, SelectFlavor, SelectItem, SetExpr, TableAlias, TableFactor, TableWithJoins, Value,
    WildcardAdditionalOptions, visit_expressions,
};
use volley_common::Result;

use super::rewrite::normalized;
use super::{PlainRead, TableAt, filter_levels, tables};
use crate::parsing::reparse;
use crate::predicate::{MAX_PREDICATE_BYTES, functions};

/// The read that a query is, if it needs no engine.
///
/// # Errors
/// As [`super::parse`].
pub(super) fn of_query(query: &Query) -> Result<Option<PlainRead>> {
    let Query {
        with: None,
        body,
        order_by: None,
        limit_clause,
        fetch: None,
        locks,
        for_clause: None,
        settings: None,
        format_clause: None,
        pipe_operators,
    } = query
    else {
        return Ok(None);
    };
    let SetExpr::Select(select) = body.as_ref() else { return Ok(None) };
    if !locks.is_empty() || !pipe_operators.is_empty() {
        return Ok(None);
    }
    let Some(limit) = limit_of(limit_clause.as_ref()) else { return Ok(None) };
    of_select(select, limit)
}

fn of_select(select: &Select, limit: Option<u64>) -> Result<Option<PlainRead>> {
    let Select {
        select_token: _,
        optimizer_hints,
        distinct: None,
        select_modifiers: None,
        top: None,
        top_before_distinct: false,
        projection,
        exclude: None,
        into: None,
        from,
        lateral_views,
        prewhere: None,
        selection,
        connect_by,
        group_by: GroupByExpr::Expressions(group_by, group_by_modifiers),
        cluster_by,
        distribute_by,
        sort_by,
        having: None,
        named_window,
        qualify: None,
        window_before_qualify: false,
        value_table_mode: None,
        flavor: SelectFlavor::Standard,
    } = select
    else {
        return Ok(None);
    };
    let is_more = !optimizer_hints.is_empty()
        || !lateral_views.is_empty()
        || !connect_by.is_empty()
        || !group_by.is_empty()
        || !group_by_modifiers.is_empty()
        || !cluster_by.is_empty()
        || !distribute_by.is_empty()
        || !sort_by.is_empty()
        || !named_window.is_empty();
    let [from] = from.as_slice() else { return Ok(None) };
    let (Some(columns), Some(table), false) = (columns_of(projection), table_of(from)?, is_more) else {
        return Ok(None);
    };
    let filter = match selection {
        Some(filter) if !is_plain_filter(filter) => return Ok(None),
        Some(filter) => match text_of(filter) {
            Some(text) => Some(text),
            None => return Ok(None),
        },
        None => None,
    };
    Ok(Some(PlainRead { table: table.name, version: table.version, columns, filter, limit }))
}

/// The text of a filter, if it is short enough and the parser makes the same filter of it: of `- -1`, for example, it would
/// not.
fn text_of(filter: &Expr) -> Option<String> {
    let text = filter.to_string();
    if text.len() > MAX_PREDICATE_BYTES {
        return None;
    }
    let again = reparse(&text, |parser| parser.parse_into_expr()).ok()?;
    (again.alias.is_none() && again.expr == *filter).then_some(text)
}

/// The limit, if it is a number: none for a query without one.
fn limit_of(clause: Option<&LimitClause>) -> Option<Option<u64>> {
    match clause {
        None => Some(None),
        Some(LimitClause::LimitOffset { limit, offset: None, limit_by }) if limit_by.is_empty() => match limit {
            None => Some(None),
            Some(Expr::Value(value)) => match &value.value {
                Value::Number(digits, false) => Some(Some(digits.parse().ok()?)),
                _ => None,
            },
            Some(_) => None,
        },
        Some(LimitClause::LimitOffset { .. } | LimitClause::OffsetCommaLimit { .. }) => None,
    }
}

/// The columns, if they are named plainly, each once: none for all.
fn columns_of(projection: &[SelectItem]) -> Option<Option<Vec<String>>> {
    if let [SelectItem::Wildcard(options)] = projection {
        return (*options == WildcardAdditionalOptions::default()).then_some(None);
    }
    let names = projection.iter().map(|item| match item {
        SelectItem::UnnamedExpr(Expr::Identifier(name)) if is_column(name) => Some(normalized(name)),
        _ => None,
    });
    let names: Vec<String> = names.collect::<Option<_>>()?;
    // The engine refuses a name that it gives twice.
    let mut seen = HashSet::new();
    (!names.is_empty() && names.iter().all(|name| seen.insert(name.as_str()))).then_some(Some(names.clone()))
}

/// Whether an identifier is a column's name, and not a variable's.
fn is_column(name: &Ident) -> bool {
    name.quote_style.is_some() || !name.value.starts_with('@')
}

/// The table, if nothing is joined to it or changed about it. It may have an alias, which nothing refers to.
fn table_of(from: &TableWithJoins) -> Result<Option<TableAt>> {
    let TableFactor::Table {
        name,
        alias,
        args: None,
        with_hints,
        version: None,
        with_ordinality: false,
        partitions,
        json_path: None,
        sample: None,
        index_hints,
    } = &from.relation
    else {
        return Ok(None);
    };
    let plain_alias = match alias {
        None => true,
        Some(TableAlias { explicit: _, name: _, columns, at: None }) => columns.is_empty(),
        Some(_) => false,
    };
    let plain = plain_alias && with_hints.is_empty() && partitions.is_empty() && index_hints.is_empty();
    match plain && from.joins.is_empty() {
        true => tables::of_name(name),
        false => Ok(None),
    }
}

/// Whether a filter has only what can be evaluated row by row, with the same result everywhere, and is not nested too deeply for a
/// filter.
fn is_plain_filter(filter: &Expr) -> bool {
    let flow = visit_expressions(filter, |node| match is_plain_node(node) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    });
    flow.is_continue() && filter_levels::is_shallow(filter)
}

fn is_plain_node(node: &Expr) -> bool {
    match node {
        Expr::Identifier(name) => is_column(name),
        Expr::Value(value) => !matches!(value.value, Value::Placeholder(_)),
        Expr::Function(function) => is_plain_call(function),
        Expr::Like { any, .. } | Expr::ILike { any, .. } => !any,
        Expr::Cast { array, format, .. } => !array && format.is_none(),
        Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::InList { .. }
        | Expr::Between { .. }
        | Expr::BinaryOp { .. }
        | Expr::UnaryOp { .. }
        | Expr::Extract { .. }
        | Expr::Ceil { .. }
        | Expr::Floor { .. }
        | Expr::Position { .. }
        | Expr::Substring { .. }
        | Expr::Trim { .. }
        | Expr::Nested(_)
        | Expr::TypedString(_)
        | Expr::Case { .. }
        | Expr::Array(_)
        | Expr::Interval(_)
        | Expr::CompoundFieldAccess { .. } => true,
        _ => false,
    }
}

fn is_plain_call(function: &Function) -> bool {
    let Function {
        name,
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(arguments),
        filter: None,
        null_treatment: None,
        over: None,
        within_group,
    } = function
    else {
        return false;
    };
    let [ObjectNamePart::Identifier(name)] = name.0.as_slice() else { return false };
    let plain = |argument: &FunctionArg| matches!(argument, FunctionArg::Unnamed(FunctionArgExpr::Expr(_)));
    within_group.is_empty()
        && arguments.duplicate_treatment.is_none()
        && arguments.clauses.is_empty()
        && arguments.args.iter().all(plain)
        && functions::is_usable(&normalized(name))
}
