//! Rows of an object of Python, read by a thread of their own: the object may be slow, and may run Python.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use futures::{Stream, stream};
use pyo3::prelude::*;
use tokio::sync::mpsc;
use volley_common::ipc::size::data_bytes;
use volley_common::{Error, Result};

use crate::capsule::CapsuleReader;

/// Batches that may wait to be sent.
const WAITING_BATCHES: usize = 2;

/// How many rows and bytes have gone through a call, for those who show its progress.
#[derive(Clone, Default)]
#[pyclass(frozen, name = "Counter", module = "volley._volley")]
pub struct RowCounter {
    rows: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
}

impl RowCounter {
    /// Counts a batch.
    pub fn add(&self, batch: &RecordBatch) {
        self.rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
        self.bytes.fetch_add(data_bytes(batch) as u64, Ordering::Relaxed);
    }
}

#[pymethods]
impl RowCounter {
    #[new]
    fn new() -> Self {
        RowCounter::default()
    }

    #[getter]
    fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    #[getter]
    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

/// A batch, or `None` at the normal end.
type SourceItem = Option<Result<RecordBatch>>;

/// The batches of a reader, which a thread reads. To be called on the runtime. A thread that ends without having said so is an
/// error: a put would commit what it has.
pub fn batches(reader: CapsuleReader, counter: RowCounter) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    let (sender, receiver) = mpsc::channel(WAITING_BATCHES);
    tokio::task::spawn_blocking(move || {
        if read(reader, &counter, |item| sender.blocking_send(Some(item)).is_ok()) {
            // Nobody waits for the end of a put that was cancelled.
            let _ = sender.blocking_send(None);
        }
    });
    of_channel(receiver)
}

/// Reads all rows; `send` says whether they are still wanted. Returns whether it has read all of them.
pub fn read(reader: CapsuleReader, counter: &RowCounter, mut send: impl FnMut(Result<RecordBatch>) -> bool) -> bool {
    for batch in reader {
        let batch = batch.map_err(|e| Error::invalid(format!("the rows cannot be read: {e}")));
        let is_last = batch.is_err();
        if let Ok(batch) = &batch {
            counter.add(batch);
        }
        if !send(batch) || is_last {
            return false;
        }
    }
    true
}

/// The batches of a channel, which ends with `None`.
pub fn of_channel(receiver: mpsc::Receiver<SourceItem>) -> impl Stream<Item = Result<RecordBatch>> + Send + 'static {
    stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(Some(Ok(batch))) => Some((Ok(batch), Some(receiver))),
            Some(Some(Err(error))) => Some((Err(error), None)),
            Some(None) => None,
            None => Some((Err(Error::cancelled("the source of the rows ended before its end")), None)),
        }
    })
}
