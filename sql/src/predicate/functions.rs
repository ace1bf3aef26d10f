//! The functions that filters can call: those whose result depends on their arguments alone, and is not much larger.

use std::sync::LazyLock;

use arrow::datatypes::DataType;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{Expr, ScalarUDF, Volatility};
use datafusion::prelude::SessionConfig;
use volley_common::options::fields::cut;
use volley_common::{Error, Result};

/// The functions, operators and defaults of the expression language. The engine's sessions must have the same settings of
/// `sql_parser` and the same time zone, or a filter would mean something else in a part scan than above it.
pub(super) static SESSION: LazyLock<SessionState> =
    LazyLock::new(|| SessionStateBuilder::new().with_config(type_settings()).with_default_features().build());

/// What the types of SQL mean, in filters and in queries alike.
pub(crate) fn type_settings() -> SessionConfig {
    SessionConfig::new()
        // TIMESTAMP WITH TIME ZONE is of UTC. Unset, it would have no zone.
        .set_str("datafusion.execution.time_zone", "UTC")
        // Not all clients can read views.
        .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false)
}

/// Functions whose result can be many times larger than their arguments, or is when they are nested. Filters run outside of the
/// engine's memory limit.
const EXPANDING: [&str; 12] = [
    "array_repeat",
    "array_resize",
    "array_to_string",
    "concat_ws",
    "encode",
    "generate_series",
    "lpad",
    "range",
    "regexp_replace",
    "repeat",
    "replace",
    "rpad",
];

/// Functions that take a time that grows with the product of their arguments' lengths. A step of a scan cannot be interrupted.
const SLOW: [&str; 1] = ["levenshtein"];

/// Most elements of one value of a type of fixed size.
const MAX_WIDTH: u64 = 65_536;

/// Whether filters can call the function of this name.
pub(crate) fn is_usable(name: &str) -> bool {
    SESSION.scalar_functions().get(name).is_some_and(|function| check(function).is_ok())
}

/// Checks that filters can call a function.
///
/// # Errors
/// INVALID_ARGUMENT: its result is not the same everywhere and always, can be large, or takes long.
pub(super) fn check(function: &ScalarUDF) -> Result<()> {
    let name = function.name();
    match function.signature().volatility {
        Volatility::Immutable if EXPANDING.contains(&name) => Err(Error::invalid(format!(
            "a filter cannot call {name}, whose result can be large: use it in a SELECT statement"
        ))),
        Volatility::Immutable if SLOW.contains(&name) => Err(Error::invalid(format!(
            "a filter cannot call {name}, which takes too long for long texts: use it in a SELECT statement"
        ))),
        Volatility::Immutable => Ok(()),
        Volatility::Stable | Volatility::Volatile => Err(Error::invalid(format!(
            "a filter cannot call {name}, whose result depends on more than its arguments: give its value, or use it in a SELECT statement"
        ))),
    }
}

/// Checks that no value of an expression's own type is too large. Its children are not looked at.
///
/// # Errors
/// INVALID_ARGUMENT: it casts to a type whose values are too large.
pub(crate) fn check_width(expr: &Expr) -> Result<()> {
    match expr {
        Expr::Cast(cast) => check_type(cast.field.data_type()),
        Expr::TryCast(cast) => check_type(cast.field.data_type()),
        Expr::ScalarFunction(call) => match (call.func.name(), call.args.get(1)) {
            ("arrow_cast" | "arrow_try_cast", Some(Expr::Literal(to, _))) => {
                match to.try_as_str().flatten().map(str::parse::<DataType>) {
                    Some(Ok(data_type)) => check_type(&data_type),
                    // The planner's error says more.
                    Some(Err(_)) | None => Ok(()),
                }
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Checks that there can be values of a type. Even a null of a type of fixed size takes that size, in each row.
///
/// # Errors
/// INVALID_ARGUMENT: one value takes too much.
pub fn check_type(data_type: &DataType) -> Result<()> {
    match width(data_type) > MAX_WIDTH {
        true => Err(Error::invalid(format!(
            "values of the type {} cannot be made: they have more than {MAX_WIDTH} elements each",
            cut(&data_type.to_string())
        ))),
        false => Ok(()),
    }
}

/// Elements of one value, or bytes of a binary one, that are stored even for null.
fn width(data_type: &DataType) -> u64 {
    let size = |size: i32| u64::try_from(size).unwrap_or(0);
    match data_type {
        DataType::FixedSizeBinary(bytes) => size(*bytes),
        DataType::FixedSizeList(field, count) => size(*count).saturating_mul(width(field.data_type())),
        DataType::Struct(fields) => fields.iter().fold(0, |sum, field| sum.saturating_add(width(field.data_type()))),
        DataType::List(field) | DataType::LargeList(field) => width(field.data_type()),
        DataType::Dictionary(_, values) => width(values),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_immutable_functions_of_small_results_are_usable() {
        for name in ["abs", "lower", "date_part", "regexp_like", "substr", "array_has", "arrow_cast"] {
            assert!(is_usable(name), "{name}");
        }
        for name in [
            "now",
            "random",
            "uuid",
            "repeat",
            "replace",
            "encode",
            "concat_ws",
            "levenshtein",
            "sum",
            "nothing",
            "LOWER",
        ] {
            assert!(!is_usable(name), "{name}");
        }
    }

    #[test]
    fn every_function_that_is_refused_exists() {
        for name in EXPANDING.into_iter().chain(SLOW) {
            assert!(SESSION.scalar_functions().contains_key(name), "{name}");
        }
    }
}
