//! The parts in a node's data folder: create, receive, open, verify and remove them.

use std::io::{self, ErrorKind};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tracing::{error, warn};
use volley_common::cluster_id::{Relation, relation};
use volley_common::error::Code;
use volley_common::options::check_write_id;
use volley_common::server::data_folder::{FolderRole, claim};
use volley_common::wire::catalog;
use volley_common::wire::cluster::HeldPart;
use volley_common::{Error, NodeId, PartId, Result, TableName, clock};

use super::checksum::checksum_on_disk;
use super::commit_part::PartCommitter;
use super::control_file::ControlFile;
use super::disk_space::{DiskSpace, Watermarks};
use super::inventory::PartInventory;
use super::io_failure::IoFailure;
use super::layout::Layout;
use super::open_part::{OpenPart, OpenParts};
use super::orphans::{OrphanCount, OrphanFolder};
use super::part::Part;
use super::part_cache::PartCache;
use super::part_receiver::PartReceiver;
use super::part_writer::{PartSpec, PartWriter};
use super::quarantine::Quarantine;
use super::seen_catalog::SeenCatalog;
use super::shard_dirs::ShardDirs;
use super::verification_log::VerificationLog;
use super::volume::Volume;
use super::{fs_ops, scan};

/// A node's data folder; clones share it.
#[derive(Clone)]
pub struct PartStore(pub(super) Arc<OpenStore>);

/// An open data folder.
pub(super) struct OpenStore {
    boot: u64,
    pub control: Mutex<ControlFile>,
    pub seen: SeenCatalog,
    pub volume: Arc<Volume>,
    pub inventory: Arc<PartInventory>,
    pub cache: Arc<PartCache>,
    pub dirs: Arc<ShardDirs>,
    open: Arc<OpenParts>,
    pub orphans: OrphanFolder,
    quarantine: Quarantine,
    last_scrub_ms: AtomicU64,
}

/// The state of the store, as reported to the coordinators.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct StoreStatus {
    /// Space of the file system.
    pub space: DiskSpace,
    /// Bytes of the node's parts.
    pub part_bytes: u64,
    /// Why the node accepts no new parts; empty: it accepts them.
    pub read_only_reason: String,
    /// Why its disk is degraded; empty: it is not.
    pub degraded_reason: String,
    /// Files in quarantine.
    pub quarantined: u64,
    /// Parts that the catalog does not know.
    pub orphans: OrphanCount,
    /// End of the last complete scrub, milliseconds since 1970; 0: never.
    pub last_scrub_ms: u64,
}

impl PartStore {
    /// Opens or creates the data folder with the default watermarks: see [`PartStore::open_with`].
    ///
    /// # Errors
    /// As there.
    pub fn open(dir: &Path) -> Result<PartStore> {
        PartStore::open_with(dir, Watermarks::default())
    }

    /// Opens or creates the data folder.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: another process has it open, it is no node's, or it has a newer format. DATA_LOSS: a damaged control file.
    /// UNAVAILABLE: it cannot be read or written.
    pub fn open_with(dir: &Path, watermarks: Watermarks) -> Result<PartStore> {
        let layout = Layout::new(dir);
        let lock = claim(dir, FolderRole::Node)?;
        let control = ControlFile::open(&layout)?;
        for dir in [layout.tmp(), layout.parts()] {
            fs_ops::create_dirs(&dir).map_err(|e| unusable(&dir, &e))?;
        }
        fs_ops::sync_dir(layout.root()).map_err(|e| unusable(layout.root(), &e))?;
        scan::clear_tmp(&layout.tmp()).map_err(|e| unusable(&layout.tmp(), &e))?;
        scan::clear_spill(&layout.spill()).map_err(|e| unusable(&layout.spill(), &e))?;
        let log = VerificationLog::load(&layout)?;
        let parts = scan::parts(&layout, &log).map_err(|e| unusable(&layout.parts(), &e))?;
        let store = OpenStore {
            boot: rand::random_range(1..=u64::MAX),
            quarantine: Quarantine::open(layout.quarantine()),
            orphans: OrphanFolder::open(layout.orphans()),
            volume: Arc::new(Volume::new(layout, lock, control.node, watermarks)),
            seen: SeenCatalog::new(control.seen),
            control: Mutex::new(control),
            inventory: Arc::new(PartInventory::new(parts)),
            cache: Arc::default(),
            dirs: Arc::default(),
            open: Arc::default(),
            last_scrub_ms: log.last_scrub_ms.into(),
        };
        store.volume.refresh_space();
        Ok(PartStore(Arc::new(store)))
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

    /// Joins a cluster, or follows it to its successor after a recovery, durably.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the folder belongs to another cluster. UNAVAILABLE: it belongs to a successor of this cluster,
    /// or cannot be written.
    pub fn join(&self, cluster: &str) -> Result<()> {
        let mut control = self.0.control.lock();
        match &control.cluster {
            Some(own) if own == cluster => Ok(()),
            Some(own) if relation(own, cluster) == Relation::Earlier => Err(Error::unavailable(format!(
                "the coordinators belong to cluster {cluster}, which was recovered without them and is now {own}"
            ))),
            Some(own) if relation(own, cluster) == Relation::Foreign => Err(Error::precondition(format!(
                "the data folder {} belongs to cluster {own}, not to {cluster}: start with another --data-dir",
                self.0.volume.layout().root().display()
            ))),
            Some(_) | None => {
                // What the node held in an earlier cluster is reconciled with the successor's catalog later.
                let reconciled = control.reconciled.clone().or_else(|| Some(cluster.to_string()));
                self.save_control(&mut control, |joined| {
                    (joined.cluster, joined.reconciled) = (Some(cluster.into()), reconciled)
                })
            }
        }
    }

    pub(super) fn save_control(&self, control: &mut ControlFile, change: impl FnOnce(&mut ControlFile)) -> Result<()> {
        let mut changed = control.clone();
        change(&mut changed);
        changed.save(self.0.volume.layout())?;
        *control = changed;
        Ok(())
    }

    /// Starts a new part.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a schema that IPC cannot encode, or a bad write id. RESOURCE_EXHAUSTED: no space. UNAVAILABLE: an
    /// earlier write failed.
    pub fn create(&self, spec: PartSpec) -> Result<PartWriter> {
        check_write_id(&spec.write)?;
        PartWriter::new(self.committer(), spec)
    }

    /// Starts to receive a part from another node.
    ///
    /// # Errors
    /// As [`PartStore::create`].
    pub fn receive(&self, part: &catalog::Part, table: &TableName) -> Result<PartReceiver> {
        check_write_id(&part.write)?;
        PartReceiver::new(self.committer(), part, table)
    }

    /// Starts to receive a part that another node still writes: length and checksum of its row are not known yet.
    ///
    /// # Errors
    /// As [`PartStore::create`].
    pub fn receive_open(&self, part: &catalog::Part, table: &TableName) -> Result<PartReceiver> {
        check_write_id(&part.write)?;
        PartReceiver::of_open_part(self.committer(), part, table)
    }

    /// The part, while this node writes it and until it is durable here or dropped.
    pub fn open_part_of(&self, id: PartId) -> Option<Arc<OpenPart>> {
        self.0.open.get(id)
    }

    /// Whether the node holds the part.
    pub fn holds(&self, id: PartId) -> bool {
        self.0.inventory.contains(id)
    }

    /// The part, if it is open already and its file is unchanged. Does not block on reads.
    pub fn cached(&self, id: PartId) -> Option<Arc<Part>> {
        self.0.cache.get(id)
    }

    /// The part, mapped; `None` if the node does not hold it. Its file is first read and its checksum compared, unless that
    /// was done since the last unclean stop and the file has not changed.
    ///
    /// # Errors
    /// DATA_LOSS: the file is damaged; it is quarantined, and the node no longer holds the part. UNAVAILABLE: the file
    /// cannot be opened.
    pub fn part(&self, id: PartId) -> Result<Option<Arc<Part>>> {
        let part = self.0.cache.get_or_open(id, || self.open_part(id))?;
        if !self.holds(id) {
            // It was removed while it was being opened.
            self.0.cache.forget(id);
        }
        Ok(part)
    }

    fn open_part(&self, id: PartId) -> Result<Option<Part>> {
        let Some(entry) = self.0.inventory.get(id) else { return Ok(None) };
        metrics::counter!("volley_part_opens_total").increment(1);
        let (path, trusted) = (entry.path(), entry.trusted());
        match Part::open(&path, id, entry.name.crc32c, |fingerprint| Some(*fingerprint) == trusted) {
            Ok(part) => {
                if Some(part.fingerprint()) != trusted {
                    self.0.inventory.mark_verified(id, part.fingerprint());
                }
                Ok(Some(part))
            }
            // It was removed meanwhile.
            Err(_) if !self.holds(id) => Ok(None),
            Err(error) => Err(self.quarantine(id, &path, error)),
        }
    }

    /// Keeps a part open no longer than its readers do. Unmapping may block.
    pub fn evict(&self, id: PartId) {
        self.0.cache.evict(id);
    }

    /// Every part that the node holds.
    pub fn inventory(&self) -> Vec<HeldPart> {
        self.0.inventory.list()
    }

    /// XOR of [`PartId::digest`] over the inventory, and the number of parts.
    pub fn digest(&self) -> (u64, u64) {
        self.0.inventory.digest()
    }

    /// The state of the store now.
    pub fn status(&self) -> StoreStatus {
        let space = self.0.volume.refresh_space();
        let (read_only_reason, degraded_reason) = self.0.volume.reasons(space);
        StoreStatus {
            space,
            part_bytes: self.0.inventory.bytes(),
            read_only_reason,
            degraded_reason,
            quarantined: self.0.quarantine.files(),
            orphans: self.0.orphans.count(),
            last_scrub_ms: self.0.last_scrub_ms.load(Ordering::Relaxed),
        }
    }

    /// Why the store no longer writes, after a write or fsync failed.
    pub fn write_failure(&self) -> Option<String> {
        self.0.volume.write_failure()
    }

    /// Whether the node accepts this many new bytes (0: unknown) now.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the disk is too full. UNAVAILABLE: a write failed before, and no further one is tried.
    pub fn check_writable(&self, bytes: u64) -> Result<()> {
        self.0.volume.check_writable(bytes)
    }

    /// Reads the part's file and compares its CRC-32C.
    ///
    /// # Errors
    /// NOT_FOUND: the node does not hold it. DATA_LOSS: the checksum differs, or the file cannot be read; the part is
    /// quarantined. UNAVAILABLE: the read failed for a passing reason.
    pub fn verify(&self, id: PartId) -> Result<()> {
        self.verify_throttled(id, |_| true)
    }

    /// Like [`PartStore::verify`]. `on_read` gets the number of bytes of every read, may block, and cancels by
    /// returning false.
    ///
    /// # Errors
    /// As there. CANCELLED: by `on_read`.
    pub fn verify_throttled(&self, id: PartId, on_read: impl FnMut(usize) -> bool) -> Result<()> {
        let entry = self.0.inventory.get(id);
        let entry = entry.ok_or_else(|| Error::not_found(format!("this node does not have part {id}")))?;
        let (path, expected) = (entry.path(), entry.name.crc32c);
        // Mapped pages would be read from memory, not from the disk.
        self.0.cache.evict(id);
        let reason = match checksum_on_disk(&path, on_read) {
            Ok((fingerprint, length, crc)) if (length, crc) == (fingerprint.bytes, expected) => {
                self.0.inventory.mark_verified(id, fingerprint);
                return Ok(());
            }
            Ok((_, length, crc)) => format!("its {length} bytes have the checksum {crc:08x} instead of {expected:08x}"),
            Err(e) if e.kind() == ErrorKind::Interrupted => {
                return Err(Error::cancelled("the verification was cancelled"));
            }
            Err(e) if IoFailure::of(&e).is_damage() => format!("it cannot be read: {e}"),
            Err(e) => return Err(Error::unavailable(format!("{} cannot be read just now: {e}", path.display()))),
        };
        // It may have been removed meanwhile.
        if !self.holds(id) {
            return Ok(());
        }
        let error = Error::data_loss(format!("part {id} is damaged ({}): {reason}", path.display()));
        Err(self.quarantine(id, &path, error))
    }

    /// The part whose verification is oldest, if that is longer ago than `period_ms`.
    pub fn next_to_verify(&self, period_ms: u64) -> Option<PartId> {
        self.0.inventory.due_for_verification(period_ms)
    }

    /// Records that a scrub is complete.
    pub fn record_scrub(&self) {
        self.0.last_scrub_ms.store(clock::now_ms(), Ordering::Relaxed);
    }

    /// Saves the verification log. `clean`: the store is not used afterwards.
    pub fn save_verification_log(&self, clean: bool) {
        let parts = self.0.inventory.verifications();
        let log = VerificationLog { clean, last_scrub_ms: self.0.last_scrub_ms.load(Ordering::Relaxed), parts };
        if let Err(error) = log.save(self.0.volume.layout()) {
            warn!(%error, "the verification log could not be saved: its parts will be verified again");
        }
    }

    /// The parts that were lost since the last call, and why the last one was.
    pub fn take_lost(&self) -> (Vec<PartId>, String) {
        self.0.quarantine.take_lost()
    }

    /// Waits until there may be lost parts.
    pub async fn wait_for_lost(&self) {
        self.0.quarantine.wait_for_lost().await;
    }

    /// Quarantines a part that is damaged (DATA_LOSS) or whose file is gone: from then on it is neither served nor
    /// counted as a copy. Returns the error for the caller; any other error is returned unchanged.
    fn quarantine(&self, id: PartId, path: &Path, error: Error) -> Error {
        let _lock = self.0.inventory.lock_file(id);
        // Any other error does not tell whether it is there.
        let gone = matches!(path.try_exists(), Ok(false));
        if error.code != Code::DataLoss && !gone {
            return error;
        }
        let Some(entry) = self.0.inventory.remove(id) else { return Error::data_loss(error.message) };
        metrics::counter!("volley_parts_quarantined_total").increment(1);
        self.0.cache.forget(id);
        let quarantine = &self.0.quarantine;
        if gone {
            error!("{error}; its file is gone, and this node no longer holds the part");
        } else {
            error!("{error}; it is quarantined in {}, where only an operator removes it", quarantine.dir().display());
            quarantine.move_in(path);
        }
        self.0.dirs.remove_if_empty(&entry.dir);
        self.0.volume.record_read_error(&error.message);
        quarantine.add_lost(id, &error.message);
        Error::data_loss(error.message)
    }

    fn committer(&self) -> PartCommitter {
        PartCommitter {
            volume: self.0.volume.clone(),
            inventory: self.0.inventory.clone(),
            cache: self.0.cache.clone(),
            dirs: self.0.dirs.clone(),
            open: self.0.open.clone(),
        }
    }

    /// Overrides the space that the file system reports; `None`: what it reports is used.
    #[cfg(test)]
    pub(crate) fn override_space(&self, space: Option<DiskSpace>) {
        self.0.volume.override_space(space);
    }
}

fn unusable(path: &Path, cause: &io::Error) -> Error {
    Error::unavailable(format!("the data folder {} cannot be used: {cause}", path.display()))
}
