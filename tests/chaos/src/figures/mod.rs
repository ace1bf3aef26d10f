//! Measures how long recovery takes, on real processes without proxies. Each figure prints its results.
#![allow(clippy::print_stdout, reason = "it prints its results")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use volley_client::Client;
use volley_common::options::{Mode, Options};
use volley_common::{Result, TableName};
use volley_tests::cluster::{ClusterOptions, TestCluster};

use crate::quantile::quantile;
use crate::rows;

mod leader;
mod node;
mod repair;
mod restart;

/// How long a cluster may take to be ready.
const READY: Duration = Duration::from_secs(120);
/// How long a single measurement may take.
const LIMIT: Duration = Duration::from_secs(300);

type FigureResult = std::result::Result<(), String>;

/// Measures the named figures, or all. `coordinator_config`: more lines for the coordinators' configuration.
pub async fn measure(names: &[String], coordinator_config: &str) -> ExitCode {
    let all = ["leader", "node", "repair", "restart"];
    if let Some(unknown) = names.iter().find(|name| !all.contains(&name.as_str())) {
        println!("there is no figure {unknown:?}; there are {}", all.join(", "));
        return ExitCode::FAILURE;
    }
    for name in all.into_iter().filter(|name| names.is_empty() || names.iter().any(|asked| asked == name)) {
        let measured = match name {
            "leader" => leader::measure(coordinator_config).await,
            "node" => node::measure(coordinator_config).await,
            "repair" => repair::measure(coordinator_config).await,
            _ => restart::measure(coordinator_config).await,
        };
        if let Err(why) = measured {
            println!("{name}: {why}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Starts a cluster with the defaults and these lines in the two configurations.
async fn start_cluster(
    nodes: usize,
    coordinator_config: &str,
    node_config: &str,
) -> std::result::Result<TestCluster, String> {
    let mut cluster = TestCluster::create(ClusterOptions {
        coordinators: 3,
        nodes,
        zones: nodes,
        coordinator_config: coordinator_config.into(),
        node_config: node_config.into(),
        folder_prefix: "volley-figures-".into(),
        ..ClusterOptions::default()
    });
    cluster.start_stopped();
    cluster.try_ready(READY).await?;
    until("all nodes are alive", LIMIT, async || (cluster.nodes_alive().await == Some(nodes)).then_some(())).await?;
    Ok(cluster)
}

/// Polls until `condition` returns a value.
async fn until<T>(
    what: &str,
    limit: Duration,
    mut condition: impl AsyncFnMut() -> Option<T>,
) -> std::result::Result<T, String> {
    let begin = Instant::now();
    loop {
        if let Some(value) = condition().await {
            return Ok(value);
        }
        if begin.elapsed() > limit {
            return Err(format!("not within {limit:?}: {what}"));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn client(address: &str) -> std::result::Result<Client, String> {
    Client::connect(address).await.map_err(|error| error.message)
}

fn name(table: &str) -> TableName {
    table.parse().unwrap()
}

/// Puts rows into a keyed table of this many shards.
async fn put(client: &Client, table: &str, rows: i64, shards: u32) -> Result<()> {
    let shard_by = Some(vec!["seq".into()]);
    let options = Options { mode: Some(Mode::Replace), shards: Some(shards), shard_by, ..Options::default() };
    client.put(&name(table), &options, rows::schema(), rows::stream(table, "w", rows)).await?;
    Ok(())
}

/// Prints the median, the 99th percentile and the maximum of some times.
fn print_times(what: &str, times: &[Duration]) {
    let seconds: Vec<f64> = times.iter().map(Duration::as_secs_f64).collect();
    let at = |share| quantile(&seconds, share).unwrap_or(f64::NAN);
    println!(
        "{what}: median {:.3} s, p99 {:.3} s, max {:.3} s, min {:.3} s (n = {})",
        at(0.5),
        at(0.99),
        at(1.0),
        at(0.0),
        times.len()
    );
}
