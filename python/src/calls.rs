//! Runs a call: the caller waits, or is told by a function when it is done.

use std::pin::pin;
use std::time::Duration;

use pyo3::prelude::*;
use tokio::task::AbortHandle;
use volley_common::{Error, Result};

use crate::errors::exception;
use crate::runtime::runtime;

/// How often a caller that waits looks for signals, such as Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);

/// How a call is run.
pub struct CallMode {
    timeout: Option<Duration>,
    done: Option<Py<PyAny>>,
}

impl CallMode {
    /// `timeout`: seconds; none: as long as it takes. `done`: what is called with the value and the exception, one of which is
    /// `None`; without it the caller waits.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the time is negative, or not a number.
    pub fn new(py: Python<'_>, timeout: Option<f64>, done: Option<Py<PyAny>>) -> PyResult<Self> {
        let timeout = timeout.map(Duration::try_from_secs_f64).transpose().map_err(|_| {
            exception(
                py,
                &Error::invalid("the timeout is no number of seconds: give one that is not negative, or None"),
            )
        })?;
        Ok(CallMode { timeout, done })
    }
}

/// Why a call that was waited for has no value.
enum WaitEnd {
    Failed(Error),
    /// What a handler of a signal raised.
    Signal(PyErr),
}

/// A call that runs beside its caller.
#[pyclass(frozen, name = "Pending", module = "volley._volley")]
pub struct PendingCall(AbortHandle);

#[pymethods]
impl PendingCall {
    /// Ends it, unless it is done. The function of the call may still be called.
    fn cancel(&self) {
        self.0.abort();
    }
}

/// Runs a call. Returns its value, or, if a function is told when it is done, a [`PendingCall`].
///
/// # Errors
/// The call's. DEADLINE_EXCEEDED: it took too long. What a handler of a signal raises: the call is cancelled then.
pub fn perform<T: Send + 'static>(
    py: Python<'_>,
    mode: CallMode,
    work: impl Future<Output = Result<T>> + Send + 'static,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>> + Send + 'static,
) -> PyResult<Py<PyAny>> {
    let timeout = mode.timeout;
    let Some(done) = mode.done else {
        let value = wait(py, timeout, work)?;
        return convert(py, value);
    };
    let runtime = runtime().map_err(|error| exception(py, &error))?;
    let task = runtime.spawn(async move {
        let outcome = within(timeout, work).await;
        // Waits for the lock of the interpreter: not on a thread of the runtime.
        let told = tokio::task::spawn_blocking(move || {
            // None: the interpreter is ending.
            let _ = Python::try_attach(|py| tell(py, &done, outcome, convert));
        });
        let _ = told.await;
    });
    Ok(Py::new(py, PendingCall(task.abort_handle()))?.into_any())
}

fn tell<T>(
    py: Python<'_>,
    done: &Py<PyAny>,
    outcome: Result<T>,
    convert: impl FnOnce(Python<'_>, T) -> PyResult<Py<PyAny>>,
) {
    let converted = outcome.map_err(|error| exception(py, &error)).and_then(|value| convert(py, value));
    let arguments = match converted {
        Ok(value) => (value, py.None()),
        Err(error) => (py.None(), error.into_value(py).into_any()),
    };
    if let Err(error) = done.call1(py, arguments) {
        error.write_unraisable(py, None);
    }
}

/// Waits for a call without the lock of the interpreter.
///
/// # Errors
/// See [`perform`].
pub fn wait<T: Send>(
    py: Python<'_>,
    timeout: Option<Duration>,
    work: impl Future<Output = Result<T>> + Send,
) -> PyResult<T> {
    let runtime = runtime().map_err(|error| exception(py, &error))?;
    match py.detach(|| runtime.block_on(with_signals(within(timeout, work)))) {
        Ok(value) => Ok(value),
        Err(WaitEnd::Failed(error)) => Err(exception(py, &error)),
        Err(WaitEnd::Signal(error)) => Err(error),
    }
}

async fn with_signals<T>(work: impl Future<Output = Result<T>>) -> Result<T, WaitEnd> {
    let mut work = pin!(work);
    loop {
        match tokio::time::timeout(SIGNAL_INTERVAL, work.as_mut()).await {
            Ok(outcome) => return outcome.map_err(WaitEnd::Failed),
            Err(_) => Python::attach(|py| py.check_signals()).map_err(WaitEnd::Signal)?,
        }
    }
}

async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = timeout else { return work.await };
    let outcome = tokio::time::timeout(limit, work).await;
    outcome.unwrap_or_else(|_| {
        Err(Error::deadline(format!("not done within {limit:?}, the timeout of the call: it was cancelled")))
    })
}
