//! From the kill of a leader to the next acknowledged write, seen by a client of a node.

use std::time::{Duration, Instant};

use volley_common::options::{Mode, Options};

use super::{FigureResult, LIMIT, READY, client, name, print_times, put, start_cluster, until};
use crate::nemesis::answers;
use crate::rows;

/// Leaders to kill.
const TIMES: usize = 30;

pub(super) async fn measure(coordinator_config: &str) -> FigureResult {
    let mut cluster = start_cluster(3, coordinator_config, "").await?;
    let writer = client(&cluster.nodes[0].address).await?;
    put(&writer, "t", 10, 1).await.map_err(|error| error.message)?;
    let quiet = {
        let begin = Instant::now();
        append(&writer, 0).await?;
        begin.elapsed()
    };
    let (mut writes, mut elections) = (Vec::new(), Vec::new());
    for round in 1..=TIMES {
        let leader = until("there is a leader", LIMIT, async || cluster.known_leader().await).await?;
        let begin = Instant::now();
        cluster.coordinators[leader].kill();
        let other = cluster.coordinators[(leader + 1) % 3].address.clone();
        let (written, elected) =
            tokio::join!(async { append(&writer, round).await.map(|()| begin.elapsed()) }, async {
                answers(&other, READY).await.map(|()| begin.elapsed())
            },);
        writes.push(written?);
        elections.push(elected?);
        cluster.coordinators[leader].start();
        cluster.try_ready(READY).await?;
        answers(&cluster.coordinators[leader].address, READY).await?;
        // A follower that has just restarted may lack entries that the next leader needs.
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    println!("a small append without a fault: {:.3} s", quiet.as_secs_f64());
    print_times("kill of the leader to the next linearizable read by another coordinator", &elections);
    print_times("kill of the leader to the next acknowledged append", &writes);
    Ok(())
}

/// Appends a few rows, repeatedly until they are acknowledged.
async fn append(writer: &volley_client::Client, round: usize) -> FigureResult {
    let write = format!("round{round}");
    let options = Options { mode: Some(Mode::Append), write_id: Some(write.clone()), ..Options::default() };
    until("an append is acknowledged", LIMIT, async || {
        writer.put(&name("t"), &options, rows::schema(), rows::stream("t", &write, 10)).await.ok()
    })
    .await
    .map(drop)
}
