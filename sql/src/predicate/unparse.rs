//! Texts of the engine's expressions. Whether a text means the same as its expression is for the caller to prove.

use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::expr::ScalarFunction;
use datafusion::logical_expr::{Expr, lit};
use datafusion::sql::unparser::Unparser;
use datafusion::sql::unparser::dialect::Dialect;

use super::functions::SESSION;

/// Quotes every name: unquoted ones are folded to lower case.
struct QuotedNames;

impl Dialect for QuotedNames {
    fn identifier_quote_style(&self, _: &str) -> Option<char> {
        Some('"')
    }
}

/// The expression with columns that have no qualifier.
pub(super) fn without_qualifiers(expr: &Expr) -> Option<Expr> {
    let rewritten = expr.clone().transform_up(|node| match node {
        Expr::Column(column) if column.relation.is_some() => {
            Ok(Transformed::yes(Expr::Column(Column::new_unqualified(column.name))))
        }
        other => Ok(Transformed::no(other)),
    });
    Some(rewritten.ok()?.data)
}

/// Texts that probably mean the expression, the shortest first.
pub(super) fn texts(expr: &Expr) -> impl Iterator<Item = String> {
    // The second is lazy: most expressions do not need it.
    let plain = std::iter::once_with(move || text(expr));
    let spelled = std::iter::once_with(move || text(&with_types(expr)?));
    plain.chain(spelled).flatten()
}

fn text(expr: &Expr) -> Option<String> {
    Some(Unparser::new(&QuotedNames).expr_to_sql(expr).ok()?.to_string())
}

/// The expression with `arrow_cast` for casts, and for literals whose type SQL's literals do not have.
fn with_types(expr: &Expr) -> Option<Expr> {
    let arrow_cast = SESSION.scalar_functions().get("arrow_cast")?;
    let cast = |value: Expr, to: &DataType| {
        let arguments = vec![value, lit(to.to_string())];
        Transformed::yes(Expr::ScalarFunction(ScalarFunction::new_udf(arrow_cast.clone(), arguments)))
    };
    let rewritten = expr.clone().transform_up(|node| match node {
        Expr::Literal(value, None) if !is_plain(&value) => Ok(match value.cast_to(&DataType::Utf8) {
            Ok(ScalarValue::Utf8(Some(text))) => cast(lit(text), &value.data_type()),
            _ => Transformed::no(Expr::Literal(value, None)),
        }),
        Expr::Cast(node) => Ok(cast(*node.expr, node.field.data_type())),
        other => Ok(Transformed::no(other)),
    });
    Some(rewritten.ok()?.data)
}

/// Whether a literal's text has the literal's type.
fn is_plain(value: &ScalarValue) -> bool {
    value.is_null()
        || matches!(value.data_type(), DataType::Boolean | DataType::Int64 | DataType::Float64 | DataType::Utf8)
}
