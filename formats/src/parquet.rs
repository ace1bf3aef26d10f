//! Parquet files.

use std::fs::File;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, IntervalUnit, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use parquet::arrow::ARROW_SCHEMA_META_KEY;
use parquet::arrow::arrow_reader::{
    ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder,
};
use parquet::file::metadata::RowGroupMetaData;
use volley_common::ipc::schema::parse_schema;

use super::int96::Int96Needs;
use super::interval::interval_units;
use super::leaves::{map_leaves, with_type};
use super::progress::ReadProgress;
use super::{BATCH_ROWS, Batches};

/// A batch has about this many decoded bytes, if its row group is even.
const BATCH_BYTES: u64 = 32 << 20;
/// A reader whose text does not fit into one array begins again with this fraction of the rows.
const FEWER_ROWS: usize = 8;

/// `int96`: what the INT96 columns of all files need that are put together; without it, those of this file count.
pub fn schema(file: File, int96: Option<&Int96Needs>) -> Result<SchemaRef, ArrowError> {
    Ok(metadata(&file, int96)?.schema().clone())
}

/// The bar advances by the share of rows, because pages are not read in the order of their bytes.
pub fn open(file: File, int96: Option<&Int96Needs>, bar: ReadProgress) -> Result<Batches, ArrowError> {
    let bytes = file.metadata()?.len();
    let metadata = metadata(&file, int96)?;
    let rows = metadata.metadata().file_metadata().num_rows().max(1) as u64;
    let batches = RowGroupBatches { file, metadata, group: 0, done: 0, batch_rows: 0, reader: None };
    Ok(Box::new(batches.inspect(move |batch| {
        if let Ok(batch) = batch {
            bar.inc(bytes * batch.num_rows() as u64 / rows);
        }
    })))
}

/// The file's metadata, with Arrow types that hold every value: INT96 times and intervals in the unit that fits, and timestamps
/// in the zone that the embedded Arrow schema has, although their units differ.
fn metadata(file: &File, int96: Option<&Int96Needs>) -> Result<ArrowReaderMetadata, ArrowError> {
    let loaded = ArrowReaderMetadata::load(file, ArrowReaderOptions::new())?;
    let columns = loaded.metadata().file_metadata().schema_descr().columns();
    let has_int96 = columns.iter().any(|column| column.physical_type() == parquet::basic::Type::INT96);
    let units = match int96 {
        _ if !has_int96 => Vec::new(),
        Some(shared) => shared.units(columns)?,
        None => Int96Needs::of(file)?.units(columns)?,
    };
    let embedded = embedded_schema(&loaded);
    let intervals = interval_units(file, columns, embedded.is_some())?;
    let fields = loaded.schema().fields();
    let mut leaves = 0_usize..;
    let exact = fields.iter().enumerate().map(|(index, field)| {
        let data_type = map_leaves(field.data_type(), &mut |data_type| {
            let leaf = leaves.next().unwrap_or(usize::MAX);
            let interval = intervals.get(leaf).copied().flatten();
            exact_type(data_type, units.get(leaf).copied().flatten(), interval)
        });
        let original = embedded.as_ref().and_then(|schema| schema.fields().get(index));
        let zoned = original.map(|original| with_zones(&data_type, original.data_type()));
        with_type(field, zoned.unwrap_or(data_type))
    });
    let exact: Vec<FieldRef> = exact.collect();
    if fields.iter().eq(exact.iter()) {
        return Ok(loaded);
    }
    let exact = Arc::new(Schema::new_with_metadata(exact, loaded.schema().metadata().clone()));
    let options = ArrowReaderOptions::new().with_schema(exact);
    Ok(ArrowReaderMetadata::try_new(loaded.metadata().clone(), options)?)
}

/// The type of a leaf in the unit that its values need.
fn exact_type(data_type: &DataType, time: Option<TimeUnit>, interval: Option<IntervalUnit>) -> DataType {
    match (data_type, time, interval) {
        (DataType::Timestamp(_, zone), Some(unit), _) => DataType::Timestamp(unit, zone.clone()),
        (DataType::Interval(_), _, Some(unit)) => DataType::Interval(unit),
        (other, _, _) => other.clone(),
    }
}

/// The schema that an Arrow library wrote beside Parquet's; `None` if there is none, or it is not readable.
fn embedded_schema(metadata: &ArrowReaderMetadata) -> Option<SchemaRef> {
    let entries = metadata.metadata().file_metadata().key_value_metadata()?;
    let encoded = entries.iter().find(|entry| entry.key == ARROW_SCHEMA_META_KEY)?.value.as_ref()?;
    parse_schema(&BASE64_STANDARD.decode(encoded).ok()?).ok()
}

/// The type as read, with the zones of the original. Parquet knows only whether a timestamp is in UTC.
fn with_zones(read: &DataType, original: &DataType) -> DataType {
    use DataType::*;
    let child = |read: &FieldRef, original: &Field| with_type(read, with_zones(read.data_type(), original.data_type()));
    match (read, original) {
        (Timestamp(unit, Some(_)), Timestamp(_, Some(zone))) => Timestamp(*unit, Some(zone.clone())),
        (read, Dictionary(_, values)) => with_zones(read, values),
        (read, RunEndEncoded(_, values)) => with_zones(read, values.data_type()),
        (List(field), List(from) | LargeList(from) | FixedSizeList(from, _) | ListView(from) | LargeListView(from)) => {
            List(child(field, from))
        }
        (LargeList(field), LargeList(from)) => LargeList(child(field, from)),
        (ListView(field), ListView(from)) => ListView(child(field, from)),
        (LargeListView(field), LargeListView(from)) => LargeListView(child(field, from)),
        (FixedSizeList(field, n), FixedSizeList(from, _)) => FixedSizeList(child(field, from), *n),
        (Map(field, sorted), Map(from, _)) => Map(child(field, from), *sorted),
        (Struct(fields), Struct(from)) if fields.len() == from.len() => {
            Struct(fields.iter().zip(from).map(|(field, from)| child(field, from)).collect())
        }
        _ => read.clone(),
    }
}

/// The batches of one row group after the other, each group with its own number of rows in a batch.
struct RowGroupBatches {
    file: File,
    metadata: ArrowReaderMetadata,
    group: usize,
    /// Rows of the group that were returned.
    done: usize,
    batch_rows: usize,
    reader: Option<ParquetRecordBatchReader>,
}

impl RowGroupBatches {
    fn reader(&self) -> Result<ParquetRecordBatchReader, ArrowError> {
        let builder = ParquetRecordBatchReaderBuilder::new_with_metadata(self.file.try_clone()?, self.metadata.clone());
        let builder = builder.with_row_groups(vec![self.group]).with_offset(self.done);
        Ok(builder.with_batch_size(self.batch_rows).build()?)
    }

    fn try_next(&mut self) -> Result<Option<RecordBatch>, ArrowError> {
        loop {
            let mut reader = match self.reader.take() {
                Some(reader) => reader,
                None if self.group == self.metadata.metadata().num_row_groups() => return Ok(None),
                None => {
                    self.done = 0;
                    self.batch_rows = batch_rows(self.metadata.metadata().row_group(self.group));
                    self.reader()?
                }
            };
            match reader.next() {
                Some(Ok(batch)) => {
                    self.done += batch.num_rows();
                    self.reader = Some(reader);
                    return Ok(Some(batch));
                }
                // The metadata does not always tell how large texts become that are stored once.
                Some(Err(e)) if self.batch_rows > 1 && e.to_string().contains("index overflow") => {
                    self.batch_rows = (self.batch_rows / FEWER_ROWS).max(1);
                    self.reader = Some(self.reader()?);
                }
                Some(Err(e)) => return Err(e),
                None => self.group += 1,
            }
        }
    }
}

impl Iterator for RowGroupBatches {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.try_next().transpose()
    }
}

/// Rows of a batch, by the group's decoded size as far as its metadata tells.
fn batch_rows(group: &RowGroupMetaData) -> usize {
    let columns = group.columns().iter().map(|column| {
        let text = column.unencoded_byte_array_data_bytes().unwrap_or(0);
        // Encodings can make values arbitrarily small: count at least 8 bytes for each.
        let values = column.num_values().saturating_mul(8);
        column.uncompressed_size().max(text).max(values).max(0) as u64
    });
    let bytes = columns.fold(0, u64::saturating_add).max(1);
    let rows = u128::from(BATCH_BYTES) * u128::from(group.num_rows().max(1) as u64) / u128::from(bytes);
    usize::try_from(rows).unwrap_or(BATCH_ROWS).clamp(1, BATCH_ROWS)
}

#[cfg(test)]
mod tests;
