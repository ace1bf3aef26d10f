//! A whole run: a cluster, clients, faults; then repair without faults, and the check.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use volley_client::Client;
use volley_tests::cluster::{ClusterOptions, TestCluster};

use crate::check::{self, ChaosViolation, ViolationKind};
use crate::clients::{self, ChaosClient, ClientWorkload};
use crate::cluster::FaultyCluster;
use crate::copies;
use crate::faults::FaultGenerator;
use crate::history::{ClientHistory, ClientOperation, HistoryRecorder, OpOutcome, OpRequest};
use crate::memory::MemoryWatch;
use crate::nemesis::{ProcessNemesis, answers};
use crate::table_query::TableQuery;

/// Clients at once.
const CLIENTS: u64 = 6;
/// How long all members may take to be reachable and ready after the faults.
const READY_LIMIT: Duration = Duration::from_secs(90);
/// How long puts of unknown outcome are repeated after the faults.
const SETTLE_LIMIT: Duration = Duration::from_secs(90);
/// How long the repair of all copies may take after the faults.
const REPAIR_LIMIT: Duration = Duration::from_secs(150);
/// Bytes of the last node's disk.
const SMALL_DISK: u64 = 96 << 20;
/// How long the cluster keeps old versions.
const RETENTION: Duration = Duration::from_secs(12);
/// Bytes of parts from which on a query runs on several nodes: tables have fewer after a replace, and more after some appends.
const DISTRIBUTE_BYTES: u64 = 256 << 10;

/// The options of a run.
#[derive(Clone, Debug)]
pub struct ChaosOptions {
    /// The seed of all random choices.
    pub seed: u64,
    /// Maximum number of faults.
    pub faults: usize,
    /// The longest time, without the repair and the check after the faults.
    pub time: Duration,
    /// The longest time that a member hangs.
    pub longest_pause: Duration,
    /// Only these kinds of faults; empty: all.
    pub only: Vec<String>,
    /// Whether to keep the folder even if no violation was found.
    pub keep: bool,
    /// More lines for the coordinators' configuration.
    pub coordinator_config: String,
}

/// The outcome of a run.
pub struct ChaosOutcome {
    /// All operations and faults.
    pub history: ClientHistory,
    /// The violations.
    pub violations: Vec<ChaosViolation>,
    /// Faults that were not possible, with their number and the reason.
    pub skipped: BTreeMap<&'static str, (usize, String)>,
    /// How long it took until all copies were in place after the last fault.
    pub repaired: Option<Duration>,
    /// Tables whose sums ran on several nodes after the faults.
    pub staged_tables: usize,
    /// The largest amount of anonymous memory of each program, MiB.
    pub memory: BTreeMap<String, u64>,
    /// The folder with history, logs and data, if it was kept.
    pub kept: Option<PathBuf>,
}

/// 3 coordinators and 5 nodes in 3 zones that detect a failure and repair it within seconds.
fn cluster_options(coordinator_config: &str, seed: u64) -> ClusterOptions {
    let retention = RETENTION.as_millis();
    ClusterOptions {
        coordinators: 3,
        nodes: 5,
        zones: 3,
        folder_prefix: format!("volley-chaos-seed{seed}-"),
        coordinator_config: format!(
            "heartbeat_ms = 300\nnode_timeout_ms = 2000\nrepair_delay_ms = 4000\nlease_ms = 20000\nretention_ms = {retention}\n{coordinator_config}\n"
        ),
        // Small parts, so that a write has several; every part is read and checked some three times a minute.
        node_config: format!(
            "block_bytes = 65536\npart_bytes = 131072\nscrub_days = 0.0002\nsql_distribute_bytes = {DISTRIBUTE_BYTES}\n"
        ),
        ..ClusterOptions::default()
    }
}

/// Starts a cluster and clients, injects faults, and checks the history.
pub async fn run(options: &ChaosOptions) -> ChaosOutcome {
    let mut cluster =
        FaultyCluster::create(cluster_options(&options.coordinator_config, options.seed), SMALL_DISK).await;
    let recorder = Arc::new(HistoryRecorder::new(&cluster.servers.folder().join("history.jsonl")).unwrap());
    let memory = MemoryWatch::start();
    cluster.start_stopped();
    if let Err(why) = cluster.servers.try_ready(READY_LIMIT).await {
        let violations = vec![violation(ViolationKind::Unreachable, why)];
        return end(cluster, &recorder, violations, options, RunFigures::default());
    }
    let load = Arc::new(ClientWorkload::new(recorder.clone(), &cluster.servers, RETENTION));
    let workers: Vec<_> = (0..CLIENTS)
        .map(|at| tokio::spawn(ChaosClient::new(load.clone(), options.seed.wrapping_mul(1000) + at).run()))
        .collect();
    let generator = FaultGenerator::new(StdRng::seed_from_u64(options.seed), 3, 5, options.longest_pause);
    let mut nemesis = ProcessNemesis::new(cluster, recorder.clone(), generator, options.only.clone());
    while nemesis.done() < options.faults && recorder.elapsed() < options.time {
        nemesis.turn().await;
    }
    load.stop();
    let mut violations = undo_all(&mut nemesis).await;
    for worker in workers {
        worker.await.unwrap();
    }
    settle(&load, &recorder).await;
    let repaired = match wait_for_repair(&nemesis.cluster.servers).await {
        Ok(time) => Some(time),
        Err(found) => {
            violations.extend(found);
            None
        }
    };
    let staged_tables = final_reads(&load, &recorder).await;
    nemesis.check_crashed();
    violations.append(&mut nemesis.violations);
    violations.extend(memory.violations());
    let figures = RunFigures { skipped: nemesis.skipped, repaired, staged_tables, memory: memory.most() };
    end(nemesis.cluster, &recorder, violations, options, figures)
}

fn violation(kind: ViolationKind, what: String) -> ChaosViolation {
    ChaosViolation { kind, what, operations: Vec::new() }
}

/// What a run measured, beside its history.
#[derive(Default)]
struct RunFigures {
    skipped: BTreeMap<&'static str, (usize, String)>,
    repaired: Option<Duration>,
    staged_tables: usize,
    memory: BTreeMap<String, u64>,
}

fn end(
    cluster: FaultyCluster,
    recorder: &HistoryRecorder,
    mut violations: Vec<ChaosViolation>,
    options: &ChaosOptions,
    RunFigures { skipped, repaired, staged_tables, memory }: RunFigures,
) -> ChaosOutcome {
    let history = recorder.history();
    violations.extend(check::check(&history));
    let kept = (options.keep || !violations.is_empty()).then(|| {
        let folder = cluster.keep();
        std::fs::write(folder.join("violations.json"), serde_json::to_vec_pretty(&violations).unwrap()).unwrap();
        folder
    });
    ChaosOutcome { history, violations, skipped, repaired, staged_tables, memory, kept }
}

/// Undoes all faults; afterwards every member must run, be ready and be reachable.
async fn undo_all(nemesis: &mut ProcessNemesis) -> Vec<ChaosViolation> {
    nemesis.cluster.links().heal_all();
    nemesis.check_crashed();
    nemesis.cluster.start_stopped();
    let mut found = Vec::new();
    if let Err(why) = nemesis.cluster.servers.try_ready(READY_LIMIT).await {
        found.push(violation(ViolationKind::Unreachable, format!("after the faults {why}")));
    }
    if let Err(why) = nemesis.remove_all_replaced(READY_LIMIT).await {
        found.push(violation(ViolationKind::NotRepaired, format!("after the faults {why}")));
    }
    found.extend(unreachable(&nemesis.cluster.servers.addresses(), READY_LIMIT).await);
    found
}

/// The members that do not answer within the limit.
async fn unreachable(addresses: &[String], limit: Duration) -> Vec<ChaosViolation> {
    let mut found = Vec::new();
    for address in addresses {
        if let Err(why) = answers(address, limit).await {
            found.push(violation(ViolationKind::Unreachable, format!("after the faults {why}")));
        }
    }
    found
}

/// Repeats every put of unknown outcome until its outcome is known, or time is up.
async fn settle(load: &Arc<ClientWorkload>, recorder: &HistoryRecorder) {
    let begin = Instant::now();
    let unknown = |operation: &&ClientOperation| {
        matches!(operation.outcome, OpOutcome::Unknown { .. }) && matches!(operation.request, OpRequest::Put { .. })
    };
    let mut worker = ChaosClient::new(load.clone(), 0);
    for _ in 0..3 {
        let history = recorder.history();
        for operation in history.operations.values().filter(unknown) {
            if begin.elapsed() < SETTLE_LIMIT {
                worker.settle(operation).await;
            }
        }
    }
}

/// Waits until every part has its intact copies and no other file is left; returns how long that took.
async fn wait_for_repair(cluster: &TestCluster) -> Result<Duration, Vec<ChaosViolation>> {
    let begin = Instant::now();
    let folders: Vec<PathBuf> = cluster.nodes.iter().map(|node| node.folder.clone()).collect();
    loop {
        let found = match tables(cluster).await {
            Some(tables) => {
                still_wrong(&folders, &tables).into_iter().chain(not_green(cluster).await).collect::<Vec<_>>()
            }
            None => vec![violation(ViolationKind::Unreachable, "no coordinator lists the tables".into())],
        };
        if found.is_empty() {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > REPAIR_LIMIT {
            return Err(found);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Violations in the cluster's own status.
async fn not_green(cluster: &TestCluster) -> Option<ChaosViolation> {
    let status = cluster.status().await.unwrap_or_default();
    (status["health"] != "green")
        .then(|| violation(ViolationKind::NotRepaired, format!("the status of the cluster: {status}")))
}

fn still_wrong(folders: &[PathBuf], tables: &BTreeMap<String, usize>) -> Vec<ChaosViolation> {
    let inventory = copies::inventory(folders);
    let mut found: Vec<ChaosViolation> = copies::deviations(&inventory, tables)
        .into_iter()
        .map(|what| violation(ViolationKind::NotRepaired, what))
        .collect();
    found.truncate(10);
    let unfinished = copies::unfinished(folders);
    found.extend(
        unfinished.iter().map(|path| violation(ViolationKind::LeftoverFile, format!("{} is left", path.display()))),
    );
    found
}

/// The existing tables, with the number of copies that their parts must have.
async fn tables(cluster: &TestCluster) -> Option<BTreeMap<String, usize>> {
    for address in cluster.addresses() {
        let asked = async { Client::connect(&address).await?.action("list_tables", &serde_json::Value::Null).await };
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(8), asked).await {
            // Tables of other kinds, as those of a burst that could not drop its own, have as many as the cluster says.
            let copies = |table: &serde_json::Value| {
                let name = table["table"].as_str()?;
                let wanted = clients::replicas(name).map(u64::from).or_else(|| table["replicas"].as_u64())?;
                Some((name.to_string(), wanted as usize))
            };
            return Some(answer["tables"].as_array()?.iter().filter_map(copies).collect());
        }
    }
    None
}

/// Reads every table that was used once more, twice and by SQL, each time at some member. Returns of how many of them the sums run on
/// several nodes.
async fn final_reads(load: &Arc<ClientWorkload>, recorder: &HistoryRecorder) -> usize {
    let history = recorder.history();
    let mut tables: Vec<&String> = history.operations.values().map(|operation| &operation.table).collect();
    tables.sort();
    tables.dedup();
    let mut worker = ChaosClient::new(load.clone(), 1);
    let (sums, mut staged) = (TableQuery::Sums { factor: 1 }, 0);
    for table in tables {
        for query in [None, None, Some(sums.clone())] {
            for _ in 0..10 {
                if worker.final_read(table, query.clone()).await {
                    break;
                }
            }
        }
        staged += usize::from(worker.runs_on_several_nodes(table, &sums).await);
    }
    staged
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn closed_member_is_unreachable() {
        let found = unreachable(&["127.0.0.1:1".into()], Duration::ZERO).await;
        assert!(found[0].kind == ViolationKind::Unreachable && found[0].what.contains("127.0.0.1:1"), "{found:?}");
        assert_eq!((found.len(), unreachable(&[], Duration::ZERO).await.len()), (1, 0));
    }

    #[test]
    fn leftover_and_foreign_files_are_found() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = ["node1", "node2"].map(|name| folder.path().join(name));
        for node in &nodes {
            std::fs::create_dir_all(node.join("tmp")).unwrap();
        }
        assert_eq!(still_wrong(&nodes, &BTreeMap::new()), []);
        std::fs::write(nodes[1].join("tmp").join("half.arrow"), b"x").unwrap();
        let found = still_wrong(&nodes, &BTreeMap::new());
        assert!(
            found.len() == 1 && found[0].kind == ViolationKind::LeftoverFile && found[0].what.contains("half.arrow"),
            "{found:?}"
        );
        let shard = nodes[0].join("parts").join("t").join("0");
        std::fs::create_dir_all(&shard).unwrap();
        std::fs::write(shard.join("w-0-p-00000000.arrow"), b"x").unwrap();
        let kinds: Vec<ViolationKind> = still_wrong(&nodes, &BTreeMap::new()).iter().map(|one| one.kind).collect();
        assert!(
            kinds.contains(&ViolationKind::NotRepaired) && kinds.contains(&ViolationKind::LeftoverFile),
            "{kinds:?}"
        );
    }
}
