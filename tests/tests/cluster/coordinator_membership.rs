//! Coordinators are added, removed and moved while puts continue; a coordinator recovers after the loss of a majority.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::task::JoinHandle;
use volley_common::Code;
use volley_common::options::Options;
use volley_tests::process::{ServerProcess, run};
use volley_tests::{ClusterOptions, TestCluster, rows, wait_for};

use crate::leader::{ROWS, WriteLog, append, write};

/// How long any change may take.
const LIMIT: Duration = Duration::from_secs(60);

fn peer(coordinator: &ServerProcess) -> String {
    coordinator.address.replace(":8815", ":8825")
}

/// One writer for each node, each with one put after the other.
struct Writers {
    tasks: Vec<JoinHandle<WriteLog>>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
}

impl Writers {
    async fn start(cluster: &mut TestCluster) -> Writers {
        rows::put(&cluster.client().await, "t", &Options::default(), 0..0).await.unwrap();
        let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let count = cluster.nodes.len();
        let one = |(k, node): (usize, &ServerProcess)| {
            let mine = (k as i64..).step_by(count);
            tokio::spawn(write(node.address.clone(), mine, stop.clone(), acknowledged.clone()))
        };
        let tasks = cluster.nodes.iter().enumerate().map(one).collect();
        Writers { tasks, stop, acknowledged }
    }

    /// Waits until more puts are acknowledged.
    async fn wait_for_puts(&self, when: &str) {
        let target = self.acknowledged.load(Ordering::Relaxed) + 2 * self.tasks.len() + 1;
        wait_for(LIMIT, &format!("puts are acknowledged {when}"), async || {
            (self.acknowledged.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    }

    /// Stops the writers, and checks at each coordinator that every acknowledged put is there, in whole and once.
    async fn check(self, coordinators: &[&ServerProcess]) {
        self.stop.store(true, Ordering::Relaxed);
        let mut log = WriteLog::new();
        for task in self.tasks {
            log.extend(task.await.unwrap());
        }
        let client = coordinators[0].client().await;
        let found = rows::get(&client, "t").await.unwrap();
        for (k, _) in log.iter().filter(|(_, acknowledged)| *acknowledged) {
            assert!(found.contains(&(k * ROWS)), "put {k} was acknowledged and is lost");
        }
        for (k, _) in &log {
            rows::put(&client, "t", &append(*k), k * ROWS..(k + 1) * ROWS).await.unwrap();
        }
        let mut expected: Vec<i64> = log.iter().flat_map(|(k, _)| k * ROWS..(k + 1) * ROWS).collect();
        expected.sort_unstable();
        for coordinator in coordinators {
            let found = rows::get_sorted(&coordinator.client().await, "t").await.unwrap();
            assert_eq!(found, expected, "{}", coordinator.name);
        }
    }
}

async fn change(through: &ServerProcess, action: &str, body: Value) -> Value {
    let client = through.client().await;
    client.action(action, &body).await.unwrap_or_else(|e| panic!("{action} {body} through {}: {e}", through.name))
}

/// The ids of the coordinators in an action's answer.
fn ids(answer: &Value) -> Vec<u64> {
    answer["coordinators"].as_array().unwrap().iter().map(|one| one["id"].as_u64().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinators_join_leave_and_move_during_puts() {
    let mut cluster = TestCluster::start_with(ClusterOptions { nodes: 3, ..ClusterOptions::default() }).await;
    let writers = Writers::start(&mut cluster).await;
    writers.wait_for_puts("with three").await;

    for id in [4, 5] {
        let mut new = cluster.joining_coordinator(id, id - 1);
        new.start();
        change(&cluster.coordinators[0], "add_coordinator", json!({ "id": id, "peer": peer(&new) })).await;
        new.ready().await;
        cluster.coordinators.push(new);
    }
    cluster.coordinators[0].kill();
    cluster.coordinators[1].kill();
    writers.wait_for_puts("with two of the five original coordinators killed").await;
    cluster.coordinators[0].restart().await;
    cluster.coordinators[1].restart().await;

    let leader = cluster.leader().await;
    let through = (leader + 1) % 5;
    let answer = change(&cluster.coordinators[through], "remove_coordinator", json!({ "id": leader as u64 + 1 })).await;
    assert_eq!(ids(&answer), Vec::from_iter((1..6).filter(|id| *id != leader as u64 + 1)));
    let sentence = cluster.coordinators[leader].exits_with_failure().await;
    assert!(sentence.contains("was removed from the cluster"), "{sentence}");
    writers.wait_for_puts("without the former leader").await;
    assert_eq!(
        cluster.coordinators[leader].start_fails().await,
        sentence,
        "it reports the same when it is started again"
    );

    // A coordinator moves: the same id at another address, with an empty folder.
    let moved = (cluster.leader().await + 1..).map(|at| at % 5).find(|at| *at != leader).unwrap();
    let mut new = cluster.joining_coordinator(moved + 1, 7);
    let through = (0..5).find(|at| ![leader, moved].contains(at)).unwrap();
    let id = moved as u64 + 1;
    new.start();
    let refused = cluster.coordinators[through].client().await;
    let refused = refused.action("add_coordinator", &json!({ "id": id, "peer": peer(&new) })).await.unwrap_err();
    assert_eq!(refused.code, Code::AlreadyExists, "{refused}");
    change(&cluster.coordinators[through], "remove_coordinator", json!({ "id": id })).await;
    cluster.coordinators[moved].exits_with_failure().await;
    change(&cluster.coordinators[through], "add_coordinator", json!({ "id": id, "peer": peer(&new) })).await;
    new.ready().await;
    cluster.coordinators[moved] = new;
    writers.wait_for_puts("with one at another address").await;

    let there: Vec<&ServerProcess> = (0..5).filter(|at| *at != leader).map(|at| &cluster.coordinators[at]).collect();
    writers.check(&there).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn five_coordinators_survive_the_loss_of_two() {
    let mut cluster =
        TestCluster::start_with(ClusterOptions { coordinators: 5, nodes: 3, ..ClusterOptions::default() }).await;
    let writers = Writers::start(&mut cluster).await;
    writers.wait_for_puts("with five").await;
    for _ in 0..2 {
        let leader = cluster.leader().await;
        cluster.coordinators[leader].kill();
        writers.wait_for_puts("without another former leader").await;
    }
    for at in 0..5 {
        if !cluster.coordinators[at].is_running() {
            cluster.coordinators[at].restart().await;
        }
    }
    writers.check(&cluster.coordinators.iter().collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn single_survivor_of_three_recovers_every_table() {
    let mut cluster = TestCluster::start_with(ClusterOptions { nodes: 3, ..ClusterOptions::default() }).await;
    let client = cluster.client().await;
    for k in 0..5 {
        rows::put(&client, &format!("t{k}"), &Options::default(), 0..100).await.unwrap();
    }
    let (left, lost) = (2, [0, 1]);
    // After a read through it, it has every acknowledged entry.
    assert_eq!(cluster.coordinators[left].client().await.list("").await.unwrap().len(), 5);
    let folder = cluster.coordinators[left].folder.display().to_string();
    let recover =
        |more: &[&str]| run("volley-coordinator", &[&["recover", "--data-dir", &folder, "--id", "3"], more].concat());
    let says = |output: &std::process::Output| {
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
    };
    let running = recover(&["--yes-lose-unreplicated"]);
    assert!(!running.status.success() && says(&running).contains("in use"), "{}", says(&running));
    cluster.coordinators[left].kill();
    let others = recover(&["--yes-lose-unreplicated"]);
    assert!(!others.status.success() && says(&others).contains("is running"), "{}", says(&others));
    lost.iter().for_each(|at| cluster.coordinators[*at].kill());
    let looked = recover(&[]);
    assert!(looked.status.success() && says(&looked).contains("Nothing was changed"), "{}", says(&looked));
    let done = recover(&["--yes-lose-unreplicated"]);
    assert!(done.status.success() && says(&done).contains("is now the only one"), "{}", says(&done));

    cluster.coordinators[left].restart().await;
    cluster.settle().await;
    let client = cluster.coordinators[left].client().await;
    for k in 0..5 {
        assert_eq!(rows::get(&client, &format!("t{k}")).await.unwrap(), Vec::from_iter(0..100), "t{k}");
    }
    rows::put(&client, "after", &Options::default(), 0..100).await.unwrap();
    // A restarted node stays with the recovered cluster, though the old coordinators run too.
    lost.iter().for_each(|at| cluster.coordinators[*at].start());
    cluster.nodes[0].kill();
    cluster.nodes[0].restart().await;
    for at in lost {
        let sentence = cluster.coordinators[at].exits_with_failure().await;
        assert!(sentence.contains("superseded"), "{sentence}");
        assert_eq!(cluster.coordinators[at].start_fails().await, sentence);
        std::fs::remove_dir_all(&cluster.coordinators[at].folder).unwrap();
        cluster.coordinators[at].start();
        let new = json!({ "id": at as u64 + 1, "peer": peer(&cluster.coordinators[at]) });
        change(&cluster.coordinators[left], "add_coordinator", new).await;
        cluster.coordinators[at].ready().await;
    }
    cluster.coordinators[left].kill();
    let client = cluster.coordinators[lost[0]].client().await;
    wait_for(LIMIT, "an added coordinator leads", async || client.list("").await.ok()).await;
    assert_eq!(rows::get(&client, "after").await.unwrap(), Vec::from_iter(0..100));
    assert_eq!(rows::get(&cluster.nodes[0].client().await, "t0").await.unwrap(), Vec::from_iter(0..100));
}
