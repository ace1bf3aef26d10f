//! From the kill of a node to a FlightInfo without it.

use std::time::{Duration, Instant};

use volley_common::options::Options;

use super::{FigureResult, LIMIT, READY, client, name, print_times, put, start_cluster, until};

/// Nodes to kill.
const TIMES: usize = 10;

pub(super) async fn measure(coordinator_config: &str) -> FigureResult {
    let mut cluster = start_cluster(3, coordinator_config, "").await?;
    let reader = client(&cluster.coordinators[0].address).await?;
    put(&reader, "t", 100_000, 12).await.map_err(|error| error.message)?;
    let get = async || {
        let begin = Instant::now();
        let got = reader.get_all(&name("t"), &Options::default()).await;
        got.map(|_| begin.elapsed()).map_err(|error| error.message)
    };
    let (mut before, mut after, mut unlisted) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..TIMES {
        before.push(get().await?);
        let (victim, begin) = (round % 3, Instant::now());
        let uri = format!("grpc+tcp://{}", cluster.nodes[victim].address);
        cluster.nodes[victim].kill();
        after.push(get().await?);
        let named = async || {
            let info = reader.info(&name("t"), &Options::default()).await.ok()?;
            let named = info.endpoint.iter().flat_map(|endpoint| &endpoint.location).any(|one| one.uri == uri);
            (!named).then(|| begin.elapsed())
        };
        unlisted.push(until("no FlightInfo names the node", LIMIT, named).await?);
        cluster.nodes[victim].start();
        cluster.try_ready(READY).await?;
        until("a FlightInfo names the node again", LIMIT, async || {
            let info = reader.info(&name("t"), &Options::default()).await.ok()?;
            info.endpoint.iter().flat_map(|endpoint| &endpoint.location).any(|one| one.uri == uri).then_some(())
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    print_times("a get of 12 endpoints, 100,000 rows, without a fault", &before);
    print_times("the same get, begun right after the kill of a node (fails over to other locations)", &after);
    print_times("kill of a node to a FlightInfo that does not name it", &unlisted);
    Ok(())
}
