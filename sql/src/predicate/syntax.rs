//! Expressions whose text says something else than what would be evaluated.

use datafusion::sql::planner::IdentNormalizer;
use datafusion::sql::sqlparser::ast::{
    DuplicateTreatment, Expr, Function, FunctionArgumentList, FunctionArguments, ObjectName, ObjectNamePart, WindowType,
};
use volley_common::{Error, Result};

use super::functions;

/// Checks an expression, without those in it.
///
/// # Errors
/// UNIMPLEMENTED, INVALID_ARGUMENT: a part of it would be ignored, or mean something else than in SQL.
pub(crate) fn check(expr: &Expr) -> Result<()> {
    match expr {
        Expr::SimilarTo { .. } => Err(Error::unimplemented(
            "SIMILAR TO is not supported: write LIKE, or regexp_like(x, '^(...)$') with a regular expression",
        )),
        Expr::Trim { trim_characters: Some(characters), .. } if characters.len() > 1 => Err(Error::unimplemented(
            "trim with several texts is not supported: write all characters as one text, as in trim(BOTH 'xy' FROM a)",
        )),
        Expr::Function(function) => check_function(function),
        _ => Ok(()),
    }
}

fn check_function(function: &Function) -> Result<()> {
    let Function { name, uses_odbc_syntax: _, parameters, args, filter, null_treatment, over, within_group } = function;
    if !matches!(parameters, FunctionArguments::None) || matches!(args, FunctionArguments::Subquery(_)) {
        return Err(Error::unimplemented(format!(
            "this form of arguments of {name} is not supported: write one list, and a query in brackets of its own"
        )));
    }
    if let Some(WindowType::WindowSpec(window)) = over
        && let Some(base) = &window.window_name
    {
        return Err(Error::unimplemented(format!(
            "a window that is based on the window {base} is not supported: write all of it after OVER"
        )));
    }
    let has_clause = filter.is_some()
        || null_treatment.is_some()
        || over.is_some()
        || !within_group.is_empty()
        || matches!(args, FunctionArguments::List(list) if has_aggregate_clause(list));
    match has_clause && is_scalar(name) {
        true => Err(Error::invalid(format!(
            "{name} is neither an aggregate nor a window function: leave out DISTINCT, ORDER BY, FILTER, IGNORE NULLS, WITHIN GROUP and OVER"
        ))),
        false => Ok(()),
    }
}

fn has_aggregate_clause(arguments: &FunctionArgumentList) -> bool {
    arguments.duplicate_treatment == Some(DuplicateTreatment::Distinct) || !arguments.clauses.is_empty()
}

/// Whether the engine takes a function of this name for one of single rows, whatever other functions have the name.
fn is_scalar(name: &ObjectName) -> bool {
    let [ObjectNamePart::Identifier(name)] = name.0.as_slice() else { return false };
    let name = IdentNormalizer::new(true).normalize(name.clone());
    let session = &functions::SESSION;
    session.scalar_functions().contains_key(&name)
        || session.higher_order_functions().contains_key(&name)
        || matches!(name.as_str(), "unnest" | "unnest_outer")
}
