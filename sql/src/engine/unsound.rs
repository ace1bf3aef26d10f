//! Queries that the engine would answer with wrong rows or not at all, found in their plans before these are optimized.
//!
//! | what | what the engine would do |
//! |---|---|
//! | `NOT IN` with nulls, but for the plainest form | a null that makes the result unknown makes it false |
//! | windows and aggregates over the rows that a correlated subquery selects | they would be computed over the rows of all |
//! | `DISTINCT` and `FILTER` of functions that do not know them | nothing |
//! | `RANGE` frames beside the current row, over unsigned integers | below zero they begin at zero |
//! | groups and different values of types that contain a struct without fields | it would panic |

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, ExprSchema};
use datafusion::logical_expr::expr::{InSubquery, WindowFunction};
use datafusion::logical_expr::{
    BinaryExpr, Distinct, Expr, ExprSchemable, LogicalPlan, Operator, SortExpr, Subquery, WindowFrameBound,
    WindowFrameUnits, WindowFunctionDefinition,
};
use volley_common::ipc::layout::child_fields;
use volley_common::{Error, Result};

use crate::fault::checked;

/// Aggregate functions that compute something of different values, or for which copies make no difference. Others ignore DISTINCT,
/// or refuse it.
const DISTINCT_AGGREGATES: [&str; 23] = [
    "any_value",
    "approx_distinct",
    "approx_median",
    "array_agg",
    "avg",
    "bit_and",
    "bit_or",
    "bit_xor",
    "bool_and",
    "bool_or",
    "count",
    "first_value",
    "last_value",
    "max",
    "median",
    "min",
    "percentile_cont",
    "stddev",
    "stddev_pop",
    "string_agg",
    "sum",
    "var",
    "var_pop",
];

/// What becomes of the result of `x IN (SELECT ...)`.
#[derive(Clone, Copy, PartialEq)]
enum MembershipUse {
    /// It is one of the conditions of a row, joined by AND.
    Condition,
    /// It is one of several alternatives: null is as good as false.
    Alternative,
    /// A value, for which null is something else than false.
    Value,
}

/// What a subquery is for.
#[derive(Clone, Copy, PartialEq)]
enum SubqueryUse {
    /// Its only value.
    Value,
    /// Its rows, in FROM.
    Rows,
    /// IN.
    Membership,
    /// ANY and ALL.
    Comparison,
    /// EXISTS.
    Existence,
}

/// Checks a plan as the statement says it.
///
/// # Errors
/// UNIMPLEMENTED: the engine would give wrong rows; the error says what to write instead.
pub(super) fn check(plan: &LogicalPlan) -> Result<()> {
    let mut refused = Ok(());
    let visited = plan.apply_with_subqueries(|node| {
        refused = check_node(node);
        Ok(unless_refused(&refused))
    });
    checked(visited)?;
    refused
}

fn unless_refused(refused: &Result<()>) -> TreeNodeRecursion {
    match refused {
        Ok(()) => TreeNodeRecursion::Continue,
        Err(_) => TreeNodeRecursion::Stop,
    }
}

/// Checks every expression in `expr`, itself included.
fn check_each(expr: &Expr, check: impl Fn(&Expr) -> Result<()>) -> Result<()> {
    let mut refused = Ok(());
    let visited = expr.apply(|part| {
        refused = check(part);
        Ok(unless_refused(&refused))
    });
    checked(visited)?;
    refused
}

fn check_node(node: &LogicalPlan) -> Result<()> {
    if let LogicalPlan::Subquery(lateral) = node {
        check_correlated(lateral, SubqueryUse::Rows)?;
    }
    check_groups(node)?;
    let inputs = node.inputs();
    let (schema, used) = match node {
        LogicalPlan::Join(join) => (&join.schema, MembershipUse::Condition),
        LogicalPlan::Filter(filter) => (filter.input.schema(), MembershipUse::Condition),
        other => (inputs.first().map_or(other.schema(), |input| input.schema()), MembershipUse::Value),
    };
    let mut refused = Ok(());
    let visited = node.apply_expressions(|expr| {
        refused =
            check_memberships(expr, schema, used).and_then(|()| check_each(expr, |part| check_part(part, schema)));
        Ok(unless_refused(&refused))
    });
    checked(visited)?;
    refused
}

fn check_part(expr: &Expr, schema: &DFSchema) -> Result<()> {
    match expr {
        Expr::AggregateFunction(call) if call.params.distinct => {
            check_distinct(call.func.name()).and_then(|()| check_different(&call.params.args, schema))
        }
        Expr::WindowFunction(call) => check_window(call).and_then(|()| check_frame(call, schema)),
        Expr::Exists(test) => check_correlated(&test.subquery, SubqueryUse::Existence),
        Expr::InSubquery(test) => check_correlated(&test.subquery, SubqueryUse::Membership),
        Expr::SetComparison(test) => check_correlated(&test.subquery, SubqueryUse::Comparison),
        Expr::ScalarSubquery(subquery) => check_correlated(subquery, SubqueryUse::Value),
        _ => Ok(()),
    }
}

/// Checks the values by which a step makes groups, or of which it gives each once.
fn check_groups(node: &LogicalPlan) -> Result<()> {
    let (fields, groups) = match node {
        LogicalPlan::Aggregate(aggregate) => (aggregate.schema.fields(), checked(aggregate.group_expr_len())?),
        LogicalPlan::Distinct(Distinct::All(input)) => (input.schema().fields(), input.schema().fields().len()),
        LogicalPlan::Distinct(Distinct::On(on)) => return check_different(&on.on_expr, on.input.schema()),
        _ => return Ok(()),
    };
    fields.iter().take(groups).try_for_each(|field| check_different_type(field.data_type()))
}

fn check_different(values: &[Expr], schema: &DFSchema) -> Result<()> {
    let mut types = values.iter().filter_map(|value| value.get_type(schema).ok());
    types.try_for_each(|data_type| check_different_type(&data_type))
}

fn check_different_type(data_type: &DataType) -> Result<()> {
    match has_empty_struct(data_type) {
        true => Err(Error::unimplemented(
            "DISTINCT, GROUP BY, UNION, INTERSECT and EXCEPT are not supported for values that contain a struct without fields: leave such columns out, or write UNION ALL",
        )),
        false => Ok(()),
    }
}

fn has_empty_struct(data_type: &DataType) -> bool {
    match data_type {
        DataType::Struct(fields) if fields.is_empty() => true,
        other => child_fields(other).into_iter().any(|child| has_empty_struct(child.data_type())),
    }
}

fn check_distinct(aggregate: &str) -> Result<()> {
    match DISTINCT_AGGREGATES.contains(&aggregate) {
        true => Ok(()),
        false => Err(Error::unimplemented(format!(
            "{aggregate} with DISTINCT is not supported, since copies would count: select the distinct rows in a query of their own"
        ))),
    }
}

fn check_window(call: &WindowFunction) -> Result<()> {
    match &call.fun {
        WindowFunctionDefinition::AggregateUDF(function) if call.params.distinct => check_distinct(function.name()),
        WindowFunctionDefinition::WindowUDF(function) if call.params.distinct || call.params.filter.is_some() => {
            Err(Error::unimplemented(format!(
                "{} is no aggregate function, and DISTINCT and FILTER would have no effect: leave them out, or select the rows in a query of their own",
                function.name()
            )))
        }
        _ => Ok(()),
    }
}

fn check_frame(call: &WindowFunction, schema: &DFSchema) -> Result<()> {
    let frame = &call.params.window_frame;
    let is_beside = matches!(&frame.end_bound, WindowFrameBound::Preceding(offset) if !offset.is_null())
        || matches!(&frame.start_bound, WindowFrameBound::Following(offset) if !offset.is_null());
    let is_unsigned = |key: &SortExpr| key.expr.get_type(schema).is_ok_and(|data_type| data_type.is_unsigned_integer());
    match frame.units == WindowFrameUnits::Range && is_beside && call.params.order_by.iter().any(is_unsigned) {
        true => Err(Error::unimplemented(
            "a RANGE frame beside the current row is not supported over unsigned integers, since it would have rows of 0 that are not within it: write ORDER BY CAST(x AS BIGINT)",
        )),
        false => Ok(()),
    }
}

/// Finds `x IN (SELECT ...)` whose null would be taken for false where that makes a difference.
fn check_memberships(expr: &Expr, schema: &DFSchema, used: MembershipUse) -> Result<()> {
    let mut pending = vec![(expr, used)];
    while let Some((expr, used)) = pending.pop() {
        match expr {
            Expr::Alias(alias) => pending.push((alias.expr.as_ref(), used)),
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                pending.extend([(left.as_ref(), used), (right.as_ref(), used)]);
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                let used = if used == MembershipUse::Value { used } else { MembershipUse::Alternative };
                pending.extend([(left.as_ref(), used), (right.as_ref(), used)]);
            }
            Expr::Not(inner) => match inner.as_ref() {
                Expr::InSubquery(test) => {
                    check_membership(test, !test.negated, schema, used)?;
                    pending.push((test.expr.as_ref(), MembershipUse::Value));
                }
                other => pending.push((other, MembershipUse::Value)),
            },
            Expr::InSubquery(test) => {
                check_membership(test, test.negated, schema, used)?;
                pending.push((test.expr.as_ref(), MembershipUse::Value));
            }
            other => check_values(other, schema)?,
        }
    }
    Ok(())
}

/// The same within an expression that needs the values of its parts. It visits each part once.
fn check_values(expr: &Expr, schema: &DFSchema) -> Result<()> {
    check_each(expr, |part| match part {
        Expr::InSubquery(test) => check_membership(test, test.negated, schema, MembershipUse::Value),
        _ => Ok(()),
    })
}

/// Checks one `x IN (SELECT ...)`, without what is in `x`.
fn check_membership(test: &InSubquery, is_negated: bool, schema: &DFSchema, used: MembershipUse) -> Result<()> {
    let has_null = test.subquery.subquery.schema().fields().first().is_none_or(|field| field.is_nullable());
    if !has_null && !test.expr.nullable(schema).unwrap_or(true) {
        return Ok(());
    }
    let is_sound = match (used, is_negated) {
        (MembershipUse::Condition | MembershipUse::Alternative, false) => true,
        (MembershipUse::Condition, true) => {
            let columns = test.expr.column_refs();
            let is_nullable = |column| schema.nullable(column).unwrap_or(true);
            // Only then it becomes a join on one key, which is told of nulls.
            test.subquery.outer_ref_columns.is_empty()
                && !columns.is_empty()
                && (has_null || columns.into_iter().any(is_nullable))
        }
        (MembershipUse::Alternative, true) | (MembershipUse::Value, _) => false,
    };
    match is_sound {
        true => Ok(()),
        false => Err(Error::unimplemented(
            "this use of IN or NOT IN with a query that can give null, or for a value that can be null, is not supported, since null would be taken for false: write EXISTS or NOT EXISTS (SELECT 1 FROM ... WHERE x = y), or NOT IN as a condition of its own with a column on its left",
        )),
    }
}

/// Checks what a correlated subquery computes of the rows that it selects by columns of the query around it.
fn check_correlated(subquery: &Subquery, used: SubqueryUse) -> Result<()> {
    if subquery.outer_ref_columns.is_empty() {
        return Ok(());
    }
    let mut refused = Ok(());
    let visited = subquery.subquery.apply(|node| {
        refused = check_above_correlation(node, used);
        Ok(unless_refused(&refused))
    });
    checked(visited)?;
    refused
}

fn check_above_correlation(node: &LogicalPlan, used: SubqueryUse) -> Result<()> {
    let is_test = matches!(used, SubqueryUse::Membership | SubqueryUse::Comparison | SubqueryUse::Existence);
    let reason = match node {
        LogicalPlan::Window(_) => {
            "a window function over the rows that a correlated subquery selects is not supported, since it would see the rows of all: compute it in a query of its own, with PARTITION BY, and join"
        }
        LogicalPlan::Aggregate(aggregate) if is_test && aggregate.group_expr.is_empty() => {
            "an aggregate without GROUP BY in a correlated EXISTS, IN, ANY or ALL is not supported, since it would have no row where nothing is selected: compare with = (SELECT ...)"
        }
        LogicalPlan::Limit(limit)
            if used == SubqueryUse::Comparison || (used == SubqueryUse::Existence && limit.skip.is_some()) =>
        {
            "OFFSET in a correlated EXISTS, and LIMIT in a correlated ANY or ALL are not supported, since they would have no effect: compare the number of rows, as in (SELECT count(*) ...) > 5"
        }
        _ => return Ok(()),
    };
    match checked(node.exists(|below| Ok(below.contains_outer_reference())))? {
        true => Err(Error::unimplemented(reason)),
        false => Ok(()),
    }
}
