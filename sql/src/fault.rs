//! Errors of DataFusion as errors of Volley, and the way of Volley's errors through DataFusion.
//!
//! An error of a table's source passes through DataFusion unchanged, whatever wraps it on its way: see [`into_datafusion`].

use std::error::Error as StdError;
use std::io;
use std::sync::Arc;

use arrow::error::ArrowError;
use datafusion::common::SchemaError;
use datafusion::error::DataFusionError;
use volley_common::{Error, Result};

/// Most characters that a text of DataFusion may contribute to a message: some name every function or column.
const MAX_TEXT: usize = 1000;
/// The setting that the engine names when its quota of spill space is used up.
const SPILL_QUOTA: &str = "max_temp_directory_size";
/// What the engine calls an internal error of its own if a regular expression is wrong or too large.
const BAD_PATTERN: &str = "Regular expression did not compile: ";
/// What the library of stages says when rows of other nodes are read a second time. Only a join without equal columns does, when its
/// side does not fit into memory: it reads that side again, to put it on disk.
const READ_TWICE: &str = "already consumed";

/// The error, for an operator or provider of DataFusion to return. [`from_datafusion`] gives it back.
pub fn into_datafusion(error: Error) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}

/// The error for the client: that of Volley inside it, unchanged, or else a code that says whose fault it is.
///
/// | code | when |
/// |---|---|
/// | INVALID_ARGUMENT | the statement is wrong, or fails for the table's values (a division by zero, a cast) |
/// | NOT_FOUND | it names a table that does not exist |
/// | UNIMPLEMENTED | the engine does not know it |
/// | RESOURCE_EXHAUSTED | it needs more memory or spill space than there is |
/// | INTERNAL | the engine failed |
pub fn from_datafusion(error: DataFusionError) -> Error {
    match own_error(&error) {
        Some(own) => own.clone(),
        None => classify(&error),
    }
}

/// What `result` has, with its error for the client.
pub(crate) fn checked<T>(result: Result<T, DataFusionError>) -> Result<T> {
    result.map_err(from_datafusion)
}

/// The error of Volley that is somewhere inside.
fn own_error(error: &DataFusionError) -> Option<&Error> {
    match error {
        DataFusionError::External(inner) => own_of_dyn(&**inner),
        DataFusionError::ArrowError(inner, _) => own_of_dyn(&**inner),
        DataFusionError::IoError(inner) => own_of_dyn(inner),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => own_error(inner),
        DataFusionError::Shared(inner) => own_error(inner),
        DataFusionError::Collection(all) => all.iter().find_map(own_error),
        _ => None,
    }
}

fn own_of_dyn<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Error> {
    if let Some(own) = error.downcast_ref::<Error>() {
        return Some(own);
    }
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return own_error(inner);
    }
    if let Some(inner) = error.downcast_ref::<Arc<DataFusionError>>() {
        return own_error(inner);
    }
    if let Some(arrow) = error.downcast_ref::<ArrowError>() {
        return match arrow {
            ArrowError::ExternalError(inner) => own_of_dyn(&**inner),
            ArrowError::IoError(_, inner) => own_of_dyn(inner),
            _ => None,
        };
    }
    match error.downcast_ref::<io::Error>() {
        Some(inner) => inner.get_ref().and_then(|inner| own_of_dyn(inner)),
        None => error.source().and_then(own_of_dyn),
    }
}

fn classify(error: &DataFusionError) -> Error {
    match error {
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => classify(inner),
        DataFusionError::Shared(inner) => classify(inner),
        DataFusionError::Collection(all) => match all.first() {
            Some(first) => classify(first),
            None => Error::internal("the SQL engine failed, and gave no reason"),
        },
        DataFusionError::External(inner) => classify_dyn(&**inner),
        DataFusionError::ArrowError(inner, _) => classify_arrow(inner),
        DataFusionError::IoError(inner) => classify_io(inner),
        DataFusionError::Plan(text) => classify_plan(text),
        DataFusionError::SQL(inner, _) => {
            let text = inner.to_string();
            // So the command line and pyarrow name tables.
            let hint = match text.contains("end of statement, found: / ") {
                true => ": a table in a folder is sales.orders or \"sales/orders\"",
                false => "",
            };
            Error::invalid(format!("the SQL is wrong: {}{hint}", short(text.trim_start_matches("sql parser error: "))))
        }
        DataFusionError::SchemaError(inner, _) => classify_schema(inner),
        DataFusionError::Configuration(text) | DataFusionError::Execution(text) => Error::invalid(short(text)),
        DataFusionError::NotImplemented(text) => {
            Error::unimplemented(format!("the SQL engine does not support this: {}", short(text)))
        }
        DataFusionError::ResourcesExhausted(text) => exhausted(text),
        DataFusionError::Internal(text) if text.contains(BAD_PATTERN) => {
            let reason = text.split(BAD_PATTERN).nth(1).unwrap_or_default();
            Error::invalid(format!("a regular expression cannot be used: {}", short(reason)))
        }
        DataFusionError::Internal(text) if text.contains(READ_TWICE) => {
            exhausted("a join without equal columns cannot use the disk for rows of other nodes")
        }
        other => Error::internal(format!("the SQL engine failed: {}", short(&other.to_string()))),
    }
}

fn classify_dyn(error: &(dyn StdError + 'static)) -> Error {
    if let Some(inner) = error.downcast_ref::<DataFusionError>() {
        return classify(inner);
    }
    if let Some(inner) = error.downcast_ref::<Arc<DataFusionError>>() {
        return classify(inner);
    }
    if let Some(inner) = error.downcast_ref::<ArrowError>() {
        return classify_arrow(inner);
    }
    match error.downcast_ref::<io::Error>() {
        Some(inner) => classify_io(inner),
        None => Error::internal(format!("the SQL engine failed: {}", short(&error.to_string()))),
    }
}

/// Kernels fail for values; everything else about Arrow is the engine's fault.
fn classify_arrow(error: &ArrowError) -> Error {
    match error {
        ArrowError::DivideByZero => Error::invalid("division by zero"),
        ArrowError::CastError(text)
        | ArrowError::ParseError(text)
        | ArrowError::ComputeError(text)
        | ArrowError::ArithmeticOverflow(text)
        | ArrowError::InvalidArgumentError(text) => Error::invalid(short(text)),
        ArrowError::NotYetImplemented(text) => {
            Error::unimplemented(format!("the SQL engine does not support this: {}", short(text)))
        }
        ArrowError::MemoryError(text) => exhausted(text),
        ArrowError::IoError(_, inner) => classify_io(inner),
        ArrowError::ExternalError(inner) => classify_dyn(&**inner),
        ArrowError::OffsetOverflowError(_) => {
            Error::invalid("a column of the result has more than 2 GiB of text in one batch: select shorter values")
        }
        other => Error::internal(format!("the SQL engine failed: {}", short(&other.to_string()))),
    }
}

/// Only spilling does I/O.
fn classify_io(error: &io::Error) -> Error {
    // So the engine passes on an error of the disk: a full one would not be recognized by its kind.
    if let Some(inner) = error.get_ref().and_then(|inner| inner.downcast_ref::<DataFusionError>()) {
        return classify(inner);
    }
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            Error::exhausted(format!("the disk of the spill folder is full ({error}): try again, or ask another node"))
        }
        // The quota of the engine has no kind of its own.
        _ if error.to_string().contains(SPILL_QUOTA) => Error::exhausted(
            "the query needs more spill space than is free (`sql_spill_bytes`): select fewer rows or columns, or try again when fewer queries run",
        ),
        _ => Error::internal(format!("the SQL engine cannot spill: {error}")),
    }
}

fn classify_plan(text: &str) -> Error {
    // The name is qualified: catalog, schema, table.
    match text.strip_prefix("table '").and_then(|rest| rest.strip_suffix("' not found")) {
        Some(name) => Error::not_found(format!("there is no table {name}")),
        None => Error::invalid(short(text)),
    }
}

fn classify_schema(error: &SchemaError) -> Error {
    let SchemaError::FieldNotFound { field, valid_fields } = error else {
        return Error::invalid(short(&error.to_string()));
    };
    let other_case =
        valid_fields.iter().find(|known| known.name != field.name && known.name.eq_ignore_ascii_case(&field.name));
    match other_case {
        Some(known) => Error::invalid(format!(
            "there is no column {}: did you mean {}? Names without quotes are read in lower case",
            field.quoted_flat_name(),
            known.quoted_flat_name()
        )),
        // The first line has the column, and a similar one if there is any.
        None => Error::invalid(short(error.to_string().lines().next().unwrap_or_default())),
    }
}

fn exhausted(text: &str) -> Error {
    Error::exhausted(format!(
        "the query needs more memory or spill space than is free (`sql_memory_bytes`, `sql_spill_bytes`): select fewer rows or columns, or try again when fewer queries run ({})",
        short(text)
    ))
}

/// One line, without what only developers of the engine can use.
fn short(text: &str) -> String {
    let text = text.split(DataFusionError::BACK_TRACE_SEP).next().unwrap_or_default();
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    match line.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => format!("{}… ({} more bytes are left out)", &line[..at], line.len() - at),
        None => line,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use datafusion::common::Column;
    use volley_common::Code;

    use super::*;

    #[test]
    fn own_error_passes_through_every_wrapper() {
        let own = Error::data_loss("part 7 of table t is corrupt");
        let inside = || into_datafusion(own.clone());
        let wrapped = [
            inside(),
            inside().context("while sorting"),
            DataFusionError::Shared(Arc::new(inside())),
            DataFusionError::Collection(vec![DataFusionError::Plan("other".into()), inside()]),
            DataFusionError::ArrowError(Box::new(ArrowError::ExternalError(Box::new(inside()))), None),
            DataFusionError::External(Box::new(ArrowError::ExternalError(Box::new(own.clone())))),
            DataFusionError::External(Box::new(Arc::new(inside()))),
            DataFusionError::IoError(io::Error::other(own.clone())),
        ];
        for error in wrapped {
            assert_eq!(from_datafusion(error), own);
        }
    }

    #[test]
    fn code_says_whose_fault_it_is() {
        let code = |error| from_datafusion(error).code;
        assert_eq!(code(DataFusionError::Plan("no".into())), Code::InvalidArgument);
        assert_eq!(code(DataFusionError::Plan("table 'volley.default.x' not found".into())), Code::NotFound);
        assert_eq!(code(DataFusionError::NotImplemented("no".into())), Code::Unimplemented);
        assert_eq!(code(DataFusionError::ResourcesExhausted("no".into())), Code::ResourceExhausted);
        assert_eq!(code(DataFusionError::Internal("no".into())), Code::Internal);
        assert_eq!(code(ArrowError::DivideByZero.into()), Code::InvalidArgument);
        let divided = || DataFusionError::from(ArrowError::DivideByZero);
        assert_eq!(code(DataFusionError::External(Box::new(Arc::new(divided())))), Code::InvalidArgument);
        assert_eq!(code(DataFusionError::Shared(Arc::new(divided())).context("sort")), Code::InvalidArgument);
        assert_eq!(code(ArrowError::SchemaError("no".into()).into()), Code::Internal);
        assert_eq!(code(DataFusionError::IoError(io::ErrorKind::StorageFull.into())), Code::ResourceExhausted);
        let wrapped = |kind: io::ErrorKind| io::Error::from(DataFusionError::IoError(kind.into()));
        assert_eq!(code(DataFusionError::IoError(wrapped(io::ErrorKind::StorageFull))), Code::ResourceExhausted);
        assert_eq!(code(DataFusionError::IoError(wrapped(io::ErrorKind::NotFound))), Code::Internal);
    }

    #[test]
    fn internal_errors_of_a_statement_have_its_codes() {
        let internal = |text: &str| from_datafusion(DataFusionError::Internal(text.into()));
        let pattern =
            internal("failed to call 'regex_match' Compute error: Regular expression did not compile: TooBig(7)");
        assert_eq!(pattern.code, Code::InvalidArgument);
        assert_eq!(pattern.message, "a regular expression cannot be used: TooBig(7)");
        let memory = internal("WorkerConnections stream for partition 1 was already consumed");
        assert_eq!(memory.code, Code::ResourceExhausted, "{memory}");
    }

    #[test]
    fn column_in_another_case_is_suggested() {
        let error = SchemaError::FieldNotFound {
            field: Box::new(Column::new_unqualified("price")),
            valid_fields: vec![Column::new_unqualified("Price"), Column::new_unqualified("id")],
        };
        let error = from_datafusion(DataFusionError::SchemaError(Box::new(error), Box::new(None)));
        assert_eq!(error.code, Code::InvalidArgument);
        assert!(error.message.contains("did you mean \"Price\"?"), "{error}");
        assert!(!error.message.contains("datafusion"), "{error}");
    }

    #[test]
    fn long_text_is_cut_to_one_line() {
        let error = from_datafusion(DataFusionError::Plan("two\nlines ".repeat(1000)));
        assert!(error.message.starts_with("two lines two"), "{error}");
        let note = format!("… ({} more bytes are left out)", 10 * 1000 - 1 - MAX_TEXT);
        assert!(
            error.message.chars().count() == MAX_TEXT + note.chars().count() && error.message.ends_with(&note),
            "{error}"
        );
    }
}
