//! A file that a test writes and reads back.

use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use volley_common::Result;

use super::encoder::{OutputOptions, TableEncoder};
use super::{Format, file_error, io_error};

/// A file that is there once it is complete.
pub struct TestFile {
    path: PathBuf,
    encoder: TableEncoder<Vec<u8>>,
}

/// Begins a file. `null`: the text for a null in CSV.
pub fn create(path: &Path, format: Format, schema: &SchemaRef, null: Option<&str>) -> Result<TestFile> {
    let options = OutputOptions { null: null.map(str::to_string), ..OutputOptions::default() };
    options.check(format)?;
    let encoder = TableEncoder::new(Vec::new(), format, schema, &options).map_err(|e| file_error(path, e))?;
    Ok(TestFile { path: path.to_path_buf(), encoder })
}

impl TestFile {
    pub fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encoder.write(batch).map_err(|e| file_error(&self.path, e))
    }

    pub fn finish(self) -> Result<()> {
        let bytes = self.encoder.finish().map_err(|e| file_error(&self.path, e))?;
        std::fs::write(&self.path, bytes).map_err(|e| io_error(&self.path, &e))
    }
}
