//! Which record batches and parts can have a row that a filter selects, by their statistics.
//!
//! The filter is rewritten to a [`BoundFilter`]: a condition on bounds and numbers of nulls, which no longer is SQL, so that
//! coordinators evaluate it too. It has only those parts of the filter for which the bounds of the values say enough: a time of day,
//! for example, is not ordered as the timestamps that it is cast from. The others may be true for every row.

use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator};
use volley_common::ipc::statistics::comparison::{ValueComparison, begins_otherwise, begins_with, compare, one_of};
use volley_common::ipc::statistics::{BoundFilter, ColumnBounds, StatisticsEntry, is_orderable};

/// Values of IN that are compared one by one; of more only their range is.
const MAX_LISTED_VALUES: usize = 20;
/// Maximum number of comparisons after a cast in a filter: for each a value of the column is searched.
const MAX_CAST_COMPARISONS: usize = 64;

/// Leaves out what has no row that a filter selects. Clones share it; it has no state.
#[derive(Clone, Debug)]
pub struct Pruning {
    /// Of the columns that the filter reads, by their positions among them.
    bounds: Arc<BoundFilter>,
}

impl Pruning {
    /// Of a filter that reads the columns `used` of `schema`. None if statistics cannot tell anything about it.
    pub(super) fn new(expr: &Expr, schema: &SchemaRef, used: &[usize]) -> Option<Self> {
        let fields: Option<Fields> = used.iter().map(|column| schema.fields().get(*column).cloned()).collect();
        let mut rewriter = BoundRewriter { schema: Schema::new(fields?), cast_comparisons: MAX_CAST_COMPARISONS };
        let bounds = rewriter.rewrite(expr)?;
        Some(Pruning { bounds: Arc::new(bounds) })
    }

    /// For each entry of statistics whether its batches can have a row that the filter selects. `columns`: what the entries say
    /// of the columns of [`super::Predicate::columns`], in their order; `None`: nothing.
    pub fn may_select(&self, entries: &[StatisticsEntry], columns: &[Option<ColumnBounds>]) -> Vec<bool> {
        let may_select =
            |entry: usize| self.bounds.may_select(&|column: usize| columns.get(column)?.as_ref()?.range(entry));
        (0..entries.len()).map(may_select).collect()
    }

    /// The condition that bounds meet wherever there can be such a row, on positions in [`super::Predicate::columns`].
    pub fn bounds(&self) -> &BoundFilter {
        &self.bounds
    }
}

/// Rewrites a filter.
struct BoundRewriter {
    /// The columns that it reads.
    schema: Schema,
    /// How many more comparisons may have a cast.
    cast_comparisons: usize,
}

/// A column, or one that is cast.
struct OrderedColumn {
    column: usize,
    column_type: DataType,
    is_cast: bool,
}

impl BoundRewriter {
    /// What holds wherever an expression is true; `None` if nothing is known. Below NOT nothing is looked at: the filter is in its
    /// simplest form, which has it before columns and the like only, and comparisons in place of BETWEEN.
    fn rewrite(&mut self, expr: &Expr) -> Option<BoundFilter> {
        match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::And, right }) => {
                match (self.rewrite(left), self.rewrite(right)) {
                    (Some(left), Some(right)) => Some(BoundFilter::all(vec![left, right])),
                    (one, other) => one.or(other),
                }
            }
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::Or, right }) => {
                let (left, right) = (self.rewrite(left)?, self.rewrite(right)?);
                Some(BoundFilter::any(vec![left, right]))
            }
            Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (&**left, &**right) {
                (value, Expr::Literal(literal, _)) => self.compared(value, *op, literal),
                (Expr::Literal(literal, _), value) => self.compared(value, op.swap()?, literal),
                _ => None,
            },
            // Never true.
            Expr::Literal(value, _) if value.is_null() || *value == ScalarValue::Boolean(Some(false)) => {
                Some(BoundFilter::never())
            }
            Expr::Column(_) => self.boolean(expr, true),
            Expr::Not(column) => self.boolean(column, false),
            Expr::IsNull(column) => Some(BoundFilter::IsNull(self.position(column)?)),
            Expr::IsNotNull(column) => Some(BoundFilter::IsNotNull(self.position(column)?)),
            Expr::InList(InList { expr, list, negated: false }) => self.listed(expr, list),
            Expr::Like(Like { negated, expr, pattern, escape_char: None, case_insensitive: false }) => {
                self.like(expr, pattern, *negated)
            }
            _ => None,
        }
    }

    /// The position of a column among those that are read.
    fn position(&self, column: &Expr) -> Option<usize> {
        let Expr::Column(column) = column else { return None };
        self.schema.index_of(&column.name).ok()
    }

    fn column_type(&self, column: usize) -> &DataType {
        self.schema.field(column).data_type()
    }

    /// A boolean column that has this value.
    fn boolean(&self, column: &Expr, value: bool) -> Option<BoundFilter> {
        let column = self.position(column)?;
        if *self.column_type(column) != DataType::Boolean {
            return None;
        }
        let literal = ScalarValue::Boolean(Some(value)).to_array().ok()?;
        compare(column, &DataType::Boolean, ValueComparison::Equal, &literal)
    }

    fn compared(&mut self, value: &Expr, operator: Operator, literal: &ScalarValue) -> Option<BoundFilter> {
        let comparison = match operator {
            Operator::Eq | Operator::IsNotDistinctFrom => ValueComparison::Equal,
            Operator::NotEq => ValueComparison::NotEqual,
            Operator::Lt => ValueComparison::Less,
            Operator::LtEq => ValueComparison::LessOrEqual,
            Operator::Gt => ValueComparison::Greater,
            Operator::GtEq => ValueComparison::GreaterOrEqual,
            _ => return None,
        };
        let value = self.ordered(value, &literal.data_type())?;
        if literal.is_null() {
            // The casts of ordered columns make no nulls of values.
            return Some(match operator {
                Operator::IsNotDistinctFrom => BoundFilter::IsNull(value.column),
                _ => BoundFilter::never(),
            });
        }
        self.count_casts(&value, 1)?;
        compare(value.column, &value.column_type, comparison, &literal.to_array().ok()?)
    }

    fn listed(&mut self, value: &Expr, list: &[Expr]) -> Option<BoundFilter> {
        let literals = list.iter().map(|expr| match expr {
            Expr::Literal(literal, _) => Some(literal),
            _ => None,
        });
        let literals = literals.collect::<Option<Vec<&ScalarValue>>>()?;
        let data_type = literals.first()?.data_type();
        if literals.iter().any(|literal| literal.data_type() != data_type) {
            return None;
        }
        let value = self.ordered(value, &data_type)?;
        // What is compared with null is not true.
        let values = literals.into_iter().filter(|literal| !literal.is_null());
        let values: Vec<ArrayRef> = values.map(|literal| literal.to_array().ok()).collect::<Option<_>>()?;
        self.count_casts(&value, values.len())?;
        one_of(value.column, &value.column_type, &values, MAX_LISTED_VALUES)
    }

    fn like(&self, text: &Expr, pattern: &Expr, is_negated: bool) -> Option<BoundFilter> {
        let column = self.position(text)?;
        let column_type = self.column_type(column);
        let Expr::Literal(literal, _) = pattern else { return None };
        if !column_type.is_string() {
            return None;
        }
        let Some(pattern) = literal.try_as_str()? else { return Some(BoundFilter::never()) };
        // A backslash takes its meaning from the character after it.
        let beginning = &pattern[..pattern.find(['%', '_', '\\']).unwrap_or(pattern.len())];
        let rest = &pattern[beginning.len()..];
        let has_any_end = !rest.is_empty() && rest.bytes().all(|byte| byte == b'%');
        match (is_negated, rest.is_empty()) {
            (false, true) => compare(column, column_type, ValueComparison::Equal, &literal.to_array().ok()?),
            (true, true) => compare(column, column_type, ValueComparison::NotEqual, &literal.to_array().ok()?),
            (false, false) => begins_with(column, beginning),
            (true, false) if has_any_end => begins_otherwise(column, beginning),
            (true, false) => None,
        }
    }

    /// The column of an expression that is an orderable column, or one that is cast to a type that keeps the order of all its
    /// values, and that is compared with values of this type.
    fn ordered(&self, value: &Expr, compared_with: &DataType) -> Option<OrderedColumn> {
        let (column, to) = match value {
            Expr::Cast(cast) => (&*cast.expr, Some(cast.field.data_type())),
            Expr::TryCast(cast) => (&*cast.expr, Some(cast.field.data_type())),
            column => (column, None),
        };
        let column = self.position(column)?;
        let column_type = self.column_type(column).clone();
        let is_ordered = to.map_or_else(|| is_orderable(&column_type), |to| keeps_order(&column_type, to));
        let is_same = |one: &DataType| one == compared_with || (one.is_string() && compared_with.is_string());
        let known = is_ordered && is_same(to.unwrap_or(&column_type));
        let is_cast = !is_same(&column_type);
        known.then_some(OrderedColumn { column, column_type, is_cast })
    }

    /// Counts comparisons of a column that is cast; `None` if there are too many.
    fn count_casts(&mut self, value: &OrderedColumn, comparisons: usize) -> Option<()> {
        if value.is_cast {
            self.cast_comparisons = self.cast_comparisons.checked_sub(comparisons)?;
        }
        Some(())
    }
}

/// Whether a cast never fails, and of two values never makes the greater one the lesser. Others are left out, among them those
/// that overflow, depend on a time zone, or have a period, and those of which only the value's text has an order.
fn keeps_order(from: &DataType, to: &DataType) -> bool {
    let is_small_decimal = matches!(from, DataType::Decimal32(..) | DataType::Decimal64(..) | DataType::Decimal128(..));
    match to {
        _ if from == to => is_orderable(from),
        DataType::Float64 => {
            from.is_integer() || is_small_decimal || matches!(from, DataType::Float16 | DataType::Float32)
        }
        DataType::Float32 => from.is_integer() || *from == DataType::Float16,
        to if from.is_signed_integer() && to.is_signed_integer() => from.primitive_width() <= to.primitive_width(),
        to if from.is_unsigned_integer() && to.is_unsigned_integer() => from.primitive_width() <= to.primitive_width(),
        to if from.is_unsigned_integer() && to.is_signed_integer() => from.primitive_width() < to.primitive_width(),
        to => from.is_string() && to.is_string(),
    }
}
