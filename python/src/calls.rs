//! Runs a call: the caller waits, or is told by a function when it is done.

use std::pin::{Pin, pin};
use std::time::Duration;

use parking_lot::RwLock;
use pyo3::prelude::*;
use tokio::task::AbortHandle;
use tokio_util::task::AbortOnDropHandle;
use volley_common::{Error, Result};

use crate::errors::exception;
use crate::runtime::runtime;

/// How often a caller that waits looks for signals, such as Ctrl-C.
const SIGNAL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the end of the interpreter waits for functions that are being told the end of a call.
const LAST_CALLBACKS: Duration = Duration::from_secs(2);

/// Whether no function is told the end of a call any more. Held for reading while one is.
static CALLBACKS_ENDED: RwLock<bool> = RwLock::new(false);

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
        let outcome = AbortOnDropHandle::new(tokio::spawn(within(timeout, work))).await;
        let panicked = || Error::internal("the task of the call panicked: the standard error says where");
        let outcome = outcome.unwrap_or_else(|_| Err(panicked()));
        // Waits for the lock of the interpreter: not on a thread of the runtime.
        let told = tokio::task::spawn_blocking(move || {
            let ended = CALLBACKS_ENDED.read();
            if !*ended {
                // None: there is no interpreter any more.
                let _ = Python::try_attach(|py| tell(py, &done, outcome, convert));
            }
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

/// For the end of the interpreter: waits until no function is being told the end of a call, and tells none from then on. A thread
/// that is in Python while the interpreter ends would end the process as if it had crashed.
#[pyfunction]
pub fn end_callbacks(py: Python<'_>) {
    py.detach(|| {
        if let Some(mut ended) = CALLBACKS_ENDED.try_write_for(LAST_CALLBACKS) {
            *ended = true;
        }
    });
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
    let outcome = py.detach(|| -> PyResult<Result<T>> {
        // What is dropped at a signal may need the runtime.
        let _entered = runtime.enter();
        let mut work = pin!(within(timeout, work));
        loop {
            match runtime.block_on(until_signals(work.as_mut())) {
                Some(outcome) => return Ok(outcome),
                // Outside of the runtime: the handler of a signal may make calls of its own.
                None => Python::attach(|py| py.check_signals())?,
            }
        }
    })?;
    outcome.map_err(|error| exception(py, &error))
}

/// The outcome of the work; none if it is time to look for signals.
async fn until_signals<T>(work: Pin<&mut impl Future<Output = T>>) -> Option<T> {
    tokio::time::timeout(SIGNAL_INTERVAL, work).await.ok()
}

async fn within<T>(timeout: Option<Duration>, work: impl Future<Output = Result<T>>) -> Result<T> {
    let Some(limit) = timeout else { return work.await };
    let outcome = tokio::time::timeout(limit, work).await;
    outcome.unwrap_or_else(|_| {
        Err(Error::deadline(format!("not done within {limit:?}, the timeout of the call: it was cancelled")))
    })
}
