//! Measures ten thousand appends of a hundred rows to one table, and the compaction after them.
//!
//! `cargo build --workspace --bins && cargo run -p volley-tests --bin many_appends -- [APPENDS] [ROWS] [WRITERS] [SHARD_BY]`
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "it prints figures, and a failure ends it")]

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use futures::future::join_all;
use volley_client::Client;
use volley_common::options::{Mode, Options};
use volley_tests::{ClusterOptions, TestCluster, rows};

/// `get_flight_info` calls that are measured.
const CALLS: usize = 200;
/// Compaction has ended when the endpoints have not changed for this long.
const STEADY: Duration = Duration::from_secs(5);

fn argument(at: usize, default: i64) -> i64 {
    std::env::args().nth(at).map_or(default, |text| text.parse().unwrap())
}

async fn endpoints(client: &Client) -> usize {
    client.info(&rows::name("t"), &Options::default()).await.unwrap().endpoint.len()
}

/// Prints the number of endpoints, and the time of `get_flight_info`.
async fn report(client: &Client, when: &str) {
    let mut times = Vec::with_capacity(CALLS);
    for _ in 0..CALLS {
        let start = Instant::now();
        endpoints(client).await;
        times.push(start.elapsed());
    }
    times.sort_unstable();
    let (median, p99) = (times[CALLS / 2], times[CALLS * 99 / 100]);
    println!("{when}: {} endpoints, get_flight_info {median:.1?} (p99 {p99:.1?})", endpoints(client).await);
}

#[tokio::main]
async fn main() {
    let (appends, size, writers) = (argument(1, 10_000), argument(2, 100), argument(3, 8));
    let shard_by = std::env::args().nth(4).map(|column| vec![column]);
    let mut cluster = TestCluster::start_with(ClusterOptions { nodes: 3, zones: 3, ..ClusterOptions::default() }).await;
    let client = cluster.client().await;
    let made = Options { shards: Some(4), shard_by, ..Options::default() };
    rows::put(&client, "t", &made, 0..0).await.unwrap();
    report(&client, "before").await;

    let others: Vec<Client> = join_all(cluster.nodes.iter().map(|node| node.client())).await;
    let (next, start) = (AtomicI64::new(0), Instant::now());
    let write = async |client: &Client| {
        let append = Options { mode: Some(Mode::Append), ..Options::default() };
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            if at >= appends {
                return;
            }
            rows::put(client, "t", &append, at * size..(at + 1) * size).await.unwrap();
            if (at + 1) % 1000 == 0 {
                println!("{:>6} appends: {} endpoints", at + 1, endpoints(client).await);
            }
        }
    };
    join_all((0..writers).map(|writer| write(&others[writer as usize % others.len()]))).await;
    let took = start.elapsed();
    println!("{appends} appends of {size} rows in {took:.1?}: {:.0} appends/s", appends as f64 / took.as_secs_f64());
    report(&client, "after the last append").await;

    let (mut last, mut since) = (endpoints(&client).await, Instant::now());
    while since.elapsed() < STEADY {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = endpoints(&client).await;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
    report(&client, "after the compaction").await;
    let start = Instant::now();
    let found = rows::get_sorted(&client, "t").await.unwrap();
    assert!(found.into_iter().eq(0..appends * size), "rows are missing");
    println!("all {} rows read and checked in {:.1?}", appends * size, start.elapsed());
}
