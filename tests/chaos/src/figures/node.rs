//! From the kill of a node to a get that no longer meets it.

use std::time::{Duration, Instant};

use volley_common::options::Options;

use super::{LIMIT, Outcome, READY, client, name, print_times, put, site, until};

/// Nodes to kill.
const TIMES: usize = 10;

pub(super) async fn measure(coordinator_config: &str) -> Outcome {
    let mut site = site(3, coordinator_config, "").await?;
    let reader = client(&site.coordinators[0].address).await?;
    put(&reader, "t", 100_000, 12).await.map_err(|error| error.message)?;
    let get = async || {
        let begin = Instant::now();
        let got = reader.get_all(&name("t"), &Options::default()).await;
        got.map(|_| begin.elapsed()).map_err(|error| error.message)
    };
    let (mut before, mut after, mut offered) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..TIMES {
        before.push(get().await?);
        let (victim, begin) = (round % 3, Instant::now());
        let uri = format!("grpc+tcp://{}", site.nodes[victim].address);
        site.nodes[victim].kill9();
        after.push(get().await?);
        let named = async || {
            let info = reader.info(&name("t"), &Options::default()).await.ok()?;
            let named = info.endpoint.iter().flat_map(|endpoint| &endpoint.location).any(|one| one.uri == uri);
            (!named).then(|| begin.elapsed())
        };
        offered.push(until("the node is not offered", LIMIT, named).await?);
        site.nodes[victim].start();
        site.ready(READY).await?;
        until("the node is offered again", LIMIT, async || {
            let info = reader.info(&name("t"), &Options::default()).await.ok()?;
            info.endpoint.iter().flat_map(|endpoint| &endpoint.location).any(|one| one.uri == uri).then_some(())
        })
        .await?;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    print_times("a get of 12 endpoints, 100,000 rows, without a fault", &before);
    print_times("the same get, begun right after the kill of a node (falls over to other locations)", &after);
    print_times("kill of a node to a FlightInfo that does not name it", &offered);
    Ok(())
}
