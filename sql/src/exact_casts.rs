//! Casts that DataFusion would move in comparisons, with other results.
//!
//! DataFusion makes `x = literal'` of `CAST(x AS T) = literal`, in logical and in physical plans. That is the same only if the cast
//! never fails, gives different values for different ones, and the literal has an exact counterpart. It does not check all of that:
//!
//! | comparison | DataFusion | here |
//! |---|---|---|
//! | timestamps with a finer literal: seconds `>= '00:00:00.5'` | cuts the fraction off: `>= '00:00:00'` | `> '00:00:00'`; `=` is evaluated as written |
//! | timestamps without a zone, cast to one with a zone | ignores the shift | evaluated as written |
//! | decimals cast to integers, or to a smaller scale | ignores rounding: `CAST(1.10 AS BIGINT) = 1` is false | evaluated as written |
//! | decimals with a negative scale | overflows | evaluated as written |
//! | 32-bit integers cast to `Date64` | takes days for milliseconds | evaluated as written |
//! | `TRY_CAST` that gives null for some values | compares these values | evaluated as written |
//! | the year of timestamps in nanoseconds, with a year beyond 1677 to 2262 | compares with null | evaluated as written |
//! | the year of timestamps with a zone that skips the year's first moment | compares with null | evaluated as written |
//!
//! "As written" is a call of [`fence()`] around the cast, which no rule of DataFusion looks into. All such casts get it, wherever they
//! are: other rules can bring them into a comparison later.
//!
//! `CAST(column AS T) = x`, in a subquery with `x` of an outer query, is another matter: decorrelation groups by the column, and joins
//! by the cast. That is right only if the cast gives different values for different ones. Then it has no fence until it is the
//! condition of a join, and otherwise one, with which DataFusion refuses a subquery that computes an aggregate.
//!
//! A cast that fails for some values and is exact for all others is left to DataFusion, as in `CAST(bigint AS INT) > 5`: it
//! compares the values that the cast would fail for.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::error::Result;
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::simplify::{ExprSimplifyResult, SimplifyContext};
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator, TryCast};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

mod date_part;
mod exactness;
mod fence;
mod timestamps;

pub(crate) use fence::fence;

/// Functions that DataFusion's simplification replaces by casts.
const CAST_FUNCTIONS: [&str; 4] = ["arrow_cast", "arrow_try_cast", "cast_to_type", "try_cast_to_type"];

/// How often an expression is simplified. The second time is for what the first one has made.
const MAX_ROUNDS: usize = 4;

/// The expression with fences. Its types must be settled. The same expression again is not changed.
///
/// # Errors
/// The arguments of a function that casts are wrong.
pub(crate) fn exact(expr: Expr, context: &SimplifyContext) -> Result<Transformed<Expr>> {
    expr.transform_down(|node| exact_node(node, context))
}

/// The expression with fences, simplified. `simplifier` has the same context; `check` sees each expression that has new fences.
///
/// # Errors
/// Those of the simplification, and of `check`.
pub(crate) fn simplified(
    expr: Expr,
    simplifier: &ExprSimplifier,
    context: &SimplifyContext,
    check: impl Fn(&Expr) -> Result<()>,
) -> Result<Expr> {
    let mut simple = expr;
    for round in 0..MAX_ROUNDS {
        let next = exact(simple, context)?;
        if next.transformed {
            check(&next.data)?;
        } else if round > 0 {
            return Ok(next.data);
        }
        simple = simplifier.simplify(next.data)?;
    }
    Ok(simple)
}

/// The expression without fences: as it is written.
///
/// # Errors
/// None that is known.
pub(crate) fn without_fences(expr: Expr) -> Result<Expr> {
    let rewritten = expr.transform_up(|node| match node {
        Expr::ScalarFunction(mut call) if fence::is_fence(&call.func) => match call.args.pop() {
            Some(inner) if call.args.is_empty() => Ok(Transformed::yes(inner)),
            last => {
                call.args.extend(last);
                Ok(Transformed::no(Expr::ScalarFunction(call)))
            }
        },
        Expr::ScalarFunction(call) => match date_part::unchecked(&call.func) {
            Some(inner) => Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(inner, call.args)))),
            None => Ok(Transformed::no(Expr::ScalarFunction(call))),
        },
        other => Ok(Transformed::no(other)),
    })?;
    Ok(rewritten.data)
}

fn exact_node(node: Expr, context: &SimplifyContext) -> Result<Transformed<Expr>> {
    if let Some(compared) = timestamps::without_cast(&node, context) {
        return Ok(Transformed::yes(compared));
    }
    match node {
        Expr::Cast(_) | Expr::TryCast(_) => exact_cast(node, false, context),
        Expr::ScalarFunction(call) => exact_call(call, context),
        Expr::BinaryExpr(comparison) if is_correlation(&comparison, context) => exact_correlation(comparison, context),
        other => Ok(Transformed::no(other)),
    }
}

/// Whether a comparison is `CAST(column AS T) = x`, in which `x` has columns of an outer query alone, and is no literal after the
/// next simplification.
fn is_correlation(comparison: &BinaryExpr, context: &SimplifyContext) -> bool {
    let BinaryExpr { left, op: Operator::Eq, right } = comparison else { return false };
    let outer = match (is_cast_column(left), is_cast_column(right)) {
        (true, false) => right,
        (false, true) => left,
        _ => return false,
    };
    let is_outer = |expr: &Expr| expr.contains_outer() && !expr.any_column_refs();
    is_outer(outer)
        && ExprSimplifier::new(context.clone()).simplify((**outer).clone()).is_ok_and(|simple| is_outer(&simple))
}

fn is_cast_column(expr: &Expr) -> bool {
    matches!(expr, Expr::Cast(Cast { expr, .. }) if matches!(**expr, Expr::Column(_)))
}

/// The cast of the column has a fence if decorrelation must not find it.
fn exact_correlation(comparison: BinaryExpr, context: &SimplifyContext) -> Result<Transformed<Expr>> {
    let BinaryExpr { left, op, right } = comparison;
    let side = |side: Expr| -> Result<Transformed<Expr>> {
        let keeps_apart = match &side {
            Expr::Cast(Cast { expr, field }) if is_cast_column(&side) => {
                let from = expr.get_type(&**context.schema())?;
                Some(exactness::keeps_apart(&from, field.data_type()))
            }
            _ => None,
        };
        match keeps_apart {
            Some(true) => Ok(Transformed::no(side)),
            Some(false) => Ok(Transformed::yes(fenced(side))),
            None => exact(side, context),
        }
    };
    let (left, right) = (side(*left)?, side(*right)?);
    let is_changed = left.transformed || right.transformed;
    let comparison = BinaryExpr::new(Box::new(left.data), op, Box::new(right.data));
    Ok(Transformed::new(Expr::BinaryExpr(comparison), is_changed, TreeNodeRecursion::Jump))
}

fn exact_call(mut call: ScalarFunction, context: &SimplifyContext) -> Result<Transformed<Expr>> {
    if fence::is_fence(&call.func) {
        return match call.args.pop() {
            Some(cast @ (Expr::Cast(_) | Expr::TryCast(_))) if call.args.is_empty() => exact_cast(cast, true, context),
            last => {
                call.args.extend(last);
                Ok(Transformed::no(Expr::ScalarFunction(call)))
            }
        };
    }
    if CAST_FUNCTIONS.contains(&call.func.name()) {
        return match call.func.simplify(call.args, context)? {
            ExprSimplifyResult::Simplified(cast) => {
                Ok(Transformed::new(exact(cast, context)?.data, true, TreeNodeRecursion::Jump))
            }
            ExprSimplifyResult::Original(args) => {
                Ok(Transformed::no(Expr::ScalarFunction(ScalarFunction::new_udf(call.func, args))))
            }
        };
    }
    match date_part::checked(&call, context.schema()) {
        Some(function) => Ok(Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(function, call.args)))),
        None => Ok(Transformed::no(Expr::ScalarFunction(call))),
    }
}

/// A cast, with a fence if it needs one, or has one.
fn exact_cast(node: Expr, is_fenced: bool, context: &SimplifyContext) -> Result<Transformed<Expr>> {
    if !is_fenced && !needs_fence(&node, context) {
        return Ok(Transformed::no(node));
    }
    let (cast, is_changed) = match node {
        Expr::Cast(Cast { expr, field }) => {
            let inner = exact(*expr, context)?;
            (Expr::Cast(Cast { expr: Box::new(inner.data), field }), inner.transformed)
        }
        Expr::TryCast(TryCast { expr, field }) => {
            let inner = exact(*expr, context)?;
            (Expr::TryCast(TryCast { expr: Box::new(inner.data), field }), inner.transformed)
        }
        other => return Ok(Transformed::no(other)),
    };
    // What is in the cast is done.
    Ok(Transformed::new(fenced(cast), is_changed || !is_fenced, TreeNodeRecursion::Jump))
}

fn fenced(cast: Expr) -> Expr {
    Expr::ScalarFunction(ScalarFunction::new_udf(fence(), vec![cast]))
}

fn needs_fence(node: &Expr, context: &SimplifyContext) -> bool {
    let (inner, field, is_try) = match node {
        Expr::Cast(Cast { expr, field }) => (expr, field, false),
        Expr::TryCast(TryCast { expr, field }) => (expr, field, true),
        _ => return false,
    };
    // Constants are evaluated before anything else.
    !matches!(**inner, Expr::Literal(..))
        && inner
            .get_type(&**context.schema())
            .is_ok_and(|from| exactness::is_moved_wrongly(&from, field.data_type(), is_try))
}
