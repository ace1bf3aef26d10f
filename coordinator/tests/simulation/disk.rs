//! A data folder in memory that forgets what was not synced.
//!
//! A crash keeps of every write that was not synced an arbitrary choice of its sectors, of every file that was not
//! synced an arbitrary beginning, and of every folder that was not synced an arbitrary choice of its changes.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use rand::Rng;
use redb::{Builder, Database, DatabaseError, StorageBackend};
use volley_coordinator::raft::files::{Disk, Reading, SNAPSHOTS, TMP, Writing};

use crate::dice::Dice;

/// What a disk writes whole or not at all.
const SECTOR: usize = 512;

/// Whether a disk does what it says: those that do not must be found out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Honesty {
    Honest,
    /// Nothing is ever synced.
    Lies,
    /// What was synced is durable only some syncs later, as if changes were acknowledged before they are synced.
    Late,
}

/// So many syncs later.
const LATE: usize = 8;

/// A coordinator's disk, over all lives of its process.
#[derive(Debug)]
pub struct Platter {
    dir: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    dice: Dice,
    /// Which life of the process may use it.
    life: u64,
    /// Operations until it fails; none: it does not.
    fuse: Option<u32>,
    failed: bool,
    honesty: Honesty,
    database: Bytes,
    /// Contents by number, names as they are, and as they are after a crash.
    contents: BTreeMap<u64, Content>,
    names: BTreeMap<PathBuf, u64>,
    durable_names: BTreeMap<PathBuf, u64>,
}

/// A database file.
#[derive(Debug, Default)]
struct Bytes {
    now: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Pending>,
    /// Of a disk that is late: what it says is durable, by sync.
    promised: VecDeque<Vec<Pending>>,
}

#[derive(Debug)]
enum Pending {
    Length(usize),
    Data(usize, Vec<u8>),
}

#[derive(Clone, Debug, Default)]
struct Content {
    bytes: Arc<Vec<u8>>,
    synced: usize,
}

fn gone() -> io::Error {
    io::Error::other("the simulated disk is gone")
}

impl Bytes {
    fn apply(to: &mut Vec<u8>, change: &Pending) {
        match change {
            Pending::Length(length) => to.resize(*length, 0),
            Pending::Data(at, data) => Bytes::put(to, *at, data),
        }
    }

    fn put(to: &mut Vec<u8>, at: usize, data: &[u8]) {
        if to.len() < at + data.len() {
            to.resize(at + data.len(), 0);
        }
        to[at..at + data.len()].copy_from_slice(data);
    }

    fn change(&mut self, change: Pending) {
        Bytes::apply(&mut self.now, &change);
        self.pending.push(change);
    }

    fn sync(&mut self, honesty: Honesty) {
        let late = match honesty {
            Honesty::Honest => 0,
            Honesty::Late => LATE,
            Honesty::Lies => return,
        };
        self.promised.push_back(std::mem::take(&mut self.pending));
        while self.promised.len() > late {
            for change in self.promised.pop_front().into_iter().flatten() {
                Bytes::apply(&mut self.durable, &change);
            }
        }
    }

    /// Keeps each pending sector with this chance.
    fn crash(&mut self, dice: &mut Dice, chance: f64) {
        if !self.promised.is_empty() {
            // It looks as it did some syncs ago.
            self.promised.clear();
            self.pending.clear();
        }
        for change in std::mem::take(&mut self.pending) {
            match change {
                Pending::Data(at, data) => {
                    for (piece, sector) in data.chunks(SECTOR).enumerate() {
                        if dice.random_bool(chance) {
                            Bytes::put(&mut self.durable, at + piece * SECTOR, sector);
                        }
                    }
                }
                length if dice.random_bool(chance) => Bytes::apply(&mut self.durable, &length),
                Pending::Length(_) => {}
            }
        }
        self.now = self.durable.clone();
    }
}

impl State {
    /// Whether this life may use the disk, and the disk still works.
    fn reach(&self, life: u64) -> io::Result<()> {
        if life == self.life && !self.failed { Ok(()) } else { Err(gone()) }
    }

    /// The same for what changes something: this may be what fails.
    fn touch(&mut self, life: u64) -> io::Result<()> {
        self.reach(life)?;
        match &mut self.fuse {
            Some(0) => {
                self.failed = true;
                Err(gone())
            }
            Some(left) => {
                *left -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn crash(&mut self) {
        let chance = [0.0, 1.0, 0.5, 0.9][self.dice.random_range(0..4)];
        let State { database, dice, .. } = self;
        database.crash(dice, chance);
        let names: BTreeSet<PathBuf> = self.names.keys().chain(self.durable_names.keys()).cloned().collect();
        for name in names {
            let kept = if self.dice.random_bool(chance) { &self.names } else { &self.durable_names };
            match kept.get(&name).copied() {
                Some(number) => drop(self.durable_names.insert(name, number)),
                None => drop(self.durable_names.remove(&name)),
            }
        }
        self.names = self.durable_names.clone();
        for content in self.contents.values_mut() {
            let length = self.dice.random_range(content.synced..=content.bytes.len());
            content.bytes = Arc::new(content.bytes[..length].to_vec());
            content.synced = length;
        }
    }
}

impl Platter {
    pub fn new(dir: PathBuf, dice: Dice, honesty: Honesty) -> Arc<Platter> {
        let state = State {
            dice,
            life: 0,
            fuse: None,
            failed: false,
            honesty,
            database: Bytes::default(),
            contents: BTreeMap::new(),
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
        };
        Arc::new(Platter { dir, state: Mutex::new(state) })
    }

    /// From now on nobody uses it: power is gone, or the process.
    pub fn cut(&self) {
        self.state.lock().failed = true;
    }

    /// What is found by the next life of the process.
    pub fn recover(self: &Arc<Self>, life: u64, power_lost: bool) -> Arc<Folder> {
        let mut state = self.state.lock();
        if power_lost {
            state.crash();
        }
        (state.life, state.failed, state.fuse) = (life, false, None);
        drop(state);
        Arc::new(Folder { platter: self.clone(), life })
    }

    /// Fails at the operation after so many.
    pub fn burn(&self, operations: u32) {
        self.state.lock().fuse = Some(operations);
    }

    /// Whether it failed by itself.
    pub fn failed(&self) -> bool {
        self.state.lock().failed
    }
}

/// A disk as one life of a process has it.
#[derive(Debug)]
pub struct Folder {
    platter: Arc<Platter>,
    life: u64,
}

impl Folder {
    fn state(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let state = self.platter.state.lock();
        state.reach(self.life)?;
        Ok(state)
    }

    fn touched(&self) -> io::Result<parking_lot::MutexGuard<'_, State>> {
        let mut state = self.platter.state.lock();
        state.touch(self.life)?;
        Ok(state)
    }
}

impl Disk for Folder {
    fn dir(&self) -> &Path {
        &self.platter.dir
    }

    fn prepare(&self) -> io::Result<()> {
        let tmp = self.platter.dir.join(TMP);
        let mut state = self.touched()?;
        state.names.retain(|name, _| !name.starts_with(&tmp));
        state.durable_names.retain(|name, _| !name.starts_with(&tmp));
        let used: BTreeSet<u64> = state.names.values().copied().collect();
        state.contents.retain(|number, _| used.contains(number));
        Ok(())
    }

    fn database(&self, builder: &Builder) -> Result<Database, DatabaseError> {
        builder.create_with_backend(DatabaseFile(Folder { platter: self.platter.clone(), life: self.life }))
    }

    fn create(&self, path: &Path) -> io::Result<Box<dyn Writing>> {
        let mut state = self.touched()?;
        let number = state.contents.last_key_value().map_or(0, |(number, _)| number + 1);
        state.contents.insert(number, Content::default());
        state.names.insert(path.to_path_buf(), number);
        Ok(Box::new(NewFile { folder: Folder { platter: self.platter.clone(), life: self.life }, number }))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn Reading>> {
        let state = self.state()?;
        let number = state.names.get(path).ok_or(io::ErrorKind::NotFound)?;
        let content = state.contents.get(number).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(OpenFile(content.bytes.clone())))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut state = self.touched()?;
        let number = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_path_buf(), number);
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.touched()?.names.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<PathBuf>> {
        debug_assert!(folder.ends_with(SNAPSHOTS));
        Ok(self.state()?.names.keys().filter(|name| name.parent() == Some(folder)).cloned().collect())
    }

    fn sync_dir(&self, folder: &Path) -> io::Result<()> {
        let mut state = self.touched()?;
        if state.honesty == Honesty::Lies {
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

struct NewFile {
    folder: Folder,
    number: u64,
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut state = self.folder.touched()?;
        let content = state.contents.get_mut(&self.number).ok_or_else(gone)?;
        Arc::make_mut(&mut content.bytes).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Writing for NewFile {
    fn sync(&mut self) -> io::Result<()> {
        let mut state = self.folder.touched()?;
        let lies = state.honesty == Honesty::Lies;
        let content = state.contents.get_mut(&self.number).ok_or_else(gone)?;
        if !lies {
            content.synced = content.bytes.len();
        }
        Ok(())
    }
}

#[derive(Debug)]
struct OpenFile(Arc<Vec<u8>>);

impl Reading for OpenFile {
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
struct DatabaseFile(Folder);

impl StorageBackend for DatabaseFile {
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
        self.0.touched()?.database.change(Pending::Length(length as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.touched()?;
        let honesty = state.honesty;
        state.database.sync(honesty);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.0.touched()?.database.change(Pending::Data(offset as usize, data.to_vec()));
        Ok(())
    }
}
