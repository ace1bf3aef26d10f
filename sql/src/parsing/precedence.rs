//! The precedence of IS DISTINCT FROM, repaired in what was parsed.
//!
//! The parser takes all that follows for its right operand: `a IS DISTINCT FROM b AND c` would be `a IS DISTINCT FROM (b AND c)`. So AND
//! and OR, which bind less, and a further IS, which binds as much, are moved out of that operand, and then out of the operands of what
//! is on its left, as NOT: `NOT a IS DISTINCT FROM b OR c` is `(NOT (a IS DISTINCT FROM b)) OR c`. What is in brackets is an expression of
//! its own, `Expr::Nested`, and stays. The right operands of all other operators end where they must.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::ops::ControlFlow;

use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, ExprWithAlias, UnaryOperator, VisitMut, VisitorMut};

/// What the parser reads, with the precedence of all operators.
pub(crate) trait RepairPrecedence {
    /// Moves operators out of operands that do not belong to these.
    fn repair_precedence(&mut self);
}

impl RepairPrecedence for ExprWithAlias {
    fn repair_precedence(&mut self) {
        let ControlFlow::Continue(()) = self.visit(&mut PrecedenceRepair);
    }
}

impl RepairPrecedence for Statement {
    fn repair_precedence(&mut self) {
        match self {
            Statement::Statement(statement) => {
                let ControlFlow::Continue(()) = (**statement).visit(&mut PrecedenceRepair);
            }
            Statement::Explain(explain) => explain.statement.repair_precedence(),
            Statement::CreateExternalTable(_) | Statement::CopyTo(_) | Statement::Reset(_) => {}
        }
    }
}

impl RepairPrecedence for VecDeque<Statement> {
    fn repair_precedence(&mut self) {
        self.iter_mut().for_each(Statement::repair_precedence);
    }
}

struct PrecedenceRepair;

impl VisitorMut for PrecedenceRepair {
    type Break = Infallible;

    // Those within it are repaired already.
    fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
        rotate(expr);
        ControlFlow::Continue(())
    }
}

/// How much operators bind, as the parser has it.
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Precedence {
    Or,
    And,
    Not,
    /// Any other one, which binds more than NOT.
    Other,
    Is,
}

/// Moves operators that do not bind more than `expr` out of its right operand: they get `expr` as their leftmost operand.
fn rotate(expr: &mut Expr) {
    let Some((precedence, operand)) = right_operand(expr) else { return };
    let belongs = |part: &Expr| precedence_of(part).is_none_or(|own| own > precedence);
    if belongs(operand) {
        return;
    }
    let mut whole = std::mem::replace(operand, nothing());
    let mut first = &mut whole;
    while !belongs(first) {
        first = left_operand(first);
    }
    *operand = std::mem::replace(first, nothing());
    *first = std::mem::replace(expr, nothing());
    *expr = whole;
}

/// What is in a place for a moment.
fn nothing() -> Expr {
    Expr::Tuple(Vec::new())
}

/// The right operand of an operator, if nothing ends that, and how much the operator binds.
fn right_operand(expr: &mut Expr) -> Option<(Precedence, &mut Expr)> {
    match expr {
        Expr::IsDistinctFrom(_, right) | Expr::IsNotDistinctFrom(_, right) => Some((Precedence::Is, &mut **right)),
        Expr::BinaryOp { op: BinaryOperator::Or, right, .. } => Some((Precedence::Or, &mut **right)),
        Expr::BinaryOp { op: BinaryOperator::And, right, .. } => Some((Precedence::And, &mut **right)),
        Expr::BinaryOp { right, .. } => Some((Precedence::Other, &mut **right)),
        Expr::UnaryOp { op: UnaryOperator::Not, expr } => Some((Precedence::Not, &mut **expr)),
        Expr::UnaryOp { expr, .. } => Some((Precedence::Other, &mut **expr)),
        Expr::Between { high, .. } => Some((Precedence::Other, &mut **high)),
        _ => None,
    }
}

/// How much an operator binds that may have to be moved.
fn precedence_of(expr: &Expr) -> Option<Precedence> {
    match expr {
        Expr::BinaryOp { op: BinaryOperator::Or, .. } => Some(Precedence::Or),
        Expr::BinaryOp { op: BinaryOperator::And, .. } => Some(Precedence::And),
        Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsUnknown(_)
        | Expr::IsNotUnknown(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::IsNormalized { .. } => Some(Precedence::Is),
        _ => None,
    }
}

/// The left operand of an operator with a [`precedence_of`].
fn left_operand(expr: &mut Expr) -> &mut Expr {
    match expr {
        Expr::BinaryOp { left, .. } => left,
        Expr::IsNull(left)
        | Expr::IsNotNull(left)
        | Expr::IsTrue(left)
        | Expr::IsNotTrue(left)
        | Expr::IsFalse(left)
        | Expr::IsNotFalse(left)
        | Expr::IsUnknown(left)
        | Expr::IsNotUnknown(left)
        | Expr::IsDistinctFrom(left, _)
        | Expr::IsNotDistinctFrom(left, _)
        | Expr::IsNormalized { expr: left, .. } => left,
        other => other,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::parsing::reparse;

    struct WithoutBrackets;

    impl VisitorMut for WithoutBrackets {
        type Break = Infallible;

        fn post_visit_expr(&mut self, expr: &mut Expr) -> ControlFlow<Infallible> {
            if let Expr::Nested(inner) = expr {
                *expr = std::mem::replace(inner, nothing());
            }
            ControlFlow::Continue(())
        }
    }

    fn parse(text: &str) -> Expr {
        let mut parsed = reparse(text, |parser| parser.parse_into_expr()).unwrap();
        let ControlFlow::Continue(()) = parsed.visit(&mut WithoutBrackets);
        parsed.expr
    }

    #[test]
    fn operators_after_is_distinct_from_have_their_precedence() {
        for (text, meant) in [
            ("a IS DISTINCT FROM b AND c", "(a IS DISTINCT FROM b) AND c"),
            ("a IS NOT DISTINCT FROM b OR c", "(a IS NOT DISTINCT FROM b) OR c"),
            ("a IS DISTINCT FROM b AND c OR d", "((a IS DISTINCT FROM b) AND c) OR d"),
            ("a IS DISTINCT FROM b OR c AND d", "(a IS DISTINCT FROM b) OR (c AND d)"),
            ("x AND a IS DISTINCT FROM b AND c", "(x AND (a IS DISTINCT FROM b)) AND c"),
            ("x AND a IS DISTINCT FROM b OR c", "(x AND (a IS DISTINCT FROM b)) OR c"),
            ("x OR a IS DISTINCT FROM b AND c", "x OR ((a IS DISTINCT FROM b) AND c)"),
            ("NOT a IS DISTINCT FROM b AND c", "(NOT (a IS DISTINCT FROM b)) AND c"),
            ("NOT NOT a IS DISTINCT FROM b OR c", "(NOT (NOT (a IS DISTINCT FROM b))) OR c"),
            ("x = NOT a IS DISTINCT FROM b AND c", "(x = (NOT (a IS DISTINCT FROM b))) AND c"),
            ("a IS DISTINCT FROM NOT b AND c", "(a IS DISTINCT FROM (NOT b)) AND c"),
            ("a IS DISTINCT FROM b IS NULL", "(a IS DISTINCT FROM b) IS NULL"),
            ("a IS DISTINCT FROM b IS DISTINCT FROM c", "(a IS DISTINCT FROM b) IS DISTINCT FROM c"),
            ("a IS DISTINCT FROM b IS NOT TRUE AND c", "((a IS DISTINCT FROM b) IS NOT TRUE) AND c"),
            ("a IS DISTINCT FROM b = c + 1 AND d", "(a IS DISTINCT FROM (b = (c + 1))) AND d"),
            ("a BETWEEN b AND c IS DISTINCT FROM d AND e", "((a BETWEEN b AND c) IS DISTINCT FROM d) AND e"),
            (
                "x AND a IS DISTINCT FROM b OR c IS NOT DISTINCT FROM d AND NOT e IS DISTINCT FROM f OR g",
                "((x AND (a IS DISTINCT FROM b)) OR ((c IS NOT DISTINCT FROM d) AND (NOT (e IS DISTINCT FROM f)))) OR g",
            ),
            ("CASE WHEN a IS DISTINCT FROM b AND c THEN d END", "CASE WHEN (a IS DISTINCT FROM b) AND c THEN d END"),
        ] {
            assert_eq!(parse(text), parse(meant), "{text}");
        }
    }

    #[test]
    fn brackets_and_other_operators_stay_as_they_are() {
        for text in [
            "a IS DISTINCT FROM (b AND c)",
            "NOT (a AND b)",
            "a AND (b OR c)",
            "a = (b AND c)",
            "a LIKE b ESCAPE '!' AND c",
            "a BETWEEN b AND c AND d OR e",
            "a AT TIME ZONE b = c AND d",
            "x = NOT a IS NULL AND b",
            "a IS DISTINCT FROM b AND c",
        ] {
            let parsed = reparse(text, |parser| parser.parse_into_expr()).unwrap();
            assert_eq!(parsed.to_string(), text);
            assert_eq!(reparse(&parsed.to_string(), |parser| parser.parse_into_expr()).unwrap(), parsed);
        }
        assert_ne!(parse("a IS DISTINCT FROM (b AND c)"), parse("a IS DISTINCT FROM b AND c"));
    }

    #[test]
    fn long_chains_are_repaired() {
        // The parser recurses for each of these tests, and refuses more than some 24 in a row.
        let chain = |term: &str| (0..20).map(|at| term.replace('#', &at.to_string())).collect::<Vec<_>>().join(" AND ");
        assert_eq!(parse(&chain("a# IS DISTINCT FROM b#")), parse(&chain("(a# IS DISTINCT FROM b#)")));
    }
}
