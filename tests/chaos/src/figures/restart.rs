//! What the restart of a whole cluster of 10,000 parts takes.

use std::time::{Duration, Instant};

use volley_common::options::Options;

use super::{LIMIT, Outcome, READY, client, name, put, site, until};
use crate::copies;
use crate::site::Site;

/// Tables, of so many shards each, with two copies of every part.
const TABLES: usize = 100;
const SHARDS: u32 = 100;
const ROWS: i64 = 2000;

pub(super) async fn measure(coordinator_config: &str) -> Outcome {
    let mut site = site(4, coordinator_config, "").await?;
    let (writer, begin) = (client(&site.coordinators[0].address).await?, Instant::now());
    for table in 0..TABLES {
        put(&writer, &format!("t{table}"), ROWS, SHARDS).await.map_err(|error| error.message)?;
    }
    let files: usize = site.nodes.iter().map(|node| copies::parts_of(&node.folder).len()).sum();
    println!("{} parts, {files} files, put in {:.1} s", TABLES * SHARDS as usize, begin.elapsed().as_secs_f64());
    for member in site.members() {
        site.kill(member);
    }
    up_again("after kill -9 of all", &mut site).await?;
    for member in site.members() {
        site.process(member).try_stop(Duration::from_secs(60)).await.ok_or(format!("{member} does not stop"))?;
    }
    up_again("after SIGTERM of all", &mut site).await
}

/// Starts all, and says when what works.
async fn up_again(what: &str, site: &mut Site) -> Outcome {
    let begin = Instant::now();
    site.start_all();
    site.ready(READY).await?;
    let ready = begin.elapsed();
    let reader = until("a coordinator takes clients", LIMIT, async || client(&site.coordinators[0].address).await.ok());
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
