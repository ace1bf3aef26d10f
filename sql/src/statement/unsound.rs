//! What the engine would answer with wrong rows. It is refused, with what to write instead.

use datafusion::sql::sqlparser::ast::{
    JoinConstraint, JoinOperator, Query, Select, SelectItem, SetExpr, SetOperator, SetQuantifier, TableFactor,
    TableWithJoins,
};
use volley_common::{Error, Result};

/// Checks a query, without the queries in it.
///
/// # Errors
/// UNIMPLEMENTED: the engine would answer it wrongly.
pub(super) fn check_query(query: &Query) -> Result<()> {
    let mut operands = vec![query.body.as_ref()];
    while let Some(operand) = operands.pop() {
        if let SetExpr::SetOperation { op, set_quantifier, left, right } = operand {
            check_duplicates(op, set_quantifier)?;
            operands.extend([left.as_ref(), right.as_ref()]);
        }
    }
    Ok(())
}

/// The engine has semi and anti joins for these operators: they keep all copies of a row, or none.
fn check_duplicates(op: &SetOperator, quantifier: &SetQuantifier) -> Result<()> {
    match (op, quantifier) {
        (SetOperator::Intersect | SetOperator::Except | SetOperator::Minus, SetQuantifier::All) => {
            Err(Error::unimplemented(format!(
                "{op} ALL is not supported, since copies of a row would be counted wrongly: number them on both sides, as in SELECT x, row_number() OVER (PARTITION BY x) FROM t, and leave ALL out"
            )))
        }
        _ => Ok(()),
    }
}

/// Checks a SELECT, without the queries in it.
///
/// # Errors
/// UNIMPLEMENTED: the engine would answer it wrongly.
pub(super) fn check_select(select: &Select) -> Result<()> {
    let has_star = select.projection.iter().any(|item| matches!(item, SelectItem::Wildcard(_)));
    let mut tables: Vec<&TableWithJoins> = select.from.iter().collect();
    while let Some(table) = tables.pop() {
        table.joins.iter().try_for_each(|join| check_join(&join.join_operator, has_star))?;
        let factors = std::iter::once(&table.relation).chain(table.joins.iter().map(|join| &join.relation));
        tables.extend(factors.filter_map(nested_join));
    }
    Ok(())
}

fn nested_join(factor: &TableFactor) -> Option<&TableWithJoins> {
    match factor {
        TableFactor::NestedJoin { table_with_joins, .. } => Some(table_with_joins.as_ref()),
        _ => None,
    }
}

/// The engine takes a common column from one table, also where only the other one has a row: by its bare name from the first,
/// and for `*` from the one whose name is less.
fn check_join(join: &JoinOperator, has_star: bool) -> Result<()> {
    let (is_wrong, what) = match join {
        JoinOperator::Left(by) | JoinOperator::LeftOuter(by) => {
            (has_common_columns(by) && has_star, "SELECT * over a LEFT JOIN")
        }
        JoinOperator::Right(by) | JoinOperator::RightOuter(by) => (has_common_columns(by), "RIGHT JOIN"),
        JoinOperator::FullOuter(by) => (has_common_columns(by), "FULL JOIN"),
        _ => return Ok(()),
    };
    match is_wrong {
        true => Err(Error::unimplemented(format!(
            "{what} with USING or NATURAL is not supported, since the common columns would be those of one table: write ON a.id = b.id, and name the columns, as in coalesce(a.id, b.id)"
        ))),
        false => Ok(()),
    }
}

fn has_common_columns(constraint: &JoinConstraint) -> bool {
    matches!(constraint, JoinConstraint::Using(_) | JoinConstraint::Natural)
}
