//! The manifest of a load of many files: which files each write has, and which writes are committed. A record is on disk
//! before what it announces begins, so that a load that was interrupted at any moment continues without a file twice or missing.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use arrow::datatypes::{Schema, SchemaRef};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use volley_common::clock;
use volley_common::file_lock::FileLock;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::{Error, Result};

use super::find_files::PartitionedFile;
use crate::args::ModeArg;
use crate::formats::{RemoteUrl, io_error, message_path};

/// The version of the manifest's format.
const FORMAT: u32 = 1;
/// How every manifest begins.
const START: &[u8] = b"{\"load\":{";
/// A write ends at so many bytes of files, or so many files.
const WRITE_BYTES: u64 = 256 << 20;
const WRITE_FILES: usize = 1000;
/// How long a write can be repeated by its id: shorter than the cluster remembers ids, unless it has more than 70 writes a second.
const REPEATABLE_MS: u64 = 3_600_000;

/// A file as it was when its write began.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LoadedFile {
    path: String,
    bytes: u64,
    modified_ns: u64,
}

/// What the whole load has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LoadHeader {
    format: u32,
    table: String,
    id: String,
    /// What the first write does to the table's rows; the others append.
    mode: ModeArg,
    /// The columns of all rows, as an IPC message in base64.
    schema: String,
}

/// One line of the manifest.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ManifestRecord {
    Load(LoadHeader),
    Begin { write: String, at_ms: u64, files: Vec<LoadedFile> },
    Commit { write: String },
    Abort { write: String },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LoadState {
    Begun,
    Committed,
    Aborted,
}

/// One write of the load.
#[derive(Debug)]
struct LoadWrite {
    id: String,
    begun_ms: u64,
    files: Vec<LoadedFile>,
    state: LoadState,
}

/// The files of one write that is not committed.
#[derive(Debug)]
pub struct LoadGroup {
    /// The id of a write that was begun.
    id: Option<String>,
    /// The files.
    pub files: Vec<PartitionedFile>,
    /// The files as they are now.
    now: Vec<LoadedFile>,
    /// Whether a file is not as it was when the write began.
    pub is_changed: bool,
}

/// A write to make.
pub struct NextWrite {
    /// Its id.
    pub id: String,
    /// What it does to the table's rows.
    pub mode: ModeArg,
    /// Whether it is the first of the load.
    pub is_first: bool,
}

/// The manifest, which this process alone uses.
#[derive(Debug)]
pub struct LoadManifest {
    path: PathBuf,
    lock: FileLock,
    header: Option<LoadHeader>,
    writes: Vec<LoadWrite>,
}

impl LoadedFile {
    fn of(path: &Path) -> Result<LoadedFile> {
        let failed = |e: std::io::Error| io_error(path, &e);
        let refused = |why: &str| Error::invalid(format!("{}: {why}", message_path(path).display()));
        if path == Path::new("-") {
            return Err(Error::invalid("--resume needs files: the standard input cannot be read again"));
        }
        if RemoteUrl::of(path).is_some() {
            return Err(refused("--resume is for files of this machine"));
        }
        // Its name in every working folder.
        let place = path.canonicalize().map_err(failed)?;
        let meta = place.metadata().map_err(failed)?;
        if !meta.is_file() {
            return Err(refused("--resume needs files that can be read again, and this is none"));
        }
        let modified = meta.modified().map_err(failed)?.duration_since(UNIX_EPOCH).unwrap_or_default();
        let name = place.to_str().ok_or_else(|| refused("its name is not UTF-8, which --resume needs"))?;
        let modified_ns = u64::try_from(modified.as_nanos()).unwrap_or(u64::MAX);
        Ok(LoadedFile { path: name.to_string(), bytes: meta.len(), modified_ns })
    }
}

impl LoadManifest {
    /// Opens or creates the manifest of a load into a table.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the file is no manifest, or that of another table. UNAVAILABLE: another process uses it.
    pub fn open(path: &Path, table: &str) -> Result<LoadManifest> {
        let failed = |e: std::io::Error| io_error(path, &e);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed)?;
        let lock = FileLock::try_new(file).map_err(failed)?;
        let lock = lock.ok_or_else(|| Error::unavailable(format!("{}: another load uses it", path.display())))?;
        let mut file = lock.file();
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).map_err(failed)?;
        let refused = |why: String| Error::invalid(format!("{}: {why}", path.display()));
        if !bytes.starts_with(START) && !START.starts_with(&bytes) {
            return Err(refused("it is no manifest of a load: name a new file".into()));
        }
        // A record without its line end was not written to its end: what it announces has not begun.
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64).and_then(|()| file.seek(SeekFrom::End(0)).map(|_| ())).map_err(failed)?;
        let mut manifest = LoadManifest { path: path.to_path_buf(), lock, header: None, writes: Vec::new() };
        for (index, line) in
            bytes[..whole].split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty())
        {
            let record = serde_json::from_slice(line).map_err(|e| refused(format!("line {}: {e}", index + 1)))?;
            manifest.apply(record).map_err(|why| refused(format!("line {}: {why}", index + 1)))?;
        }
        match &manifest.header {
            Some(header) if header.format != FORMAT => Err(refused("it is of another version of volley".into())),
            Some(header) if header.table != table => Err(refused(format!("it is of a load into {}", header.table))),
            _ => Ok(manifest),
        }
    }

    fn apply(&mut self, record: ManifestRecord) -> Result<(), String> {
        let (id, state) = match record {
            ManifestRecord::Load(header) => {
                self.header = Some(header);
                return Ok(());
            }
            ManifestRecord::Begin { write, at_ms, files } => {
                self.writes.push(LoadWrite { id: write, begun_ms: at_ms, files, state: LoadState::Begun });
                return Ok(());
            }
            ManifestRecord::Commit { write } => (write, LoadState::Committed),
            ManifestRecord::Abort { write } => (write, LoadState::Aborted),
        };
        let known = self.writes.iter_mut().find(|known| known.id == id);
        known.ok_or_else(|| format!("there is no write {id}"))?.state = state;
        Ok(())
    }

    /// Writes a record to the disk.
    fn add(&mut self, record: ManifestRecord) -> Result<()> {
        let failed = |e: std::io::Error| io_error(&self.path, &e);
        let mut line = serde_json::to_vec(&record).map_err(|e| Error::internal(e.to_string()))?;
        line.push(b'\n');
        let mut file = self.lock.file();
        file.write_all(&line).and_then(|()| file.sync_data()).map_err(failed)?;
        self.apply(record).map_err(Error::internal)
    }

    /// The columns of the load, if it has begun.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the manifest is damaged.
    pub fn schema(&self) -> Result<Option<SchemaRef>> {
        let Some(header) = &self.header else { return Ok(None) };
        let damaged = |e: String| Error::invalid(format!("{}: the columns cannot be read: {e}", self.path.display()));
        let message = BASE64_STANDARD.decode(&header.schema).map_err(|e| damaged(e.to_string()))?;
        parse_schema(&message).map(Some).map_err(|e| damaged(e.message))
    }

    /// Checks the mode of a command line, which counts when the load begins only.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the load began with another one.
    pub fn check_mode(&self, mode: ModeArg) -> Result<()> {
        let Some(began) = self.header.as_ref().map(|header| header.mode).filter(|began| *began != mode) else {
            return Ok(());
        };
        let name = began.to_possible_value().map_or_else(String::new, |value| value.get_name().to_string());
        Err(Error::invalid(format!(
            "{}: the load began with --mode {name}: give the same to continue it, or the name of a new file for another load",
            self.path.display()
        )))
    }

    /// Begins the load.
    pub fn start(&mut self, table: String, mode: ModeArg, schema: &Schema) -> Result<()> {
        let random = || RandomState::new().build_hasher().finish();
        let id = format!("load-{:016x}{:016x}", random(), random());
        let schema = BASE64_STANDARD.encode(schema_message(schema)?);
        self.add(ManifestRecord::Load(LoadHeader { format: FORMAT, table, id, mode, schema }))?;
        // The name in its folder, too.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|e| io_error(folder, &e))
    }

    /// What is left to load of some files, and how many are loaded: first the writes that were begun.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a file is named twice, or has changed since it was loaded; or a write was begun whose files are not
    /// named, or so long ago that the cluster may have forgotten it. NOT_FOUND: a file does not exist.
    pub fn plan(&self, found: Vec<PartitionedFile>, now_ms: u64) -> Result<(Vec<LoadGroup>, usize)> {
        let mut files: HashMap<String, (LoadedFile, PartitionedFile)> = HashMap::new();
        let mut names = Vec::new();
        let own = self.path.canonicalize().map_err(|e| io_error(&self.path, &e))?;
        for file in found {
            let now = LoadedFile::of(&file.path)?;
            if Path::new(&now.path) == own {
                continue;
            }
            names.push(now.path.clone());
            if let Some((_, twice)) = files.insert(now.path.clone(), (now, file)) {
                return Err(Error::invalid(format!("{}: the file is named twice", twice.path.display())));
            }
        }
        let (mut groups, mut loaded) = (Vec::new(), 0);
        for write in &self.writes {
            match write.state {
                LoadState::Begun => groups.push(self.begun(write, &mut files, now_ms)?),
                LoadState::Committed => {
                    for file in &write.files {
                        let Some((now, _)) = files.remove(&file.path) else { continue };
                        check_unchanged(file, &now)?;
                        loaded += 1;
                    }
                }
                LoadState::Aborted => {}
            }
        }
        let left = names.into_iter().filter_map(|name| files.remove(&name));
        groups.extend(new_groups(left));
        Ok((groups, loaded))
    }

    /// A write that was begun, of which nobody knows whether it is committed.
    fn begun(
        &self,
        write: &LoadWrite,
        files: &mut HashMap<String, (LoadedFile, PartitionedFile)>,
        now_ms: u64,
    ) -> Result<LoadGroup> {
        let refused = |text: String| Error::invalid(format!("{}: {text}", self.path.display()));
        if now_ms.saturating_sub(write.begun_ms) > REPEATABLE_MS {
            let (id, first) = (&write.id, write.files.first().map_or("", |file| file.path.as_str()));
            return Err(refused(format!(
                "the write {id} was begun more than an hour ago, and its end is not known: look whether the table has the rows of {first}, and add the line {{\"commit\":{{\"write\":\"{id}\"}}}} if it has, or {{\"abort\":{{\"write\":\"{id}\"}}}} if not"
            )));
        }
        let mut group = LoadGroup { id: Some(write.id.clone()), files: Vec::new(), now: Vec::new(), is_changed: false };
        for file in &write.files {
            let Some((now, found)) = files.remove(&file.path) else {
                let (id, path) = (&write.id, &file.path);
                return Err(refused(format!(
                    "the write {id} was begun with {path}: name that file, too; if it is gone, and the table does not have its rows, add the line {{\"abort\":{{\"write\":\"{id}\"}}}}"
                )));
            };
            group.is_changed |= *file != now;
            group.files.push(found);
            group.now.push(now);
        }
        Ok(group)
    }

    /// Begins a write of a group, or repeats the one that was begun.
    ///
    /// # Errors
    /// The manifest cannot be written.
    pub fn begin(&mut self, group: &LoadGroup) -> Result<NextWrite> {
        let header = self.header.as_ref().ok_or_else(|| Error::internal("the load has not begun"))?;
        let (mode, known) = (header.mode, group.id.as_ref());
        let id = known.map_or_else(|| format!("{}-{}", header.id, self.writes.len()), Clone::clone);
        let mut before = self.writes.iter().take_while(|write| write.id != id);
        let is_first = before.all(|write| write.state == LoadState::Aborted);
        if known.is_none() {
            let (write, at_ms, files) = (id.clone(), clock::now_ms(), group.now.clone());
            self.add(ManifestRecord::Begin { write, at_ms, files })?;
        }
        Ok(NextWrite { id, mode: if is_first { mode } else { ModeArg::Append }, is_first })
    }

    /// Records that a write is committed.
    ///
    /// # Errors
    /// The manifest cannot be written.
    pub fn commit(&mut self, id: &str) -> Result<()> {
        self.add(ManifestRecord::Commit { write: id.to_string() })
    }
}

fn check_unchanged(before: &LoadedFile, now: &LoadedFile) -> Result<()> {
    if before == now {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "{}: the file has changed since it was loaded, and the table has its former rows: put it without --resume, or leave it out",
        now.path
    )))
}

/// The files in groups of a limited size.
fn new_groups(files: impl Iterator<Item = (LoadedFile, PartitionedFile)>) -> Vec<LoadGroup> {
    let mut groups: Vec<LoadGroup> = Vec::new();
    let mut bytes = 0;
    for (now, file) in files {
        let fits = |group: &&mut LoadGroup| group.files.len() < WRITE_FILES && bytes + now.bytes <= WRITE_BYTES;
        if let Some(group) = groups.last_mut().filter(fits) {
            bytes += now.bytes;
            group.files.push(file);
            group.now.push(now);
        } else {
            bytes = now.bytes;
            groups.push(LoadGroup { id: None, files: vec![file], now: vec![now], is_changed: false });
        }
    }
    groups
}

#[cfg(test)]
mod tests;
