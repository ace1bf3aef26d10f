//! Comparisons of timestamps with a constant of a finer unit, without the cast: pruning needs the bare column.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::expr::{Between, InList};
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{BinaryExpr, Cast, Expr, ExprSchemable, Operator, lit};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;

use super::exactness::{per_second, shifts};
use super::fence;

/// A timestamp that is cast to a finer unit.
struct WidenedTimestamp<'a> {
    timestamp: &'a Expr,
    unit: TimeUnit,
    zone: Option<Arc<str>>,
    /// What it is cast to.
    to: &'a DataType,
    /// How many of the finer unit are in one of its own.
    factor: i64,
}

/// The same comparison without a cast, or made of such that are looked at next. None if there is no cast that can be left out.
pub(super) fn without_cast(node: &Expr, context: &SimplifyContext) -> Option<Expr> {
    match node {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if is_comparison(*op) => {
            if let Some(widened) = WidenedTimestamp::of(left, context) {
                return widened.compared(*op, &constant(right, context)?);
            }
            WidenedTimestamp::of(right, context)?.compared(op.swap()?, &constant(left, context)?)
        }
        Expr::Between(Between { expr, negated, low, high }) if !expr.is_volatile() => {
            WidenedTimestamp::of(expr, context)?;
            let compared = |op, bound: &Expr| {
                Box::new(Expr::BinaryExpr(BinaryExpr::new(expr.clone(), op, Box::new(bound.clone()))))
            };
            let (left, op, right) = match negated {
                true => (compared(Operator::Lt, low), Operator::Or, compared(Operator::Gt, high)),
                false => (compared(Operator::GtEq, low), Operator::And, compared(Operator::LtEq, high)),
            };
            Some(Expr::BinaryExpr(BinaryExpr::new(left, op, right)))
        }
        Expr::InList(InList { expr, list, negated }) => {
            let widened = WidenedTimestamp::of(expr, context)?;
            let mut found = Vec::with_capacity(list.len());
            for value in list {
                // A value between two timestamps equals none of them.
                found.extend(widened.counterpart(&constant(value, context)?)?);
            }
            // An empty list would be false for null.
            (!found.is_empty()).then(|| {
                Expr::InList(InList { expr: Box::new(widened.timestamp.clone()), list: found, negated: *negated })
            })
        }
        _ => None,
    }
}

fn is_comparison(op: Operator) -> bool {
    matches!(
        op,
        Operator::Eq
            | Operator::NotEq
            | Operator::Lt
            | Operator::LtEq
            | Operator::Gt
            | Operator::GtEq
            | Operator::IsDistinctFrom
            | Operator::IsNotDistinctFrom
    )
}

impl<'a> WidenedTimestamp<'a> {
    /// Also if the cast has a fence: that was set before it was compared.
    fn of(expr: &'a Expr, context: &SimplifyContext) -> Option<Self> {
        let cast = match expr {
            Expr::ScalarFunction(call) if fence::is_fence(&call.func) => call.args.first()?,
            other => other,
        };
        // TRY_CAST is null where the finer unit has no such timestamp.
        let Expr::Cast(Cast { expr: timestamp, field }) = cast else { return None };
        let DataType::Timestamp(to_unit, to_zone) = field.data_type() else { return None };
        let Ok(DataType::Timestamp(unit, zone)) = timestamp.get_type(&**context.schema()) else { return None };
        let factor = per_second(*to_unit) / per_second(unit);
        let is_widened = factor > 1 && !shifts(zone.as_deref(), to_zone.as_deref());
        is_widened.then(|| WidenedTimestamp {
            timestamp: timestamp.as_ref(),
            unit,
            zone,
            to: field.data_type(),
            factor,
        })
    }

    fn compared(&self, op: Operator, value: &ScalarValue) -> Option<Expr> {
        let value = self.value(value)?;
        let op = match (value.rem_euclid(self.factor), op) {
            (0, op) => op,
            // The next timestamp below is not the value.
            (_, Operator::Lt | Operator::LtEq) => Operator::LtEq,
            (_, Operator::Gt | Operator::GtEq) => Operator::Gt,
            _ => return None,
        };
        let below = self.literal(Some(value.div_euclid(self.factor)));
        Some(Expr::BinaryExpr(BinaryExpr::new(Box::new(self.timestamp.clone()), op, Box::new(below))))
    }

    /// The literal of the timestamp's own type, if there is one. None if the value is of another type than it is compared with.
    fn counterpart(&self, value: &ScalarValue) -> Option<Option<Expr>> {
        if value.is_null() {
            return Some(Some(self.literal(None)));
        }
        let value = self.value(value)?;
        Some((value.rem_euclid(self.factor) == 0).then(|| self.literal(Some(value.div_euclid(self.factor)))))
    }

    fn value(&self, value: &ScalarValue) -> Option<i64> {
        match value {
            ScalarValue::TimestampMillisecond(Some(count), _)
            | ScalarValue::TimestampMicrosecond(Some(count), _)
            | ScalarValue::TimestampNanosecond(Some(count), _)
                if value.data_type() == *self.to =>
            {
                Some(*count)
            }
            _ => None,
        }
    }

    fn literal(&self, value: Option<i64>) -> Expr {
        let zone = self.zone.clone();
        lit(match self.unit {
            TimeUnit::Second => ScalarValue::TimestampSecond(value, zone),
            TimeUnit::Millisecond => ScalarValue::TimestampMillisecond(value, zone),
            TimeUnit::Microsecond => ScalarValue::TimestampMicrosecond(value, zone),
            TimeUnit::Nanosecond => ScalarValue::TimestampNanosecond(value, zone),
        })
    }
}

/// The value of an expression that has the same for all rows.
fn constant(expr: &Expr, context: &SimplifyContext) -> Option<ScalarValue> {
    if let Expr::Literal(value, _) = expr {
        return Some(value.clone());
    }
    if expr.any_column_refs() || expr.contains_outer() || expr.is_volatile() {
        return None;
    }
    match ExprSimplifier::new(context.clone()).simplify(expr.clone()) {
        Ok(Expr::Literal(value, _)) => Some(value),
        _ => None,
    }
}
