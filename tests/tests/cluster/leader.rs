//! A leader that is killed, paused or without a majority: acknowledged writes are kept, and every call ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use volley_client::Client;
use volley_common::Code;
use volley_common::options::{Mode, Options};
use volley_tests::{TestCluster, rows, wait_for};

/// Rows of one put.
pub const ROWS: i64 = 100;

/// The puts of a writer: the number of each, and whether it was acknowledged.
pub type WriteLog = Vec<(i64, bool)>;

pub fn append(k: i64) -> Options {
    Options { mode: Some(Mode::Append), write_id: Some(format!("put-{k}")), ..Options::default() }
}

/// Appends to `t` through one node, put after put, until `stop`.
pub async fn write(
    address: String,
    mine: impl Iterator<Item = i64>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> WriteLog {
    let mut log = WriteLog::new();
    let client = Client::connect(&address).await.unwrap();
    for k in mine {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let outcome = rows::put(&client, "t", &append(k), k * ROWS..(k + 1) * ROWS).await;
        if let Err(error) = &outcome {
            assert_eq!(error.code, Code::Unavailable, "put {k}: {error}");
        }
        acknowledged.fetch_add(usize::from(outcome.is_ok()), Ordering::Relaxed);
        log.push((k, outcome.is_ok()));
    }
    log
}

#[tokio::test(flavor = "multi_thread")]
async fn acknowledged_puts_take_effect_once_when_leaders_die() {
    let mut cluster = TestCluster::start().await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..0).await.unwrap();
    let (stop, acknowledged) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let writers: Vec<_> = (0..3)
        .map(|k| {
            tokio::spawn(write(
                cluster.nodes[k].address.clone(),
                (k as i64..).step_by(3),
                stop.clone(),
                acknowledged.clone(),
            ))
        })
        .collect();
    let more = async |count: usize, what: &str| {
        let target = acknowledged.load(Ordering::Relaxed) + count;
        wait_for(Duration::from_secs(60), what, async || {
            (acknowledged.load(Ordering::Relaxed) >= target).then_some(())
        })
        .await;
    };
    for _ in 0..3 {
        more(5, "puts are acknowledged").await;
        let leader = cluster.leader().await;
        cluster.coordinators[leader].kill();
        more(5, "puts are acknowledged under the next leader").await;
        cluster.coordinators[leader].restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut log = WriteLog::new();
    for writer in writers {
        log.extend(writer.await.unwrap());
    }

    // Acknowledged puts are complete. Every other put is complete or absent.
    let client = cluster.client().await;
    let found = rows::get(&client, "t").await.unwrap();
    assert!(
        found.chunks(ROWS as usize).all(|put| put[0] % ROWS == 0 && put.iter().copied().eq(put[0]..put[0] + ROWS)),
        "a put is torn"
    );
    for (k, _) in log.iter().filter(|(_, acknowledged)| *acknowledged) {
        assert!(found.contains(&(k * ROWS)), "put {k} was acknowledged and is lost");
    }
    // Repeated under the same ids, each takes effect once.
    for (k, _) in &log {
        rows::put(&client, "t", &append(*k), k * ROWS..(k + 1) * ROWS).await.unwrap();
    }
    let mut expected: Vec<i64> = log.iter().flat_map(|(k, _)| k * ROWS..(k + 1) * ROWS).collect();
    expected.sort_unstable();
    for coordinator in &cluster.coordinators {
        assert_eq!(rows::get_sorted(&coordinator.client().await, "t").await.unwrap(), expected, "{}", coordinator.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn deposed_leader_resumed_gives_no_stale_answer() {
    let mut cluster = TestCluster::start().await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..1).await.unwrap();
    let old = cluster.leader().await;
    let paused = cluster.coordinators[old].client().await;
    cluster.coordinators[old].pause();
    let other = cluster.coordinators[(old + 1) % 3].client().await;
    let written = wait_for(Duration::from_secs(60), "a put is acknowledged without the old leader", async || {
        rows::put(&other, "t", &Options { write_id: Some("next".into()), ..Options::default() }, 7..9).await.ok()
    })
    .await;
    cluster.coordinators[old].resume();
    // Called when it resumes and still considers itself the leader.
    let info = paused.info(&rows::name("t"), &Options::default()).await;
    match info {
        Ok(info) => assert_eq!(info.total_records, 2, "version {} was acknowledged before", written.version),
        Err(error) => assert_eq!(error.code, Code::Unavailable, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_without_majority_fail_in_time_and_tickets_work() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..10).await.unwrap();
    let ticket = client.info(&rows::name("t"), &Options::default()).await.unwrap().endpoint[0].ticket.clone().unwrap();
    // A node learns of the others from the leader.
    let node = cluster.nodes[0].client().await;
    wait_for(Duration::from_secs(20), "the node reads the part from its holder", async || {
        node.do_get(ticket.clone()).await.ok()
    })
    .await;
    cluster.coordinators[0].kill();
    cluster.coordinators[1].kill();
    for member in [&cluster.coordinators[2], &cluster.nodes[0]] {
        let client = member.client().await;
        let begin = Instant::now();
        let error = client.info(&rows::name("t"), &Options::default()).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{}: {error}", member.name);
        let error = rows::put(&client, "u", &Options::default(), 0..10).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{}: {error}", member.name);
        // The reason of the coordinator that runs, though it waits for a leader as long as the node waits for it.
        assert!(error.message.contains("no leader of the catalog"), "{}: {error}", member.name);
        let error = client.drop_table(&rows::name("t")).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{}: {error}", member.name);
        assert!(begin.elapsed() < Duration::from_secs(40), "{}: three calls took {:?}", member.name, begin.elapsed());
        let (_, batches) = client.do_get(ticket.clone()).await.unwrap();
        assert_eq!(rows::ids(&batches), Vec::from_iter(0..10), "{}", member.name);
    }
    cluster.coordinators[0].restart().await;
    cluster.leader().await;
    assert_eq!(rows::get(&cluster.client().await, "t").await.unwrap(), Vec::from_iter(0..10));
}

#[tokio::test(flavor = "multi_thread")]
async fn coordinator_with_a_lost_folder_catches_up() {
    let mut cluster = TestCluster::start().await;
    let client = cluster.client().await;
    for k in 0..5 {
        rows::put(&client, &format!("t{k}"), &Options::default(), 0..10).await.unwrap();
    }
    let follower = (cluster.leader().await + 1) % 3;
    cluster.coordinators[follower].kill();
    std::fs::remove_dir_all(&cluster.coordinators[follower].folder).unwrap();
    cluster.coordinators[follower].restart().await;
    let back = cluster.coordinators[follower].client().await;
    assert_eq!(back.list("").await.unwrap().len(), 5);
    assert_eq!(rows::put(&back, "after", &Options::default(), 0..10).await.unwrap().version, 1);
}
