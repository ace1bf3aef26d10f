//! Probes of all nodes, on every coordinator: a node that hangs is listed last in FlightInfos, and reported to operators, long
//! before its session times out. What a coordinator learns from calls that it forwards counts as well.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use volley_common::NodeId;
use volley_common::listen::host_port;
use volley_common::net::ConnectionPool;
use volley_common::net::member_health::HealthRank;

use crate::catalog::Catalog;
use crate::raft::Handle;

/// The period of the probes of one node that answers.
const PROBE_PERIOD: Duration = Duration::from_secs(1);
/// Maximum number of concurrent probes.
const MAX_PROBES: usize = 64;

/// Probes the nodes that are alive in the catalog, until the process stops.
pub async fn run(raft: Handle, pool: ConnectionPool, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PROBE_PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let probing = async {
        loop {
            ticks.tick().await;
            let addrs: Vec<String> =
                raft.view().live_nodes().map(|node| host_port(&node.flight_uri).to_string()).collect();
            let probe = |addr: String| {
                let health = pool.health(&addr);
                // The outcome is recorded in the node's health.
                async move {
                    let _ = health.answers().await;
                }
            };
            stream::iter(addrs).for_each_concurrent(MAX_PROBES, probe).await;
        }
    };
    let _ = stop.run_until_cancelled(probing).await;
}

/// The nodes that are alive in the catalog, but whose health is at least as bad as `rank`.
pub fn nodes_of_rank(catalog: &Catalog, pool: &ConnectionPool, rank: HealthRank) -> BTreeSet<NodeId> {
    let is_ranked = |addr: &str| pool.health(host_port(addr)).rank() >= rank;
    catalog.live_nodes().filter(|node| is_ranked(&node.flight_uri)).map(|node| NodeId(node.id)).collect()
}
