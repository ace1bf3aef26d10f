//! What the engine would answer with wrong rows. It is refused, with what to write instead.

use datafusion::sql::sqlparser::ast::{Query, SetExpr, SetOperator, SetQuantifier};
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
