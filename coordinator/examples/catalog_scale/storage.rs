//! The stages of a coordinator's data folder: fill it by commits, load it, build a snapshot, install that elsewhere.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use volley_common::placement::Ring;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::catalog::{self as wire, WriteMode};
use volley_coordinator::raft::storage::files::LocalDataDir;
use volley_coordinator::raft::storage::snapshot;
use volley_coordinator::raft::storage::state_machine::CatalogStateMachine;
use volley_coordinator::raft::storage::store::RaftStore;
use volley_coordinator::raft::{Handle, RaftConfig};

use crate::figures::{FigureList, ProcessMemory, ScaleFigure, percentile};
use crate::model::{REPLICAS, ScaleModel};

/// Commands that are proposed at once.
const CONCURRENT: usize = 256;
/// Parts of one commit.
const PARTS_PER_COMMIT: usize = 10_000;
/// The goal for the memory of the catalog, bytes.
const MEMORY_GOAL: f64 = 4.0 * 1024.0 * 1024.0 * 1024.0;

/// Starts a coordinator alone, which leads, and whose cluster is formed.
pub async fn start(model: &ScaleModel, dir: &Path) -> Handle {
    let mut config = RaftConfig::new(1, BTreeMap::from([(1, "127.0.0.1:1".into())]), dir.to_path_buf());
    config.request_timeout = Duration::from_secs(60);
    config.set_election_timeout(Duration::from_millis(400));
    let raft = Handle::start(config).await.unwrap();
    let mut applied = raft.watch_applied();
    // Waits for the leader.
    register(&raft, model.node(1)).await;
    while raft.view().cluster().is_none() {
        applied.changed().await.unwrap();
    }
    raft
}

async fn register(raft: &Handle, node: wire::Node) {
    raft.propose(Op::RegisterNode(wire::RegisterNode { node: Some(node) })).await.unwrap();
}

/// Registers the nodes, and creates the tables with all their parts.
pub async fn fill(model: &ScaleModel, dir: &Path) -> Vec<ScaleFigure> {
    let mut figures = FigureList::new("fill");
    let raft = start(model, dir).await;
    let began = Instant::now();
    let nodes = stream::iter(1..=model.nodes);
    nodes.for_each_concurrent(CONCURRENT, |id| register(&raft, model.node(id))).await;
    figures.seconds(format!("registration of {} nodes", model.nodes), began.elapsed());
    let began = Instant::now();
    let ring = Ring::new(&model.candidates());
    figures.seconds("the hash ring of all nodes, as after a change of nodes", began.elapsed());
    let mut took = Vec::new();
    for table in 0..model.tables {
        let load = raft.view().placed_replicas().clone();
        let placed = ring.place(table + 1, model.shards_per_table as u32, REPLICAS, &load);
        let nodes = placed.into_iter().map(|nodes| nodes.into_iter().map(|node| node.0).collect());
        let placement: Vec<_> = nodes.map(|nodes| wire::ShardPlacement { nodes }).collect();
        let parts = model.parts_of(table, &placement);
        for (at, parts) in parts.chunks(PARTS_PER_COMMIT).enumerate() {
            let write = format!("fill-{table}-{at}");
            let mode = if at == 0 { WriteMode::Create } else { WriteMode::Append };
            begin(model, &raft, &write, table, mode, placement.clone()).await;
            let began = Instant::now();
            commit(&raft, write, parts.to_vec()).await;
            took.push(began.elapsed());
        }
    }
    let parts = model.parts_per_table.min(PARTS_PER_COMMIT as u64);
    figures.seconds(format!("commit of {parts} parts, median"), percentile(&took, 50));
    figures.seconds("the slowest of these commits", percentile(&took, 100));
    figures.count("parts", raft.view().part_count() as u64);
    figures.count("copies of shards, which `max_shard_replicas` limits", raft.view().table_usage().shard_replicas);
    raft.shutdown().await;
    figures.bytes("database", std::fs::metadata(dir.join("catalog.redb")).unwrap().len());
    figures.into_figures()
}

/// Begins a write. `placement` counts only if the table gets a new version.
pub async fn begin(
    model: &ScaleModel,
    raft: &Handle,
    write: &str,
    table: u64,
    mode: WriteMode,
    placement: Vec<wire::ShardPlacement>,
) {
    let is_new = mode != WriteMode::Append;
    let begin = wire::BeginWrite {
        id: write.into(),
        table: model.table_name(table),
        kind: wire::DescriptorKind::Path as i32,
        mode: mode as i32,
        spec: is_new.then(|| model.spec()),
        schema: if is_new { model.schema() } else { Bytes::new() },
        placement,
        attempt: 1,
        lease_ms: 600_000,
        ..wire::BeginWrite::default()
    };
    raft.propose(Op::BeginWrite(begin)).await.unwrap();
}

/// Commits a write that [`begin`] began.
pub async fn commit(raft: &Handle, write: String, parts: Vec<wire::Part>) {
    raft.propose(Op::CommitWrite(wire::CommitWrite { write, parts, attempt: 1 })).await.unwrap();
}

/// Opens the catalog of a data folder, as at the start of a coordinator. The store must be closed before the folder is opened
/// again.
pub fn open(dir: &Path) -> (Arc<RaftStore>, CatalogStateMachine) {
    let store = RaftStore::open(dir, 1, Arc::new(|why: &str| panic!("{why}"))).unwrap();
    let state_machine = CatalogStateMachine::open(store.clone()).unwrap();
    (store, state_machine)
}

/// Loads the catalog, and builds a snapshot of it.
pub async fn load(model: &ScaleModel, dir: &Path) -> Vec<ScaleFigure> {
    let mut figures = FigureList::new("load");
    let before = ProcessMemory::now().anonymous;
    let began = Instant::now();
    let (store, mut state_machine) = open(dir);
    figures.seconds("rows from the database", began.elapsed());
    let catalog = ProcessMemory::now().anonymous.saturating_sub(before);
    figures.bytes("anonymous memory of the catalog", catalog).at_most(MEMORY_GOAL);
    figures.bytes("the same for each part", catalog / model.parts());
    let began = Instant::now();
    let mut builder = state_machine.try_create_snapshot_builder(true).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    figures.seconds("building a snapshot", began.elapsed());
    figures.bytes("snapshot", std::fs::metadata(&snapshot.snapshot.path).unwrap().len());
    figures.bytes("resident memory, peak", ProcessMemory::now().peak);
    store.close();
    figures.into_figures()
}

/// Installs the snapshot of [`load`] into an empty folder.
pub async fn install(model: &ScaleModel, dir: &Path) -> Vec<ScaleFigure> {
    let mut figures = FigureList::new("install");
    let built = snapshot::newest(&LocalDataDir(dir.to_path_buf())).unwrap().unwrap();
    let fresh = tempfile::TempDir::new_in(dir).unwrap();
    let (store, mut state_machine) = open(fresh.path());
    let arrived = snapshot::temp_path(fresh.path());
    std::fs::copy(&built.snapshot.path, &arrived).unwrap();
    let began = Instant::now();
    let arrived = snapshot::SnapshotFile::open(&LocalDataDir(fresh.path().to_path_buf()), arrived).unwrap();
    state_machine.install_snapshot(&built.meta, arrived).await.unwrap();
    figures.seconds("installing the snapshot into an empty folder", began.elapsed());
    assert_eq!(state_machine.applied().catalog.read().part_count() as u64, model.parts());
    figures.bytes("resident memory, peak", ProcessMemory::now().peak);
    store.close();
    figures.into_figures()
}
