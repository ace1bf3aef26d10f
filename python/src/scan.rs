//! Rows that are fetched while they are read, in bounded memory.

use std::sync::Arc;

use arrow::array::{RecordBatch, RecordBatchReader};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_flight::FlightInfo;
use futures::TryStreamExt;
use pyo3::exceptions::PyKeyboardInterrupt;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use tokio::sync::Mutex;
use volley_client::{Client, FetchOptions, FetchStream};
use volley_common::{Error, Result};

use crate::batch_size::BatchSizer;
use crate::calls::{CallMode, perform, wait};
use crate::capsule::{attached, stream_capsule};
use crate::requests::description;
use crate::rows::{PyBatch, PySchema};

/// The rows of a fetch that are read: after some that are passed over, and not more than some.
#[derive(Clone, Copy, Debug, Default)]
pub struct ScanRange {
    /// Rows that are passed over.
    pub skip: u64,
    /// Rows at most; none: all that follow.
    pub most: Option<u64>,
}

impl ScanRange {
    /// What of the next batch is in the range, which is what is left then.
    fn cut(&mut self, batch: &RecordBatch) -> RecordBatch {
        let count = batch.num_rows();
        let skipped = usize::try_from(self.skip).map_or(count, |skip| skip.min(count));
        let wanted = self.most.and_then(|most| usize::try_from(most).ok()).unwrap_or(usize::MAX);
        let taken = wanted.min(count - skipped);
        self.skip -= skipped as u64;
        self.most = self.most.map(|most| most - taken as u64);
        batch.slice(skipped, taken)
    }

    /// Whether no row is left.
    fn is_done(&self) -> bool {
        self.most == Some(0)
    }
}

/// A fetch, and what is left of it.
struct ScanCursor {
    /// None at its end.
    stream: Option<FetchStream>,
    range: ScanRange,
    sizer: BatchSizer,
    /// What ended it: a later call must not take that for the end of the rows.
    failed: Option<Error>,
}

impl ScanCursor {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let next = self.read_next().await;
        if let Err(error) = &next {
            self.failed = Some(error.clone());
            self.stream = None;
        }
        next
    }

    async fn read_next(&mut self) -> Result<Option<RecordBatch>> {
        loop {
            if let Some(batch) = self.sizer.pop(self.stream.is_none())? {
                return Ok(Some(batch));
            }
            let Some(stream) = &mut self.stream else { return Ok(None) };
            if self.range.is_done() {
                self.stream = None;
                continue;
            }
            match stream.try_next().await? {
                Some(fetched) => self.sizer.push(self.range.cut(&fetched.batch)),
                None => self.stream = None,
            }
        }
    }
}

/// A read that is under way. Nothing is fetched before its first batch is read.
#[pyclass(frozen, name = "Scan", module = "volley._volley")]
pub struct PyScan {
    schema: SchemaRef,
    description: String,
    state: Arc<Mutex<ScanCursor>>,
}

impl PyScan {
    /// Reads a plan. `ordered`: batches come in the order of the rows, if they have one. `batch_rows`: how many rows a batch has.
    /// `range`: some rows of them; the others before them are fetched, too.
    ///
    /// # Errors
    /// Those of [`Client::fetch`].
    pub fn open(
        client: &Client,
        mut plan: FlightInfo,
        options: FetchOptions,
        ordered: bool,
        batch_rows: Option<usize>,
        range: ScanRange,
    ) -> Result<Self> {
        plan.ordered &= ordered;
        let mut description = description(&plan);
        if let Some(rows) = range.most {
            description["rows"] = rows.into();
        }
        let description = description.to_string();
        let stream = client.fetch(plan, options)?;
        let schema = stream.schema.clone();
        let sizer = BatchSizer::new(schema.clone(), batch_rows);
        let state = Arc::new(Mutex::new(ScanCursor { stream: Some(stream), range, sizer, failed: None }));
        Ok(PyScan { schema, description, state })
    }
}

#[pymethods]
impl PyScan {
    #[getter]
    fn schema(&self) -> PySchema {
        PySchema(self.schema.clone())
    }

    /// What the plan says about the table, as JSON.
    #[getter]
    fn description(&self) -> &str {
        &self.description
    }

    /// The next batch; `None` at the end.
    #[pyo3(signature = (*, timeout=None, done=None))]
    fn next_batch(&self, py: Python<'_>, timeout: Option<f64>, done: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let state = self.state.clone();
        let next = async move { state.lock().await.next().await };
        perform(py, CallMode::new(py, timeout, done)?, next, |py, batch| match batch {
            Some(batch) => Ok(Py::new(py, PyBatch(batch))?.into_any()),
            None => Ok(py.None()),
        })
    }

    /// Ends it: all of its streams are closed.
    #[pyo3(signature = (*, done=None))]
    fn close(&self, py: Python<'_>, done: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let state = self.state.clone();
        let close = async move {
            let mut state = state.lock().await;
            state.stream = None;
            state.failed.get_or_insert_with(|| Error::cancelled("the scan is closed"));
            Ok::<(), Error>(())
        };
        perform(py, CallMode::new(py, None, done)?, close, |py, ()| Ok(py.None()))
    }

    /// The batches that were not read yet, for another library. Errors reach it as text.
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        drop(requested_schema);
        let reader = BlockingReader { schema: self.schema.clone(), state: self.state.clone(), is_ended: false };
        stream_capsule(py, Box::new(reader))
    }
}

/// Reads a scan from a thread of another library, which may or may not hold the lock of the interpreter.
struct BlockingReader {
    schema: SchemaRef,
    state: Arc<Mutex<ScanCursor>>,
    is_ended: bool,
}

impl Iterator for BlockingReader {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_ended {
            return None;
        }
        let state = self.state.clone();
        let next = async move { state.lock().await.next().await };
        let next = attached(|py| wait(py, None, next).map_err(|error| text_of(py, &error)));
        let next = next.unwrap_or_else(|| Err("the interpreter is ending".into()));
        // After an error the same one comes again, not an end of the rows.
        self.is_ended = matches!(next, Ok(None));
        // The C interface has no zero bytes in texts.
        next.map_err(|error| ArrowError::ExternalError(error.replace('\0', " ").into())).transpose()
    }
}

/// The text of an exception. Of Ctrl-C it is not all that is left: the main thread raises it again, once the other library returns
/// to Python.
fn text_of(py: Python<'_>, error: &PyErr) -> String {
    if error.is_instance_of::<PyKeyboardInterrupt>(py)
        && let Err(failed) = py.import("_thread").and_then(|thread| thread.call_method0("interrupt_main"))
    {
        failed.write_unraisable(py, None);
    }
    error.to_string()
}

impl RecordBatchReader for BlockingReader {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}
