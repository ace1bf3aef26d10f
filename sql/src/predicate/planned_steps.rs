//! How many steps it takes to find the type of a planned expression. [`super::type_inference`] counts them in the syntax, in which
//! casts are no functions: DataFusion looks through a cast once, and through a function twice.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion, TreeNodeVisitor};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};
use volley_common::Result;

use super::type_inference::InferenceSteps;
use crate::fault::checked;

/// Checks that the type of an expression, and of all in it, is found in a short time. `what` begins the error, for example "the
/// filter".
///
/// # Errors
/// INVALID_ARGUMENT: it is not.
pub(crate) fn check_planned(expr: &Expr, what: &str) -> Result<()> {
    let mut steps = PlannedSteps::default();
    checked(expr.visit(&mut steps))?;
    steps.whole.check(what)
}

#[derive(Default)]
struct PlannedSteps {
    /// For each expression that is being visited the steps of those directly in it.
    open: Vec<Vec<InferenceSteps>>,
    whole: InferenceSteps,
}

impl<'n> TreeNodeVisitor<'n> for PlannedSteps {
    type Node = Expr;

    fn f_down(&mut self, _: &'n Expr) -> datafusion::error::Result<TreeNodeRecursion> {
        self.open.push(Vec::new());
        Ok(TreeNodeRecursion::Continue)
    }

    fn f_up(&mut self, expr: &'n Expr) -> datafusion::error::Result<TreeNodeRecursion> {
        let steps = steps(expr, &self.open.pop().unwrap_or_default());
        match self.open.last_mut() {
            Some(outer) => outer.push(steps),
            None => self.whole = steps,
        }
        Ok(TreeNodeRecursion::Continue)
    }
}

fn sum<'a>(steps: impl IntoIterator<Item = &'a InferenceSteps>) -> InferenceSteps {
    steps.into_iter().fold(InferenceSteps::default(), |sum, steps| sum.plus(*steps))
}

/// The steps of an expression with those of the expressions directly in it, in their order.
fn steps(expr: &Expr, inner: &[InferenceSteps]) -> InferenceSteps {
    match expr {
        _ if inner.is_empty() => InferenceSteps::LEAF,
        Expr::Alias(_) => sum(inner),
        Expr::Case(case) => {
            let (before, branches) = inner.split_at(inner.len().min(usize::from(case.expr.is_some())));
            let (branches, after) = branches.split_at(branches.len().min(2 * case.when_then_expr.len()));
            let results = branches.iter().skip(1).step_by(2);
            InferenceSteps::case(sum(branches.iter().step_by(2)), sum(before.iter().chain(results).chain(after)))
        }
        Expr::Not(_) | Expr::BinaryExpr(BinaryExpr { op: Operator::And | Operator::Or, .. }) => {
            InferenceSteps::connective(sum(inner))
        }
        Expr::BinaryExpr(_)
        | Expr::Cast(_)
        | Expr::TryCast(_)
        | Expr::Between(_)
        | Expr::InList(_)
        | Expr::InSubquery(_)
        | Expr::Like(_)
        | Expr::SimilarTo(_)
        | Expr::Negative(_)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_) => InferenceSteps::operator(sum(inner)),
        _ => InferenceSteps::function(sum(inner)),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::logical_expr::{cast, col, lit, when};

    use super::*;
    use crate::exact_casts::fence;

    #[test]
    fn fenced_casts_in_nested_case_are_bounded() {
        let nested = |levels: usize, is_fenced: bool| {
            (0..levels).fold(col("x"), |inner, _| {
                let case = when(col("b"), inner).otherwise(lit(1)).unwrap();
                let cast = cast(case, DataType::Int64);
                if is_fenced { fence().call(vec![cast]) } else { cast }
            })
        };
        check_planned(&nested(30, false), "the filter").unwrap();
        check_planned(&nested(5, true), "the filter").unwrap();
        let error = check_planned(&nested(30, true), "the filter").unwrap_err();
        assert!(error.message.starts_with("the filter nests CASE too deeply"), "{error}");
    }
}
