//! The walk over an expression that finds its planned size. It is a visitor, because DataFusion's walk has a stack that grows.

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion, TreeNodeVisitor};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Case, Expr, Operator, Subquery};
use volley_common::Result;

use super::{ExprShape, MeasuredExpr, PlannedSize, References};
use crate::fault::{checked, into_datafusion};
use crate::predicate::type_inference::InferenceSteps;

/// Literals of an IN list that take as long as another node: they are only copied.
const LITERALS_OF_NODE: u64 = 16;
/// The most elements of an IN list that becomes comparisons.
const MAX_COMPARED: u64 = 3;

/// The size of an expression with all that its references mean.
pub(super) fn measured(expr: &Expr, references: &mut dyn References) -> Result<MeasuredExpr> {
    let mut measure =
        ExprMeasure { references, written: 0, substituted: 0, open: Vec::new(), whole: PlannedSize::COLUMN };
    checked(expr.visit(&mut measure))?;
    Ok(MeasuredExpr { size: measure.whole, written: measure.written, substituted: measure.substituted })
}

struct ExprMeasure<'a> {
    references: &'a mut dyn References,
    written: u64,
    substituted: u64,
    /// For each expression that is being visited the sizes of those directly in it.
    open: Vec<Vec<PlannedSize>>,
    whole: PlannedSize,
}

impl<'n> TreeNodeVisitor<'n> for ExprMeasure<'_> {
    type Node = Expr;

    fn f_down(&mut self, _: &'n Expr) -> datafusion::error::Result<TreeNodeRecursion> {
        self.open.push(Vec::new());
        Ok(TreeNodeRecursion::Continue)
    }

    fn f_up(&mut self, expr: &'n Expr) -> datafusion::error::Result<TreeNodeRecursion> {
        let inner = self.open.pop().unwrap_or_default();
        let size = self.size(expr, &inner).map_err(into_datafusion)?;
        match self.open.last_mut() {
            Some(outer) => outer.push(size),
            None => self.whole = size,
        }
        Ok(TreeNodeRecursion::Continue)
    }
}

impl ExprMeasure<'_> {
    /// The size of an expression with those of the expressions directly in it, in their order.
    fn size(&mut self, expr: &Expr, inner: &[PlannedSize]) -> Result<PlannedSize> {
        match expr {
            Expr::Alias(_) => Ok(inner.first().copied().unwrap_or(PlannedSize::COLUMN)),
            Expr::Column(column) => {
                let size = self.references.column(&column.name);
                self.count(1, size.nodes());
                Ok(size)
            }
            Expr::OuterReferenceColumn(_, column) => {
                let size = self.references.outer_column(&column.name);
                self.count(1, size.nodes());
                Ok(size)
            }
            Expr::Exists(exists) => self.subquery(&exists.subquery, 1),
            Expr::ScalarSubquery(subquery) => self.subquery(subquery, 1),
            Expr::InSubquery(test) => {
                let subquery = self.subquery(&test.subquery, 1)?;
                Ok(Operands::of(inner, 1).with(subquery, 1).finish(InferenceSteps::operator))
            }
            Expr::SetComparison(test) => {
                let subquery = self.subquery(&test.subquery, 2)?;
                Ok(Operands::of(inner, 2).with(subquery, 1).finish(InferenceSteps::operator))
            }
            _ => {
                self.count(1, 1);
                Ok(self.operation(expr, inner))
            }
        }
    }

    fn count(&mut self, written: u64, substituted: u64) {
        self.written = self.written.saturating_add(written);
        self.substituted = self.substituted.saturating_add(substituted);
    }

    fn subquery(&mut self, subquery: &Subquery, copies: u64) -> Result<PlannedSize> {
        let nodes = self.references.subquery(subquery)?.saturating_add(1);
        self.count(nodes, nodes);
        let nodes = nodes.saturating_mul(copies);
        Ok(PlannedSize { steps: InferenceSteps::leaf(nodes), work: nodes, ..PlannedSize::COLUMN })
    }

    fn operation(&mut self, expr: &Expr, inner: &[PlannedSize]) -> PlannedSize {
        match expr {
            Expr::Literal(..) | Expr::Placeholder(_) => PlannedSize::CONSTANT,
            Expr::BinaryExpr(binary) => self.binary(binary, inner),
            Expr::Case(case) => self.case(case, expr, inner),
            Expr::InList(list) => self.list(list, inner),
            Expr::ScalarFunction(call) => self.function(call.func.name(), expr, inner),
            Expr::Between(_) => {
                let (tested, bounds) = inner.split_at(inner.len().min(1));
                Operands::of(tested, 2).with_all(bounds, 1).finish(InferenceSteps::operator)
            }
            Expr::Cast(_) | Expr::TryCast(_) => {
                // Comparisons look through casts.
                let shape = inner.first().map_or(ExprShape::Other, |size| size.shape);
                PlannedSize { shape, ..Operands::of(inner, 1).finish(InferenceSteps::operator) }
            }
            Expr::Not(_) => Operands::of(inner, 1).finish(InferenceSteps::connective),
            Expr::Like(_)
            | Expr::SimilarTo(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsNotTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsNotFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotUnknown(_)
            | Expr::Negative(_) => Operands::of(inner, 1).finish(InferenceSteps::operator),
            // Its type and its nulls are found one after the other, as those of a CASE.
            Expr::Lambda(_) => {
                Operands::of(inner, 1).finish(|body| InferenceSteps::case(InferenceSteps::default(), body))
            }
            Expr::AggregateFunction(_) => Operands::of(inner, 2).finish(InferenceSteps::function),
            _ => Operands::of(inner, 1).finish(InferenceSteps::function),
        }
    }

    fn binary(&self, binary: &BinaryExpr, inner: &[PlannedSize]) -> PlannedSize {
        let [left, right] = inner else { return Operands::of(inner, 1).finish(InferenceSteps::operator) };
        let (mut copies, mut work) = ((1, 1), 0);
        match binary.op {
            Operator::And | Operator::Or => return Operands::of(inner, 1).finish(InferenceSteps::connective),
            Operator::Eq | Operator::NotEq | Operator::IsDistinctFrom | Operator::IsNotDistinctFrom => {
                if right.is_constant() {
                    (copies.0, work) = (left.copies_compared(), left.work_compared());
                } else if left.is_constant() {
                    (copies.1, work) = (right.copies_compared(), right.work_compared());
                }
            }
            Operator::RegexMatch | Operator::RegexNotMatch | Operator::RegexIMatch | Operator::RegexNotIMatch
                if right.is_constant() =>
            {
                copies.0 = 4;
            }
            _ => {}
        }
        let operands = Operands::of(&[*left], copies.0).with(*right, copies.1);
        operands.with_work(work).finish(InferenceSteps::operator)
    }

    fn case(&self, case: &Case, expr: &Expr, inner: &[PlannedSize]) -> PlannedSize {
        let branches = case.when_then_expr.len() as u64;
        let is_searched = case.expr.is_none();
        let is_literal = |result: &Expr| matches!(result, Expr::Literal(..));
        let are_then_literals = is_searched && case.when_then_expr.iter().all(|(_, then)| is_literal(then));
        let has_literals = are_then_literals && case.else_expr.as_deref().is_none_or(is_literal);
        let is_rewritten = is_searched && (branches < 3 || are_then_literals);
        let is_boolean = is_rewritten && self.references.may_be_boolean(expr);
        let copies = match is_boolean {
            true if branches < 3 => branches + 1,
            true => 4,
            false => 1,
        };
        let (before, after) = inner.split_at(inner.len().min(usize::from(!is_searched)));
        let (pairs, after) = after.split_at(after.len().min(2 * case.when_then_expr.len()));
        let (mut conditions, mut others) = (Operands::of(&[], 1), Operands::of(before, 1).with_all(after, 1));
        for (at, size) in pairs.iter().enumerate() {
            match at % 2 {
                0 => conditions = conditions.with(*size, copies),
                _ => others = others.with(*size, 1),
            }
        }
        // A condition occurs in all branches after its own.
        let repeated = match is_boolean && branches > 2 {
            true => (conditions.work / copies).saturating_mul(branches / 2),
            false => 0,
        };
        let shape = match has_literals {
            _ if conditions.is_constant && others.is_constant => ExprShape::Constant,
            true => ExprShape::LiteralCase(branches),
            false => ExprShape::Other,
        };
        let work = conditions.work.saturating_add(others.work).saturating_add(repeated);
        PlannedSize { steps: InferenceSteps::case(conditions.steps, others.steps), work, shape }
    }

    fn list(&mut self, list: &InList, inner: &[PlannedSize]) -> PlannedSize {
        let Some((tested, items)) = inner.split_first() else { return PlannedSize::COLUMN };
        let literals = list.list.iter().filter(|item| matches!(item, Expr::Literal(..))).count() as u64;
        // They were counted one by one.
        let light = literals - literals.div_ceil(LITERALS_OF_NODE);
        self.written = self.written.saturating_sub(light);
        self.substituted = self.substituted.saturating_sub(light);
        let count = items.len() as u64;
        let copies = match (count, tested.shape) {
            (1, ExprShape::LiteralCase(_)) => 4,
            (1..=MAX_COMPARED, ExprShape::Ranged) => 2 * count,
            (1..=MAX_COMPARED, _) if matches!(*list.expr, Expr::Column(_)) => count,
            _ => 1,
        };
        let work = if count == 1 { tested.work_compared() } else { 0 };
        let mut operands = Operands::of(items, 1).with(*tested, copies).with_work(work);
        operands.steps.nodes = operands.steps.nodes.saturating_sub(light);
        operands.work = operands.work.saturating_sub(light);
        operands.finish(InferenceSteps::operator)
    }

    fn function(&self, name: &str, expr: &Expr, inner: &[PlannedSize]) -> PlannedSize {
        if let ("coalesce" | "nvl", [tested @ .., last]) = (name, inner) {
            return self.coalesce(expr, tested, *last);
        }
        let is_constant = |at: usize| inner.get(at).is_some_and(PlannedSize::is_constant);
        let (repeated, copies) = match name {
            "nvl2" if self.references.may_be_boolean(expr) => (0, 2),
            "regexp_like" if is_constant(1) => (0, 4),
            "array_has" => (1, 2 * MAX_COMPARED),
            _ => (0, 1),
        };
        let (before, after) = inner.split_at(inner.len().min(repeated));
        let (at, after) = after.split_at(after.len().min(1));
        let operands = Operands::of(before, 1).with_all(at, copies).with_all(after, 1);
        let size = operands.finish(InferenceSteps::function);
        match name {
            "floor" | "date_part" if !size.is_constant() => PlannedSize { shape: ExprShape::Ranged, ..size },
            _ => size,
        }
    }

    fn coalesce(&self, expr: &Expr, tested: &[PlannedSize], last: PlannedSize) -> PlannedSize {
        let branches = tested.len() as u64;
        // With three or more branches it is a CASE that is not rewritten any more.
        let copies = match (1..3).contains(&branches) && self.references.may_be_boolean(expr) {
            true => branches + 2,
            false => 2,
        };
        let first = tested.first().map_or(InferenceSteps::LEAF, |first| first.steps);
        let once = Operands::of(tested, 1).steps;
        let operands = Operands::of(tested, copies).with(last, 1);
        operands.finish(|_| InferenceSteps::coalesce(first, once, copies, last.steps))
    }
}

/// What is directly in an expression.
struct Operands {
    steps: InferenceSteps,
    work: u64,
    is_constant: bool,
}

impl Operands {
    /// So many copies of each.
    fn of(sizes: &[PlannedSize], copies: u64) -> Self {
        Operands { steps: InferenceSteps::default(), work: 1, is_constant: true }.with_all(sizes, copies)
    }

    fn with_all(self, sizes: &[PlannedSize], copies: u64) -> Self {
        sizes.iter().fold(self, |operands, size| operands.with(*size, copies))
    }

    fn with(self, size: PlannedSize, copies: u64) -> Self {
        Operands {
            steps: self.steps.plus(size.steps.times(copies)),
            work: self.work.saturating_add(size.work.saturating_mul(copies)),
            is_constant: self.is_constant && size.is_constant(),
        }
    }

    fn with_work(self, work: u64) -> Self {
        Operands { work: self.work.saturating_add(work), ..self }
    }

    fn finish(self, expression: impl FnOnce(InferenceSteps) -> InferenceSteps) -> PlannedSize {
        let shape = if self.is_constant { ExprShape::Constant } else { ExprShape::Other };
        PlannedSize { steps: expression(self.steps), work: self.work, shape }
    }
}
