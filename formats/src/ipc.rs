//! Arrow IPC files (which begin with a magic) and streams.

use std::fs::File;
use std::io::{BufReader, Read, Seek};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};

use super::Batches;
use crate::progress::{ProgressReader, ReadProgress};

/// The first bytes of a file, not of a stream.
pub const FILE_MAGIC: &[u8] = b"ARROW1";
/// The first Feather format, which is not Arrow IPC.
const FEATHER_1: &[u8] = b"FEA1";

pub fn schema(mut file: File) -> Result<SchemaRef, ArrowError> {
    if is_file(&mut file)? {
        Ok(FileReader::try_new(BufReader::new(file), None)?.schema())
    } else {
        Ok(StreamReader::try_new(BufReader::new(file), None)?.schema())
    }
}

pub fn open(mut file: File, bar: ReadProgress) -> Result<Batches, ArrowError> {
    let is_file = is_file(&mut file)?;
    let reader = ProgressReader::new(BufReader::new(file), bar);
    if is_file { Ok(Box::new(FileReader::try_new(reader, None)?)) } else { open_stream(reader) }
}

/// The schema of a stream.
pub fn stream_schema(reader: impl Read) -> Result<SchemaRef, ArrowError> {
    Ok(StreamReader::try_new(BufReader::new(reader), None)?.schema())
}

/// The batches of a stream.
pub fn open_stream(reader: impl Read + Send + 'static) -> Result<Batches, ArrowError> {
    Ok(Box::new(WholeStream(StreamReader::try_new(BufReader::new(reader), None)?)))
}

/// The batches of a stream, which must be all of the file: what follows would be lost, and a checksum of compressed data is
/// known only at the end.
struct WholeStream<R: Read>(StreamReader<BufReader<R>>);

impl<R: Read> Iterator for WholeStream<R> {
    type Item = Result<RecordBatch, ArrowError>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(batch) = self.0.next() {
            return Some(batch);
        }
        match std::io::copy(self.0.get_mut(), &mut std::io::sink()) {
            Ok(0) => None,
            Ok(bytes) => {
                let text = format!("{bytes} bytes follow the end of the Arrow stream: a file holds one stream");
                Some(Err(ArrowError::IpcError(text)))
            }
            Err(e) => Some(Err(e.into())),
        }
    }
}

/// Whether the content is a file rather than a stream; the name may be wrong.
fn is_file(file: &mut File) -> Result<bool, ArrowError> {
    let mut start = Vec::new();
    file.take(FILE_MAGIC.len() as u64).read_to_end(&mut start)?;
    file.rewind()?;
    if start.starts_with(FEATHER_1) {
        return Err(ArrowError::IpcError("this is Feather version 1: convert it to version 2 (Arrow IPC)".into()));
    }
    if start.is_empty() {
        return Err(ArrowError::IpcError("the file is empty".into()));
    }
    Ok(start == FILE_MAGIC)
}
