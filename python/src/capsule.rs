//! Capsules of Arrow's C data interface: how rows go to and from Python, without copies, and calls by those who read them.
#![allow(unsafe_code, reason = "the pointers in capsules are only as good as who made them")]

use arrow::array::{
    Array, ArrayData, RecordBatch, RecordBatchIterator, RecordBatchOptions, RecordBatchReader, StructArray,
};
use arrow::datatypes::{DataType, Schema};
use arrow::error::ArrowError;
use arrow::ffi::{FFI_ArrowArray, FFI_ArrowSchema, from_ffi};
use arrow::ffi_stream::{ArrowArrayStreamReader, FFI_ArrowArrayStream};
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::types::PyCapsule;
use pyo3::{ffi, intern};

/// Rows from Python.
pub type CapsuleReader = Box<dyn RecordBatchReader + Send>;

/// A capsule with a stream of batches.
pub fn stream_capsule<'py>(py: Python<'py>, reader: CapsuleReader) -> PyResult<Bound<'py, PyCapsule>> {
    PyCapsule::new_with_value(py, FFI_ArrowArrayStream::new(reader), c"arrow_array_stream")
}

/// A capsule with a schema.
///
/// # Errors
/// ValueError: a type that the interface does not have.
pub fn schema_capsule<'py>(py: Python<'py>, schema: &Schema) -> PyResult<Bound<'py, PyCapsule>> {
    let exported = FFI_ArrowSchema::try_from(schema).map_err(|e| arrow_exception(&e))?;
    PyCapsule::new_with_value(py, exported, c"arrow_schema")
}

/// Capsules with the schema and the rows of a batch.
///
/// # Errors
/// As [`schema_capsule`].
pub fn batch_capsules<'py>(
    py: Python<'py>,
    batch: &RecordBatch,
) -> PyResult<(Bound<'py, PyCapsule>, Bound<'py, PyCapsule>)> {
    let rows = StructArray::from(batch.clone()).to_data();
    let rows = PyCapsule::new_with_value(py, FFI_ArrowArray::new(&rows), c"arrow_array")?;
    Ok((schema_capsule(py, &batch.schema())?, rows))
}

/// The rows of an object with `__arrow_c_stream__` or `__arrow_c_array__`.
///
/// # Errors
/// TypeError: it has neither. ValueError: rows that cannot be read, or that have no columns. What the object raises.
pub fn reader_of(rows: &Bound<'_, PyAny>) -> PyResult<CapsuleReader> {
    let py = rows.py();
    if let Some(method) = rows.getattr_opt(intern!(py, "__arrow_c_stream__"))? {
        let capsule = method.call0()?.cast_into::<PyCapsule>()?;
        let pointer = capsule.pointer_checked(Some(c"arrow_array_stream"))?.cast::<FFI_ArrowArrayStream>();
        // SAFETY: a capsule of this name has a valid stream, by the interface. It is moved out, and the capsule keeps an empty one.
        let reader = unsafe { ArrowArrayStreamReader::from_raw(pointer.as_ptr()) };
        return Ok(Box::new(reader.map_err(|e| arrow_exception(&e))?));
    }
    match rows.getattr_opt(intern!(py, "__arrow_c_array__"))? {
        Some(method) => {
            let batch = batch_of(&method.call0()?)?;
            let schema = batch.schema();
            Ok(Box::new(RecordBatchIterator::new([Ok(batch)], schema)))
        }
        None => Err(PyTypeError::new_err(format!(
            "{} has no rows in Arrow's format: neither __arrow_c_stream__ nor __arrow_c_array__",
            rows.get_type().fully_qualified_name()?
        ))),
    }
}

/// The batch of a pair of capsules.
fn batch_of(capsules: &Bound<'_, PyAny>) -> PyResult<RecordBatch> {
    let (schema, rows): (Bound<'_, PyCapsule>, Bound<'_, PyCapsule>) = capsules.extract()?;
    let schema = schema.pointer_checked(Some(c"arrow_schema"))?.cast::<FFI_ArrowSchema>();
    let rows = rows.pointer_checked(Some(c"arrow_array"))?.cast::<FFI_ArrowArray>();
    // SAFETY: capsules of these names have a valid schema and array of that schema, by the interface. The array is moved out, the
    // schema is read while its capsule is held.
    let (data, schema): (ArrayData, Schema) = unsafe {
        let rows = FFI_ArrowArray::from_raw(rows.as_ptr());
        if rows.is_released() {
            return Err(PyValueError::new_err("the rows of the array were taken before: give it again"));
        }
        let imported = from_ffi(rows, schema.as_ref());
        let schema = Schema::try_from(schema.as_ref());
        (imported.map_err(|e| arrow_exception(&e))?, schema.map_err(|e| arrow_exception(&e))?)
    };
    if !matches!(data.data_type(), DataType::Struct(_)) {
        return Err(PyValueError::new_err(format!(
            "the array has the type {}, not columns: give a table, or an array of structs",
            data.data_type()
        )));
    }
    if data.null_count() > 0 {
        return Err(PyValueError::new_err("an array of structs with nulls has no rows for them: fill them first"));
    }
    let options = RecordBatchOptions::new().with_row_count(Some(data.len()));
    let (_, columns, _) = StructArray::from(data).into_parts();
    RecordBatch::try_new_with_options(schema.into(), columns, &options).map_err(|e| arrow_exception(&e))
}

/// Runs `f` with the lock of the interpreter, on a thread on which another library called: it may or may not have the lock. None:
/// there is no interpreter any more.
///
/// pyo3 knows only of locks that it took and released itself. A library that was called from here, such as one that is asked for a
/// stream of rows, may have released the lock before it called back.
pub fn attached<T>(f: impl for<'py> FnOnce(Python<'py>) -> T) -> Option<T> {
    // SAFETY: it may be called at any time.
    if unsafe { ffi::Py_IsInitialized() } == 0 {
        return None;
    }
    // SAFETY: there is an interpreter. The call below ends what this one begins, on the same thread.
    let state = unsafe { ffi::PyGILState_Ensure() };
    // Now pyo3 is right to assume that the thread has the lock.
    let outcome = Python::try_attach(f);
    // SAFETY: as above, and `f` leaves the lock as it was.
    unsafe { ffi::PyGILState_Release(state) };
    outcome
}

/// An error of Arrow.
pub fn arrow_exception(error: &ArrowError) -> PyErr {
    PyValueError::new_err(error.to_string())
}
