//! Power losses: after every step of the store's work the folder is rebuilt in a state that a disk may have after it
//! lost what was not synced, and is then opened.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use arrow::array::RecordBatch;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use volley_common::PartId;
use volley_common::error::Code;
use volley_common::wire::catalog::Compression;

use super::super::*;
use super::fs_trace::{self, TraceStep};
use super::simulated_disk::SimulatedDisk;
use super::{batch, files, open, put, receive, row, served, spec, table};

/// Random power losses per step, besides the two that keep none and all of the changes that were not synced.
const SEEDS: u64 = 8;

/// What the store has promised up to some step, and must keep after a power loss.
#[derive(Default)]
struct Promises {
    node: Option<u64>,
    cluster: Option<&'static str>,
    parts: BTreeSet<PartId>,
}

impl Promises {
    fn add(&mut self, step: &TraceStep) {
        match step {
            TraceStep::Opened(node) => self.node = Some(*node),
            TraceStep::Joined(cluster) => self.cluster = Some(cluster),
            TraceStep::Holds(id) => drop(self.parts.insert(*id)),
            TraceStep::Removes(id) => drop(self.parts.remove(id)),
            _ => {}
        }
    }

    /// The folder opens, all promises hold, and no other rows are served.
    fn check(&self, root: &Path, rows: &RecordBatch, when: &str) {
        let store = PartStore::open(root).unwrap_or_else(|e| panic!("{when}: the folder does not open: {e}"));
        if let Some(node) = self.node {
            assert_eq!(store.node().0, node, "{when}: another node");
        }
        if let Some(cluster) = self.cluster {
            assert_eq!(store.cluster().as_deref(), Some(cluster), "{when}: another cluster");
        }
        for id in &self.parts {
            assert!(store.holds(*id), "{when}: {id:?} was promised to be durable, and is gone");
        }
        for held in store.inventory() {
            let id = PartId::from(&held.id.unwrap());
            match store.part(id) {
                Ok(part) => assert_eq!(served(&part.unwrap()), std::slice::from_ref(rows), "{when}: {id:?}"),
                Err(e) => assert!(e.code == Code::DataLoss && !self.parts.contains(&id), "{when}: {id:?}: {e}"),
            }
        }
        assert!(files(&root.join("tmp")).is_empty(), "{when}: a file is left in tmp");
    }
}

/// Runs `work` on a new folder, then simulates power losses after each of its steps.
fn lose_power_at_every_step(work: impl FnOnce(&Path, &dyn Fn(TraceStep))) {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("data");
    fs::create_dir(&root).unwrap();
    fs_trace::watch(&root);
    work(&root, &|step| fs_trace::step(&root, |_| step));
    let steps = fs_trace::steps(&root);
    assert!(steps.len() > 10, "only {} steps were recorded", steps.len());
    let (mut disk, mut promises) = (SimulatedDisk::new(), Promises::default());
    for (at, step) in steps.iter().enumerate() {
        disk.apply(step);
        promises.add(step);
        for seed in 0..SEEDS + 2 {
            let mut random = StdRng::seed_from_u64(seed);
            let survives = || match seed {
                0 => false,
                1 => true,
                _ => random.random(),
            };
            let left = tempfile::tempdir().unwrap();
            disk.lose_power(left.path(), survives);
            promises.check(left.path(), &batch(), &format!("step {at} ({}), seed {seed}", name(step)));
        }
    }
}

fn name(step: &TraceStep) -> String {
    match step {
        TraceStep::Sync(path, _) => format!("Sync({})", path.display()),
        other => format!("{other:?}"),
    }
}

fn opened(root: &Path, promise: &dyn Fn(TraceStep)) -> PartStore {
    let store = open(root);
    promise(TraceStep::Opened(store.node().0));
    store
}

fn put_one(store: &PartStore, promise: &dyn Fn(TraceStep)) -> SealedPart {
    let sealed = put(store, &[batch()], Compression::None);
    promise(TraceStep::Holds(sealed.id));
    sealed
}

#[test]
fn promises_survive_a_power_loss_at_every_step() {
    lose_power_at_every_step(|root, promise| {
        let store = opened(root, promise);
        store.join("c1").unwrap();
        promise(TraceStep::Joined("c1"));
        let first = put_one(&store, promise);
        put_one(&store, promise);
        // An unfinished part, which was not promised.
        let mut half = store.create(spec(&batch(), Compression::None)).unwrap();
        half.write(&batch()).unwrap();
        // A copy of another node's part, into another shard.
        let other = tempfile::tempdir().unwrap();
        let theirs = open(other.path());
        let copied = put(&theirs, &[batch()], Compression::None);
        let bytes = fs::read(&files(&other.path().join("parts"))[0]).unwrap();
        let mut wanted = row(&copied);
        wanted.shard = 9;
        receive(&store, &wanted, &bytes).unwrap();
        promise(TraceStep::Holds(copied.id));
        for id in [first.id, copied.id] {
            promise(TraceStep::Removes(id));
            store.remove(&[id]).unwrap();
        }
        drop(half);
        // Its folder was removed with it, and is created again.
        receive(&store, &wanted, &bytes).unwrap();
        promise(TraceStep::Holds(copied.id));
    });
}

#[test]
fn unsynced_folder_of_a_killed_process_is_made_durable() {
    lose_power_at_every_step(|root, promise| {
        let store = opened(root, promise);
        let (table, shard) = (table(), 3);
        // Killed after it created the shard's folder: the names of its parents are not durable yet.
        fs_ops::create_dirs(&store.0.volume.layout().shard(&table, shard)).unwrap();
        drop(store);
        let store = opened(root, promise);
        put_one(&store, promise);
    });
}

#[test]
fn broken_promise_is_detected() {
    let found = std::panic::catch_unwind(|| {
        lose_power_at_every_step(|root, promise| {
            let store = opened(root, promise);
            store.join("c1").unwrap();
            let sealed = put_one(&store, promise);
            // The file is removed without the store's knowledge.
            let file = files(&root.join("parts")).remove(0);
            fs_ops::remove(&file).unwrap();
            fs_ops::sync_dir(file.parent().unwrap()).unwrap();
            promise(TraceStep::Holds(sealed.id));
        });
    });
    let why = found.unwrap_err().downcast::<String>().unwrap();
    assert!(why.contains("was promised to be durable, and is gone"), "{why}");
}
