//! Errors as exceptions of Python. Their classes are Python (`python/volley/_errors.py`): classes of native code cannot derive from
//! exceptions in the stable interface of Python 3.10.

use pyo3::prelude::*;
use volley_common::Error;

/// The exception for an error.
pub fn exception(py: Python<'_>, error: &Error) -> PyErr {
    match exception_of(py, error) {
        Ok(exception) => PyErr::from_value(exception),
        Err(failed) => failed,
    }
}

fn exception_of<'py>(py: Python<'py>, error: &Error) -> PyResult<Bound<'py, PyAny>> {
    let make = py.import("volley._errors")?.getattr("from_code")?;
    make.call1((error.code as i32, error.to_string(), error.retry_after_ms, error.request_id.as_deref()))
}
