//! Measures a catalog of a million parts (100 tables of 10,000): time and memory of each stage, each in its own process.
//!
//! `cargo run -p volley-coordinator --example catalog_scale [FOLDER]`
//!
//! The stage `writes` measures finished writes: `catalog_scale writes FOLDER`.
#![allow(clippy::print_stdout, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use openraft::RaftSnapshotBuilder;
use openraft::storage::RaftStateMachine;
use volley_common::wire::catalog as wire;
use volley_common::wire::catalog::command::Op;
use volley_common::{NodeId, PartId};
use volley_coordinator::diagnostics::replication_health::ReplicationHealth;
use volley_coordinator::planner::endpoints::plan_endpoints;
use volley_coordinator::raft::storage::files::LocalDataDir;
use volley_coordinator::raft::storage::snapshot;
use volley_coordinator::raft::storage::state_machine::CatalogStateMachine;
use volley_coordinator::raft::storage::store::RaftStore;
use volley_coordinator::raft::{Handle, RaftConfig};

const TABLES: u64 = 100;
const PARTS: u64 = 10_000;
const NODES: u64 = 9;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    if let [stage, dir] = arguments.as_slice() {
        return runtime.block_on(run(stage, Path::new(dir)));
    }
    let temp = tempfile::TempDir::new().unwrap();
    let dir = arguments.first().map_or_else(|| temp.path().to_path_buf(), PathBuf::from);
    for stage in ["fill", "reload", "build", "install", "plan"] {
        let program = std::env::current_exe().unwrap();
        assert!(std::process::Command::new(program).arg(stage).arg(&dir).status().unwrap().success(), "{stage} failed");
    }
}

async fn run(stage: &str, dir: &Path) {
    match stage {
        "fill" => fill(dir).await,
        "reload" => drop(reload(dir)),
        "build" => build(dir).await,
        "install" => install(dir).await,
        "plan" => plan_one(dir),
        "writes" => finished_writes(dir).await,
        other => panic!("no stage {other}"),
    }
}

/// Prints the time of a stage, and this process's memory now and at its peak.
fn report(what: &str, took: Duration) {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let mib = |key: &str| -> u64 {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
    };
    println!(
        "{what:44} {took:>10.2?}   RSS {:>5} MiB   anon {:>5} MiB   peak {:>5} MiB",
        mib("VmRSS"),
        mib("RssAnon"),
        mib("VmHWM")
    );
}

async fn fill(dir: &Path) {
    let mut config = RaftConfig::new(1, BTreeMap::from([(1, "127.0.0.1:1".into())]), dir.to_path_buf());
    config.request_timeout = Duration::from_secs(60);
    let raft = Handle::start(config).await.unwrap();
    for id in 1..=NODES {
        let node = wire::Node {
            id,
            boot: 1,
            flight_uri: format!("grpc+tcp://n{id}:1"),
            peer_addr: format!("n{id}:2"),
            zone: "z".into(),
            ..Default::default()
        };
        raft.propose(Op::RegisterNode(wire::RegisterNode { node: Some(node) })).await.unwrap();
    }
    let start = Instant::now();
    let mut slowest = Duration::ZERO;
    for table in 0..TABLES {
        raft.propose(Op::BeginWrite(begin(table))).await.unwrap();
        let one = Instant::now();
        let parts = (0..PARTS).map(|seq| part(table, seq)).collect();
        raft.propose(Op::CommitWrite(wire::CommitWrite { write: format!("w{table}"), parts, attempt: 1 }))
            .await
            .unwrap();
        slowest = slowest.max(one.elapsed());
    }
    report("fill: 100 commits of 10,000 parts", start.elapsed());
    println!("  slowest commit {slowest:.2?}, {} parts", raft.view().part_count());
    raft.shutdown().await;
    println!("  database {} MiB", std::fs::metadata(dir.join("catalog.redb")).unwrap().len() >> 20);
}

/// Replaces tables again and again, with the expiry of a leader: what finished writes cost.
async fn finished_writes(dir: &Path) {
    const ROUNDS: u64 = 20;
    const WRITERS: u64 = 500;
    let mut config = RaftConfig::new(1, BTreeMap::from([(1, "127.0.0.1:1".into())]), dir.to_path_buf());
    config.request_timeout = Duration::from_secs(60);
    let raft = Handle::start(config).await.unwrap();
    let limits = wire::Expire { write_id_retention_ms: u64::MAX, max_finished_writes: 5_000, max_finished_bytes: 0 };
    let start = Instant::now();
    for round in 0..ROUNDS {
        let put = |writer: u64| {
            let (raft, write) = (raft.clone(), format!("{:032x}", round * WRITERS + writer));
            async move {
                let begin = wire::BeginWrite { id: write.clone(), ..begin(writer) };
                raft.propose(Op::BeginWrite(begin)).await.unwrap();
                let parts = vec![part(writer, 0)];
                raft.propose(Op::CommitWrite(wire::CommitWrite { write, parts, attempt: 1 })).await.unwrap();
            }
        };
        futures::future::join_all((0..WRITERS).map(put)).await;
        if round % 5 == 4 {
            let writes = (round + 1) * WRITERS;
            report(&format!("writes: {writes} replaces, {} kept", raft.view().finished_writes()), start.elapsed());
            raft.propose(Op::Expire(limits)).await.unwrap();
        }
    }
    raft.shutdown().await;
    println!("  database {} KiB", std::fs::metadata(dir.join("catalog.redb")).unwrap().len() >> 10);
}

fn begin(table: u64) -> wire::BeginWrite {
    wire::BeginWrite {
        id: format!("w{table}"),
        table: vec!["scale".into(), format!("t{table}")],
        kind: wire::DescriptorKind::Path as i32,
        spec: Some(wire::TableSpec {
            shards: 16,
            replicas: 3,
            min_copies: 2,
            retention_ms: 1000,
            ..Default::default()
        }),
        schema: vec![7; 1000].into(),
        placement: (0..16).map(|shard| wire::ShardPlacement { nodes: holders(shard) }).collect(),
        attempt: 1,
        lease_ms: 600_000,
        ..Default::default()
    }
}

fn holders(shard: u64) -> Vec<u64> {
    (0..3).map(|copy| 1 + (shard + copy) % NODES).collect()
}

fn part(table: u64, seq: u64) -> wire::Part {
    let id = PartId::random();
    wire::Part {
        id: Some(id.into()),
        shard: (seq % 16) as u32,
        write: format!("w{table}"),
        seq,
        rows: 1_000_000,
        bytes: 64 << 20,
        crc32c: id.digest() as u32,
        holders: holders(seq % 16),
        ..Default::default()
    }
}

fn open(dir: &Path) -> Arc<RaftStore> {
    RaftStore::open(dir, 1, Arc::new(|why: &str| panic!("{why}"))).unwrap()
}

fn reload(dir: &Path) -> CatalogStateMachine {
    let start = Instant::now();
    let state_machine = CatalogStateMachine::open(open(dir)).unwrap();
    report("reload: rows from the database", start.elapsed());
    state_machine
}

async fn build(dir: &Path) {
    let mut state_machine = reload(dir);
    let start = Instant::now();
    let mut builder = state_machine.try_create_snapshot_builder(true).await.unwrap();
    let snapshot = builder.build_snapshot().await.unwrap();
    report("build: a snapshot", start.elapsed());
    println!("  snapshot {} MiB", std::fs::metadata(&snapshot.snapshot.path).unwrap().len() >> 20);
}

async fn install(dir: &Path) {
    let built = snapshot::newest(&LocalDataDir(dir.to_path_buf())).unwrap().unwrap();
    let fresh = tempfile::TempDir::new_in(dir).unwrap();
    let store = open(fresh.path());
    let mut state_machine = CatalogStateMachine::open(store).unwrap();
    let arrived = snapshot::temp_path(fresh.path());
    std::fs::copy(&built.snapshot.path, &arrived).unwrap();
    let start = Instant::now();
    let arrived = snapshot::SnapshotFile::open(&LocalDataDir(fresh.path().to_path_buf()), arrived).unwrap();
    state_machine.install_snapshot(&built.meta, arrived).await.unwrap();
    report("install: a snapshot, into an empty folder", start.elapsed());
    assert_eq!(state_machine.applied().catalog.read().part_count() as u64, TABLES * PARTS);
}

fn plan_one(dir: &Path) {
    let state_machine = reload(dir);
    let applied = state_machine.applied();
    let catalog = applied.catalog.read();
    let table = catalog.tables().next().unwrap();
    let alive: BTreeSet<NodeId> = (1..=NODES).map(NodeId).collect();
    let began = Instant::now();
    let plan = plan_endpoints(&catalog, table, table.version, 1024, None, &alive, "").unwrap();
    report("plan: endpoints of a table of 10,000 parts", began.elapsed());
    assert_eq!(plan.endpoints.iter().map(|endpoint| endpoint.parts as u64).sum::<u64>(), PARTS);
    let began = Instant::now();
    let whole = plan_endpoints(&catalog, table, table.version, 1, None, &alive, "").unwrap();
    report("plan: one ticket for all of it", began.elapsed());
    assert_eq!(whole.endpoints[0].parts as u64, PARTS);
    let began = Instant::now();
    let survey = ReplicationHealth::of(&catalog, &alive, 0);
    report("status: the copies of all parts counted", began.elapsed());
    assert_eq!((survey.parts, survey.unreadable), (TABLES * PARTS, 0));
}
