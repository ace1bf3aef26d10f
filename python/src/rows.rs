//! Schemas, batches and collected rows as objects of Python.

use arrow::array::{RecordBatch, RecordBatchIterator};
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches_with_schema;
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use volley_common::ipc::size::data_bytes;

use crate::capsule::{arrow_exception, batch_capsules, schema_capsule, stream_capsule};

/// The columns of a table.
#[pyclass(frozen, name = "Schema", module = "volley._volley")]
pub struct PySchema(pub SchemaRef);

#[pymethods]
impl PySchema {
    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        schema_capsule(py, &self.0)
    }

    /// Names, types as text, and whether there may be nulls.
    #[getter]
    fn fields(&self) -> Vec<(String, String, bool)> {
        let fields = self.0.fields().iter();
        fields.map(|field| (field.name().clone(), field.data_type().to_string(), field.is_nullable())).collect()
    }

    fn __eq__(&self, other: &PySchema) -> bool {
        self.0 == other.0
    }
}

/// A batch of rows.
#[pyclass(frozen, name = "Batch", module = "volley._volley")]
pub struct PyBatch(pub RecordBatch);

#[pymethods]
impl PyBatch {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_array__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
        // Casts are the reader's: the interface allows that.
        drop(requested_schema);
        batch_capsules(py, &self.0)
    }

    fn __arrow_c_schema__<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyCapsule>> {
        schema_capsule(py, &self.0.schema())
    }

    #[getter]
    fn num_rows(&self) -> usize {
        self.0.num_rows()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        data_bytes(&self.0)
    }
}

/// All rows of a read, in memory.
#[pyclass(frozen, name = "Rows", module = "volley._volley")]
pub struct PyRows {
    /// The schema of every batch.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Vec<RecordBatch>,
}

impl PyRows {
    fn count(&self) -> usize {
        self.batches.iter().map(RecordBatch::num_rows).sum()
    }
}

#[pymethods]
impl PyRows {
    #[pyo3(signature = (requested_schema=None))]
    fn __arrow_c_stream__<'py>(
        &self,
        py: Python<'py>,
        requested_schema: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyCapsule>> {
        drop(requested_schema);
        let batches = self.batches.clone().into_iter().map(Ok);
        stream_capsule(py, Box::new(RecordBatchIterator::new(batches, self.schema.clone())))
    }

    #[getter]
    fn schema(&self) -> PySchema {
        PySchema(self.schema.clone())
    }

    #[getter]
    fn num_rows(&self) -> usize {
        self.count()
    }

    #[getter]
    fn nbytes(&self) -> usize {
        self.batches.iter().map(data_bytes).sum()
    }

    /// The batches, as they came.
    #[getter]
    fn batches(&self) -> Vec<PyBatch> {
        self.batches.iter().cloned().map(PyBatch).collect()
    }

    /// The first rows as a table of text.
    fn preview(&self, rows: usize) -> PyResult<String> {
        let mut left = rows;
        let mut shown = Vec::new();
        for batch in &self.batches {
            let taken = left.min(batch.num_rows());
            shown.push(batch.slice(0, taken));
            left -= taken;
            if left == 0 {
                break;
            }
        }
        let text = pretty_format_batches_with_schema(self.schema.clone(), &shown);
        Ok(text.map_err(|e| arrow_exception(&e))?.to_string())
    }
}
