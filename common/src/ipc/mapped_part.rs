//! The rows of a part whose file a reader on the node's machine has mapped (docs/adr/0022-local-reads.md). Arrays of uncompressed
//! parts are the memory of the mapping: no value is read or copied before somebody uses it.
//!
//! A node's own readers are other ones: they check that the file is unchanged, and fault its pages in (docs/adr/0006-sigbus.md).
#![allow(unsafe_code, reason = "arrays are the memory of a mapped file, and its values are not read to validate them")]

use std::collections::HashSet;
use std::os::fd::OwnedFd;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_data::UnsafeFlag;
use arrow_ipc::Block;
use arrow_ipc::convert::fb_to_schema;
use bytes::Bytes;
use memmap2::Mmap;
use rustix::fs::{FileType, fstat};

use super::encode::IpcMessage;
use super::project::dictionary_ids;
use super::schema::{PREFIX_BYTES, catch_panics, verify_message};
use super::stored::StoredDecoder;
use crate::{Error, Result};

/// What an Arrow file begins and ends with.
const MAGIC: &[u8] = b"ARROW1";
/// Bytes after the footer: its length, and the magic.
const TAIL: usize = 10;

/// A mapping that lives as long as any slice of it.
struct MappedFile(Mmap);

impl AsRef<[u8]> for MappedFile {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

/// A mapped part. Its batches stay valid when it is dropped, when the descriptor is closed, and when the node removes the file.
pub struct MappedPart {
    decoder: StoredDecoder,
    columns: Option<Vec<usize>>,
    schema: SchemaRef,
    batches: Vec<IpcMessage>,
    compressed: bool,
}

impl MappedPart {
    /// Maps the file of a part of `bytes` bytes. `columns`: those that are read, by their indexes; `None`: all.
    ///
    /// The node that gave the file must be trusted as one trusts the own program: it has validated the values when they were put,
    /// and here they are not validated again.
    ///
    /// # Errors
    /// UNAVAILABLE: it cannot be mapped. DATA_LOSS: it is not the file of a part, of another length, or has no such column.
    pub fn open(file: &OwnedFd, bytes: u64, columns: Option<Vec<usize>>) -> Result<Self> {
        let failed = |e: std::io::Error| Error::unavailable(format!("the file of a part cannot be mapped: {e}"));
        let found = fstat(file).map_err(|e| failed(e.into()))?;
        let is_file = FileType::from_raw_mode(found.st_mode) == FileType::RegularFile;
        if !is_file || u64::try_from(found.st_size).ok() != Some(bytes) {
            return Err(lost(&format!("it is no file of {bytes} bytes")));
        }
        // SAFETY: a part's file never changes after its rename (ARCHITECTURE.md, Invariants), and slices keep the mapping alive.
        // The caller got the descriptor from a process of the user that its cluster names, whom it trusts not to break that.
        // What an operator does to the file is no promise that this can make: one that is truncated ends the process by SIGBUS
        // (docs/adr/0022-local-reads.md).
        let mapping = unsafe { Mmap::map(file) }.map_err(failed)?;
        let mut trusted = UnsafeFlag::new();
        // SAFETY: the node has validated all values when they were put, and the checksum of the file since: it hands only the
        // files of parts that it serves. Lengths and ranges of messages are checked.
        unsafe { trusted.set(true) };
        parse(Bytes::from_owner(MappedFile(mapping)), columns, trusted)
    }

    /// The schema of its batches.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The number of record batches.
    pub fn batch_count(&self) -> usize {
        self.batches.len()
    }

    /// Whether batches are compressed, so that each takes memory.
    pub fn is_compressed(&self) -> bool {
        self.compressed
    }

    /// A record batch. Reads its header from the file, which may block.
    ///
    /// # Errors
    /// DATA_LOSS: it is malformed, or there is none.
    pub fn batch(&self, at: usize) -> Result<RecordBatch> {
        let message = self.batches.get(at).ok_or_else(|| lost("it has fewer batches"))?;
        match &self.columns {
            Some(columns) => self.decoder.columns(message, columns),
            None => self.decoder.batch(message),
        }
    }
}

fn lost(why: &str) -> Error {
    Error::data_loss(format!("the file of a part cannot be read: {why}"))
}

fn parse(file: Bytes, columns: Option<Vec<usize>>, trusted: UnsafeFlag) -> Result<MappedPart> {
    let is_arrow = file.starts_with(MAGIC) && file.ends_with(MAGIC);
    let tail = file.len().checked_sub(TAIL).filter(|_| is_arrow).ok_or_else(|| lost("it is no Arrow file"))?;
    let length = i32::from_le_bytes([file[tail], file[tail + 1], file[tail + 2], file[tail + 3]]);
    let start = usize::try_from(length).ok().and_then(|length| tail.checked_sub(length));
    let start = start.ok_or_else(|| lost("its footer has an impossible length"))?;
    let footer = arrow_ipc::root_as_footer(&file[start..tail]).map_err(|e| lost(&format!("its footer: {e}")))?;
    let schema = footer.schema().ok_or_else(|| lost("it has no schema"))?;
    let schema = SchemaRef::new(catch_panics("the schema", || Ok(fb_to_schema(schema))).map_err(|e| lost(&e.message))?);
    let messages = |blocks: Option<flatbuffers::Vector<'_, Block>>| -> Result<Vec<IpcMessage>> {
        let blocks = blocks.into_iter().flatten();
        blocks.map(|block| message(&file, start, block).ok_or_else(|| lost("a message is outside"))).collect()
    };
    let mut decoder = StoredDecoder::new(schema.clone()).with_skip_validation(trusted);
    let needed: Option<HashSet<i64>> =
        columns.as_ref().map(|columns| dictionary_ids(&schema, columns).into_iter().collect());
    for dictionary in messages(footer.dictionaries())? {
        let header = verify_message(&dictionary.header).map_err(|e| lost(&e.message))?;
        let id = header.header_as_dictionary_batch().map(|dictionary| dictionary.id());
        if needed.as_ref().is_none_or(|needed| id.is_none_or(|id| needed.contains(&id))) {
            decoder.add_dictionary(&dictionary)?;
        }
    }
    let batches = messages(footer.recordBatches())?;
    let compressed = match batches.first() {
        Some(first) => {
            let header = verify_message(&first.header).map_err(|e| lost(&e.message))?;
            header.header_as_record_batch().is_some_and(|batch| batch.compression().is_some())
        }
        None => false,
    };
    let schema = match &columns {
        Some(columns) => SchemaRef::new(schema.project(columns).map_err(|e| lost(&e.to_string()))?),
        None => schema,
    };
    Ok(MappedPart { decoder, columns, schema, batches, compressed })
}

/// The message of a block, which must lie before `end`.
fn message(file: &Bytes, end: usize, block: &Block) -> Option<IpcMessage> {
    let start = usize::try_from(block.offset()).ok()?;
    let body = start.checked_add(usize::try_from(block.metaDataLength()).ok()?)?;
    let body_end = body.checked_add(usize::try_from(block.bodyLength()).ok()?)?;
    let header = start.checked_add(PREFIX_BYTES)?;
    let is_within = header <= body && body_end <= end;
    is_within.then(|| IpcMessage { header: file.slice(header..body), body: file.slice(body..body_end) })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, AsArray, Int64Array, StringArray};
    use arrow::datatypes::Int64Type;
    use arrow_ipc::CompressionType;
    use arrow_ipc::writer::{FileWriter, IpcWriteOptions};

    use super::*;
    use crate::Code;
    use crate::ipc::shrink::shrink_to_fit;
    use crate::ipc::test_data;

    /// An Arrow file with these batches, and its length.
    fn file_of(batches: &[RecordBatch], codec: Option<CompressionType>) -> (OwnedFd, u64) {
        let options = IpcWriteOptions::default().try_with_compression(codec).unwrap();
        let mut writer = FileWriter::try_new_with_options(Vec::new(), &batches[0].schema(), options).unwrap();
        batches.iter().for_each(|batch| writer.write(batch).unwrap());
        written(&writer.into_inner().unwrap())
    }

    fn written(bytes: &[u8]) -> (OwnedFd, u64) {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        (file.into(), bytes.len() as u64)
    }

    fn numbers(from: i64) -> RecordBatch {
        let numbers: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 1000));
        let texts = StringArray::from_iter_values((from..from + 1000).map(|number| format!("text {number}")));
        RecordBatch::try_from_iter([("n", numbers), ("s", Arc::new(texts) as ArrayRef)]).unwrap()
    }

    #[test]
    fn batches_of_every_type_are_those_of_the_file() {
        let batch = shrink_to_fit(&test_data::batch(&mut test_data::rng(41), 70));
        for codec in [None, Some(CompressionType::LZ4_FRAME)] {
            let (file, length) = file_of(std::slice::from_ref(&batch), codec);
            let all = MappedPart::open(&file, length, None).unwrap();
            assert_eq!((all.batch_count(), all.is_compressed()), (1, codec.is_some()));
            assert_eq!(all.batch(0).unwrap().columns(), batch.columns());
            for column in 0..batch.num_columns() {
                let part = MappedPart::open(&file, length, Some(vec![column])).unwrap();
                assert_eq!(part.batch(0).unwrap().columns(), &batch.columns()[column..=column]);
                assert_eq!(part.schema().field(0).name(), batch.schema().field(column).name());
            }
            let none = MappedPart::open(&file, length, Some(Vec::new())).unwrap();
            assert_eq!(none.batch(0).unwrap().num_rows(), 70);
        }
    }

    #[test]
    fn arrays_are_the_memory_of_the_mapping() {
        let (file, length) = file_of(&[numbers(0), numbers(1000)], None);
        let part = MappedPart::open(&file, length, None).unwrap();
        let batches = [part.batch(0).unwrap(), part.batch(1).unwrap()];
        let place = |batch: &RecordBatch, column: usize| {
            let data = batch.column(column).to_data();
            data.buffers().last().unwrap().as_ptr() as usize
        };
        for column in [0, 1] {
            let distance = place(&batches[1], column) - place(&batches[0], column);
            assert!(distance < length as usize, "both are in one mapping");
        }
        // Neither the part nor the descriptor is needed any more.
        drop((part, file));
        let values = batches.iter().flat_map(|batch| batch.column(0).as_primitive::<Int64Type>().values().iter());
        assert_eq!(values.sum::<i64>(), (0..2000).sum::<i64>());
        assert_eq!(batches[1], numbers(1000));
    }

    #[test]
    fn what_is_no_part_is_refused() {
        let (file, length) = file_of(&[numbers(0)], None);
        for (file, length) in [(&file, length + 1), (&written(b"ARROW1").0, 6), (&written(&[7; 100]).0, 100)] {
            assert_eq!(MappedPart::open(file, length, None).err().unwrap().code, Code::DataLoss);
        }
        assert_eq!(MappedPart::open(&file, length, Some(vec![2])).err().unwrap().code, Code::DataLoss);
        assert_eq!(MappedPart::open(&file, length, None).unwrap().batch(1).unwrap_err().code, Code::DataLoss);
        let folder: OwnedFd = std::fs::File::open(std::env::temp_dir()).unwrap().into();
        let bytes = fstat(&folder).unwrap().st_size as u64;
        assert_eq!(MappedPart::open(&folder, bytes, None).err().unwrap().code, Code::DataLoss);
    }
}
