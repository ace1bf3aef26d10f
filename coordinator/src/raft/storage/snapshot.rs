//! Snapshot files: magic, format version, a header, the catalog's rows, CRC-32C of everything before it.
//!
//! Header and rows are protobuf messages, each preceded by its length as a varint. A file is written under a temporary
//! name, synced, renamed, and its folder synced. It is never in memory as a whole.

use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;
use prost::Message;
use prost::encoding::encode_varint;
use redb::{ReadTransaction, ReadableTable};
use volley_common::wire::catalog::Row;
use volley_common::wire::raft::SnapshotHeader;

use super::files::{DataDir, ReadableFile, SNAPSHOTS, TMP, rename_durably};
use crate::raft::rpc::convert::{header_in, header_out};
use crate::raft::runtime::{blocking, random};
use crate::raft::tables::{ROWS, read_applied};
use crate::raft::types::{SnapshotMeta, TypeConfig};

const MAGIC: &[u8; 8] = b"VLYSNAP\n";
const FORMAT: u32 = 1;
/// Length of magic and format.
const PREFIX: u64 = 12;
/// Length of the checksum at the end.
const CHECKSUM: u64 = 4;
/// The largest message in a snapshot.
const MAX_MESSAGE: u64 = 256 << 20;
/// Size of the buffers for reading and writing.
const BUFFER: usize = 1 << 20;

/// A snapshot and its meta.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// An open snapshot file. It stays readable when a newer one replaces it.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// Its path when it was opened.
    pub path: PathBuf,
    /// The file.
    pub file: Arc<dyn ReadableFile>,
}

impl SnapshotFile {
    /// Opens a file. Blocks.
    pub fn open(data_dir: &dyn DataDir, path: PathBuf) -> io::Result<Self> {
        let file = data_dir.open(&path)?;
        Ok(SnapshotFile { path, file })
    }
}

fn bad(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot {}: {why}", path.display()))
}

/// Computes the checksum of what passes through it.
struct ChecksumStream<W> {
    inner: W,
    crc: u32,
}

impl<W: Write> Write for ChecksumStream<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for ChecksumStream<R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..read]);
        Ok(read)
    }
}

fn write_message(out: &mut impl Write, message: &[u8]) -> io::Result<()> {
    let mut length = Vec::with_capacity(10);
    encode_varint(message.len() as u64, &mut length);
    out.write_all(&length)?;
    out.write_all(message)
}

/// Writes a snapshot of the rows that a transaction sees. Blocks.
fn write_file(data_dir: &dyn DataDir, path: &Path, meta: &SnapshotMeta, txn: &ReadTransaction) -> io::Result<()> {
    let mut file = data_dir.create(path)?;
    let mut out = ChecksumStream { inner: BufWriter::with_capacity(BUFFER, &mut file), crc: 0 };
    out.write_all(MAGIC)?;
    out.write_all(&FORMAT.to_le_bytes())?;
    write_message(&mut out, &header_out(meta, None).encode_to_vec())?;
    let rows = txn.open_table(ROWS).map_err(io::Error::other)?;
    for row in rows.iter().map_err(io::Error::other)? {
        let (_, row) = row.map_err(io::Error::other)?;
        write_message(&mut out, row.value())?;
    }
    let crc = out.crc;
    out.inner.write_all(&crc.to_le_bytes())?;
    out.inner.flush()?;
    drop(out);
    file.sync()
}

fn file_name(meta: &SnapshotMeta) -> String {
    match &meta.last_log_id {
        Some(id) => format!("{:020}-{}-{}.snap", id.index, id.leader_id.term, id.leader_id.node_id),
        None => "empty.snap".into(),
    }
}

/// A position in a file.
struct FileCursor {
    file: Arc<dyn ReadableFile>,
    at: u64,
    length: u64,
}

impl Read for FileCursor {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.length.saturating_sub(self.at) as usize);
        self.file.read_exact_at(&mut out[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for FileCursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("an offset before the start of the file"))?;
        Ok(self.at)
    }
}

/// Reads the messages of a snapshot file, and verifies its checksum at the end.
struct SnapshotReader {
    path: PathBuf,
    input: ChecksumStream<io::Take<BufReader<FileCursor>>>,
}

impl SnapshotReader {
    fn open(data_dir: &dyn DataDir, path: &Path) -> io::Result<Self> {
        let file = data_dir.open(path)?;
        let length = file.length()?;
        let content = length.checked_sub(CHECKSUM).filter(|n| *n >= PREFIX).ok_or_else(|| bad(path, "is truncated"))?;
        let input = ChecksumStream {
            inner: BufReader::with_capacity(BUFFER, FileCursor { file, at: 0, length }).take(content),
            crc: 0,
        };
        let mut reader = SnapshotReader { path: path.to_path_buf(), input };
        let mut prefix = [0; PREFIX as usize];
        reader.input.read_exact(&mut prefix)?;
        let format = u32::from_le_bytes([prefix[8], prefix[9], prefix[10], prefix[11]]);
        match &prefix[..8] {
            magic if magic != MAGIC => Err(bad(path, "is not a snapshot")),
            _ if format != FORMAT => Err(bad(path, format!("has format {format}, this software knows {FORMAT}"))),
            _ => Ok(reader),
        }
    }

    fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        if self.input.inner.limit() == 0 {
            return self.verify_checksum().map(|()| None);
        }
        let length = self.length()?;
        if length > MAX_MESSAGE || length > self.input.inner.limit() {
            return Err(bad(&self.path, "holds a message that is longer than allowed"));
        }
        let mut bytes = vec![0; length as usize];
        self.input.read_exact(&mut bytes)?;
        M::decode(bytes.as_slice()).map(Some).map_err(|e| bad(&self.path, e))
    }

    fn length(&mut self) -> io::Result<u64> {
        let mut length = 0;
        for shift in (0..63).step_by(7) {
            let mut byte = [0];
            self.input.read_exact(&mut byte)?;
            length |= u64::from(byte[0] & 0x7f) << shift;
            if byte[0] & 0x80 == 0 {
                return Ok(length);
            }
        }
        Err(bad(&self.path, "holds an invalid length"))
    }

    fn verify_checksum(&mut self) -> io::Result<()> {
        let mut checksum = [0; CHECKSUM as usize];
        self.input.inner.get_mut().read_exact(&mut checksum)?;
        // A further call must have the same result.
        self.input.inner.get_mut().seek_relative(-(CHECKSUM as i64))?;
        match u32::from_le_bytes(checksum) == self.input.crc {
            true => Ok(()),
            false => Err(bad(&self.path, "does not match its checksum")),
        }
    }
}

/// Reads a snapshot's meta, from its header alone. Blocks.
pub fn read_meta(data_dir: &dyn DataDir, path: &Path) -> io::Result<SnapshotMeta> {
    let header: SnapshotHeader =
        SnapshotReader::open(data_dir, path)?.next()?.ok_or_else(|| bad(path, "has no header"))?;
    header_in(header).map_err(|e| bad(path, e))
}

/// Reads a snapshot's rows. The last item is an error if the checksum does not match. Blocks.
pub fn read_rows(data_dir: &dyn DataDir, path: &Path) -> io::Result<impl Iterator<Item = io::Result<Row>> + use<>> {
    let mut reader = SnapshotReader::open(data_dir, path)?;
    reader.next::<SnapshotHeader>()?.ok_or_else(|| bad(path, "has no header"))?;
    Ok(std::iter::from_fn(move || reader.next::<Row>().transpose()))
}

/// Reads and verifies a whole file; returns its meta. Blocks.
pub fn verify(data_dir: &dyn DataDir, path: &Path) -> io::Result<SnapshotMeta> {
    for row in read_rows(data_dir, path)? {
        row?;
    }
    read_meta(data_dir, path)
}

/// Publishes a complete temporary file and removes older snapshots. Blocks.
pub fn publish(data_dir: &dyn DataDir, temp: &Path, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
    let path = data_dir.dir().join(SNAPSHOTS).join(file_name(meta));
    rename_durably(data_dir, temp, &path)?;
    let published = SnapshotFile::open(data_dir, path)?;
    for other in list(data_dir)? {
        if other < published.path {
            data_dir.remove(&other)?;
        }
    }
    Ok(published)
}

fn list(data_dir: &dyn DataDir) -> io::Result<Vec<PathBuf>> {
    let mut paths = data_dir.list(&data_dir.dir().join(SNAPSHOTS))?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "snap"));
    paths.sort();
    Ok(paths)
}

/// The newest snapshot of a data folder. Blocks.
pub fn newest(data_dir: &dyn DataDir) -> io::Result<Option<Snapshot>> {
    let Some(path) = list(data_dir)?.pop() else { return Ok(None) };
    let meta = read_meta(data_dir, &path)?;
    Ok(Some(Snapshot { meta, snapshot: SnapshotFile::open(data_dir, path)? }))
}

/// A new path for a temporary file.
pub fn temp_path(dir: &Path) -> PathBuf {
    dir.join(TMP).join(format!("{:016x}.snap", random()))
}

/// Builds a snapshot of the state at the time when the builder was created, while the state machine continues.
pub struct SnapshotBuilder {
    data_dir: Arc<dyn DataDir>,
    view: io::Result<Option<ReadTransaction>>,
}

impl SnapshotBuilder {
    /// `view` sees exactly what was applied.
    pub fn new(data_dir: Arc<dyn DataDir>, view: io::Result<ReadTransaction>) -> Self {
        SnapshotBuilder { data_dir, view: view.map(Some) }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuilder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let view = std::mem::replace(&mut self.view, Ok(None))?;
        let view = view.ok_or_else(|| io::Error::other("the builder has built its snapshot already"))?;
        let data_dir = self.data_dir.clone();
        let build = move || {
            let meta = read_applied(&view)?;
            let temp = temp_path(data_dir.dir());
            write_file(&*data_dir, &temp, &meta, &view)?;
            let snapshot = publish(&*data_dir, &temp, &meta)?;
            Ok(Snapshot { meta, snapshot })
        };
        blocking(build).await?
    }
}
