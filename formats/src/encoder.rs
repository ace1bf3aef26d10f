//! Writes a table's batches in one format.

use std::io::Write;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::json;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use volley_common::{Error, Result};

use super::Format;
use super::csv_options::CsvOptions;
use super::delimited::DelimitedWriter;
use super::exact::ExactColumns;

/// A row group is closed at this many encoded bytes, to bound the memory for wide tables.
const ROW_GROUP_BYTES: usize = 128 << 20;

/// What an output depends on, besides its format.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// The text for a null in CSV and TSV.
    pub null: Option<String>,
    /// How CSV and TSV are written.
    pub csv: CsvOptions,
    /// Encoded bytes at which a row group of Parquet ends, which is also the memory that a writer takes; 128 MiB without it.
    pub row_group_bytes: Option<usize>,
}

impl OutputOptions {
    /// Refuses options that the format does not have.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: names the option.
    pub fn check(&self, format: Format) -> Result<()> {
        if matches!(format, Format::Csv | Format::Tsv) {
            return self.csv.check(format, None).map_err(Error::invalid);
        }
        if self.null.is_some() {
            return Err(Error::invalid("--null is for CSV and TSV: the other formats have nulls of their own"));
        }
        match self.csv.given() {
            Some(option) => Err(Error::invalid(format!("{option} is for CSV and TSV"))),
            None => Ok(()),
        }
    }
}

/// Writes one format to `W`.
trait FormatEncoder<W>: Send {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError>;
    /// Writes the end of the format and returns the output, not flushed.
    fn finish(self: Box<Self>) -> Result<W, ArrowError>;
}

/// Writes a table's batches in one format: no value is changed. Memory is bounded by a slice of a batch, and for Parquet by a row
/// group.
pub struct TableEncoder<W> {
    columns: ExactColumns,
    encoder: Box<dyn FormatEncoder<W>>,
}

impl<W: Write + Send + 'static> TableEncoder<W> {
    /// Begins the output.
    ///
    /// # Errors
    /// The output's, or the format does not support the schema: names the column.
    pub fn new(out: W, format: Format, schema: &SchemaRef, options: &OutputOptions) -> Result<Self, ArrowError> {
        let columns = ExactColumns::new(format, schema)?;
        let schema = columns.schema();
        let encoder: Box<dyn FormatEncoder<W>> = match format {
            Format::Parquet => {
                let group_bytes = options.row_group_bytes.unwrap_or(ROW_GROUP_BYTES);
                Box::new(ParquetEncoder { writer: parquet_writer(out, schema)?, group_bytes })
            }
            Format::Csv | Format::Tsv => {
                let (csv, null) = (&options.csv, options.null.as_deref().unwrap_or_default());
                Box::new(DelimitedWriter::new(out, csv.delimiter(format), csv, null, schema)?)
            }
            Format::Arrow => Box::new(FileWriter::try_new(out, schema)?),
            Format::Arrows => Box::new(StreamWriter::try_new(out, schema)?),
            Format::Jsonl => Box::new(json_writer(out)),
        };
        Ok(TableEncoder { columns, encoder })
    }

    /// Writes rows.
    ///
    /// # Errors
    /// The output's, or a value that the format cannot hold: names the column.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let mut slices = self.columns.slices(batch).into_iter();
        slices.try_for_each(|slice| self.encoder.write(&self.columns.convert(&slice)?))
    }

    /// Writes the end, and returns the output, not flushed. Dropped before, it stays without its end.
    ///
    /// # Errors
    /// The output's.
    pub fn finish(self) -> Result<W, ArrowError> {
        self.encoder.finish()
    }
}

fn parquet_writer<W: Write + Send>(out: W, schema: &SchemaRef) -> Result<ArrowWriter<W>, ArrowError> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    Ok(ArrowWriter::try_new(out, schema.clone(), Some(properties))?)
}

fn json_writer<W: Write>(out: W) -> json::LineDelimitedWriter<W> {
    json::WriterBuilder::new().with_explicit_nulls(true).build(out)
}

/// Rows as JSON lines.
///
/// # Errors
/// A column or a value that JSON cannot hold, by name.
pub fn json_lines(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<String, ArrowError> {
    let columns = ExactColumns::new(Format::Jsonl, schema)?;
    let mut writer = json_writer(Vec::new());
    for slice in batches.iter().flat_map(|batch| columns.slices(batch)) {
        writer.write(&columns.convert(&slice)?)?;
    }
    writer.finish()?;
    String::from_utf8(writer.into_inner()).map_err(|e| ArrowError::JsonError(e.to_string()))
}

/// Parquet with row groups of bounded bytes.
struct ParquetEncoder<W: Write> {
    writer: ArrowWriter<W>,
    group_bytes: usize,
}

impl<W: Write + Send> FormatEncoder<W> for ParquetEncoder<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        self.writer.write(batch)?;
        if self.writer.in_progress_size() > self.group_bytes {
            self.writer.flush()?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<W, ArrowError> {
        Ok(self.writer.into_inner()?)
    }
}

impl<W: Write + Send> FormatEncoder<W> for DelimitedWriter<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        DelimitedWriter::write(self, batch)
    }

    fn finish(self: Box<Self>) -> Result<W, ArrowError> {
        Ok(self.into_inner())
    }
}

impl<W: Write + Send> FormatEncoder<W> for json::LineDelimitedWriter<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        json::Writer::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<W, ArrowError> {
        json::Writer::finish(&mut self)?;
        Ok(self.into_inner())
    }
}

impl<W: Write + Send> FormatEncoder<W> for FileWriter<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        FileWriter::write(self, batch).map_err(|error| match error {
            ArrowError::InvalidArgumentError(text) if text.contains("Dictionary replacement") => ArrowError::IpcError(
                "the table's dictionary columns have more than one dictionary each, and an Arrow IPC file can have only one a column: use .arrows or .parquet".into(),
            ),
            other => other,
        })
    }

    fn finish(mut self: Box<Self>) -> Result<W, ArrowError> {
        FileWriter::finish(&mut self)?;
        self.into_inner()
    }
}

impl<W: Write + Send> FormatEncoder<W> for StreamWriter<W> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        StreamWriter::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<W, ArrowError> {
        StreamWriter::finish(&mut self)?;
        self.into_inner()
    }
}
