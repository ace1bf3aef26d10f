//! A disk in memory that loses what was not synced.
//!
//! A power loss keeps a random choice of the sectors of every unsynced write to the database, a random prefix of every unsynced
//! file, and a random choice of the changes of every unsynced folder.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use redb::{Builder, Database, DatabaseError, StorageBackend};
use volley_coordinator::raft::storage::files::{DataDir, ReadableFile, SNAPSHOTS, TMP, WritableFile};

use crate::rng::SimRng;

/// The size that a disk writes atomically, in bytes.
const SECTOR: usize = 512;

/// Whether a disk keeps what it synced. Runs with disks that do not must fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SyncBehavior {
    /// What was synced is durable.
    Durable,
    /// No sync has an effect.
    Never,
    /// A sync takes effect only some syncs later, as if changes were acknowledged before they are synced.
    Delayed,
}

/// The number of syncs by which a disk with [`SyncBehavior::Delayed`] lags.
const DELAYED_SYNCS: usize = 8;

/// A coordinator's disk. It outlives the coordinator's processes.
#[derive(Debug)]
pub struct SimDisk {
    dir: PathBuf,
    state: Mutex<SimDiskState>,
}

#[derive(Debug)]
struct SimDiskState {
    rng: SimRng,
    /// The process that may use it.
    incarnation: u64,
    /// Changing operations until it fails; none if it does not.
    operations_left: Option<u32>,
    failed: bool,
    behavior: SyncBehavior,
    database: SimDatabaseBytes,
    /// File contents by number.
    contents: BTreeMap<u64, SimFileContent>,
    /// File names as they are now, and as they are after a power loss.
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
}

/// A database file.
#[derive(Debug, Default)]
struct SimDatabaseBytes {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// Changes since the last sync.
    unsynced: Vec<UnsyncedChange>,
    /// Changes that a disk with [`SyncBehavior::Delayed`] claims to have synced, by sync.
    delayed: VecDeque<Vec<UnsyncedChange>>,
}

#[derive(Debug)]
enum UnsyncedChange {
    Length(usize),
    Data(usize, Vec<u8>),
}

#[derive(Clone, Debug, Default)]
struct SimFileContent {
    bytes: Arc<Vec<u8>>,
    synced: usize,
}

fn disk_failed() -> io::Error {
    io::Error::other("the simulated disk has failed")
}

impl SimDatabaseBytes {
    fn apply(to: &mut Vec<u8>, change: &UnsyncedChange) {
        match change {
            UnsyncedChange::Length(length) => to.resize(*length, 0),
            UnsyncedChange::Data(at, data) => SimDatabaseBytes::put(to, *at, data),
        }
    }

    fn put(to: &mut Vec<u8>, at: usize, data: &[u8]) {
        if to.len() < at + data.len() {
            to.resize(at + data.len(), 0);
        }
        to[at..at + data.len()].copy_from_slice(data);
    }

    fn change(&mut self, change: UnsyncedChange) {
        SimDatabaseBytes::apply(&mut self.now, &change);
        self.unsynced.push(change);
    }

    fn sync(&mut self, behavior: SyncBehavior) {
        let delay = match behavior {
            SyncBehavior::Durable => 0,
            SyncBehavior::Delayed => DELAYED_SYNCS,
            SyncBehavior::Never => return,
        };
        self.delayed.push_back(std::mem::take(&mut self.unsynced));
        while self.delayed.len() > delay {
            for change in self.delayed.pop_front().into_iter().flatten() {
                SimDatabaseBytes::apply(&mut self.durable, &change);
            }
        }
    }

    /// Loses power: keeps each unsynced sector with this probability.
    fn lose_power(&mut self, rng: &mut SimRng, probability: f64) {
        if !self.delayed.is_empty() {
            // The disk is as it was some syncs ago.
            self.delayed.clear();
            self.unsynced.clear();
        }
        for change in std::mem::take(&mut self.unsynced) {
            match change {
                UnsyncedChange::Data(at, data) => {
                    for (piece, sector) in data.chunks(SECTOR).enumerate() {
                        if rng.random_bool(probability) {
                            SimDatabaseBytes::put(&mut self.durable, at + piece * SECTOR, sector);
                        }
                    }
                }
                length if rng.random_bool(probability) => SimDatabaseBytes::apply(&mut self.durable, &length),
                UnsyncedChange::Length(_) => {}
            }
        }
        self.now = self.durable.clone();
    }
}

impl SimDiskState {
    /// Checks that this process may use the disk, and that the disk works.
    fn check_usable(&self, incarnation: u64) -> io::Result<()> {
        if incarnation == self.incarnation && !self.failed { Ok(()) } else { Err(disk_failed()) }
    }

    /// The same check before a changing operation; the configured failure may occur here.
    fn begin_change(&mut self, incarnation: u64) -> io::Result<()> {
        self.check_usable(incarnation)?;
        match &mut self.operations_left {
            Some(0) => {
                self.failed = true;
                Err(disk_failed())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn lose_power(&mut self) {
        let probability = [0.0, 1.0, 0.5, 0.9][self.rng.random_range(0..4)];
        let SimDiskState { database, rng, .. } = self;
        database.lose_power(rng, probability);
        let names: BTreeSet<PathBuf> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        for name in names {
            let kept = if self.rng.random_bool(probability) { &self.names } else { &self.durable_names };
            match kept.get(&name).copied() {
                Some(number) => drop(self.durable_names.insert(name, number)),
                None => drop(self.durable_names.remove(&name)),
            }
        }
        self.names = self.durable_names.clone();
        for content in self.contents.values_mut() {
            let length = self.rng.random_range(content.synced..=content.bytes.len());
            content.bytes = Arc::new(content.bytes[..length].to_vec());
            content.synced = length;
        }
    }
}

impl SimDisk {
    pub fn new(dir: PathBuf, rng: SimRng, behavior: SyncBehavior) -> Arc<SimDisk> {
        let state = SimDiskState {
            rng,
            incarnation: 0,
            operations_left: None,
            failed: false,
            behavior,
            database: SimDatabaseBytes::default(),
            contents: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
        };
        Arc::new(SimDisk { dir, state: Mutex::new(state) })
    }

    /// Makes every later operation of the current process fail: the process crashed.
    pub fn disconnect(&self) {
        self.state.lock().failed = true;
    }

    /// The data folder as the next process finds it.
    pub fn recover(self: &Arc<Self>, incarnation: u64, power_lost: bool) -> Arc<SimDataDir> {
        let mut state = self.state.lock();
        if power_lost {
            state.lose_power();
        }
        (state.incarnation, state.failed, state.operations_left) = (incarnation, false, None);
        drop(state);
        Arc::new(SimDataDir { disk: self.clone(), incarnation })
    }

    /// Fails after this many changing operations.
    pub fn fail_after(&self, operations: u32) {
        self.state.lock().operations_left = Some(operations);
    }

    /// Whether the disk has failed or was disconnected.
    pub fn has_failed(&self) -> bool {
        self.state.lock().failed
    }
}

/// A data folder on the disk, as one process sees it.
#[derive(Debug)]
pub struct SimDataDir {
    disk: Arc<SimDisk>,
    incarnation: u64,
}

impl SimDataDir {
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, SimDiskState>> {
        let state = self.disk.state.lock();
        state.check_usable(self.incarnation)?;
        Ok(state)
    }

    fn changing(&self) -> io::Result<parking_lot::MutexGuard<'_, SimDiskState>> {
        let mut state = self.disk.state.lock();
        state.begin_change(self.incarnation)?;
        Ok(state)
    }
}

impl DataDir for SimDataDir {
    fn dir(&self) -> &Path {
        &self.disk.dir
    }

    fn prepare(&self) -> io::Result<()> {
        let tmp = self.disk.dir.join(TMP);
        let mut state = self.changing()?;
        state.names.retain(|name, _| !name.starts_with(&tmp));
        state.durable_names.retain(|name, _| !name.starts_with(&tmp));
        let used: BTreeSet<u64> = state.names.values().copied().collect();
        state.contents.retain(|number, _| used.contains(number));
        Ok(())
    }

    fn database(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        builder
            .create_with_backend(SimDatabaseFile(SimDataDir { disk: self.disk.clone(), incarnation: self.incarnation }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn WritableFile>> {
        let mut state = self.changing()?;
        let number = state.contents.last_key_value().map_or(0, |(number, _)| number + 1);
        state.contents.insert(number, SimFileContent::default());
        state.names.insert(path.to_path_buf(), number);
        Ok(Box::new(SimNewFile {
            folder: SimDataDir { disk: self.disk.clone(), incarnation: self.incarnation },
            number,
        }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn ReadableFile>> {
        let state = self.state()?;
        let number = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = state.contents.get(number).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimOpenFile(content.bytes.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), number);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.changing()?.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        debug_assert!(folder.ends_with(SNAPSHOTS));
        Ok(self.state()?.names.keys().filter(|name| name.parent() == Some(folder)).cloned().collect())
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.changing()?;
        if state.behavior == SyncBehavior::Never {
            return Ok(());
        }
        let within = |name: &Path| name.parent() == Some(folder);
        state.durable_names.retain(|name, _| !within(name));
        let now: Vec<(PathBuf, u64)> =
            state.names.iter().filter(|(name, _)| within(name)).map(|(name, number)| (name.clone(), *number)).collect();
        state.durable_names.extend(now);
        Ok(())
    }
}

struct SimNewFile {
    folder: SimDataDir,
    number: u64,
}

impl Write for SimNewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.folder.changing()?;
        let content = state.contents.get_mut(&self.number).ok_or_else(disk_failed)?;
        Arc::make_mut(&mut content.bytes).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl WritableFile for SimNewFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.folder.changing()?;
        let never = state.behavior == SyncBehavior::Never;
        let content = state.contents.get_mut(&self.number).ok_or_else(disk_failed)?;
        if !never {
            content.synced = content.bytes.len();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct SimOpenFile(Arc<Vec<u8>>);

impl ReadableFile for SimOpenFile {
    fn length(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }

    fn read_exact_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        let at = at as usize;
        out.copy_from_slice(self.0.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// redb's file.
#[derive(Debug)]
struct SimDatabaseFile(SimDataDir);

impl StorageBackend for SimDatabaseFile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state()?.database.now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state()?;
        let at = offset as usize;
        out.copy_from_slice(state.database.now.get(at..at + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.0.changing()?.database.change(UnsyncedChange::Length(length as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.changing()?;
        let behavior = state.behavior;
        state.database.sync(behavior);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.changing()?.database.change(UnsyncedChange::Data(offset as usize, data.to_vec()));
        Ok(())
    }
}
