//! Parquet files.

use std::fs::File;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use indicatif::ProgressBar;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{BATCH_ROWS, Batches};

pub fn schema(file: File) -> Result<SchemaRef, ArrowError> {
    Ok(ParquetRecordBatchReaderBuilder::try_new(file)?.schema().clone())
}

/// The bar advances by the share of rows, because pages are not read in the order of their bytes.
pub fn open(file: File, bar: ProgressBar) -> Result<Batches, ArrowError> {
    let bytes = file.metadata()?.len();
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?;
    let rows = builder.metadata().file_metadata().num_rows().max(1) as u64;
    let reader = builder.with_batch_size(BATCH_ROWS).build()?;
    Ok(Box::new(reader.inspect(move |batch| {
        if let Ok(batch) = batch {
            bar.inc(bytes * batch.num_rows() as u64 / rows);
        }
    })))
}
