//! The coordinators' leader killed, paused, cut off: what was acknowledged stays, and nobody waits for ever.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use volley_common::Code;
use volley_common::client::Client;
use volley_common::options::{Mode, Options};
use volley_tests::{Cluster, rows, wait_for};

/// Rows of one put in the loop.
pub const ROWS: i64 = 100;

/// What a writer was told: by number of put, whether it was acknowledged.
pub type Told = Vec<(i64, bool)>;

pub fn append(k: i64) -> Options {
    Options { mode: Some(Mode::Append), write_id: Some(format!("put-{k}")), ..Options::default() }
}

/// Appends to `t` through one node, put after put, until told to stop.
pub async fn write(
    address: String,
    mine: impl Iterator<Item = i64>,
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicUsize>,
) -> Told {
    let mut told = Told::new();
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
        told.push((k, outcome.is_ok()));
    }
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_put_is_lost_and_none_counts_twice_when_leaders_die() {
    let mut cluster = Cluster::start().await;
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
        more(5, "puts go through").await;
        let leader = cluster.leader().await;
        cluster.coordinators[leader].kill9();
        more(5, "puts go through under the next leader").await;
        cluster.coordinators[leader].restart().await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut told = Told::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }

    // What was acknowledged is there, whole; of the rest each is there whole or not at all.
    let client = cluster.client().await;
    let found = rows::get(&client, "t").await.unwrap();
    assert!(
        found.chunks(ROWS as usize).all(|put| put[0] % ROWS == 0 && put.iter().copied().eq(put[0]..put[0] + ROWS)),
        "a put is torn"
    );
    for (k, _) in told.iter().filter(|(_, acknowledged)| *acknowledged) {
        assert!(found.contains(&(k * ROWS)), "put {k} was acknowledged and is lost");
    }
    // Said again under the same ids, all take effect, and once.
    for (k, _) in &told {
        rows::put(&client, "t", &append(*k), k * ROWS..(k + 1) * ROWS).await.unwrap();
    }
    let mut expected: Vec<i64> = told.iter().flat_map(|(k, _)| k * ROWS..(k + 1) * ROWS).collect();
    expected.sort_unstable();
    for coordinator in &cluster.coordinators {
        assert_eq!(rows::get_sorted(&coordinator.client().await, "t").await.unwrap(), expected, "{}", coordinator.name);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_slept_through_its_deposition_gives_no_stale_answer() {
    let mut cluster = Cluster::start().await;
    rows::put(&cluster.client().await, "t", &Options::default(), 0..1).await.unwrap();
    let old = cluster.leader().await;
    let sleeper = cluster.coordinators[old].client().await;
    cluster.coordinators[old].pause();
    let other = cluster.coordinators[(old + 1) % 3].client().await;
    let awake = wait_for(Duration::from_secs(60), "a put goes through without the old leader", async || {
        rows::put(&other, "t", &Options { write_id: Some("next".into()), ..Options::default() }, 7..9).await.ok()
    })
    .await;
    cluster.coordinators[old].resume();
    // Asked in the moment in which it wakes up and still believes that it leads.
    let info = sleeper.info(&rows::name("t"), &Options::default()).await;
    match info {
        Ok(info) => assert_eq!(info.total_records, 2, "version {} was acknowledged before", awake.version),
        Err(error) => assert_eq!(error.code, Code::Unavailable, "{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_calls_end_in_time_and_tickets_still_work() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    rows::put(&client, "t", &Options::default(), 0..10).await.unwrap();
    let ticket = client.info(&rows::name("t"), &Options::default()).await.unwrap().endpoint[0].ticket.clone().unwrap();
    cluster.coordinators[0].kill9();
    cluster.coordinators[1].kill9();
    for member in [&cluster.coordinators[2], &cluster.nodes[0]] {
        let client = member.client().await;
        let begin = Instant::now();
        let error = client.info(&rows::name("t"), &Options::default()).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{}: {error}", member.name);
        let error = rows::put(&client, "u", &Options::default(), 0..10).await.unwrap_err();
        assert_eq!(error.code, Code::Unavailable, "{}: {error}", member.name);
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
async fn a_coordinator_that_lost_its_folder_catches_up() {
    let mut cluster = Cluster::start().await;
    let client = cluster.client().await;
    for k in 0..5 {
        rows::put(&client, &format!("t{k}"), &Options::default(), 0..10).await.unwrap();
    }
    let follower = (cluster.leader().await + 1) % 3;
    cluster.coordinators[follower].kill9();
    std::fs::remove_dir_all(&cluster.coordinators[follower].folder).unwrap();
    cluster.coordinators[follower].restart().await;
    let back = cluster.coordinators[follower].client().await;
    assert_eq!(back.list("").await.unwrap().len(), 5);
    assert_eq!(rows::put(&back, "after", &Options::default(), 0..10).await.unwrap().version, 1);
}
