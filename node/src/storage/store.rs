//! The inventory: which parts the node has. Rebuilt from the files' names at start.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::Notify;
use volley_common::cluster_id::{Relation, relation};
use volley_common::options::check_write_id;
use volley_common::wire::catalog;
use volley_common::wire::cluster::HeldPart;
use volley_common::{Error, NodeId, PartId, Result, TableName, clock};

use super::checked::{Check, Checked, Stamp};
use super::control::Control;
use super::disk;
use super::health::Health;
use super::layout::{Layout, PartFile};
use super::opened::{Kept, Opened, vouched};
use super::receive::Wanted;
use super::space::Watermarks;
use super::{Part, PartSpec, PartWriter, Receiver, scan};

/// A node's data folder; clones share it.
#[derive(Clone)]
pub struct Store(pub(super) Arc<Inner>);

pub(super) struct Inner {
    layout: Layout,
    /// Held as long as the store is open.
    _lock: File,
    boot: u64,
    control: Mutex<Control>,
    pub index: Mutex<HashMap<PartId, Entry>>,
    pub kept: Kept,
    /// Folders whose names are durable, as far as this run made sure. Held while folders are made and filled, or found
    /// empty and removed.
    pub folders: Mutex<HashSet<PathBuf>>,
    pub health: Mutex<Health>,
    /// Parts that were lost and are not yet reported, and why the last one was.
    pub lost: Mutex<(Vec<PartId>, String)>,
    pub lost_changed: Notify,
    /// Files in `damaged/`.
    pub damaged: AtomicU64,
    /// When the scrub last came to its end.
    pub scrubbed_ms: AtomicU64,
    /// What the file system is made to say in tests.
    #[cfg(test)]
    pub pretended: Mutex<Option<super::Space>>,
}

/// One part that the node has.
pub(super) struct Entry {
    pub name: PartFile,
    /// The folder that it lies in.
    pub dir: PathBuf,
    pub bytes: u64,
    /// When its bytes were last compared with its checksum.
    pub check: Option<Check>,
    pub opened: Opened,
}

impl Entry {
    pub fn path(&self) -> PathBuf {
        self.dir.join(self.name.name())
    }

    /// The file's stamp, if its bytes need not be read before they are served.
    fn trusted(&self) -> Option<Stamp> {
        self.check.filter(|check| check.trusted).map(|check| check.stamp)
    }

    /// The bytes were found right, when the file had this stamp.
    pub fn verified(&mut self, stamp: Stamp) {
        self.check = Some(Check { at_ms: clock::now_ms(), stamp, trusted: true });
    }
}

impl Store {
    /// [`Store::open_with`] the default watermarks.
    ///
    /// # Errors
    /// As there.
    pub fn open(dir: &Path) -> Result<Store> {
        Store::open_with(dir, Watermarks::default())
    }

    /// Opens or makes the data folder.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: another process has it open, or a newer format. DATA_LOSS: a damaged control file.
    /// UNAVAILABLE: it cannot be read or written.
    pub fn open_with(dir: &Path, watermarks: Watermarks) -> Result<Store> {
        let layout = Layout::new(dir);
        fs::create_dir_all(dir).map_err(|e| unusable(dir, &e))?;
        let lock = lock(&layout)?;
        let control = Control::open(&layout)?;
        for dir in [layout.tmp(), layout.parts()] {
            disk::make_dirs(&dir).map_err(|e| unusable(&dir, &e))?;
        }
        disk::sync_dir(layout.root()).map_err(|e| unusable(layout.root(), &e))?;
        scan::clear(&layout.tmp()).map_err(|e| unusable(&layout.tmp(), &e))?;
        let checked = Checked::take(&layout)?;
        let index = scan::parts(&layout, &checked).map_err(|e| unusable(&layout.parts(), &e))?;
        let damaged = fs::read_dir(layout.damaged()).map_or(0, |entries| entries.count() as u64);
        let store = Store(Arc::new(Inner {
            layout,
            _lock: lock,
            boot: rand::random_range(1..=u64::MAX),
            control: Mutex::new(control),
            index: Mutex::new(index),
            kept: Kept::default(),
            folders: Mutex::default(),
            health: Mutex::new(Health::new(watermarks)),
            lost: Mutex::default(),
            lost_changed: Notify::new(),
            damaged: damaged.into(),
            scrubbed_ms: checked.scrubbed_ms.into(),
            #[cfg(test)]
            pretended: Mutex::default(),
        }));
        store.look();
        Ok(store)
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

    /// Joins a cluster, or follows it after a recovery, durably; FAILED_PRECONDITION if the folder is of another one,
    /// UNAVAILABLE if it has followed the cluster further.
    pub fn join(&self, cluster: &str) -> Result<()> {
        let mut control = self.0.control.lock();
        match &control.cluster {
            Some(own) if own == cluster => Ok(()),
            Some(own) if relation(own, cluster) == Relation::Earlier => Err(Error::unavailable(format!(
                "the coordinators are those of cluster {cluster}, which was recovered without them and is {own} now"
            ))),
            Some(own) if relation(own, cluster) == Relation::Foreign => Err(Error::precondition(format!(
                "the data folder {} is of cluster {own}, not of {cluster}: start with another --data-dir",
                self.layout().root().display()
            ))),
            Some(_) | None => {
                let joined = Control { cluster: Some(cluster.to_string()), ..control.clone() };
                joined.save(self.layout())?;
                *control = joined;
                Ok(())
            }
        }
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

    /// The part, mapped; `None` if the node does not have it. It is read whole and checked before, unless that was done
    /// since the last unclean stop and nobody touched the file.
    ///
    /// # Errors
    /// DATA_LOSS: the file is damaged; it is put aside, and the node no longer has the part.
    pub fn part(&self, id: PartId) -> Result<Option<Arc<Part>>> {
        let (path, crc32c, trusted, opened) = match self.0.index.lock().get(&id) {
            None => return Ok(None),
            Some(entry) => (entry.path(), entry.name.crc32c, entry.trusted(), entry.opened.get()),
        };
        if let Some(opened) = vouched(opened) {
            return Ok(Some(opened));
        }
        let part = match Part::open(&path, id, crc32c, |stamp| Some(*stamp) == trusted) {
            Ok(part) => Arc::new(part),
            // It may have been removed just now.
            Err(_) if !self.holds(id) => return Ok(None),
            Err(error) => return Err(self.lost(id, &path, error)),
        };
        if let Some(entry) = self.0.index.lock().get_mut(&id)
            && Some(part.stamp()) != trusted
        {
            entry.verified(part.stamp());
        }
        self.keep(&part);
        Ok(Some(part))
    }

    /// Removes parts; those that the node does not have are no error. Readers keep what they have mapped.
    pub fn remove(&self, ids: &[PartId]) -> Result<()> {
        for id in ids {
            let Some(entry) = self.0.index.lock().remove(id) else { continue };
            let path = entry.path();
            match disk::remove(&path) {
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

    pub(super) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    /// Removes a shard's folder, and its table's, if nothing is in them.
    pub(super) fn remove_empty(&self, shard: &Path) {
        let mut durable = self.0.folders.lock();
        // `remove_dir` refuses a folder that is not empty: that is the check.
        for dir in shard.ancestors().take(2) {
            if disk::remove_dir(dir).is_err() {
                return;
            }
            durable.remove(dir);
        }
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
