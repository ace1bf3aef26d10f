//! How many steps it takes to make an expression of its syntax, and to find its type and whether it can be null.
//!
//! DataFusion finds the field of a CASE by two visits of its branches, one for the type and one for nulls, and for nulls it visits
//! each operator of a condition anew, with all below it. A function needs the fields of its arguments for its type and for its nulls
//! alike. So the steps double with each CASE in a function in a CASE, and with each CASE in the condition of another, already
//! when a statement is planned: that is bounded here, by its syntax. What planning makes of expressions afterwards is for
//! [`super::planned_size`], which counts the same steps.
//!
//! Some syntax doubles before that: ANY and ALL of a list become a CASE with the list up to five times, and the arguments of
//! `map` are planned twice. The dialect has no lambdas.

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Function, UnaryOperator};
use volley_common::{Error, Result};

/// Most steps beyond those that grow with the text alone. A million take some 30 ms, which planning spends several times.
const MAX_STEPS: u64 = 1_000_000;
/// Most nodes that the planner makes beyond those that are written, of one expression and of all of a statement.
const MAX_COPIES: u64 = 10_000;
const MAX_ALL_COPIES: u64 = 100_000;
/// How often ANY and ALL repeat their list, and what they compare it with.
const COPIES_OF_LIST: u64 = 5;
/// How often the arguments of `map` are planned.
const COPIES_OF_ARGUMENTS: u64 = 2;
/// Steps for each node of an expression in which nothing doubles.
const STEPS_OF_NODE: u64 = 16;

/// The nodes of an expression, and the steps that its functions of DataFusion's `ExprSchemable` take. All saturate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct InferenceSteps {
    pub(crate) nodes: u64,
    /// Of `to_field`.
    field: u64,
    /// Of `get_type`, and of `nullable`.
    part: u64,
    /// Of `evaluate_bounds`: whether it can be null as the condition of a CASE.
    bounds: u64,
}

impl InferenceSteps {
    pub(crate) const LEAF: Self = InferenceSteps { nodes: 1, field: 1, part: 1, bounds: 1 };

    /// Of what has so many nodes, and a type that is known.
    pub(crate) fn leaf(nodes: u64) -> Self {
        InferenceSteps { nodes, ..Self::LEAF }
    }

    /// Of several expressions together.
    pub(crate) fn plus(self, other: Self) -> Self {
        InferenceSteps {
            nodes: self.nodes.saturating_add(other.nodes),
            field: self.field.saturating_add(other.field),
            part: self.part.saturating_add(other.part),
            bounds: self.bounds.saturating_add(other.bounds),
        }
    }

    /// Of so many copies.
    pub(crate) fn times(self, copies: u64) -> Self {
        InferenceSteps {
            nodes: self.nodes.saturating_mul(copies),
            field: self.field.saturating_mul(copies),
            part: self.part.saturating_mul(copies),
            bounds: self.bounds.saturating_mul(copies),
        }
    }

    /// Of AND, OR and NOT of these operands.
    pub(crate) fn connective(operands: Self) -> Self {
        operands.plus(Self::LEAF)
    }

    /// Of another operator.
    pub(crate) fn operator(operands: Self) -> Self {
        let own = operands.plus(Self::LEAF);
        InferenceSteps { bounds: own.part.saturating_add(operands.bounds), ..own }
    }

    /// Of a function.
    pub(crate) fn function(arguments: Self) -> Self {
        let field = arguments.field.saturating_add(1);
        let nodes = arguments.nodes.saturating_add(1);
        InferenceSteps { nodes, field, part: field, bounds: field.saturating_add(arguments.bounds) }
    }

    /// Of a CASE with these conditions, and all else that it has.
    pub(crate) fn case(conditions: Self, others: Self) -> Self {
        let all = conditions.plus(others);
        let part = all.part.saturating_add(conditions.bounds).saturating_add(1);
        InferenceSteps { nodes: all.nodes.saturating_add(1), field: part.saturating_mul(2), part, bounds: part }
    }

    /// Of `coalesce`, which becomes a CASE: `WHEN x IS NOT NULL THEN x` for each argument but the last. An argument then occurs
    /// in `copies` places, and is visited three times to find whether it can be null.
    pub(crate) fn coalesce(first: Self, tested: Self, copies: u64, last: Self) -> Self {
        let function = Self::function(tested.plus(last));
        let case = tested.times(copies.max(3)).plus(last).plus(Self::LEAF);
        InferenceSteps {
            nodes: tested.times(copies).plus(last).plus(Self::LEAF).nodes,
            // The type is that of the first branch.
            field: function.field.max(case.part.saturating_add(first.part)),
            part: function.part.max(case.part),
            bounds: function.bounds.max(case.part),
        }
    }

    /// Checks that the types can be found in a short time. `what` begins the error, for example "the filter".
    ///
    /// # Errors
    /// INVALID_ARGUMENT: they cannot.
    pub(crate) fn check(self, what: &str) -> Result<()> {
        let most = self.nodes.saturating_mul(STEPS_OF_NODE).saturating_add(MAX_STEPS);
        match self.field.max(self.part) > most {
            true => Err(Error::invalid(format!(
                "{what} nests CASE too deeply in functions and in conditions of CASE: the time to find its types doubles with each level; use fewer levels, or store the result of an inner query by CREATE TABLE AS and read that"
            ))),
            false => Ok(()),
        }
    }
}

/// Counts the steps of the expressions of a syntax tree, for a visitor of it.
#[derive(Default)]
pub(crate) struct InferenceCounter {
    /// The expressions that are being visited.
    open: Vec<OpenExpr>,
    /// The nodes of those that were, beyond the written ones.
    copied: u64,
}

/// What was visited of an expression.
#[derive(Default)]
struct OpenExpr {
    /// The steps of the expressions directly in it.
    inner: Vec<InferenceSteps>,
    /// The expressions in it, without those of subqueries whose nodes do not count.
    written: u64,
}

impl InferenceCounter {
    /// Before what is in an expression.
    pub(crate) fn enter(&mut self) {
        self.open.push(OpenExpr::default());
    }

    /// After it.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it cannot be planned, or its types be found, in a short time.
    pub(crate) fn leave(&mut self, expr: &Expr, what: &str) -> Result<()> {
        let OpenExpr { inner, written } = self.open.pop().unwrap_or_default();
        let steps = steps(expr, &inner);
        steps.check(what)?;
        let (own, ended) = match expr {
            Expr::Subquery(_) | Expr::Exists { .. } => (1, sum(&inner).nodes.saturating_sub(written)),
            _ if self.open.is_empty() => (written + 1, steps.nodes.saturating_sub(written + 1)),
            _ => (written + 1, 0),
        };
        self.copied = self.copied.saturating_add(ended);
        if steps.nodes.saturating_sub(own) > MAX_COPIES || self.copied > MAX_ALL_COPIES {
            return Err(Error::invalid(format!(
                "{what} has ANY or ALL of lists, or map, too often or nested too deeply: each is planned several times; use fewer of them, or store the result of an inner query by CREATE TABLE AS and read that"
            )));
        }
        if let Some(outer) = self.open.last_mut() {
            outer.inner.push(steps);
            outer.written += own;
        }
        Ok(())
    }
}

fn sum<'a>(steps: impl IntoIterator<Item = &'a InferenceSteps>) -> InferenceSteps {
    steps.into_iter().fold(InferenceSteps::default(), |sum, steps| sum.plus(*steps))
}

/// The steps of an expression with those of the expressions directly in it, in their order.
fn steps(expr: &Expr, inner: &[InferenceSteps]) -> InferenceSteps {
    match expr {
        Expr::Nested(_) => sum(inner),
        // The type is that of a column of the subquery, which is known.
        Expr::Subquery(_) | Expr::Exists { .. } => InferenceSteps::LEAF,
        Expr::Case { operand, conditions, .. } => {
            let (before, branches) = inner.split_at(inner.len().min(usize::from(operand.is_some())));
            let (branches, after) = branches.split_at(branches.len().min(2 * conditions.len()));
            let results = branches.iter().skip(1).step_by(2);
            InferenceSteps::case(sum(branches.iter().step_by(2)), sum(before.iter().chain(results).chain(after)))
        }
        Expr::AnyOp { right, .. } | Expr::AllOp { right, .. } if !matches!(**right, Expr::Subquery(_)) => {
            let copies = InferenceSteps::function(sum(inner).times(COPIES_OF_LIST));
            InferenceSteps::case(copies, InferenceSteps::default())
        }
        Expr::Function(call) if is_map(call) => InferenceSteps::function(sum(inner).times(COPIES_OF_ARGUMENTS)),
        Expr::BinaryOp { op: BinaryOperator::And | BinaryOperator::Or, .. }
        | Expr::UnaryOp { op: UnaryOperator::Not, .. } => InferenceSteps::connective(sum(inner)),
        Expr::BinaryOp { op, .. } if is_operator(op) => InferenceSteps::operator(sum(inner)),
        Expr::UnaryOp { .. }
        | Expr::Cast { .. }
        | Expr::Between { .. }
        | Expr::InList { .. }
        | Expr::InSubquery { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. }
        | Expr::SimilarTo { .. }
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_) => InferenceSteps::operator(sum(inner)),
        _ if inner.is_empty() => InferenceSteps::LEAF,
        // Planning makes functions of all others, among them EXTRACT, `||`, subscripts and literals of lists.
        _ => InferenceSteps::function(sum(inner)),
    }
}

fn is_map(call: &Function) -> bool {
    let name = call.name.0.last().and_then(|part| part.as_ident());
    name.is_some_and(|name| name.value.eq_ignore_ascii_case("map"))
}

/// Whether an operator stays one.
fn is_operator(op: &BinaryOperator) -> bool {
    matches!(
        op,
        BinaryOperator::Plus
            | BinaryOperator::Minus
            | BinaryOperator::Multiply
            | BinaryOperator::Divide
            | BinaryOperator::Modulo
            | BinaryOperator::Eq
            | BinaryOperator::NotEq
            | BinaryOperator::Lt
            | BinaryOperator::LtEq
            | BinaryOperator::Gt
            | BinaryOperator::GtEq
    )
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::ops::ControlFlow;

    use datafusion::sql::sqlparser::ast::{Visit, Visitor};
    use datafusion::sql::sqlparser::dialect::GenericDialect;
    use datafusion::sql::sqlparser::parser::Parser;

    use super::*;

    #[derive(Default)]
    struct StepsOf(InferenceCounter);

    impl Visitor for StepsOf {
        type Break = Error;

        fn pre_visit_expr(&mut self, _: &Expr) -> ControlFlow<Error> {
            self.0.enter();
            ControlFlow::Continue(())
        }

        fn post_visit_expr(&mut self, expr: &Expr) -> ControlFlow<Error> {
            match self.0.leave(expr, "the text") {
                Ok(()) => ControlFlow::Continue(()),
                Err(error) => ControlFlow::Break(error),
            }
        }
    }

    fn refusal(text: &str) -> Option<Error> {
        let parser = Parser::new(&GenericDialect {}).with_recursion_limit(500);
        let parsed = parser.try_with_sql(text).unwrap().parse_expr().unwrap();
        parsed.visit(&mut StepsOf::default()).break_value()
    }

    fn nested(levels: usize, template: &str) -> String {
        (0..levels).fold("a".to_string(), |inner, _| template.replace("{}", &inner))
    }

    #[test]
    fn case_in_functions_and_conditions_is_bounded() {
        for template in [
            "CASE WHEN b THEN abs({}) END",
            "CASE WHEN b THEN a ELSE -abs(1 + {}) END",
            "CASE WHEN {} > 1 THEN a END",
            "CASE WHEN ({} + 1) IS NOT NULL THEN a END",
            "abs(CASE a WHEN 1 THEN {} END)",
            "CASE WHEN b THEN {} || 'x' END",
        ] {
            let error = refusal(&nested(20, template)).unwrap_or_else(|| panic!("{template}"));
            assert!(error.message.starts_with("the text nests CASE too deeply"), "{error}");
            assert_eq!(refusal(&nested(5, template)), None, "{template}");
        }
    }

    #[test]
    fn what_is_planned_several_times_is_bounded() {
        for template in ["[CAST(a > ALL ({}) AS INT)]", "[CAST(a <> ANY ({}) AS INT)]", "map(1, {})"] {
            let error = refusal(&nested(16, template)).unwrap_or_else(|| panic!("{template}"));
            assert!(error.message.contains("too deeply"), "{error}");
            assert_eq!(refusal(&nested(3, template)), None, "{template}");
        }
        // Whatever else is written beside it.
        let list = |count: usize| vec!["1"; count].join(", ");
        let (copied, long) = (format!("a = ANY ([{}])", list(3000)), list(20_000));
        let beside = [format!("a IN ({long}) AND {copied}"), format!("f((SELECT 1 WHERE a IN ({long})), {copied})")];
        for text in beside.into_iter().chain([copied]) {
            let error = refusal(&text).unwrap_or_else(|| panic!("{} bytes", text.len()));
            assert!(error.message.contains("ANY or ALL"), "{error}");
        }
    }

    #[test]
    fn deep_and_long_expressions_without_doubling_pass() {
        for template in ["abs({})", "coalesce(a, abs({}))", "{} + 1", "CASE WHEN b THEN 1 ELSE {} END", "NOT {}"] {
            assert_eq!(refusal(&nested(20, template)), None, "{template}");
        }
        let list = (0..20_000).map(|value| value.to_string()).collect::<Vec<_>>().join(", ");
        assert_eq!(refusal(&format!("CASE WHEN a IN ({list}) THEN abs(CASE WHEN a IN ({list}) THEN 1 END) END")), None);
        let branches: String = (0..200).map(|value| format!("WHEN a + 1 = {value} THEN 'x' ")).collect();
        assert_eq!(refusal(&format!("upper(CASE {branches} END)")), None);
    }
}
