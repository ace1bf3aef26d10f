//! Whether the filter of a SELECT is shallow enough for the filter language, by its syntax alone.
//!
//! Only planning a filter tells how deep it becomes, and types are needed for that. So this is an upper bound: planning adds casts,
//! and makes several operators of some. A filter that is plain but deep goes to the engine, which evaluates it as well.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Visit, Visitor};

use crate::predicate::MAX_DEPTH;

/// Levels of an operator or a function with the casts of its operands, and of what it is rewritten to: BETWEEN and IN become
/// comparisons.
const OPERATOR_LEVELS: usize = 4;
/// Levels of a CASE whose branches are conditions, without the chains of them: it becomes OR, AND and NOT.
const CASE_LEVELS: usize = 6;

/// Whether a filter has at most [`MAX_DEPTH`] levels once it is planned.
pub(super) fn is_shallow(filter: &Expr) -> bool {
    filter.visit(&mut LevelCounter::default()).is_continue()
}

/// Counts the levels above the expression that is visited.
#[derive(Default)]
struct LevelCounter {
    /// The expressions from the root on: of which chain they are a part, and the levels that they add.
    path: Vec<(Option<BinaryOperator>, usize)>,
    /// The sum of the levels of `path`.
    levels: usize,
}

impl Visitor for LevelCounter {
    type Break = ();

    fn pre_visit_expr(&mut self, expr: &Expr) -> ControlFlow<()> {
        let above = self.path.last().and_then(|(chain, _)| chain.clone());
        let (chain, levels) = match expr {
            // Brackets make no level, and do not end a chain.
            Expr::Nested(_) => (above, 0),
            Expr::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
                let levels = if above.as_ref() == Some(op) { 0 } else { balanced_levels(operands(expr, op)) };
                (Some(op.clone()), levels)
            }
            Expr::Identifier(_) | Expr::Value(_) => (None, 1),
            Expr::Case { conditions, .. } => (None, CASE_LEVELS + balanced_levels(conditions.len() + 1)),
            Expr::CompoundFieldAccess { access_chain, .. } => (None, OPERATOR_LEVELS * access_chain.len()),
            _ => (None, OPERATOR_LEVELS),
        };
        self.levels += levels;
        self.path.push((chain, levels));
        match self.levels > MAX_DEPTH {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    }

    fn post_visit_expr(&mut self, _: &Expr) -> ControlFlow<()> {
        self.levels -= self.path.pop().map_or(0, |(_, levels)| levels);
        ControlFlow::Continue(())
    }
}

/// The levels of a chain of so many operands, as filters balance it.
fn balanced_levels(operands: usize) -> usize {
    operands.next_power_of_two().ilog2() as usize
}

/// How many operands a chain of AND or OR has.
fn operands(chain: &Expr, op: &BinaryOperator) -> usize {
    let (mut pending, mut count) = (vec![chain], 0);
    while let Some(expr) = pending.pop() {
        match expr {
            Expr::BinaryOp { left, op: own, right } if own == op => {
                pending.push(left);
                pending.push(right);
            }
            Expr::Nested(inner) => pending.push(inner),
            _ => count += 1,
        }
    }
    count
}
