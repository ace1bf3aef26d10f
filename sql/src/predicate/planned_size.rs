//! How large an expression becomes when it is planned.
//!
//! DataFusion replaces some functions and operators by expressions in which an argument occurs several times. Nested, they double
//! with each level, and planning cannot be interrupted. So the size is estimated before, from above, in a time that grows with the
//! expression as it is written. What repeats an argument in DataFusion 55 (`simplify` and `preimage` of its functions, and the
//! rules in `datafusion-optimizer/src/simplify_expressions`):
//!
//! | expression | becomes | copies |
//! |---|---|---|
//! | `coalesce`, `nvl`, `ifnull` | CASE WHEN x IS NOT NULL THEN x ... | 2 of each argument but the last; of two or three booleans one more than arguments |
//! | `nvl2` | CASE WHEN x IS NOT NULL ... | 2 of the first argument, if the others are booleans |
//! | CASE of booleans with one or two WHEN | OR and AND | one more of each condition than there are WHEN |
//! | CASE with THEN of boolean literals only; of any literals, compared with a constant | OR and AND | 4 of each condition, and for a while half as many as there are WHEN |
//! | `x BETWEEN a AND b` | `x >= a AND x <= b` | 2 |
//! | `x IN (...)` of at most three, if `x` is a column or is searched by its range | comparisons | one for each; 2 with a range |
//! | `=`, `<>`, IS DISTINCT FROM of `floor` or `date_part` and a constant | comparisons with a range | 3 of the argument |
//! | `~` and the like with a constant, `regexp_like` | LIKE for each of four alternatives | 4 |
//! | `array_has(list, x)` | `x IN (...)` | those of IN |
//! | `x > ALL (...)`, `ANY` | two EXISTS | 2 of `x` and of the subquery |
//! | aggregate functions | `sum(x + 1)` is `sum(x) + 1 * count(x)` | 2 |
//!
//! Columns that an inner query computes are replaced by what computes them, which [`References`] knows.

use arrow::datatypes::DataType;
use datafusion::common::DFSchema;
use datafusion::logical_expr::{Expr, ExprSchemable, Subquery};
use volley_common::{Error, Result};

use super::type_inference::InferenceSteps;

mod measure;

/// Most nodes that planning may add to one expression. 10,000 take it a second or two.
const MAX_COPIES: u64 = 10_000;
/// Most nodes that planning may add to all expressions of a statement, or to one for a while.
pub(crate) const MAX_GROWTH: u64 = 100_000;

/// What the columns and subqueries of an expression are.
pub(crate) trait References {
    /// What computes a column.
    fn column(&mut self, name: &str) -> PlannedSize;

    /// What computes a column of the query around a subquery.
    fn outer_column(&mut self, name: &str) -> PlannedSize;

    /// The nodes of a subquery.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it is too large.
    fn subquery(&mut self, subquery: &Subquery) -> Result<u64>;

    /// Whether an expression can be true and false.
    fn may_be_boolean(&self, expr: &Expr) -> bool;
}

/// What a filter refers to: columns of one table.
pub(crate) struct TableColumns<'a>(pub(crate) &'a DFSchema);

impl References for TableColumns<'_> {
    fn column(&mut self, _: &str) -> PlannedSize {
        PlannedSize::COLUMN
    }

    fn outer_column(&mut self, _: &str) -> PlannedSize {
        PlannedSize::COLUMN
    }

    fn subquery(&mut self, _: &Subquery) -> Result<u64> {
        Ok(1)
    }

    fn may_be_boolean(&self, expr: &Expr) -> bool {
        may_be_boolean(expr, self.0)
    }
}

/// Whether an expression over columns of `schema` can be true and false; true if its type is not known yet.
pub(crate) fn may_be_boolean(expr: &Expr, schema: &DFSchema) -> bool {
    !matches!(expr.get_type(schema), Ok(data_type) if !matches!(data_type, DataType::Boolean | DataType::Null))
}

/// The size of a planned expression. All saturate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PlannedSize {
    steps: InferenceSteps,
    /// Its nodes, and those that planning makes and removes again.
    work: u64,
    shape: ExprShape,
}

/// What an expression is at its root, as far as operators above it are planned differently for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ExprShape {
    Constant,
    /// A function that is compared by the range of its argument.
    Ranged,
    /// A CASE whose results are literals, with so many WHEN.
    LiteralCase(u64),
    Other,
}

impl PlannedSize {
    /// Of a column of a table.
    pub(crate) const COLUMN: Self = PlannedSize { steps: InferenceSteps::LEAF, work: 1, shape: ExprShape::Other };
    const CONSTANT: Self = PlannedSize { steps: InferenceSteps::LEAF, work: 1, shape: ExprShape::Constant };

    /// The larger of two expressions either of which can be meant.
    pub(crate) fn max(self, other: Self) -> Self {
        let shape = if self.shape == other.shape { self.shape } else { self.shape.wider(other.shape) };
        let larger = if other.nodes() > self.nodes() { other } else { self };
        PlannedSize { shape, work: self.work.max(other.work), ..larger }
    }

    pub(crate) fn nodes(&self) -> u64 {
        self.steps.nodes
    }

    fn is_constant(&self) -> bool {
        self.shape == ExprShape::Constant
    }

    /// How often an operand occurs once it is compared with a constant.
    fn copies_compared(&self) -> u64 {
        match self.shape {
            ExprShape::Ranged => 3,
            ExprShape::LiteralCase(_) => 4,
            ExprShape::Constant | ExprShape::Other => 1,
        }
    }

    /// Nodes that are made for a while when it is compared with a constant.
    fn work_compared(&self) -> u64 {
        match self.shape {
            ExprShape::LiteralCase(branches) => self.work.saturating_mul(branches / 2),
            ExprShape::Constant | ExprShape::Ranged | ExprShape::Other => 0,
        }
    }
}

impl ExprShape {
    /// The shape that repeats more. A constant repeats nothing itself, but what it is compared with.
    fn wider(self, other: Self) -> Self {
        let rank = |shape: Self| match shape {
            ExprShape::Other => 0,
            ExprShape::Constant => 1,
            ExprShape::Ranged => 2,
            ExprShape::LiteralCase(branches) => 2 + branches,
        };
        if rank(other) > rank(self) { other } else { self }
    }
}

/// An expression as it is written and as it is planned.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MeasuredExpr {
    pub(crate) size: PlannedSize,
    /// The nodes that are written, with those of its subqueries.
    pub(crate) written: u64,
    /// The same with what computes each column in its place.
    pub(crate) substituted: u64,
}

impl MeasuredExpr {
    pub(crate) fn of(expr: &Expr, references: &mut dyn References) -> Result<Self> {
        measure::measured(expr, references)
    }

    /// Of two conditions together.
    pub(crate) fn and(self, other: Self) -> Self {
        let steps = InferenceSteps::connective(self.size.steps.plus(other.size.steps));
        let work = self.size.work.saturating_add(other.size.work).saturating_add(1);
        MeasuredExpr {
            size: PlannedSize { steps, work, shape: ExprShape::Other },
            written: self.written.saturating_add(other.written).saturating_add(1),
            substituted: self.substituted.saturating_add(other.substituted).saturating_add(1),
        }
    }

    /// Checks that planning makes few nodes of `before` ones. `what` begins the error, for example "the filter".
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it makes too many, or takes too long to find their types.
    pub(crate) fn check(&self, before: u64, what: &str) -> Result<()> {
        if self.size.nodes().saturating_sub(before) > MAX_COPIES {
            return Err(too_large(what, MAX_COPIES));
        }
        if self.growth(before) > MAX_GROWTH {
            return Err(too_large(what, MAX_GROWTH));
        }
        self.size.steps.check(what)
    }

    /// The nodes that planning makes of `before` ones.
    pub(crate) fn growth(&self, before: u64) -> u64 {
        self.size.work.saturating_sub(before)
    }
}

/// The error for what becomes too large.
pub(crate) fn too_large(what: &str, most: u64) -> Error {
    Error::invalid(format!(
        "{what} would grow by more than {most} operators when it is planned, because a condition on a computed column repeats what computes it, each use of a query of WITH repeats the query, and CASE of booleans, coalesce, nvl, BETWEEN, short IN lists and ALL repeat their arguments: use or nest fewer of them, or store the result of an inner query by CREATE TABLE AS and read that"
    ))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
