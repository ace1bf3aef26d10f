//! What the answer to an operation says about its outcome.

use volley_client::PutOutcome;
use volley_common::{Code, Error, Result};

use crate::history::OpOutcome;

/// Codes after which a put had no effect, by docs/guarantees.md.
const REFUSALS: [Code; 6] = [
    Code::Aborted,
    Code::AlreadyExists,
    Code::FailedPrecondition,
    Code::InvalidArgument,
    Code::NotFound,
    Code::ResourceExhausted,
];

/// The outcome of a put.
pub fn put_outcome(result: Result<PutOutcome>, first: bool) -> OpOutcome {
    match result {
        Ok(outcome) => OpOutcome::Done { version: outcome.version },
        Err(error) => failed(error, first),
    }
}

/// What an error of a write means; after an attempt of unknown outcome no refusal is conclusive.
pub fn failed(error: Error, first: bool) -> OpOutcome {
    let (code, message) = (format!("{:?}", error.code), error.message);
    match error.code {
        Code::NotFound if first => OpOutcome::Absent,
        Code::AlreadyExists if first => OpOutcome::Present,
        refusal if REFUSALS.contains(&refusal) && first => OpOutcome::Refused { code, message },
        // The refusal is valid, but the outcome of the earlier attempt is still unknown.
        refusal if REFUSALS.contains(&refusal) => OpOutcome::Unknown { code: "Aborted".into(), message },
        _ => OpOutcome::Unknown { code, message },
    }
}

/// The outcome of a read.
pub fn read_outcome(result: Result<OpOutcome>) -> OpOutcome {
    match result {
        Ok(outcome) => outcome,
        Err(error) if error.code == Code::NotFound => OpOutcome::Absent,
        Err(error) => OpOutcome::Refused { code: format!("{:?}", error.code), message: error.message },
    }
}
