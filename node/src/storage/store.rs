//! The inventory: which parts the node has. Rebuilt from the files' names at start.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock, statvfs};
use tracing::{error, warn};
use volley_common::error::Code;
use volley_common::options::check_write_id;
use volley_common::wire::catalog;
use volley_common::wire::cluster::HeldPart;
use volley_common::{Error, NodeId, PartId, Result, TableName};

use super::control::{Control, sync_dir};
use super::layout::{Layout, PartFile};
use super::receive::{Temp, Wanted};
use super::{Part, PartSpec, PartWriter, Receiver, scan};

/// A node's data folder; clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

struct Inner {
    layout: Layout,
    /// Held as long as the store is open.
    _lock: File,
    boot: u64,
    control: Mutex<Control>,
    index: Mutex<HashMap<PartId, Entry>>,
    /// Held while folders are made and filled, or found empty and removed.
    folders: Mutex<()>,
    stopped: Mutex<Option<String>>,
}

/// One part that the node has.
pub(super) struct Entry {
    pub name: PartFile,
    /// The folder that it lies in.
    pub dir: PathBuf,
    pub bytes: u64,
    /// Its bytes were compared with its checksum since the process began.
    pub checked: bool,
    pub mapped: Weak<Part>,
}

impl Entry {
    fn path(&self) -> PathBuf {
        self.dir.join(self.name.name())
    }
}

impl Store {
    /// Opens or makes the data folder.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: another process has it open, or a newer format. DATA_LOSS: a damaged control file.
    /// UNAVAILABLE: it cannot be read or written.
    pub fn open(dir: &Path) -> Result<Store> {
        let layout = Layout::new(dir);
        fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
        let lock = lock(&layout)?;
        let control = Control::open(&layout)?;
        for dir in [layout.tmp(), layout.parts()] {
            fs::create_dir_all(&dir).map_err(|e| unusable(&dir, &e))?;
        }
        scan::clear(&layout.tmp()).map_err(|e| unusable(&layout.tmp(), &e))?;
        let index = scan::parts(&layout).map_err(|e| unusable(&layout.parts(), &e))?;
        Ok(Store(Arc::new(Inner {
            layout,
            _lock: lock,
            boot: rand::random_range(1..=u64::MAX),
            control: Mutex::new(control),
            index: Mutex::new(index),
            folders: Mutex::new(()),
            stopped: Mutex::new(None),
        })))
    }

    /// The node's durable id.
    pub fn node(&self) -> NodeId {
        self.0.control.lock().node
    }

    /// A random number of this run of the process.
    pub fn boot(&self) -> u64 {
        self.0.boot
    }

    /// The cluster that the node has joined.
    pub fn cluster(&self) -> Option<String> {
        self.0.control.lock().cluster.clone()
    }

    /// Joins a cluster, durably; FAILED_PRECONDITION if the folder is of another one.
    pub fn join(&self, cluster: &str) -> Result<()> {
        let mut control = self.0.control.lock();
        match &control.cluster {
            Some(own) if own == cluster => Ok(()),
            Some(own) => Err(Error::precondition(format!(
                "the data folder {} is of cluster {own}, not of {cluster}: start with another --data-dir",
                self.layout().root().display()
            ))),
            None => {
                let joined = Control { cluster: Some(cluster.to_string()), ..control.clone() };
                joined.save(self.layout())?;
                *control = joined;
                Ok(())
            }
        }
    }

    /// Why the store no longer takes writes, after a write or fsync failed.
    pub fn stopped(&self) -> Option<String> {
        self.0.stopped.lock().clone()
    }

    /// Begins a part.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a schema that IPC cannot carry. RESOURCE_EXHAUSTED: no space. UNAVAILABLE: the store has stopped.
    pub fn create(&self, spec: PartSpec) -> Result<PartWriter> {
        check_write_id(&spec.write)?;
        PartWriter::new(self.clone(), spec)
    }

    /// Begins to take a part from another node.
    pub fn receive(&self, part: &catalog::Part, table: &TableName) -> Result<Receiver> {
        check_write_id(&part.write)?;
        let name = PartFile { write: part.write.clone(), seq: part.seq, id: part.part_id(), crc32c: part.crc32c };
        Receiver::new(self.clone(), Wanted { name, table: table.clone(), shard: part.shard, bytes: part.bytes })
    }

    /// Whether the node has the part.
    pub fn holds(&self, id: PartId) -> bool {
        self.0.index.lock().contains_key(&id)
    }

    /// The part, mapped; `None` if the node does not have it. The first time since start it is read whole and checked.
    ///
    /// # Errors
    /// DATA_LOSS: the file is damaged; it is put aside, and the node no longer has the part.
    pub fn part(&self, id: PartId) -> Result<Option<Arc<Part>>> {
        let (path, crc32c, checked) = match self.0.index.lock().get(&id) {
            None => return Ok(None),
            Some(entry) => match entry.mapped.upgrade() {
                Some(part) => return Ok(Some(part)),
                None => (entry.path(), entry.name.crc32c, entry.checked),
            },
        };
        let part = match Part::open(&path, id, crc32c, !checked) {
            Ok(part) => Arc::new(part),
            // It may have been removed just now.
            Err(_) if !self.holds(id) => return Ok(None),
            Err(error) => return Err(self.lost(id, &path, error)),
        };
        if let Some(entry) = self.0.index.lock().get_mut(&id) {
            entry.mapped = Arc::downgrade(&part);
            entry.checked = true;
        }
        Ok(Some(part))
    }

    /// Reads the part's file again and compares its CRC-32C.
    ///
    /// # Errors
    /// NOT_FOUND: the node does not have it. DATA_LOSS: it differs; the part is put aside.
    pub fn verify(&self, id: PartId) -> Result<()> {
        let held = self.0.index.lock().get(&id).map(|entry| (entry.path(), entry.name.crc32c, entry.bytes));
        let (path, crc32c, bytes) = held.ok_or_else(|| Error::not_found(format!("this node does not have {id:?}")))?;
        match scan::checksum(&path) {
            Ok(found) if found == (bytes, crc32c) => Ok(()),
            _ if !self.holds(id) => Ok(()),
            Ok((length, crc)) => {
                let what = format!(
                    "{id:?} is damaged: {length} bytes with checksum {crc:08x} instead of {bytes} with {crc32c:08x}"
                );
                Err(self.lost(id, &path, Error::data_loss(what)))
            }
            Err(e) => Err(self.lost(id, &path, Error::data_loss(format!("{id:?} cannot be read: {e}")))),
        }
    }

    /// Removes parts; those that the node does not have are no error. Readers keep what they have mapped.
    pub fn remove(&self, ids: &[PartId]) -> Result<()> {
        for id in ids {
            let Some(entry) = self.0.index.lock().remove(id) else { continue };
            let path = entry.path();
            match fs::remove_file(&path) {
                Err(e) if e.kind() != ErrorKind::NotFound => {
                    self.0.index.lock().insert(*id, entry);
                    return Err(Error::unavailable(format!("{} cannot be removed: {e}", path.display())));
                }
                _ => self.remove_empty(&entry.dir),
            }
        }
        Ok(())
    }

    /// Every part that the node has.
    pub fn inventory(&self) -> Vec<HeldPart> {
        let held = |entry: &Entry| HeldPart {
            id: Some(entry.name.id.into()),
            write: entry.name.write.clone(),
            crc32c: entry.name.crc32c,
            bytes: entry.bytes,
        };
        self.0.index.lock().values().map(held).collect()
    }

    /// XOR of [`PartId::digest`] over the inventory, and the number of parts.
    pub fn digest(&self) -> (u64, u64) {
        let index = self.0.index.lock();
        (index.keys().fold(0, |all, id| all ^ id.digest()), index.len() as u64)
    }

    /// Bytes free on the file system (0 if it does not say), bytes used by parts.
    pub fn space(&self) -> (u64, u64) {
        let used = self.0.index.lock().values().map(|entry| entry.bytes).sum();
        (self.free(), used)
    }

    fn free(&self) -> u64 {
        statvfs(self.layout().root()).map_or(0, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// A new file in `tmp/`.
    pub(super) fn temporary(&self, id: PartId) -> Result<(File, PathBuf)> {
        if let Some(why) = self.stopped() {
            return Err(Error::unavailable(why));
        }
        let path = self.layout().temporary(id);
        let file = OpenOptions::new().write(true).create_new(true).open(&path);
        file.map(|file| (file, path)).map_err(|e| self.failed("a new part", &e))
    }

    /// What a failed write means: a full disk refuses this write, anything else all writes from now on.
    pub(super) fn failed(&self, what: &str, cause: &io::Error) -> Error {
        let folder = self.layout().root().display();
        if matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            return Error::exhausted(format!(
                "no space for {what} in {folder}: {} bytes are free ({cause})",
                self.free()
            ));
        }
        let why = format!("the node stopped accepting parts: {what} could not be written in {folder}: {cause}");
        error!("{why}");
        self.0.stopped.lock().get_or_insert_with(|| why.clone());
        Error::unavailable(why)
    }

    /// fsync, rename to its place, fsync of the folder; the part is in the inventory afterwards.
    pub(super) fn seal(&self, file: &File, temp: &mut Temp, dir: PathBuf, name: PartFile, bytes: u64) -> Result<()> {
        if let Some(why) = self.stopped() {
            return Err(Error::unavailable(why));
        }
        file.sync_all().and_then(|()| self.place(temp, &dir, &name)).map_err(|e| self.failed("a part", &e))?;
        let entry = Entry { dir, bytes, checked: true, mapped: Weak::new(), name };
        self.0.index.lock().insert(entry.name.id, entry);
        Ok(())
    }

    fn place(&self, temp: &mut Temp, dir: &Path, name: &PartFile) -> io::Result<()> {
        let folders = self.0.folders.lock();
        let fresh = !dir.exists();
        fs::create_dir_all(dir)?;
        fs::rename(temp.path(), dir.join(name.name()))?;
        temp.keep();
        drop(folders);
        sync_dir(dir)?;
        if fresh {
            dir.ancestors().skip(1).take(2).try_for_each(sync_dir)?;
        }
        Ok(())
    }

    /// Removes a shard's folder, and its table's, if nothing is in them.
    fn remove_empty(&self, shard: &Path) {
        let _folders = self.0.folders.lock();
        // `remove_dir` refuses a folder that is not empty: that is the check.
        for dir in shard.ancestors().take(2) {
            if fs::remove_dir(dir).is_err() {
                return;
            }
        }
    }

    /// Puts a damaged part aside, so that it is neither served nor counted as a copy. Other errors pass through.
    fn lost(&self, id: PartId, path: &Path, error: Error) -> Error {
        let gone = !path.exists();
        if error.code != Code::DataLoss && !gone {
            return error;
        }
        error!("{error}; it is put aside in {}", self.layout().damaged().display());
        let entry = self.0.index.lock().remove(&id);
        let aside = fs::create_dir_all(self.layout().damaged())
            .and_then(|()| fs::rename(path, self.layout().damaged().join(path.file_name().unwrap_or_default())));
        if let (Err(cause), false) = (aside, gone) {
            warn!("{} cannot be put aside: {cause}", path.display());
        }
        if let Some(entry) = entry {
            self.remove_empty(&entry.dir);
        }
        Error::data_loss(error.message)
    }
}

fn unusable(path: &Path, cause: &io::Error) -> Error {
    Error::unavailable(format!("the data folder {} cannot be used: {cause}", path.display()))
}

/// Locks the folder for this process; the kernel unlocks it when the process ends, however it ends.
fn lock(layout: &Layout) -> Result<File> {
    let path = layout.lock();
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|e| unusable(&path, &e))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(Error::precondition(format!(
            "the data folder {} is in use by another process: stop it, or start with another --data-dir",
            layout.root().display()
        ))),
        Err(e) => Err(unusable(&path, &e.into())),
    }
}
