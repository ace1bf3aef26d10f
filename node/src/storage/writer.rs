//! Batches → a sealed part.

use std::fs::File;
use std::io::{self, BufWriter, Write};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::{DictionaryHandling, FileWriter, IpcWriteOptions};
use volley_common::ipc::compact::compact;
use volley_common::ipc::fit::fit;
use volley_common::ipc::schema::schema_message;
use volley_common::wire::catalog::Compression;
use volley_common::{Error, PartId, Result, TableName};

use super::dictionaries::Dictionaries;
use super::layout::PartFile;
use super::receive::Temp;
use super::store::Store;

/// Smaller writes are gathered up to this many bytes; larger ones go straight to the file.
const BUFFER_BYTES: usize = 128 << 10;

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
    file: FileWriter<BufWriter<Summed>>,
    dictionaries: Dictionaries,
    rows: u64,
}

/// A file, its length and the CRC-32C of what went into it.
struct Summed {
    file: File,
    bytes: u64,
    crc32c: u32,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.file.write(bytes)?;
        self.crc32c = crc32c::crc32c_append(self.crc32c, &bytes[..count]);
        self.bytes += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl PartWriter {
    pub(super) fn new(store: Store, spec: PartSpec) -> Result<Self> {
        // Names the field that IPC cannot carry, before anything is made.
        schema_message(&spec.schema)?;
        let id = PartId::random();
        let (file, temp) = store.temporary(id, 0)?;
        let temp = Temp::new(temp);
        let out = BufWriter::with_capacity(BUFFER_BYTES, Summed { file, bytes: 0, crc32c: 0 });
        let file = FileWriter::try_new_with_options(out, &spec.schema, options(spec.compression)?);
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
        let batch = compact(&fit(batch, &self.spec.schema).map_err(|e| e.at(&self.spec.table))?);
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
        self.file.get_ref().get_ref().bytes + self.file.get_ref().buffer().len() as u64
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
        about.into_iter().for_each(|(key, value)| self.file.write_metadata(key, value));
        self.file.finish().map_err(|e| write_error(&self.store, e))?;
        let out = self.file.get_ref().get_ref();
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
