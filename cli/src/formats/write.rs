//! Writes a table's batches as a file of one format.

use std::io::BufWriter;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::json;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use volley_common::{Error, Result};

use super::compression::{FileCompression, OutputFile};
use super::csv_options::CsvOptions;
use super::delimited::DelimitedWriter;
use super::exact::ExactColumns;
use super::target::OutputTarget;
use super::{Format, file_error, io_error};
use crate::threads::BatchWriter;

/// A row group is closed at this many encoded bytes, to bound the memory for wide tables.
const ROW_GROUP_BYTES: usize = 128 << 20;

type Buffered = BufWriter<OutputFile>;

/// What a file depends on, besides its format.
#[derive(Clone, Debug, Default)]
pub struct OutputOptions {
    /// The text for a null in CSV and TSV.
    pub null: Option<String>,
    /// How CSV and TSV are written.
    pub csv: CsvOptions,
}

/// Writes one format.
trait FormatEncoder: Send {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError>;
    /// Writes the end of the format and returns the flushed file.
    fn finish(self: Box<Self>) -> Result<OutputFile, ArrowError>;
}

/// A file that is being written.
struct TableFileWriter {
    path: PathBuf,
    target: OutputTarget,
    columns: ExactColumns,
    encoder: Box<dyn FormatEncoder>,
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
    check_options(format, options)?;
    let columns = ExactColumns::new(format, schema).map_err(|e| file_error(path, e))?;
    let (target, file) = OutputTarget::open(path)?;
    let file = OutputFile::new(file, FileCompression::of(path)).map_err(|e| io_error(path, &e))?;
    let encoder = encoder(file, format, columns.schema(), options).map_err(|e| file_error(path, e))?;
    Ok(Box::new(TableFileWriter { path: path.to_path_buf(), target, columns, encoder }))
}

/// Refuses options that the format does not have.
fn check_options(format: Format, options: &OutputOptions) -> Result<()> {
    if matches!(format, Format::Csv | Format::Tsv) {
        return options.csv.check(format, None).map_err(Error::invalid);
    }
    if options.null.is_some() {
        return Err(Error::invalid("--null is for CSV and TSV: the other formats have nulls of their own"));
    }
    match options.csv.given() {
        Some(option) => Err(Error::invalid(format!("{option} is for CSV and TSV"))),
        None => Ok(()),
    }
}

fn encoder(
    file: OutputFile,
    format: Format,
    schema: &SchemaRef,
    options: &OutputOptions,
) -> Result<Box<dyn FormatEncoder>, ArrowError> {
    let file = BufWriter::with_capacity(1 << 20, file);
    Ok(match format {
        Format::Parquet => Box::new(parquet_writer(file, schema)?),
        Format::Csv | Format::Tsv => {
            let (csv, null) = (&options.csv, options.null.as_deref().unwrap_or_default());
            Box::new(DelimitedWriter::new(file, csv.delimiter(format), csv, null, schema)?)
        }
        Format::Arrow => Box::new(FileWriter::try_new(file, schema)?),
        Format::Arrows => Box::new(StreamWriter::try_new(file, schema)?),
        Format::Jsonl => Box::new(json_writer(file)),
    })
}

fn parquet_writer(file: Buffered, schema: &SchemaRef) -> Result<ArrowWriter<Buffered>, ArrowError> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    Ok(ArrowWriter::try_new(file, schema.clone(), Some(properties))?)
}

fn json_writer<W: std::io::Write>(out: W) -> json::LineDelimitedWriter<W> {
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

impl BatchWriter for TableFileWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        let mut slices = self.columns.slices(batch).into_iter();
        let written = slices.try_for_each(|slice| self.encoder.write(&self.columns.convert(&slice)?));
        written.map_err(|e| {
            self.target.exit_if_closed(&e);
            file_error(&self.path, e)
        })
    }

    fn finish(self: Box<Self>) -> Result<u64> {
        let TableFileWriter { path, target, encoder, .. } = *self;
        let file = encoder.finish().and_then(|file| file.finish().map_err(ArrowError::from)).map_err(|e| {
            target.exit_if_closed(&e);
            file_error(&path, e)
        })?;
        target.finish(file)
    }
}

fn unbuffered(file: Buffered) -> Result<OutputFile, ArrowError> {
    Ok(file.into_inner().map_err(|e| e.into_error())?)
}

impl FormatEncoder for ArrowWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        ArrowWriter::write(self, batch)?;
        if self.in_progress_size() > ROW_GROUP_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    fn finish(self: Box<Self>) -> Result<OutputFile, ArrowError> {
        unbuffered(self.into_inner()?)
    }
}

impl FormatEncoder for DelimitedWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        DelimitedWriter::write(self, batch)
    }

    fn finish(self: Box<Self>) -> Result<OutputFile, ArrowError> {
        unbuffered(self.into_inner())
    }
}

impl FormatEncoder for json::LineDelimitedWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        json::Writer::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<OutputFile, ArrowError> {
        json::Writer::finish(&mut self)?;
        unbuffered(self.into_inner())
    }
}

impl FormatEncoder for FileWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        FileWriter::write(self, batch).map_err(|error| match error {
            ArrowError::InvalidArgumentError(text) if text.contains("Dictionary replacement") => ArrowError::IpcError(
                "the table's dictionary columns have more than one dictionary each, and an Arrow IPC file can have only one a column: use .arrows or .parquet".into(),
            ),
            other => other,
        })
    }

    fn finish(mut self: Box<Self>) -> Result<OutputFile, ArrowError> {
        FileWriter::finish(&mut self)?;
        unbuffered(self.into_inner()?)
    }
}

impl FormatEncoder for StreamWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        StreamWriter::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<OutputFile, ArrowError> {
        StreamWriter::finish(&mut self)?;
        unbuffered(self.into_inner()?)
    }
}
