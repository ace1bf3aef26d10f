//! Writes a file as a temporary one in the same folder, which is renamed once everything is on disk.

use std::fs::{File, Permissions};
use std::io::BufWriter;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use arrow::csv;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::writer::{FileWriter, StreamWriter};
use arrow::json;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use tempfile::NamedTempFile;
use volley_common::Result;

use super::{Format, file_error, io_error};
use crate::threads::BatchWriter;

/// A row group is closed at this many encoded bytes, to bound the memory for wide tables.
const ROW_GROUP_BYTES: usize = 128 << 20;

type Buffered = BufWriter<File>;

/// Writes one format.
trait FormatEncoder: Send {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError>;
    /// Writes the end of the format and returns the flushed file.
    fn finish(self: Box<Self>) -> Result<File, ArrowError>;
}

/// A file that is being written.
struct TempFileWriter {
    path: PathBuf,
    temp: NamedTempFile,
    encoder: Box<dyn FormatEncoder>,
}

/// Starts a file of the format. Nothing appears at `path` until [`BatchWriter::finish`].
///
/// # Errors
/// The folder is not writable, or the format does not support the schema. All name the file.
pub fn create(path: &Path, format: Format, schema: &SchemaRef) -> Result<Box<dyn BatchWriter>> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    if path.is_dir() {
        return Err(volley_common::Error::invalid(format!("{} is a folder: name a file", path.display())));
    }
    if !folder.is_dir() {
        return Err(volley_common::Error::not_found(format!(
            "{}: there is no folder {}",
            path.display(),
            folder.display()
        )));
    }
    let temp = tempfile::Builder::new()
        .prefix(".volley-")
        .suffix(".tmp")
        // The umask applies, as for any new file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|e| io_error(path, &e))?;
    let file = temp.as_file().try_clone().map_err(|e| io_error(path, &e))?;
    let encoder = encoder(file, format, schema).map_err(|e| file_error(path, e))?;
    Ok(Box::new(TempFileWriter { path: path.to_path_buf(), temp, encoder }))
}

fn encoder(file: File, format: Format, schema: &SchemaRef) -> Result<Box<dyn FormatEncoder>, ArrowError> {
    let file = BufWriter::with_capacity(1 << 20, file);
    Ok(match format {
        Format::Parquet => Box::new(parquet_writer(file, schema)?),
        Format::Csv => Box::new(csv_writer(file, b',', schema)?),
        Format::Tsv => Box::new(csv_writer(file, b'\t', schema)?),
        Format::Arrow => Box::new(FileWriter::try_new(file, schema)?),
        Format::Arrows => Box::new(StreamWriter::try_new(file, schema)?),
        Format::Jsonl => {
            Box::new(json::WriterBuilder::new().with_explicit_nulls(true).build::<_, json::writer::LineDelimited>(file))
        }
    })
}

fn parquet_writer(file: Buffered, schema: &SchemaRef) -> Result<ArrowWriter<Buffered>, ArrowError> {
    let properties = WriterProperties::builder().set_compression(Compression::ZSTD(ZstdLevel::default())).build();
    Ok(ArrowWriter::try_new(file, schema.clone(), Some(properties))?)
}

/// Writes the header immediately, so that a table without rows keeps its columns.
fn csv_writer(file: Buffered, delimiter: u8, schema: &SchemaRef) -> Result<csv::Writer<Buffered>, ArrowError> {
    if let Some(field) = schema.fields().iter().find(|f| f.data_type().is_nested()) {
        return Err(ArrowError::CsvError(format!(
            "the column {:?} is nested, which CSV does not support: use .parquet, .arrow or .jsonl",
            field.name()
        )));
    }
    let mut writer = csv::WriterBuilder::new().with_header(true).with_delimiter(delimiter).build(file);
    writer.write(&RecordBatch::new_empty(schema.clone()))?;
    Ok(writer)
}

impl BatchWriter for TempFileWriter {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encoder.write(batch).map_err(|e| file_error(&self.path, e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let TempFileWriter { path, temp, encoder } = *self;
        let file = encoder.finish().map_err(|e| file_error(&path, e))?;
        file.sync_all().map_err(|e| io_error(&path, &e))?;
        temp.persist(&path).map_err(|e| io_error(&path, &e.error))?;
        Ok(())
    }
}

fn unbuffered(file: Buffered) -> Result<File, ArrowError> {
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

    fn finish(self: Box<Self>) -> Result<File, ArrowError> {
        unbuffered(self.into_inner()?)
    }
}

impl FormatEncoder for csv::Writer<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        csv::Writer::write(self, batch)
    }

    fn finish(self: Box<Self>) -> Result<File, ArrowError> {
        unbuffered(self.into_inner())
    }
}

impl FormatEncoder for json::LineDelimitedWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        json::Writer::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<File, ArrowError> {
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

    fn finish(mut self: Box<Self>) -> Result<File, ArrowError> {
        FileWriter::finish(&mut self)?;
        unbuffered(self.into_inner()?)
    }
}

impl FormatEncoder for StreamWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        StreamWriter::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<File, ArrowError> {
        StreamWriter::finish(&mut self)?;
        unbuffered(self.into_inner()?)
    }
}
