//! How long the restart of a whole cluster with 10,000 parts takes.

use std::time::{Duration, Instant};

use volley_common::options::Options;
use volley_tests::cluster::TestCluster;

use super::{FigureResult, LIMIT, READY, client, name, put, start_cluster, until};
use crate::copies;

/// Tables and shards of each, with two copies of every part.
const TABLES: usize = 100;
const SHARDS: u32 = 100;
const ROWS: i64 = 2000;

pub(super) async fn measure(coordinator_config: &str) -> FigureResult {
    let mut cluster = start_cluster(4, coordinator_config, "").await?;
    let (writer, begin) = (client(&cluster.coordinators[0].address).await?, Instant::now());
    for table in 0..TABLES {
        put(&writer, &format!("t{table}"), ROWS, SHARDS).await.map_err(|error| error.message)?;
    }
    let files: usize = cluster.nodes.iter().map(|node| copies::parts_of(&node.folder).len()).sum();
    println!("{} parts, {files} files, put in {:.1} s", TABLES * SHARDS as usize, begin.elapsed().as_secs_f64());
    cluster.kill_all();
    measure_start("after kill -9 of all", &mut cluster).await?;
    for member in cluster.members() {
        member.try_stop(Duration::from_secs(60)).await.ok_or_else(|| format!("{} does not stop", member.name))?;
    }
    measure_start("after SIGTERM of all", &mut cluster).await
}

/// Starts all members, and prints when gets work again.
async fn measure_start(what: &str, cluster: &mut TestCluster) -> FigureResult {
    let begin = Instant::now();
    cluster.start_stopped();
    cluster.try_ready(READY).await?;
    let ready = begin.elapsed();
    let reader =
        until("a coordinator accepts clients", LIMIT, async || client(&cluster.coordinators[0].address).await.ok());
    let reader = reader.await?;
    until("a get works", LIMIT, async || reader.get_all(&name("t0"), &Options::default()).await.ok()).await?;
    let first = begin.elapsed();
    for table in 0..TABLES {
        let (_, batches) = reader
            .get_all(&name(&format!("t{table}")), &Options::default())
            .await
            .map_err(|error| format!("table t{table} cannot be read: {}", error.message))?;
        let rows: usize = batches.iter().map(|batch| batch.num_rows()).sum();
        if rows != ROWS as usize {
            return Err(format!("table t{table} has {rows} rows instead of {ROWS}"));
        }
    }
    println!(
        "{what}: all members ready after {:.1} s, the first get done after {:.1} s, every table read after {:.1} s",
        ready.as_secs_f64(),
        first.as_secs_f64(),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}
