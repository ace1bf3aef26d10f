//! Which record batches can have a row that a filter selects, by their statistics.
//!
//! DataFusion's [`PruningPredicate`] rewrites a filter to one of bounds and numbers of nulls. It trusts casts and operators for
//! which the bounds of the values are not the bounds of the results: a time of day is not ordered as the timestamps that it is
//! cast from, and `NOT IN` tells zeros of different signs apart. So it gets only those parts of a filter that are known to be
//! ordered as the values; the others may be true for every row.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, UInt64Array};
use arrow::datatypes::{DataType, Fields, Schema, SchemaRef};
use datafusion::common::pruning::PruningStatistics;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::InList;
use datafusion::logical_expr::{BinaryExpr, Expr, Like, Operator, lit};
use datafusion::physical_optimizer::pruning::{PruningPredicate, PruningPredicateBuilder};
use volley_common::ipc::statistics::{ColumnBounds, MAX_STATISTICS_COLUMNS, StatisticsEntry, is_orderable};

use super::functions::SESSION;

/// Leaves out record batches of which a filter selects no row. Clones share it; it has no state.
#[derive(Clone, Debug)]
pub struct Pruning {
    predicate: Arc<PruningPredicate>,
    /// The columns that the filter reads, ascending.
    names: Arc<[String]>,
}

impl Pruning {
    /// Of a filter that reads the columns `used` of `schema`. None if statistics cannot tell anything about it, or if it reads more
    /// columns than a part has statistics of: the rewriting takes a time that grows with the columns times the comparisons.
    pub(super) fn new(expr: &Expr, schema: &SchemaRef, used: &[usize]) -> Option<Self> {
        if used.len() > MAX_STATISTICS_COLUMNS {
            return None;
        }
        let fields: Option<Fields> = used.iter().map(|column| schema.fields().get(*column).cloned()).collect();
        let schema = Arc::new(Schema::new(fields?));
        let ordered = ordered_part(expr, &schema)?;
        let names = schema.fields().iter().map(|field| field.name().clone()).collect();
        let of_batch = DFSchema::from_unqualified_fields(schema.fields().clone(), HashMap::new()).ok()?;
        let physical = SESSION.create_physical_expr(ordered, &of_batch).ok()?;
        let predicate = PruningPredicateBuilder::new().with_file_schema(schema).try_build(physical).ok()?;
        (!predicate.always_true()).then(|| Pruning { predicate: Arc::new(predicate), names })
    }

    /// For each entry of statistics whether its batches can have a row that the filter selects. `columns`: what the entries say
    /// of the columns of [`super::Predicate::columns`], in their order; `None`: nothing.
    pub fn may_select(&self, entries: &[StatisticsEntry], columns: &[Option<ColumnBounds>]) -> Vec<bool> {
        let columns = self.names.iter().zip(columns);
        let known = columns.filter_map(|(name, column)| Some((name.as_str(), column.as_ref()?))).collect();
        let rows = entries.iter().map(|entry| entry.rows).collect::<Vec<_>>();
        let statistics = EntryStatistics { rows: Arc::new(UInt64Array::from(rows)), columns: known };
        match self.predicate.prune(&statistics) {
            Ok(may_select) if may_select.len() == entries.len() => may_select,
            Ok(_) => vec![true; entries.len()],
            Err(error) => {
                // A cast of a bound can fail. Then so may that of a row, which is for the filter to find.
                tracing::debug!(%error, "a filter cannot be evaluated for statistics");
                vec![true; entries.len()]
            }
        }
    }
}

/// Statistics as DataFusion takes them.
struct EntryStatistics<'a> {
    rows: ArrayRef,
    columns: HashMap<&'a str, &'a ColumnBounds>,
}

impl EntryStatistics<'_> {
    fn column(&self, column: &Column) -> Option<&ColumnBounds> {
        self.columns.get(column.name.as_str()).copied()
    }
}

impl PruningStatistics for EntryStatistics<'_> {
    fn min_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column).map(|bounds| bounds.minimums.clone())
    }

    fn max_values(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column).map(|bounds| bounds.maximums.clone())
    }

    fn num_containers(&self) -> usize {
        self.rows.len()
    }

    fn null_counts(&self, column: &Column) -> Option<ArrayRef> {
        self.column(column).map(|bounds| Arc::new(bounds.nulls.clone()) as ArrayRef)
    }

    fn row_counts(&self) -> Option<ArrayRef> {
        Some(self.rows.clone())
    }

    fn contained(&self, _: &Column, _: &HashSet<ScalarValue>) -> Option<BooleanArray> {
        None
    }
}

/// An expression that is true wherever this one is, and has only what bounds can be put into; `None` if there is none but
/// `true`. Below NOT nothing is looked at: the filter is in its simplest form, which has it before columns and the like only, and
/// comparisons in place of BETWEEN.
fn ordered_part(expr: &Expr, schema: &Schema) -> Option<Expr> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { left, op: op @ (Operator::And | Operator::Or), right }) => {
            match (op, ordered_part(left, schema), ordered_part(right, schema)) {
                (_, Some(left), Some(right)) => {
                    Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(left), *op, Box::new(right))))
                }
                (Operator::And, one, other) => one.or(other),
                _ => None,
            }
        }
        // Never true.
        Expr::Literal(value, _) if value.is_null() || *value == ScalarValue::Boolean(Some(false)) => Some(lit(false)),
        other => is_ordered_test(other, schema).then(|| other.clone()),
    }
}

/// Whether an expression is a test of one column whose result follows from bounds and from numbers of nulls.
fn is_ordered_test(expr: &Expr, schema: &Schema) -> bool {
    let is_boolean = |column: &Expr| column_type(column, schema) == Some(&DataType::Boolean);
    match expr {
        Expr::Column(_) => is_boolean(expr),
        Expr::Not(column) => is_boolean(column),
        Expr::IsNull(column) | Expr::IsNotNull(column) => matches!(**column, Expr::Column(_)),
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => {
            let is_comparison = matches!(
                op,
                Operator::Eq
                    | Operator::NotEq
                    | Operator::Lt
                    | Operator::LtEq
                    | Operator::Gt
                    | Operator::GtEq
                    | Operator::IsNotDistinctFrom
            );
            let sides = |value: &Expr, literal: &Expr| is_ordered_value(value, schema) && is_literal(literal);
            is_comparison && (sides(left, right) || sides(right, left))
        }
        Expr::InList(InList { expr, list, negated: false }) => {
            is_ordered_value(expr, schema) && list.iter().all(is_literal)
        }
        Expr::Like(Like { expr, pattern, escape_char: None, case_insensitive: false, .. }) => {
            column_type(expr, schema).is_some_and(DataType::is_string) && is_literal(pattern)
        }
        _ => false,
    }
}

fn is_literal(expr: &Expr) -> bool {
    matches!(expr, Expr::Literal(..))
}

fn column_type<'a>(expr: &Expr, schema: &'a Schema) -> Option<&'a DataType> {
    let Expr::Column(column) = expr else { return None };
    schema.field_with_name(&column.name).ok().map(|field| field.data_type())
}

/// Whether an expression is an orderable column, or one that is cast to a type that keeps the order of all its values.
fn is_ordered_value(expr: &Expr, schema: &Schema) -> bool {
    let (column, to) = match expr {
        Expr::Cast(cast) => (&*cast.expr, Some(cast.field.data_type())),
        Expr::TryCast(cast) => (&*cast.expr, Some(cast.field.data_type())),
        column => (column, None),
    };
    match (column_type(column, schema), to) {
        (Some(from), None) => is_orderable(from),
        (Some(from), Some(to)) => keeps_order(from, to),
        (None, _) => false,
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
