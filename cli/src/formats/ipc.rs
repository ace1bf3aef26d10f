//! Arrow IPC files (which begin with a magic) and streams.

use std::fs::File;
use std::io::{BufReader, Read, Seek};

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow::ipc::reader::{FileReader, StreamReader};
use indicatif::ProgressBar;

use super::Batches;
use crate::progress::ProgressReader;

const FILE_MAGIC: &[u8] = b"ARROW1";
/// The first Feather format, which is not Arrow IPC.
const FEATHER_1: &[u8] = b"FEA1";

pub fn schema(mut file: File) -> Result<SchemaRef, ArrowError> {
    if is_file(&mut file)? {
        Ok(FileReader::try_new(BufReader::new(file), None)?.schema())
    } else {
        Ok(StreamReader::try_new(BufReader::new(file), None)?.schema())
    }
}

pub fn open(mut file: File, bar: ProgressBar) -> Result<Batches, ArrowError> {
    let is_file = is_file(&mut file)?;
    let reader = ProgressReader::new(BufReader::new(file), bar);
    if is_file {
        Ok(Box::new(FileReader::try_new(reader, None)?))
    } else {
        Ok(Box::new(StreamReader::try_new(reader, None)?))
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
