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
use volley_common::wire::catalog::Node;

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
    of_rank(catalog.live_nodes(), pool, rank)
}

/// Those of `nodes` that are alive in the catalog, but whose health is at least as bad as `rank`: a plan lists few of the nodes of
/// a large cluster.
pub fn nodes_of_rank_among(
    catalog: &Catalog,
    pool: &ConnectionPool,
    rank: HealthRank,
    nodes: &[NodeId],
) -> BTreeSet<NodeId> {
    let known = nodes.iter().filter_map(|id| catalog.node(*id));
    of_rank(known.filter(|node| node.is_alive()), pool, rank)
}

fn of_rank<'a>(nodes: impl Iterator<Item = &'a Node>, pool: &ConnectionPool, rank: HealthRank) -> BTreeSet<NodeId> {
    let is_ranked = |node: &&Node| pool.health(host_port(&node.flight_uri)).rank() >= rank;
    nodes.filter(is_ranked).map(|node| NodeId(node.id)).collect()
}

#[cfg(test)]
mod tests {
    use volley_common::wire::catalog::{NodeState, Row, row};

    use super::*;

    #[tokio::test]
    async fn only_live_ones_of_the_named_nodes_are_found() {
        let mut catalog = Catalog::default();
        for (id, state) in [(1, NodeState::Alive), (2, NodeState::Unreachable), (3, NodeState::Alive)] {
            let node = Node { id, state: state as i32, flight_uri: format!("grpc+tcp://n{id}:1"), ..Node::default() };
            catalog.insert_row(Row { row: Some(row::Row::Node(node)) });
        }
        let (pool, named) = (ConnectionPool::new(), [1, 2, 9].map(NodeId));
        let among = |rank| nodes_of_rank_among(&catalog, &pool, rank, &named);
        assert_eq!(among(HealthRank::Answers), BTreeSet::from([NodeId(1)]));
        assert_eq!(among(HealthRank::Deprioritized), BTreeSet::new());
        assert_eq!(nodes_of_rank(&catalog, &pool, HealthRank::Answers), BTreeSet::from([1, 3].map(NodeId)));
    }
}
