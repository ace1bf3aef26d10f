//! A connection to a cluster.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use futures::TryStreamExt;
use parking_lot::Mutex;
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use serde_json::Value;
use volley_client::{Client, ClientBuilder, FetchOptions, ParallelPut, PutOutcome};
use volley_common::ipc::schema::parse_schema;
use volley_common::{Error, Result};

use crate::calls::{CallMode, perform, wait};
use crate::capsule::reader_of;
use crate::errors::exception;
use crate::requests::{ReadRequest, client_settings, description, fetch_options, partitions, write_request};
use crate::rows::{PyRows, PySchema};
use crate::scan::{PyScan, ScanRange};
use crate::source::{RowCounter, batches};
use crate::writer::PyWriter;

/// A client, and what it was made with. Any number of threads may share it.
#[pyclass(frozen, name = "Connection", module = "volley._volley")]
pub struct PyConnection {
    settings: ClientBuilder,
    /// The client, and the id of the process that connected it.
    current: Mutex<(u32, Client)>,
}

impl PyConnection {
    /// The client of this process: a child that was forked connects again.
    fn client(&self, py: Python<'_>) -> PyResult<Client> {
        let process = std::process::id();
        {
            let current = self.current.lock();
            if current.0 == process {
                return Ok(current.1.clone());
            }
        }
        let client = wait(py, None, self.settings.clone().connect())?;
        let former = std::mem::replace(&mut *self.current.lock(), (process, client.clone()));
        // Its tasks are on threads that this process does not have.
        std::mem::forget(former);
        Ok(client)
    }
}

/// The counter of a call, or one that nobody reads.
fn counter_of(counter: Option<Py<RowCounter>>) -> RowCounter {
    counter.map(|counter| counter.get().clone()).unwrap_or_default()
}

fn parallel(streams: Option<usize>) -> ParallelPut {
    streams.map_or_else(ParallelPut::default, |streams| ParallelPut { streams })
}

fn invalid(py: Python<'_>) -> impl Fn(Error) -> PyErr + '_ {
    move |error| exception(py, &error)
}

async fn collected(
    client: Client,
    request: ReadRequest,
    options: FetchOptions,
    counter: Option<RowCounter>,
) -> Result<PyRows> {
    let plan = request.plan(&client).await?;
    let mut stream = client.fetch(plan, options)?;
    let schema = stream.schema.clone();
    let mut batches: Vec<RecordBatch> = Vec::new();
    while let Some(fetched) = stream.try_next().await? {
        // The bytes of a mapped batch are found by reading some of it.
        if let Some(counter) = &counter {
            counter.add(&fetched.batch);
        }
        batches.push(fetched.batch);
    }
    Ok(PyRows { schema, batches })
}

#[pymethods]
impl PyConnection {
    /// Connects. `settings`: JSON with addresses, TLS and login.
    #[staticmethod]
    #[pyo3(signature = (settings, *, timeout=None, done=None))]
    fn connect(py: Python<'_>, settings: &str, timeout: Option<f64>, done: Option<Py<PyAny>>) -> PyResult<Py<PyAny>> {
        let settings = client_settings(settings).map_err(invalid(py))?;
        let connecting = settings.clone().connect();
        perform(py, CallMode::new(py, timeout, done)?, connecting, move |py, client| {
            let current = Mutex::new((std::process::id(), client));
            Ok(Py::new(py, PyConnection { settings, current })?.into_any())
        })
    }

    /// The member that it uses: HOST:PORT.
    #[getter]
    fn address(&self) -> String {
        self.current.lock().1.address().to_string()
    }

    /// What came of the reads that nodes on this machine offered by files: endpoints, rows, and fallbacks by reason.
    #[getter]
    fn local_reads(&self) -> (u64, u64, BTreeMap<&'static str, u64>) {
        let counts = self.current.lock().1.local_reads();
        (counts.endpoints, counts.rows, counts.fallbacks)
    }

    /// Of a read: what its plan says, as JSON, and its schema.
    #[pyo3(signature = (command, *, timeout=None, done=None))]
    fn info(
        &self,
        py: Python<'_>,
        command: &str,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let (client, request) = (self.client(py)?, ReadRequest::parse(command).map_err(invalid(py))?);
        let work = async move {
            let plan = request.plan(&client).await?;
            let schema = parse_schema(&plan.schema)?;
            Ok::<_, Error>((description(&plan).to_string(), PySchema(schema)))
        };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, described| described.into_py_any(py))
    }

    /// All rows of a read.
    #[pyo3(signature = (command, *, streams=None, window_bytes=None, counter=None, timeout=None, done=None))]
    #[allow(clippy::too_many_arguments, reason = "keywords of Python")]
    fn get(
        &self,
        py: Python<'_>,
        command: &str,
        streams: Option<usize>,
        window_bytes: Option<usize>,
        counter: Option<Py<RowCounter>>,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let (client, request) = (self.client(py)?, ReadRequest::parse(command).map_err(invalid(py))?);
        let counter = counter.map(|counter| counter.get().clone());
        let work = collected(client, request, fetch_options(streams, window_bytes), counter);
        perform(py, CallMode::new(py, timeout, done)?, work, |py, rows| Ok(Py::new(py, rows)?.into_any()))
    }

    /// A read of a table or query, or of a partition, whose rows come while they are read: of `most_rows` after `skip_rows`.
    #[pyo3(signature = (
        command=None, *, partition=None, skip_rows=0, most_rows=None, ordered=true, batch_rows=None, streams=None, window_bytes=None,
        timeout=None, done=None
    ))]
    #[allow(clippy::too_many_arguments, reason = "keywords of Python")]
    fn scan(
        &self,
        py: Python<'_>,
        command: Option<&str>,
        partition: Option<&[u8]>,
        skip_rows: u64,
        most_rows: Option<u64>,
        ordered: bool,
        batch_rows: Option<usize>,
        streams: Option<usize>,
        window_bytes: Option<usize>,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let request = match (command, partition) {
            (Some(command), None) => ReadRequest::parse(command),
            (None, Some(partition)) => ReadRequest::of_partition(partition),
            _ => Err(Error::invalid("a scan is of a command or of a partition")),
        };
        let (client, request) = (self.client(py)?, request.map_err(invalid(py))?);
        let (options, range) = (fetch_options(streams, window_bytes), ScanRange { skip: skip_rows, most: most_rows });
        let work = async move {
            let plan = request.plan(&client).await?;
            PyScan::open(&client, plan, options, ordered, batch_rows, range)
        };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, scan| Ok(Py::new(py, scan)?.into_any()))
    }

    /// The endpoints of a read: the plan of each alone, as bytes, with its rows if they are known.
    #[pyo3(signature = (command, *, timeout=None, done=None))]
    fn partitions(
        &self,
        py: Python<'_>,
        command: &str,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let (client, request) = (self.client(py)?, ReadRequest::parse(command).map_err(invalid(py))?);
        let work = async move { Ok::<_, Error>(partitions(&request.plan(&client).await?)) };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, parts| {
            let parts: Vec<_> =
                parts.into_iter().map(|(plan, rows)| (PyBytes::new(py, &plan).unbind(), rows)).collect();
            parts.into_py_any(py)
        })
    }

    /// Executes a statement that changes tables. Returns how many rows it has written, if that is known.
    #[pyo3(signature = (sql, *, timeout=None, done=None))]
    fn execute(
        &self,
        py: Python<'_>,
        sql: String,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let client = self.client(py)?;
        let work = async move { client.execute_update(&sql).await };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, rows| rows.into_py_any(py))
    }

    /// The tables whose names begin with `prefix`, as JSON.
    #[pyo3(signature = (prefix, *, timeout=None, done=None))]
    fn tables(
        &self,
        py: Python<'_>,
        prefix: String,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let client = self.client(py)?;
        let work = async move {
            let tables = client.list(&prefix).await?;
            Ok::<_, Error>(Value::Array(tables.iter().map(description).collect()).to_string())
        };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, json| json.into_py_any(py))
    }

    /// Calls an action with a body of JSON. `repeatable`: it has no effect, or may take effect twice.
    #[pyo3(signature = (name, body, *, repeatable=false, timeout=None, done=None))]
    fn action(
        &self,
        py: Python<'_>,
        name: String,
        body: &str,
        repeatable: bool,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let body: Value = serde_json::from_str(body)
            .map_err(|e| exception(py, &Error::invalid(format!("the body of the action is not JSON: {e}"))))?;
        let client = self.client(py)?;
        let work = async move {
            let reply = match repeatable {
                true => client.action_any(&name, &body).await?,
                false => client.action(&name, &body).await?,
            };
            Ok::<_, Error>(reply.to_string())
        };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, json| json.into_py_any(py))
    }

    /// Puts the rows of an object with `__arrow_c_stream__` or `__arrow_c_array__`. Returns the outcome as JSON.
    #[pyo3(signature = (command, rows, *, streams=None, counter=None, timeout=None, done=None))]
    #[allow(clippy::too_many_arguments, reason = "keywords of Python")]
    fn put(
        &self,
        py: Python<'_>,
        command: &str,
        rows: &Bound<'_, PyAny>,
        streams: Option<usize>,
        counter: Option<Py<RowCounter>>,
        timeout: Option<f64>,
        done: Option<Py<PyAny>>,
    ) -> PyResult<Py<PyAny>> {
        let (name, options) = write_request(command).map_err(invalid(py))?;
        let (client, reader, counter) = (self.client(py)?, reader_of(rows)?, counter_of(counter));
        let work = async move {
            let schema = reader.schema();
            client.put_parallel(&name, &options, schema, batches(reader, counter), parallel(streams)).await
        };
        perform(py, CallMode::new(py, timeout, done)?, work, |py, outcome: PutOutcome| {
            serde_json::to_string(&outcome).unwrap_or_default().into_py_any(py)
        })
    }

    /// A write to which rows are added bit by bit.
    #[pyo3(signature = (command, *, streams=None, counter=None))]
    fn writer(
        &self,
        py: Python<'_>,
        command: &str,
        streams: Option<usize>,
        counter: Option<Py<RowCounter>>,
    ) -> PyResult<PyWriter> {
        let (name, options) = write_request(command).map_err(invalid(py))?;
        Ok(PyWriter::new(self.client(py)?, name, options, parallel(streams), counter_of(counter)))
    }
}
