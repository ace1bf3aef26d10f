//! All members get a fifth of the time that they need: all processes are stopped at once, again and again, as on a machine
//! that is overloaded. Calls take long, and no member is taken for one that hangs.

use std::time::Duration;

use futures::future::join_all;
use volley_client::Client;
use volley_common::options::{Mode, Options};
use volley_common::{Code, Error};
use volley_tests::cluster::ClusterOptions;
use volley_tests::{TestCluster, rows};

/// Longer than three probes take, shorter than a call waits for members none of which answers.
const STOPPED: Duration = Duration::from_millis(2_000);
const RUNNING: Duration = Duration::from_millis(500);
const WRITERS: usize = 28;
/// For all puts together. On a machine that does nothing else they take a few seconds.
const LIMIT: Duration = Duration::from_secs(180);
/// Rows of a put.
const ROWS: i64 = 10;

/// Appends rows, and repeats that under the write's id while the cluster asks for it. Returns the errors.
async fn append(client: &Client, number: i64) -> Vec<Error> {
    let options = Options { mode: Some(Mode::Append), write_id: Some(format!("busy-{number}")), ..Options::default() };
    let mut errors = Vec::new();
    loop {
        let ids = number * ROWS..(number + 1) * ROWS;
        match rows::put(client, "t", &options, ids).await {
            Ok(_) => return errors,
            Err(error) if matches!(error.code, Code::Unavailable | Code::ResourceExhausted | Code::Aborted) => {
                errors.push(error);
            }
            Err(error) => panic!("put {number}: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn puts_succeed_while_all_members_rarely_run() {
    // Neither elections nor reports of nodes are what is tested.
    let flags = ["--election-ms", "12000", "--node-timeout-ms", "600000", "--repair-delay-ms", "600000"];
    let coordinator_flags = flags.map(String::from).to_vec();
    let mut cluster = TestCluster::start_with(ClusterOptions { coordinator_flags, ..ClusterOptions::default() }).await;
    rows::put(&cluster.client().await, "t", &Options::default(), -ROWS..0).await.unwrap();
    let mut clients = Vec::new();
    for process in cluster.coordinators.iter().chain(&cluster.nodes) {
        clients.push(process.client().await);
    }
    let stopping = async {
        loop {
            cluster.coordinators.iter().chain(&cluster.nodes).for_each(|process| process.pause());
            tokio::time::sleep(STOPPED).await;
            cluster.coordinators.iter().chain(&cluster.nodes).for_each(|process| process.resume());
            tokio::time::sleep(RUNNING).await;
        }
    };
    let puts = (0..WRITERS).map(|number| append(&clients[number % clients.len()], number as i64));
    let errors: Vec<Error> = tokio::select! {
        done = tokio::time::timeout(LIMIT, join_all(puts)) => {
            done.unwrap_or_else(|_| panic!("not all puts succeeded within {LIMIT:?}")).concat()
        }
        () = stopping => Vec::new(),
    };
    cluster.coordinators.iter().chain(&cluster.nodes).for_each(|process| process.resume());
    let hangs = errors.iter().find(|error| error.message.contains("although it accepts connections"));
    assert_eq!(hangs, None, "{} puts failed in all", errors.len());
    let expected = Vec::from_iter(-ROWS..WRITERS as i64 * ROWS);
    assert_eq!(rows::get_sorted(&cluster.client().await, "t").await.unwrap(), expected);
}
