//! The native part of the Python package `volley`, which is Python in `python/volley/` on top of it.
//!
//! Calls wait without the lock of the interpreter, and end at once on Ctrl-C; each can also run beside its caller and call a
//! function when it is done, which `volley.aio` does. Rows go to and from Python by the C data interface of Arrow, in capsules: no
//! Arrow library for Python is needed.
//!
//! | module | what it holds |
//! |---|---|
//! | `connection` | a connection to a cluster: reads, writes, queries, actions |
//! | `requests` | what Python asks for, parsed |
//! | `rows` | schemas, batches and collected rows as objects of Python |
//! | `scan` | rows that are fetched while they are read |
//! | `batch_size` | cuts and joins batches to a number of rows |
//! | `source` | rows of an object of Python, read by a thread |
//! | `writer` | a write to which rows are added bit by bit |
//! | `capsule` | capsules of the C data interface |
//! | `calls` | waits for a call, or runs it beside its caller |
//! | `runtime` | the threads of the process |
//! | `errors` | errors as exceptions |

mod batch_size;
mod calls;
mod capsule;
mod connection;
mod errors;
mod requests;
mod rows;
mod runtime;
mod scan;
mod source;
mod writer;

use pyo3::prelude::*;

use calls::{PendingCall, end_callbacks};
use connection::PyConnection;
use rows::{PyBatch, PyRows, PySchema};
use scan::PyScan;
use source::RowCounter;
use writer::PyWriter;

#[pymodule]
#[pyo3(name = "_volley")]
fn native_module(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("__version__", env!("CARGO_PKG_VERSION"))?;
    module.add_function(wrap_pyfunction!(end_callbacks, module)?)?;
    module.add_class::<PendingCall>()?;
    module.add_class::<PyBatch>()?;
    module.add_class::<PyConnection>()?;
    module.add_class::<PyRows>()?;
    module.add_class::<PyScan>()?;
    module.add_class::<PySchema>()?;
    module.add_class::<PyWriter>()?;
    module.add_class::<RowCounter>()
}
