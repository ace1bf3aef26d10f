//! What a loss of power leaves: at every step of the part store's work, the folder is made anew as a disk would have
//! it that forgot what was not synced, and opened.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use arrow::array::RecordBatch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::PartId;
use volley_common::error::Code;
use volley_common::wire::catalog::Compression;

use super::tests::{batch, open, put, receive, row, served, spec};
use super::*;

/// Seeds of each step's crashes, beside the two that keep nothing and all of what was not synced.
const SEEDS: u64 = 8;

pub(super) mod record {
    //! Writes down what is done below folders that are watched.

    use std::path::{Path, PathBuf};

    use parking_lot::Mutex;

    use super::Step;

    static WATCHED: Mutex<Vec<(PathBuf, Vec<Step>)>> = Mutex::new(Vec::new());

    pub fn watch(root: &Path) {
        WATCHED.lock().push((root.to_path_buf(), Vec::new()));
    }

    pub fn steps(root: &Path) -> Vec<Step> {
        let mut watched = WATCHED.lock();
        let at = watched.iter().position(|(watched, _)| watched == root).unwrap();
        watched.swap_remove(at).1
    }

    pub fn step(path: &Path, step: impl FnOnce(&dyn Fn(&Path) -> PathBuf) -> Step) {
        let mut watched = WATCHED.lock();
        if let Some((root, steps)) = watched.iter_mut().find(|(root, _)| path.starts_with(root)) {
            let relative = |path: &Path| path.strip_prefix(&*root).unwrap().to_path_buf();
            steps.push(step(&relative));
        }
    }

    pub fn created(path: &Path) {
        step(path, |relative| Step::Create(relative(path)));
    }

    pub fn synced(path: &Path) {
        let bytes = std::fs::read(path).unwrap_or_default();
        step(path, |relative| Step::Sync(relative(path), bytes));
    }

    pub fn renamed(from: &Path, to: &Path) {
        step(from, |relative| Step::Rename(relative(from), relative(to)));
    }

    pub fn removed(path: &Path) {
        step(path, |relative| Step::Remove(relative(path)));
    }

    pub fn made_dir(dir: &Path) {
        step(dir, |relative| Step::MakeDir(relative(dir)));
    }

    pub fn synced_dir(dir: &Path) {
        step(dir, |relative| Step::SyncDir(relative(dir)));
    }
}

/// One change of the folder, or what the node said to somebody; paths are relative to the folder.
#[derive(Clone, Debug)]
pub(super) enum Step {
    Create(PathBuf),
    /// With the contents.
    Sync(PathBuf, Vec<u8>),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    MakeDir(PathBuf),
    SyncDir(PathBuf),
    /// The store is open, with this node id.
    Opened(u64),
    /// It joined a cluster.
    Joined(&'static str),
    /// A part is sealed or received.
    Has(PartId),
    /// A part is about to be removed.
    Drops(PartId),
}

/// A file or folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Inode(usize);

/// What a disk has, and what it may have.
#[derive(Clone)]
struct Disk {
    /// Synced contents of files; none while nothing was synced. Folders are not in here.
    files: BTreeMap<Inode, Option<Vec<u8>>>,
    /// Names in folders, as programs see them.
    seen: BTreeMap<Inode, BTreeMap<String, Inode>>,
    /// Names in folders, as they were synced.
    synced: BTreeMap<Inode, BTreeMap<String, Inode>>,
    /// Changes of names since then.
    pending: Vec<(Inode, String, Option<Inode>)>,
    next: usize,
}

const ROOT: Inode = Inode(0);

impl Disk {
    fn new() -> Self {
        let empty = BTreeMap::from([(ROOT, BTreeMap::new())]);
        Disk { files: BTreeMap::new(), seen: empty.clone(), synced: empty, pending: Vec::new(), next: 1 }
    }

    fn find(&self, path: &Path) -> Option<Inode> {
        path.components().try_fold(ROOT, |dir, name| self.seen.get(&dir)?.get(name.as_os_str().to_str()?).copied())
    }

    fn set(&mut self, path: &Path, inode: Option<Inode>) {
        let dir = self.find(path.parent().unwrap()).unwrap();
        let name = path.file_name().unwrap().to_str().unwrap().to_string();
        let names = self.seen.get_mut(&dir).unwrap();
        match inode {
            Some(inode) => drop(names.insert(name.clone(), inode)),
            None => drop(names.remove(&name)),
        }
        self.pending.push((dir, name, inode));
    }

    fn apply(&mut self, step: &Step) {
        let fresh = Inode(self.next);
        match step {
            Step::Create(path) => {
                self.next += 1;
                self.files.insert(fresh, None);
                self.set(path, Some(fresh));
            }
            Step::MakeDir(path) => {
                self.next += 1;
                self.seen.insert(fresh, BTreeMap::new());
                self.synced.insert(fresh, BTreeMap::new());
                self.set(path, Some(fresh));
            }
            Step::Sync(path, bytes) => {
                let inode = self.find(path).unwrap();
                self.files.insert(inode, Some(bytes.clone()));
            }
            Step::Rename(from, to) => {
                let inode = self.find(from).unwrap();
                self.set(from, None);
                self.set(to, Some(inode));
            }
            Step::Remove(path) => self.set(path, None),
            Step::SyncDir(path) => {
                let dir = self.find(path).unwrap();
                let (due, rest) = self.pending.drain(..).partition(|(of, _, _)| *of == dir);
                self.pending = rest;
                keep(&mut self.synced, due);
            }
            Step::Opened(_) | Step::Joined(_) | Step::Has(_) | Step::Drops(_) => {}
        }
    }

    /// The folder after a loss of power: which of the changes that were not synced are there is up to `lucky`.
    fn lose_power(&self, root: &Path, mut lucky: impl FnMut() -> bool) {
        let mut names = self.synced.clone();
        keep(&mut names, self.pending.iter().filter(|_| lucky()).cloned().collect());
        self.lay_out(&names, ROOT, root, &mut lucky);
    }

    fn lay_out(
        &self,
        names: &BTreeMap<Inode, BTreeMap<String, Inode>>,
        dir: Inode,
        at: &Path,
        lucky: &mut impl FnMut() -> bool,
    ) {
        for (name, inode) in &names[&dir] {
            let path = at.join(name);
            match self.files.get(inode) {
                Some(Some(bytes)) => fs::write(path, bytes).unwrap(),
                // Never synced: a file of any length, of anything.
                Some(None) => fs::write(path, vec![0; if lucky() { 5000 } else { 0 }]).unwrap(),
                None => {
                    fs::create_dir(&path).unwrap();
                    self.lay_out(names, *inode, &path, lucky);
                }
            }
        }
    }
}

fn keep(names: &mut BTreeMap<Inode, BTreeMap<String, Inode>>, changes: Vec<(Inode, String, Option<Inode>)>) {
    for (dir, name, inode) in changes {
        let names = names.get_mut(&dir).unwrap();
        match inode {
            Some(inode) => drop(names.insert(name, inode)),
            None => drop(names.remove(&name)),
        }
    }
}

/// What the node has said up to some step, and must be true after a loss of power.
#[derive(Default)]
struct Said {
    node: Option<u64>,
    cluster: Option<&'static str>,
    has: BTreeSet<PartId>,
}

impl Said {
    fn hear(&mut self, step: &Step) {
        match step {
            Step::Opened(node) => self.node = Some(*node),
            Step::Joined(cluster) => self.cluster = Some(cluster),
            Step::Has(id) => drop(self.has.insert(*id)),
            Step::Drops(id) => drop(self.has.remove(id)),
            _ => {}
        }
    }

    /// The folder opens, what was said is true, and nothing is served but what was put.
    fn check(&self, root: &Path, rows: &RecordBatch, when: &str) {
        let store = Store::open(root).unwrap_or_else(|e| panic!("{when}: the folder does not open: {e}"));
        if let Some(node) = self.node {
            assert_eq!(store.node().0, node, "{when}: another node");
        }
        if let Some(cluster) = self.cluster {
            assert_eq!(store.cluster().as_deref(), Some(cluster), "{when}: the cluster is forgotten");
        }
        for id in &self.has {
            assert!(store.holds(*id), "{when}: {id:?} was said to be durable, and is gone");
        }
        for held in store.inventory() {
            let id = PartId::from(&held.id.unwrap());
            match store.part(id) {
                Ok(part) => assert_eq!(served(&part.unwrap()), std::slice::from_ref(rows), "{when}: {id:?}"),
                Err(e) => assert!(e.code == Code::DataLoss && !self.has.contains(&id), "{when}: {id:?}: {e}"),
            }
        }
        assert!(super::tests::files(&root.join("tmp")).is_empty(), "{when}: something is left in tmp");
    }
}

/// Runs `work` on a new folder, then loses the power after each of its steps, in many ways.
fn try_every_step(work: impl FnOnce(&Path, &dyn Fn(Step))) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    fs::create_dir(&root).unwrap();
    record::watch(&root);
    work(&root, &|step| record::step(&root, |_| step));
    let steps = record::steps(&root);
    assert!(steps.len() > 10, "the store's steps are written down, and these are but {}", steps.len());
    let (mut disk, mut said) = (Disk::new(), Said::default());
    for (at, step) in steps.iter().enumerate() {
        disk.apply(step);
        said.hear(step);
        for seed in 0..SEEDS + 2 {
            let mut random = StdRng::seed_from_u64(seed);
            let lucky = || match seed {
                0 => false,
                1 => true,
                _ => random.random(),
            };
            let left = tempfile::tempdir().unwrap();
            disk.lose_power(left.path(), lucky);
            said.check(left.path(), &batch(), &format!("step {at} ({}), seed {seed}", name(step)));
        }
    }
}

fn name(step: &Step) -> String {
    match step {
        Step::Sync(path, _) => format!("Sync({})", path.display()),
        other => format!("{other:?}"),
    }
}

fn opened(root: &Path, say: &dyn Fn(Step)) -> Store {
    let store = open(root);
    say(Step::Opened(store.node().0));
    store
}

fn put_one(store: &Store, say: &dyn Fn(Step)) -> SealedPart {
    let sealed = put(store, &[batch()], Compression::None);
    say(Step::Has(sealed.id));
    sealed
}

#[test]
fn what_was_said_to_be_durable_survives_a_loss_of_power_at_every_step() {
    try_every_step(|root, say| {
        let store = opened(root, say);
        store.join("c1").unwrap();
        say(Step::Joined("c1"));
        let first = put_one(&store, say);
        put_one(&store, say);
        // Half a part, which nobody was told of.
        let mut half = store.create(spec(&batch(), Compression::None)).unwrap();
        half.write(&batch()).unwrap();
        // A copy of another node's part, into another shard.
        let other = tempfile::tempdir().unwrap();
        let theirs = open(other.path());
        let copied = put(&theirs, &[batch()], Compression::None);
        let bytes = fs::read(&super::tests::files(&other.path().join("parts"))[0]).unwrap();
        let mut wanted = row(&copied);
        wanted.shard = 9;
        receive(&store, &wanted, &bytes).unwrap();
        say(Step::Has(copied.id));
        for id in [first.id, copied.id] {
            say(Step::Drops(id));
            store.remove(&[id]).unwrap();
        }
        drop(half);
        // Its folder was removed with it, and is made again.
        receive(&store, &wanted, &bytes).unwrap();
        say(Step::Has(copied.id));
    });
}

#[test]
fn a_folder_that_a_killed_process_left_unsynced_is_made_durable_by_the_next_one() {
    try_every_step(|root, say| {
        let store = opened(root, say);
        let (table, shard) = (super::tests::table(), 3);
        // Killed after it made the shard's folder: the names above it are in no safe place yet.
        disk::make_dirs(&store.layout().shard(&table, shard)).unwrap();
        drop(store);
        let store = opened(root, say);
        put_one(&store, say);
    });
}

#[test]
fn a_disk_that_forgets_what_was_synced_is_found_out() {
    let found = std::panic::catch_unwind(|| {
        try_every_step(|root, say| {
            let store = opened(root, say);
            store.join("c1").unwrap();
            let sealed = put_one(&store, say);
            // The name goes behind the store's back, without a word.
            let file = super::tests::files(&root.join("parts")).remove(0);
            disk::remove(&file).unwrap();
            disk::sync_dir(file.parent().unwrap()).unwrap();
            say(Step::Has(sealed.id));
        });
    });
    let why = found.unwrap_err().downcast::<String>().unwrap();
    assert!(why.contains("was said to be durable, and is gone"), "{why}");
}
