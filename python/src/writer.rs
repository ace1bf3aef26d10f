//! A write to which rows are added bit by bit. They become visible together when it is committed; without that, none does.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use tokio::sync::{Mutex, mpsc};
use tokio_util::task::AbortOnDropHandle;
use volley_client::{Client, Options, ParallelPut, PutOutcome};
use volley_common::ipc::conform::conform;
use volley_common::ipc::schema::check_appendable;
use volley_common::{Error, Result, TableName};

use crate::calls::{CallMode, perform};
use crate::capsule::{CapsuleReader, reader_of};
use crate::source::{RowCounter, of_channel, read};

/// Batches that may wait to be sent.
const WAITING_BATCHES: usize = 2;

/// A put that is under way.
struct OpenWrite {
    schema: SchemaRef,
    sender: mpsc::Sender<Option<Result<RecordBatch>>>,
    /// Rows are being added. If the call is cancelled this stays: nobody knows how many of them were.
    is_writing: bool,
    /// Dropping it rolls the put back.
    put: AbortOnDropHandle<Result<PutOutcome>>,
}

enum WriteState {
    /// No rows yet: the schema is not known.
    Empty,
    Open(OpenWrite),
    /// Committed, failed or given up.
    Ended,
}

/// A write of a table.
#[pyclass(frozen, name = "Writer", module = "volley._volley")]
pub struct PyWriter {
    client: Client,
    name: TableName,
    options: Options,
    parallel: ParallelPut,
    counter: RowCounter,
    state: Arc<Mutex<WriteState>>,
}

impl PyWriter {
    /// A write that has no rows yet.
    pub fn new(client: Client, name: TableName, options: Options, parallel: ParallelPut, counter: RowCounter) -> Self {
        PyWriter { client, name, options, parallel, counter, state: Arc::new(Mutex::new(WriteState::Empty)) }
    }

    fn begin(&self, schema: SchemaRef) -> impl FnOnce() -> OpenWrite + Send + 'static + use<> {
        let (client, name, options, parallel) =
            (self.client.clone(), self.name.clone(), self.options.clone(), self.parallel.clone());
        move || {
            let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
            let of_put = schema.clone();
            let put = tokio::spawn(async move {
                client.put_parallel(&name, &options, of_put, of_channel(receiver), parallel).await
            });
            OpenWrite { schema, sender, is_writing: false, put: AbortOnDropHandle::new(put) }
        }
    }
}

fn ended() -> Error {
    Error::precondition("the write has ended: begin another one")
}

fn interrupted() -> Error {
    Error::cancelled(
        "adding rows to the write was cancelled, so that it is unknown which were added: nothing of it becomes visible; begin another one",
    )
}

/// Adds the rows of a reader to a write, which begins with its first rows.
async fn write_all(
    state: Arc<Mutex<WriteState>>,
    begin: impl FnOnce() -> OpenWrite,
    reader: CapsuleReader,
    counter: RowCounter,
) -> Result<()> {
    let mut state = state.lock_owned().await;
    if matches!(*state, WriteState::Empty) {
        *state = WriteState::Open(begin());
    }
    let WriteState::Open(open) = &mut *state else { return Err(ended()) };
    // Metadata may differ: pandas, for one, writes the number of rows into it.
    check_appendable(&open.schema, &reader.schema())
        .map_err(|e| e.at("the rows have other columns than those that were written first"))?;
    if open.is_writing {
        *state = WriteState::Ended;
        return Err(interrupted());
    }
    open.is_writing = true;
    // A failure of the source ends the write: part of the rows are sent.
    let (sender, schema) = (open.sender.clone(), open.schema.clone());
    let reading = tokio::task::spawn_blocking(move || {
        let mut failure = None;
        let is_complete = read(reader, &counter, |item| match item.and_then(|batch| conform(&batch, &schema)) {
            Ok(batch) => sender.blocking_send(Some(Ok(batch))).is_ok(),
            Err(error) => {
                failure = Some(error);
                false
            }
        });
        (is_complete, failure)
    });
    match reading.await {
        Ok((true, _)) => {
            if let WriteState::Open(open) = &mut *state {
                open.is_writing = false;
            }
            Ok(())
        }
        Ok((false, Some(error))) => {
            *state = WriteState::Ended;
            Err(error)
        }
        // The put does not take any more: its outcome says why.
        Ok((false, None)) => match finish(&mut state).await {
            Ok(_) => Err(Error::internal("the put ended before all rows were written")),
            Err(error) => Err(error),
        },
        Err(_) => {
            *state = WriteState::Ended;
            Err(Error::internal("the thread that reads the rows panicked: nothing of the write is visible"))
        }
    }
}

/// The outcome of the put of a write, which ends.
async fn finish(state: &mut WriteState) -> Result<PutOutcome> {
    let WriteState::Open(open) = std::mem::replace(state, WriteState::Ended) else { return Err(ended()) };
    let OpenWrite { sender, put, .. } = open;
    drop(sender);
    put.await.unwrap_or_else(|_| Err(Error::internal("the task of the put ended unexpectedly")))
}

#[pymethods]
impl PyWriter {
    /// Adds rows: an object with `__arrow_c_stream__` or `__arrow_c_array__`. Its columns are those of the first rows, or of
    /// narrower types.
    #[pyo3(signature = (rows, *, timeout=None, done=None))]
    fn write(
        &self,
        py: Python<'_>,
        rows: &Bound<'_, PyAny>,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let reader = reader_of(rows)?;
        let begin = self.begin(reader.schema());
        let work = write_all(self.state.clone(), begin, reader, self.counter.clone());
        perform(py, CallMode::new(py, timeout, done)?, work, |py, ()| Ok(py.None()))
    }

    /// Makes all rows visible. Returns the outcome as JSON; `None` if nothing was written.
    #[pyo3(signature = (*, timeout=None, done=None))]
    fn commit(&self, py: Python<'_>, timeout: Option<f64>, done: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let state = self.state.clone();
        let work = async move {
            let mut state = state.lock_owned().await;
            let sender = match &*state {
                WriteState::Empty => None,
                WriteState::Open(open) => Some((open.sender.clone(), open.is_writing)),
                WriteState::Ended => return Err(ended()),
            };
            let Some((sender, is_writing)) = sender else {
                *state = WriteState::Ended;
                return Ok(None);
            };
            if is_writing {
                *state = WriteState::Ended;
                return Err(interrupted());
            }
            // A put that has failed takes nothing any more, and says why.
            let _ = sender.send(None).await;
            drop(sender);
            finish(&mut state).await.map(Some)
        };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, outcome: Option<PutOutcome>| match outcome {
            Some(outcome) => serde_json::to_string(&outcome).unwrap_or_default().into_py_any(py),
            None => Ok(py.None()),
        })
    }

    /// Ends it without a trace.
    #[pyo3(signature = (*, done=None))]
    fn abort(&self, py: Python<'_>, done: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let state = self.state.clone();
        let work = async move {
            *state.lock().await = WriteState::Ended;
            Ok::<(), Error>(())
        };
        perform(py, CallMode::new(py, None, done)?, work, |py, ()| Ok(py.None()))
    }
}
