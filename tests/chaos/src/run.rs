//! A whole run: a cluster, clients, faults; then quiet, and the judgement.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use volley_common::client::Client;

use crate::check::{self, Kind, Violation};
use crate::clients::{self, Load, Worker};
use crate::copies;
use crate::faults::Chooser;
use crate::history::{Ask, Event, History, Outcome, Recorder};
use crate::nemesis::{Nemesis, answers};
use crate::site::{Plan, Site};

/// Clients at once.
const CLIENTS: u64 = 6;
/// How long all may take to be reachable and ready after the faults.
const READY: Duration = Duration::from_secs(90);
/// How long unknown outcomes are asked for after the faults.
const SETTLES: Duration = Duration::from_secs(90);
/// How long the copies may take to be in place after the faults.
const GREEN: Duration = Duration::from_secs(150);
/// How long the cluster keeps old versions.
const RETENTION: Duration = Duration::from_secs(12);

/// What is asked of a run.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where the choices begin.
    pub seed: u64,
    /// Faults at most.
    pub faults: usize,
    /// Time at most, without what comes after the faults.
    pub time: Duration,
    /// Only these kinds of faults; empty: all.
    pub only: Vec<String>,
    /// Whether to keep the folder even if nothing was found.
    pub keep: bool,
    /// More lines for the coordinators' configuration.
    pub coordinator_config: String,
}

/// What came of a run.
pub struct Ended {
    /// All operations and faults.
    pub history: History,
    /// What should not have happened.
    pub violations: Vec<Violation>,
    /// Faults that could not be done.
    pub skipped: BTreeMap<&'static str, (usize, String)>,
    /// How long it took until all copies were in place after the last fault.
    pub repaired: Option<Duration>,
    /// Where history, logs and data are, if they were kept.
    pub kept: Option<PathBuf>,
}

/// 3 coordinators and 5 nodes in 3 zones that notice and repair within seconds.
fn plan(coordinator_config: &str) -> Plan {
    let retention = RETENTION.as_millis();
    Plan {
        coordinators: 3,
        nodes: 5,
        zones: 3,
        proxied: true,
        small_disk: Some(96 << 20),
        coordinator_config: format!(
            "heartbeat_ms = 300\nsilence_ms = 2000\ngrace_ms = 4000\nlease_ms = 20000\nretention_ms = {retention}\n{coordinator_config}\n"
        ),
        // Small parts, so that a write has several; every part is read and checked some three times a minute.
        node_config: "block_bytes = 65536\npart_bytes = 131072\nscrub_days = 0.0002\n".into(),
    }
}

/// Runs it.
pub async fn run(wanted: &Wanted) -> Ended {
    let mut site = Site::new(&plan(&wanted.coordinator_config), &format!("volley-chaos-seed{}-", wanted.seed)).await;
    let recorder = Arc::new(Recorder::new(&site.folder().join("history.jsonl")).unwrap());
    site.start_all();
    if let Err(why) = site.ready(READY).await {
        return end(site, &recorder, vec![violation(Kind::Unreachable, why)], wanted, BTreeMap::new(), None);
    }
    let load = Arc::new(Load::new(recorder.clone(), site.addresses(), RETENTION));
    let workers: Vec<_> = (0..CLIENTS)
        .map(|at| tokio::spawn(Worker::new(load.clone(), wanted.seed.wrapping_mul(1000) + at).run()))
        .collect();
    let chooser = Chooser::new(StdRng::seed_from_u64(wanted.seed), 3, 5);
    let mut nemesis = Nemesis::new(site, recorder.clone(), chooser, wanted.only.clone());
    while nemesis.done() < wanted.faults && recorder.elapsed() < wanted.time {
        nemesis.turn().await;
    }
    load.stop();
    let mut violations = quiet(&mut nemesis).await;
    for worker in workers {
        worker.await.unwrap();
    }
    settle(&load, &recorder).await;
    let repaired = match repaired(&nemesis.site).await {
        Ok(time) => Some(time),
        Err(found) => {
            violations.extend(found);
            None
        }
    };
    look(&load, &recorder).await;
    nemesis.look_for_dead();
    violations.append(&mut nemesis.violations);
    end(nemesis.site, &recorder, violations, wanted, nemesis.skipped, repaired)
}

fn violation(kind: Kind, what: String) -> Violation {
    Violation { kind, what, events: Vec::new() }
}

fn end(
    site: Site,
    recorder: &Recorder,
    mut violations: Vec<Violation>,
    wanted: &Wanted,
    skipped: BTreeMap<&'static str, (usize, String)>,
    repaired: Option<Duration>,
) -> Ended {
    let history = recorder.history();
    violations.extend(check::judge(&history));
    let kept = (wanted.keep || !violations.is_empty()).then(|| {
        let folder = site.keep();
        std::fs::write(folder.join("violations.json"), serde_json::to_vec_pretty(&violations).unwrap()).unwrap();
        folder
    });
    Ended { history, violations, skipped, repaired, kept }
}

/// Ends all faults; every member must run, be ready and be reachable.
async fn quiet(nemesis: &mut Nemesis) -> Vec<Violation> {
    nemesis.site.links().heal_all();
    nemesis.look_for_dead();
    nemesis.site.start_all();
    let mut found = Vec::new();
    if let Err(why) = nemesis.site.ready(READY).await {
        found.push(violation(Kind::Unreachable, format!("after the faults {why}")));
    }
    found.extend(unreachable(&nemesis.site.addresses(), READY).await);
    found
}

/// Those that do not answer within the limit.
async fn unreachable(addresses: &[String], limit: Duration) -> Vec<Violation> {
    let mut found = Vec::new();
    for address in addresses {
        if let Err(why) = answers(address, limit).await {
            found.push(violation(Kind::Unreachable, format!("after the faults {why}")));
        }
    }
    found
}

/// Repeats every put of unknown outcome until it is known, or time is up.
async fn settle(load: &Arc<Load>, recorder: &Recorder) {
    let begin = Instant::now();
    let unknown =
        |event: &&Event| matches!(event.outcome, Outcome::Unknown { .. }) && matches!(event.ask, Ask::Put { .. });
    let mut worker = Worker::new(load.clone(), 0);
    for _ in 0..3 {
        let history = recorder.history();
        for event in history.events.values().filter(unknown) {
            if begin.elapsed() < SETTLES {
                worker.settle(event).await;
            }
        }
    }
}

/// Waits until every part has its copies, sound, and nothing else lies about; how long that took.
async fn repaired(site: &Site) -> Result<Duration, Vec<Violation>> {
    let begin = Instant::now();
    let folders: Vec<PathBuf> = site.nodes.iter().map(|node| node.folder.clone()).collect();
    loop {
        let found = match tables(site).await {
            Some(tables) => still_wrong(&folders, &tables).into_iter().chain(not_green(site).await).collect::<Vec<_>>(),
            None => vec![violation(Kind::Unreachable, "no coordinator lists the tables".into())],
        };
        if found.is_empty() {
            return Ok(begin.elapsed());
        }
        if begin.elapsed() > GREEN {
            return Err(found);
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// What the cluster itself says.
async fn not_green(site: &Site) -> Option<Violation> {
    let status = site.status().await.unwrap_or_default();
    (status["health"] != "green").then(|| violation(Kind::NotRepaired, format!("the cluster says of itself: {status}")))
}

fn still_wrong(folders: &[PathBuf], tables: &BTreeMap<String, usize>) -> Vec<Violation> {
    let survey = copies::survey(folders);
    let mut found: Vec<Violation> =
        copies::wrong(&survey, tables).into_iter().map(|what| violation(Kind::NotRepaired, what)).collect();
    found.truncate(10);
    let unfinished = copies::unfinished(folders);
    found.extend(unfinished.iter().map(|path| violation(Kind::Litter, format!("{} is left", path.display()))));
    found
}

/// The tables that there are, with the copies that they should have.
async fn tables(site: &Site) -> Option<BTreeMap<String, usize>> {
    for address in site.addresses() {
        let asked = async { Client::connect(&address).await?.action("list_tables", &serde_json::Value::Null).await };
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(8), asked).await {
            let names = answer["tables"].as_array()?.iter().filter_map(|table| table["table"].as_str());
            return Some(
                names.filter_map(|name| Some((name.to_string(), clients::replicas(name)? as usize))).collect(),
            );
        }
    }
    None
}

/// Reads every table that was used, a last time, by two members each.
async fn look(load: &Arc<Load>, recorder: &Recorder) {
    let history = recorder.history();
    let mut tables: Vec<&String> = history.events.values().map(|event| &event.table).collect();
    tables.sort();
    tables.dedup();
    let mut worker = Worker::new(load.clone(), 1);
    for table in tables {
        let mut answered = 0;
        for _ in 0..10 {
            answered += usize::from(worker.look(table).await);
            if answered == 2 {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_member_that_does_not_answer_is_unreachable() {
        let found = unreachable(&["127.0.0.1:1".into()], Duration::ZERO).await;
        assert!(found[0].kind == Kind::Unreachable && found[0].what.contains("127.0.0.1:1"), "{found:?}");
        assert_eq!((found.len(), unreachable(&[], Duration::ZERO).await.len()), (1, 0));
    }

    #[test]
    fn what_is_left_unfinished_is_litter_and_what_nobody_named_is_not_repaired() {
        let folder = tempfile::tempdir().unwrap();
        let nodes = ["node1", "node2"].map(|name| folder.path().join(name));
        for node in &nodes {
            std::fs::create_dir_all(node.join("tmp")).unwrap();
        }
        assert_eq!(still_wrong(&nodes, &BTreeMap::new()), []);
        std::fs::write(nodes[1].join("tmp").join("half.arrow"), b"x").unwrap();
        let found = still_wrong(&nodes, &BTreeMap::new());
        assert!(found.len() == 1 && found[0].kind == Kind::Litter && found[0].what.contains("half.arrow"), "{found:?}");
        let shard = nodes[0].join("parts").join("t").join("0");
        std::fs::create_dir_all(&shard).unwrap();
        std::fs::write(shard.join("w-0-p-00000000.arrow"), b"x").unwrap();
        let kinds: Vec<Kind> = still_wrong(&nodes, &BTreeMap::new()).iter().map(|one| one.kind).collect();
        assert!(kinds.contains(&Kind::NotRepaired) && kinds.contains(&Kind::Litter), "{kinds:?}");
    }
}
