//! Writes record batches as one part.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_ipc::CompressionType;
use arrow_ipc::writer::IpcWriteOptions;
use bytes::{Bytes, BytesMut};
use tokio::sync::watch;
use volley_common::ipc::file::{AppendSlices, FileEncoder};
use volley_common::ipc::schema::schema_message;
use volley_common::ipc::statistics::{STATISTICS_KEY, StatisticsBuilder};
use volley_common::wire::catalog::Compression;
use volley_common::wire::cluster::PartEnd;
use volley_common::{Error, PartId, Result, TableName};

use super::commit_part::PartCommitter;
use super::dictionaries::PartDictionaries;
use super::fs_ops;
use super::layout::PartFileName;
use super::open_part::{FOLLOWED_BYTES, OpenPart, PartProgress};
use super::volume::{TempPath, Volume};

/// Bytes that are checksummed and then written while they are still in the processor's cache, rounded up to whole slices.
const STEP_BYTES: usize = 256 << 10;

/// The properties of a new part.
#[derive(Clone, Debug)]
pub struct PartSpec {
    /// The table.
    pub table: TableName,
    /// The shard.
    pub shard: u32,
    /// The write's id.
    pub write: String,
    /// Its position among the write's parts.
    pub seq: u64,
    /// The table's schema (as parsed from `Table.schema`).
    pub schema: SchemaRef,
    /// Compression of message bodies; `Auto` is none.
    pub compression: Compression,
}

/// The result of writing a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BatchWrite {
    /// The batch is in the part.
    Written,
    /// Nothing was written: the batch has another dictionary than the part, or with it the part's would not fit one
    /// message. It needs a new part, or to be split if the part is new.
    NeedsNewPart,
}

/// A part that is complete: durable on this node, or about to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SealedPart {
    /// Its id.
    pub id: PartId,
    /// Rows of all batches.
    pub rows: u64,
    /// Record batches.
    pub batches: u32,
    /// Length of the file, bytes.
    pub bytes: u64,
    /// CRC-32C of the whole file.
    pub crc32c: u32,
}

/// Writes one part; leaves nothing behind if it is dropped before [`PartWriter::seal`].
pub struct PartWriter {
    committer: PartCommitter,
    temp: TempPath,
    spec: PartSpec,
    id: PartId,
    encoder: FileEncoder<ChecksummingFile>,
    dictionaries: PartDictionaries,
    statistics: StatisticsBuilder,
    rows: u64,
    batches: u32,
    open: Arc<OpenPart>,
}

/// A part whose last byte is written, and which is not durable. Other nodes can read it. Leaves nothing behind if it is dropped before
/// [`FinishedPart::commit`].
pub struct FinishedPart {
    sealed: SealedPart,
    committer: PartCommitter,
    temp: TempPath,
    file: Arc<File>,
    dir: PathBuf,
    name: PartFileName,
    open: Arc<OpenPart>,
}

/// A growing file, its length and its CRC-32C.
struct ChecksummingFile {
    file: Arc<File>,
    bytes: u64,
    crc32c: u32,
    /// Whether it is written back to the disk while it grows.
    writes_back: bool,
    progress: watch::Sender<PartProgress>,
}

impl ChecksummingFile {
    /// Tells readers of further whole chunks.
    fn report(&self) {
        let written = self.bytes / FOLLOWED_BYTES * FOLLOWED_BYTES;
        self.progress.send_if_modified(|progress| {
            let has_grown = progress.written < written;
            progress.written = written;
            has_grown
        });
    }

    /// Tells readers that the last byte is written.
    fn report_end(&self) {
        let end = PartEnd { bytes: self.bytes, crc32c: self.crc32c };
        self.progress.send_replace(PartProgress { written: self.bytes, end: Some(end) });
    }
}

impl AppendSlices for ChecksummingFile {
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
            write_all(&self.file, &mut step)?;
            step.clear();
            if self.writes_back {
                fs_ops::start_writeback(&self.file, self.bytes, self.bytes + bytes as u64);
            }
            self.bytes += bytes as u64;
        }
        self.report();
        Ok(())
    }
}

/// Writes the slices without copying them into one buffer; one system call as a rule.
fn write_all(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
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
    pub(super) fn new(committer: PartCommitter, spec: PartSpec) -> Result<Self> {
        // Names the field that IPC cannot encode, before anything is created.
        schema_message(&spec.schema)?;
        let id = PartId::random();
        let (file, temp) = committer.volume.create_temp(id, 0)?;
        let file = Arc::new(file);
        let (open, progress) = OpenPart::register(&committer.open, id, file.clone());
        let file = ChecksummingFile { file, bytes: 0, crc32c: 0, writes_back: true, progress };
        let encoder = FileEncoder::new(file, spec.schema.clone(), encoding_options(spec.compression)?);
        let encoder = encoder.map_err(|e| write_error(&committer.volume, e))?;
        let dictionaries = PartDictionaries::new(spec.schema.clone());
        let statistics = StatisticsBuilder::new(&spec.schema);
        Ok(PartWriter { committer, temp, spec, id, encoder, dictionaries, statistics, rows: 0, batches: 0, open })
    }

    /// The part is for other nodes: it stays in memory as long as the system has memory for it. Before the first batch.
    pub fn keep_off_disk(&mut self) {
        self.encoder.output_mut().writes_back = false;
    }

    /// Bytes that are written.
    pub fn written(&self) -> u64 {
        self.encoder.output().bytes
    }

    /// The part's id.
    pub fn id(&self) -> PartId {
        self.id
    }

    /// Writes a batch as one message, which the caller keeps small. Its schema must equal the part's (see
    /// [`volley_common::ipc::conform`]), and it must own no more than its rows (see [`volley_common::ipc::shrink`]).
    ///
    /// # Errors
    /// INVALID_ARGUMENT: another schema. RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed. After an error the
    /// writer must be dropped.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<BatchWrite> {
        self.write_message(batch, &[], true)
    }

    /// As [`PartWriter::write`], but a batch of any size, with its `app_metadata`, which may be empty. A new part does not
    /// refuse it.
    pub fn write_whole(&mut self, batch: &RecordBatch, app_metadata: &[u8]) -> Result<BatchWrite> {
        self.write_message(batch, app_metadata, false)
    }

    fn write_message(&mut self, batch: &RecordBatch, app_metadata: &[u8], can_split: bool) -> Result<BatchWrite> {
        if batch.schema_ref() != &self.spec.schema {
            return Err(Error::invalid("a batch does not have the table's schema").at(&self.spec.table));
        }
        let keys = self.dictionaries.add(batch, can_split).map_err(|e| write_error(&self.committer.volume, e))?;
        let Some(keys) = keys else { return Ok(BatchWrite::NeedsNewPart) };
        let (before, volume) = (self.encoder.output().bytes, &self.committer.volume);
        self.encoder.write(&keys, app_metadata).map_err(|e| write_error(volume, e))?;
        volume.check_growth(before, self.encoder.output().bytes)?;
        self.statistics.add(batch);
        self.rows += batch.num_rows() as u64;
        self.batches += 1;
        Ok(BatchWrite::Written)
    }

    /// Bytes written so far, and those of dictionaries, which are written last.
    pub fn bytes(&self) -> u64 {
        self.encoder.output().bytes + self.dictionaries.bytes() as u64
    }

    /// Whether the part has `part_bytes`. A dictionary that every part has whole takes half of them at most: parts of the
    /// rest would repeat it too often.
    pub fn is_full(&self, part_bytes: u64) -> bool {
        let whole = (self.dictionaries.whole_bytes() as u64).min(part_bytes / 2);
        self.bytes() - self.dictionaries.whole_bytes() as u64 + whole >= part_bytes
    }

    /// Memory that grows with the values of dictionaries, bytes.
    pub fn dictionary_memory(&self) -> usize {
        self.dictionaries.memory()
    }

    /// Keeps statistics of these columns, in this order, in place of the first ones. Before the first batch.
    pub fn choose_statistics(&mut self, columns: &[usize]) {
        self.statistics = StatisticsBuilder::of_columns(&self.spec.schema, columns.iter().copied());
    }

    /// Keeps statistics of about this many bytes: neighbouring batches share them if there are more.
    pub fn limit_statistics(&mut self, bytes: usize) {
        self.statistics.limit(bytes);
    }

    /// Bounds of what is written so far, for the part's row in the catalog: of the columns `first`, then of others.
    pub fn part_bounds(&self, first: &[usize]) -> Bytes {
        self.statistics.part_bounds(first)
    }

    /// Record batches written so far.
    pub fn batches(&self) -> u32 {
        self.batches
    }

    /// Writes the footer and commits the part: afterwards it is durable and in the inventory.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn seal(self) -> Result<SealedPart> {
        self.finish()?.commit()
    }

    /// Writes the footer, after which nothing of the part changes. It is not durable.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn finish(mut self) -> Result<FinishedPart> {
        let (spec, volume) = (&self.spec, &self.committer.volume);
        let dictionaries = self.dictionaries.finish().map_err(|e| write_error(volume, e))?;
        if let Some(dictionaries) = dictionaries {
            let before = self.encoder.output().bytes;
            volume.check_growth(before, before + self.dictionaries.bytes() as u64)?;
            self.encoder.write_dictionaries(&dictionaries).map_err(|e| write_error(volume, e))?;
            volume.check_growth(before, self.encoder.output().bytes)?;
        }
        let metadata = [
            ("volley.table", spec.table.to_string()),
            ("volley.shard", spec.shard.to_string()),
            ("volley.write", spec.write.clone()),
            ("volley.part", self.id.to_string()),
            ("volley.seq", spec.seq.to_string()),
        ];
        let statistics = self.statistics.finish().map(|value| (STATISTICS_KEY, value));
        let metadata = metadata.into_iter().chain(statistics);
        let metadata = metadata.map(|(key, value)| (key.to_string(), value)).collect();
        let file = self.encoder.finish(&metadata).map_err(|e| write_error(volume, e))?;
        let (rows, batches) = (self.rows, self.batches);
        let sealed = SealedPart { id: self.id, rows, batches, bytes: file.bytes, crc32c: file.crc32c };
        let name = PartFileName { write: spec.write.clone(), seq: spec.seq, id: self.id, crc32c: file.crc32c };
        let dir = volume.layout().shard(&spec.table, spec.shard);
        file.report_end();
        let PartWriter { committer, temp, open, .. } = self;
        Ok(FinishedPart { sealed, committer, temp, file: file.file, dir, name, open })
    }
}

impl FinishedPart {
    /// What it is.
    pub fn sealed(&self) -> SealedPart {
        self.sealed
    }

    /// All of its bytes: for a small part.
    ///
    /// # Errors
    /// UNAVAILABLE: its file cannot be read.
    pub fn content(&self) -> Result<Bytes> {
        let mut content = BytesMut::zeroed(self.sealed.bytes as usize);
        self.open.read(0, &mut content)?;
        Ok(content.freeze())
    }

    /// Makes the part durable and adds it to the inventory.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the disk failed.
    pub fn commit(mut self) -> Result<SealedPart> {
        self.committer.commit(&self.file, &mut self.temp, self.dir, self.name, self.sealed.bytes)?;
        Ok(self.sealed)
    }
}

fn encoding_options(compression: Compression) -> Result<IpcWriteOptions> {
    let codec = match compression {
        // Whoever writes a part of such a table has chosen before.
        Compression::None | Compression::Auto => None,
        Compression::Lz4 => Some(CompressionType::LZ4_FRAME),
        Compression::Zstd => Some(CompressionType::ZSTD),
    };
    IpcWriteOptions::default()
        .try_with_compression(codec)
        .map_err(|e| Error::internal(format!("the compression {compression:?} is not built in: {e}")))
}

fn write_error(volume: &Volume, error: ArrowError) -> Error {
    match error {
        ArrowError::IoError(_, cause) => volume.write_error("a part", &cause),
        other => Error::internal(format!("a record batch cannot be encoded: {other}")),
    }
}
