//! The functions that filters can call: those whose result depends on their arguments alone, and is not much larger.

use std::sync::LazyLock;

use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::{ScalarUDF, Volatility};
use volley_common::{Error, Result};

/// The functions, operators and defaults of the expression language. The engine's sessions must have the same settings of
/// `sql_parser` and the same time zone, or a filter would mean something else in a part scan than above it.
pub(super) static SESSION: LazyLock<SessionState> =
    LazyLock::new(|| SessionStateBuilder::new().with_default_features().build());

/// Functions whose result can be many times larger than their arguments. Filters run outside of the engine's memory limit.
const EXPANDING: [&str; 10] = [
    "array_repeat",
    "array_resize",
    "array_to_string",
    "generate_series",
    "lpad",
    "range",
    "regexp_replace",
    "repeat",
    "replace",
    "rpad",
];

/// Whether filters can call the function of this name.
pub(crate) fn is_usable(name: &str) -> bool {
    SESSION.scalar_functions().get(name).is_some_and(|function| check(function).is_ok())
}

/// Checks that filters can call a function.
///
/// # Errors
/// INVALID_ARGUMENT: its result is not the same everywhere and always, or can be large.
pub(super) fn check(function: &ScalarUDF) -> Result<()> {
    let name = function.name();
    match function.signature().volatility {
        Volatility::Immutable if EXPANDING.contains(&name) => Err(Error::invalid(format!(
            "a filter cannot call {name}, whose result can be large: use it in a SELECT statement"
        ))),
        Volatility::Immutable => Ok(()),
        Volatility::Stable | Volatility::Volatile => Err(Error::invalid(format!(
            "a filter cannot call {name}, whose result depends on more than its arguments: give its value, or use it in a SELECT statement"
        ))),
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
        for name in ["now", "random", "uuid", "repeat", "replace", "sum", "nothing", "LOWER"] {
            assert!(!is_usable(name), "{name}");
        }
    }

    #[test]
    fn every_expanding_function_exists() {
        for name in EXPANDING {
            assert!(SESSION.scalar_functions().contains_key(name), "{name}");
        }
    }
}
