//! Snapshot files: magic, format version, a header, the catalog's rows, CRC-32C of everything before it.
//!
//! Header and rows are protobuf messages, each after its length as a varint. A file is written under a
//! temporary name, synced, renamed, and its folder synced; it is never in memory as a whole.

use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use openraft::RaftSnapshotBuilder;
use prost::Message;
use prost::encoding::encode_varint;
use redb::{ReadTransaction, ReadableTable};
use volley_common::wire::catalog::Row;
use volley_common::wire::raft::SnapshotHeader;

use super::convert::{header_in, header_out};
use super::files::{Disk, Reading, SNAPSHOTS, TMP, publish};
use super::machine;
use super::runtime::{blocking, random};
use super::store::{ROWS, Store};
use super::types::{SnapshotMeta, TypeConfig};

const MAGIC: &[u8; 8] = b"VLYSNAP\n";
const FORMAT: u32 = 1;
/// Magic and format.
const HEAD: u64 = 12;
/// The checksum at the end.
const FOOT: u64 = 4;
/// The largest message in a snapshot.
const MAX_MESSAGE: u64 = 256 << 20;
/// Files are read and written in pieces of this size.
const BUFFER: usize = 1 << 20;

/// openraft's name for a snapshot with its meta.
pub type Snapshot = openraft::type_config::alias::SnapshotOf<TypeConfig, SnapshotFile>;

/// A snapshot file, open: it can be read though a newer one replaced it.
#[derive(Clone, Debug)]
pub struct SnapshotFile {
    /// Where it is, or was.
    pub path: PathBuf,
    /// To read from, by position.
    pub file: Arc<dyn Reading>,
}

impl SnapshotFile {
    /// Opens a file. Blocks.
    pub fn open(disk: &dyn Disk, path: PathBuf) -> io::Result<Self> {
        let file = disk.open(&path)?;
        Ok(SnapshotFile { path, file })
    }
}

fn bad(path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot {}: {why}", path.display()))
}

/// Writes bytes and keeps their checksum.
struct Summed<W> {
    inner: W,
    crc: u32,
}

impl<W: Write> Write for Summed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<R: Read> Read for Summed<R> {
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

/// Writes a snapshot of what a transaction sees to a temporary file. Blocks.
fn write_file(disk: &dyn Disk, path: &Path, meta: &SnapshotMeta, txn: &ReadTransaction) -> io::Result<()> {
    let mut file = disk.create(path)?;
    let mut out = Summed { inner: BufWriter::with_capacity(BUFFER, &mut file), crc: 0 };
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

/// The name under which a snapshot stands.
fn name(meta: &SnapshotMeta) -> String {
    match &meta.last_log_id {
        Some(id) => format!("{:020}-{}-{}.snap", id.index, id.leader_id.term, id.leader_id.node_id),
        None => "empty.snap".into(),
    }
}

/// A file, read from its start to its end.
struct Cursor {
    file: Arc<dyn Reading>,
    at: u64,
    length: u64,
}

impl Read for Cursor {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let length = out.len().min(self.length.saturating_sub(self.at) as usize);
        self.file.read_exact_at(&mut out[..length], self.at)?;
        self.at += length as u64;
        Ok(length)
    }
}

impl Seek for Cursor {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.length.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or_else(|| io::Error::other("a place before the file's start"))?;
        Ok(self.at)
    }
}

/// Messages of a snapshot file, up to its checksum.
struct Messages {
    path: PathBuf,
    input: Summed<io::Take<BufReader<Cursor>>>,
}

impl Messages {
    fn open(disk: &dyn Disk, path: &Path) -> io::Result<Self> {
        let file = disk.open(path)?;
        let length = file.length()?;
        let content = length.checked_sub(FOOT).filter(|n| *n >= HEAD).ok_or_else(|| bad(path, "is cut off"))?;
        let input =
            Summed { inner: BufReader::with_capacity(BUFFER, Cursor { file, at: 0, length }).take(content), crc: 0 };
        let mut messages = Messages { path: path.to_path_buf(), input };
        let mut head = [0; HEAD as usize];
        messages.input.read_exact(&mut head)?;
        let format = u32::from_le_bytes([head[8], head[9], head[10], head[11]]);
        match &head[..8] {
            magic if magic != MAGIC => Err(bad(path, "is not a snapshot")),
            _ if format != FORMAT => Err(bad(path, format!("has format {format}, this software knows {FORMAT}"))),
            _ => Ok(messages),
        }
    }

    fn next<M: Message + Default>(&mut self) -> io::Result<Option<M>> {
        if self.input.inner.limit() == 0 {
            return self.check_sum().map(|()| None);
        }
        let length = self.length()?;
        if length > MAX_MESSAGE || length > self.input.inner.limit() {
            return Err(bad(&self.path, "holds a message longer than it may be"));
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
        Err(bad(&self.path, "holds a length that makes no sense"))
    }

    fn check_sum(&mut self) -> io::Result<()> {
        let mut foot = [0; FOOT as usize];
        self.input.inner.get_mut().read_exact(&mut foot)?;
        // Read once: a second end is still an end.
        self.input.inner.get_mut().seek_relative(-(FOOT as i64))?;
        match u32::from_le_bytes(foot) == self.input.crc {
            true => Ok(()),
            false => Err(bad(&self.path, "does not match its checksum")),
        }
    }
}

/// A snapshot's meta, from its header alone. Blocks.
pub fn read_meta(disk: &dyn Disk, path: &Path) -> io::Result<SnapshotMeta> {
    let header: SnapshotHeader = Messages::open(disk, path)?.next()?.ok_or_else(|| bad(path, "has no header"))?;
    header_in(header).map_err(|e| bad(path, e))
}

/// A snapshot's rows; the end of them is only reached if the checksum matches. Blocks.
pub fn rows(disk: &dyn Disk, path: &Path) -> io::Result<impl Iterator<Item = io::Result<Row>> + use<>> {
    let mut messages = Messages::open(disk, path)?;
    messages.next::<SnapshotHeader>()?.ok_or_else(|| bad(path, "has no header"))?;
    Ok(std::iter::from_fn(move || messages.next::<Row>().transpose()))
}

/// Reads a whole file and checks it; answers its meta. Blocks.
pub fn verify(disk: &dyn Disk, path: &Path) -> io::Result<SnapshotMeta> {
    for row in rows(disk, path)? {
        row?;
    }
    read_meta(disk, path)
}

/// Puts a complete temporary file in its place and removes older snapshots. Blocks.
pub fn keep(disk: &dyn Disk, temp: &Path, meta: &SnapshotMeta) -> io::Result<SnapshotFile> {
    let path = disk.dir().join(SNAPSHOTS).join(name(meta));
    publish(disk, temp, &path)?;
    let kept = SnapshotFile::open(disk, path)?;
    for other in list(disk)? {
        if other < kept.path {
            disk.remove(&other)?;
        }
    }
    Ok(kept)
}

fn list(disk: &dyn Disk) -> io::Result<Vec<PathBuf>> {
    let mut paths = disk.list(&disk.dir().join(SNAPSHOTS))?;
    paths.retain(|path| path.extension().is_some_and(|e| e == "snap"));
    paths.sort();
    Ok(paths)
}

/// The newest snapshot of a data folder. Blocks.
pub fn newest(disk: &dyn Disk) -> io::Result<Option<Snapshot>> {
    let Some(path) = list(disk)?.pop() else { return Ok(None) };
    let meta = read_meta(disk, &path)?;
    Ok(Some(Snapshot { meta, snapshot: SnapshotFile::open(disk, path)? }))
}

/// A temporary file's path that nobody else uses.
pub fn temp_path(dir: &Path) -> PathBuf {
    dir.join(TMP).join(format!("{:016x}.snap", random()))
}

/// Builds a snapshot of the state that it was made at, beside the state machine's work.
pub struct Builder {
    store: Arc<Store>,
    view: io::Result<Option<ReadTransaction>>,
}

impl Builder {
    /// `view` sees exactly what was applied.
    pub fn new(store: Arc<Store>, view: io::Result<ReadTransaction>) -> Self {
        Builder { store, view: view.map(Some) }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot> {
        let view = std::mem::replace(&mut self.view, Ok(None))?;
        let view = view.ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        let disk = self.store.disk().clone();
        let build = move || {
            let meta = machine::applied_in(&view)?;
            let temp = temp_path(disk.dir());
            write_file(&*disk, &temp, &meta, &view)?;
            let snapshot = keep(&*disk, &temp, &meta)?;
            Ok(Snapshot { meta, snapshot })
        };
        blocking(build).await?
    }
}
