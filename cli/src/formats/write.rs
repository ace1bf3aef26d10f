//! Writes a table's batches as a file of one format.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use volley_common::Result;
use volley_formats::{FileCompression, Format, OutputOptions, TableEncoder, file_error, io_error};

use super::output_file::OutputFile;
use super::target::OutputTarget;
use crate::threads::BatchWriter;

/// A file that is being written.
struct TableFileWriter {
    path: PathBuf,
    target: OutputTarget,
    encoder: TableEncoder<BufWriter<OutputFile>>,
}

/// Starts a file of the format, compressed if its extension is `.gz` or `.zst`. Nothing appears at `path` until
/// [`BatchWriter::finish`], unless it is a pipe, a device or the standard output.
///
/// # Errors
/// The path is not writable, or the format does not support the schema. All name the file.
pub fn create(
    path: &Path,
    format: Format,
    schema: &SchemaRef,
    options: &OutputOptions,
) -> Result<Box<dyn BatchWriter>> {
    options.check(format)?;
    let (target, file) = OutputTarget::open(path)?;
    let file = OutputFile::new(file, FileCompression::of(path)).map_err(|e| io_error(path, &e))?;
    let file = BufWriter::with_capacity(1 << 20, file);
    let encoder = TableEncoder::new(file, format, schema, options).map_err(|e| file_error(path, e))?;
    Ok(Box::new(TableFileWriter { path: path.to_path_buf(), target, encoder }))
}

impl BatchWriter for TableFileWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encoder.write(batch).map_err(|e| {
            self.target.exit_if_closed(&e);
            file_error(&self.path, e)
        })
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let TableFileWriter { path, target, encoder } = *self;
        let file = encoder.finish().and_then(|file| {
            let file = file.into_inner().map_err(|e| ArrowError::from(e.into_error()))?;
            file.finish().map_err(ArrowError::from)
        });
        let file = file.map_err(|e| {
            target.exit_if_closed(&e);
            file_error(&path, e)
        })?;
        target.finish(file)
    }
}
