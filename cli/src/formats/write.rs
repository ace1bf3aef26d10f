//! Writing a file: into a temporary one beside it, which takes its name when everything is on disk.

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
use crate::threads::Sink;

/// A row group is closed when it holds so many encoded bytes, that wide tables stay within memory.
const ROW_GROUP_BYTES: usize = 128 << 20;

type Buffered = BufWriter<File>;

/// Writes one format.
trait Encode: Send {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError>;
    /// Writes what comes last and gives the file back, flushed.
    fn finish(self: Box<Self>) -> Result<File, ArrowError>;
}

/// A file that is being written.
struct FileSink {
    path: PathBuf,
    temp: NamedTempFile,
    encode: Box<dyn Encode>,
}

/// Begins a file of the format at `path`. Until [`Sink::finish`] nothing stands under that name.
///
/// # Errors
/// The folder cannot be written to, or the format cannot hold the schema. All name the file.
pub fn create(path: &Path, format: Format, schema: &SchemaRef) -> Result<Box<dyn Sink>> {
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
        // What the process's umask makes of it, as for any new file.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder)
        .map_err(|e| io_error(path, &e))?;
    let file = temp.as_file().try_clone().map_err(|e| io_error(path, &e))?;
    let encode = encoder(file, format, schema).map_err(|e| file_error(path, e))?;
    Ok(Box::new(FileSink { path: path.to_path_buf(), temp, encode }))
}

fn encoder(file: File, format: Format, schema: &SchemaRef) -> Result<Box<dyn Encode>, ArrowError> {
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

/// Writes the header at once, that a table without rows keeps its columns.
fn csv_writer(file: Buffered, delimiter: u8, schema: &SchemaRef) -> Result<csv::Writer<Buffered>, ArrowError> {
    if let Some(field) = schema.fields().iter().find(|f| f.data_type().is_nested()) {
        return Err(ArrowError::CsvError(format!(
            "the column {:?} is nested, which CSV cannot hold: use .parquet, .arrow or .jsonl",
            field.name()
        )));
    }
    let mut writer = csv::WriterBuilder::new().with_header(true).with_delimiter(delimiter).build(file);
    writer.write(&RecordBatch::new_empty(schema.clone()))?;
    Ok(writer)
}

impl Sink for FileSink {
    fn write(&mut self, batch: &RecordBatch) -> Result<()> {
        self.encode.write(batch).map_err(|e| file_error(&self.path, e))
    }

    fn finish(self: Box<Self>) -> Result<()> {
        let FileSink { path, temp, encode } = *self;
        let file = encode.finish().map_err(|e| file_error(&path, e))?;
        file.sync_all().map_err(|e| io_error(&path, &e))?;
        temp.persist(&path).map_err(|e| io_error(&path, &e.error))?;
        Ok(())
    }
}

fn unbuffered(file: Buffered) -> Result<File, ArrowError> {
    Ok(file.into_inner().map_err(|e| e.into_error())?)
}

impl Encode for ArrowWriter<Buffered> {
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

impl Encode for csv::Writer<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        csv::Writer::write(self, batch)
    }

    fn finish(self: Box<Self>) -> Result<File, ArrowError> {
        unbuffered(self.into_inner())
    }
}

impl Encode for json::LineDelimitedWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        json::Writer::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<File, ArrowError> {
        json::Writer::finish(&mut self)?;
        unbuffered(self.into_inner())
    }
}

impl Encode for FileWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        FileWriter::write(self, batch).map_err(|error| match error {
            ArrowError::InvalidArgumentError(text) if text.contains("Dictionary replacement") => ArrowError::IpcError(
                "the table's dictionary columns have more than one dictionary, and an Arrow IPC file has room for one a column: use .arrows or .parquet".into(),
            ),
            other => other,
        })
    }

    fn finish(mut self: Box<Self>) -> Result<File, ArrowError> {
        FileWriter::finish(&mut self)?;
        unbuffered(self.into_inner()?)
    }
}

impl Encode for StreamWriter<Buffered> {
    fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        StreamWriter::write(self, batch)
    }

    fn finish(mut self: Box<Self>) -> Result<File, ArrowError> {
        StreamWriter::finish(&mut self)?;
        unbuffered(self.into_inner()?)
    }
}
