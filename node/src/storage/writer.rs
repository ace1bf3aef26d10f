//! Batches → a sealed part.

use std::fs::File;
use std::io::{self, IoSlice, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryHandling, IpcWriteOptions};
use volley_common::ipc::conform::conform;
use volley_common::ipc::file::{AppendSlices, FileEncoder};
use volley_common::ipc::schema::schema_message;
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::wire::catalog::Compression;
use volley_common::{Error, PartId, Result, TableName};

use super::dictionaries::Dictionaries;
use super::disk;
use super::layout::PartFile;
use super::receive::Temp;
use super::store::Store;

/// About so many bytes are summed and then written, while they are still in the processor's cache; a slice is not cut for it.
const STEP_BYTES: usize = 256 << 10;

/// What a new part is.
#[derive(Clone, Debug)]
pub struct PartSpec {
    /// The table that it is of.
    pub table: TableName,
    /// The shard.
    pub shard: u32,
    /// The write's id.
    pub write: String,
    /// Its place among the write's parts.
    pub seq: u64,
    /// The table's schema (as parsed from `Table.schema`).
    pub schema: SchemaRef,
    /// Compression of message bodies.
    pub compression: Compression,
}

/// What became of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wrote {
    /// It is in the part.
    Yes,
    /// Nothing was written: the batch has another dictionary than the part, so it needs a new part.
    DictionaryReplaced,
}

/// A part that is durable on this node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedPart {
    /// The part.
    pub id: PartId,
    /// Rows of all batches.
    pub rows: u64,
    /// Length of the file.
    pub bytes: u64,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
}

/// Writes one part; dropped without [`PartWriter::seal`] it leaves nothing behind.
pub struct PartWriter {
    store: Store,
    temp: Temp,
    spec: PartSpec,
    id: PartId,
    file: FileEncoder<Summed>,
    dictionaries: Dictionaries,
    rows: u64,
}

/// A file, its length and the CRC-32C of what went into it.
struct Summed {
    file: File,
    bytes: u64,
    crc32c: u32,
}

impl AppendSlices for Summed {
    fn append(&mut self, mut slices: &[&[u8]]) -> io::Result<()> {
        let mut step = Vec::with_capacity(slices.len());
        while !slices.is_empty() {
            let mut bytes = 0;
            while let Some((slice, rest)) = slices.split_first().filter(|_| bytes < STEP_BYTES) {
                self.crc32c = crc32c::crc32c_append(self.crc32c, slice);
                step.push(IoSlice::new(slice));
                bytes += slice.len();
                slices = rest;
            }
            write_all(&mut self.file, &mut step)?;
            step.clear();
            disk::grown(&self.file, self.bytes, self.bytes + bytes as u64);
            self.bytes += bytes as u64;
        }
        Ok(())
    }
}

/// One system call, as a rule: the slices are not gathered before.
fn write_all(file: &mut File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match file.write_vectored(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => IoSlice::advance_slices(&mut slices, count),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(())
}

impl PartWriter {
    pub(super) fn new(store: Store, spec: PartSpec) -> Result<Self> {
        // Names the field that IPC cannot carry, before anything is made.
        schema_message(&spec.schema)?;
        let id = PartId::random();
        let (file, temp) = store.temporary(id, 0)?;
        let temp = Temp::new(temp);
        let out = Summed { file, bytes: 0, crc32c: 0 };
        let file = FileEncoder::new(out, spec.schema.clone(), options(spec.compression)?);
        let file = file.map_err(|e| write_error(&store, e))?;
        Ok(PartWriter { store, temp, spec, id, file, dictionaries: Dictionaries::default(), rows: 0 })
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.id
    }

    /// Writes a batch as one message (the caller cuts). Its schema must be the part's.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed. After an error the writer must be dropped.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<Wrote> {
        let batch = shrink_to_fit(&conform(batch, &self.spec.schema).map_err(|e| e.at(&self.spec.table))?);
        if !self.dictionaries.take(&batch) {
            return Ok(Wrote::DictionaryReplaced);
        }
        let before = self.bytes();
        self.file.write(&batch).map_err(|e| write_error(&self.store, e))?;
        self.store.growing(before, self.bytes())?;
        self.rows += batch.num_rows() as u64;
        Ok(Wrote::Yes)
    }

    /// Bytes of the file so far.
    pub fn bytes(&self) -> u64 {
        self.file.output().bytes
    }

    /// Rows so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// Footer, fsync, rename, fsync of the directory; the part is in the inventory afterwards.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn seal(mut self) -> Result<SealedPart> {
        let spec = &self.spec;
        let about = [
            ("volley.table", spec.table.to_string()),
            ("volley.shard", spec.shard.to_string()),
            ("volley.write", spec.write.clone()),
            ("volley.part", self.id.to_string()),
            ("volley.seq", spec.seq.to_string()),
        ];
        let about = about.into_iter().map(|(key, value)| (key.to_string(), value)).collect();
        let out = self.file.finish(&about).map_err(|e| write_error(&self.store, e))?;
        let sealed = SealedPart { id: self.id, rows: self.rows, bytes: out.bytes, crc32c: out.crc32c };
        let name = PartFile { write: spec.write.clone(), seq: spec.seq, id: self.id, crc32c: out.crc32c };
        let shard = self.store.layout().shard(&spec.table, spec.shard);
        self.store.seal(&out.file, &mut self.temp, shard, name, out.bytes)?;
        Ok(sealed)
    }
}

fn options(compression: Compression) -> Result<IpcWriteOptions> {
    let codec = match compression {
        Compression::None => None,
        Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
        Compression::Zstd => Some(CompressionType::ZSTD),
    };
    IpcWriteOptions::default()
        .with_dictionary_handling(DictionaryHandling::Delta)
        .try_with_compression(codec)
        .map_err(|e| Error::internal(format!("the compression {compression:?} is not built in: {e}")))
}

fn write_error(store: &Store, error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, cause) => store.failed("a part", &cause),
        other => Error::internal(format!("a record batch cannot be encoded: {other}")),
    }
}
