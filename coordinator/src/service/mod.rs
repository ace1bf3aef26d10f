//! The use cases of a coordinator, on domain types: what both edges ([`crate::flight`] and [`crate::peer`]) call.
//!
//! | module | what it holds |
//! |---|---|
//! | [`admin`] | nodes drained and removed |
//! | [`coordinators`] | coordinators added and removed |
//! | [`homes`] | pure: which nodes the parts of a write go to |
//! | `plans` | plans of large tables, kept while they are true |
//! | [`read`] | offers (FlightInfo), tickets, listing |
//! | [`mod@write`] | begin, stage, commit, abort |
//! | [`spec`] | pure: what a client asked for and what there is → a table's spec and placement |
//! | [`tables`] | create, drop, clear |
//! | [`status`] | figures about the cluster, as JSON |
//! | [`explain`] | where a table is, where it should be, which versions it has |
//! | [`survey`], [`why`] | pure: how many copies are missing, and why |

pub mod admin;
pub mod coordinators;
pub mod explain;
pub mod homes;
mod plans;
pub mod read;
pub mod spec;
pub mod status;
pub mod survey;
pub mod tables;
#[cfg(test)]
mod tests;
pub mod via;
pub mod why;
pub mod write;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use volley_common::net::ConnectionPool;
use volley_common::ticket::TicketKey;
use volley_common::wire::catalog::{Cluster, Node};
use volley_common::wire::cluster::Heartbeat;
use volley_common::{Error, NodeId, Result};

use crate::catalog::Catalog;
use crate::config::CoordinatorConfig;
use crate::raft::Handle;

/// What all of a coordinator's tasks share; one per process, behind an `Arc`.
pub struct Service {
    /// The configuration that the process was started with.
    pub config: CoordinatorConfig,
    /// The replicated catalog.
    pub raft: Handle,
    /// Connections to other members.
    pub pool: ConnectionPool,
    /// The listeners of clients, at least one.
    pub entries: Vec<via::Entry>,
    /// Cancelled when the process is to stop.
    pub stop: CancellationToken,
    /// What is kept for answers about the cluster.
    pub figures: status::Figures,
    /// The last heartbeat of every node in session; empty while this coordinator does not lead.
    pub reports: Mutex<BTreeMap<NodeId, Heartbeat>>,
    plans: plans::Plans,
    rotation: AtomicUsize,
}

impl Service {
    /// Puts the parts together.
    pub fn new(
        config: CoordinatorConfig,
        raft: Handle,
        pool: ConnectionPool,
        entries: Vec<via::Entry>,
        stop: CancellationToken,
    ) -> Self {
        Service {
            config,
            raft,
            pool,
            entries,
            stop,
            figures: status::Figures::default(),
            reports: Mutex::default(),
            plans: plans::Plans::default(),
            rotation: AtomicUsize::new(0),
        }
    }

    /// Where the clients of the first listener reach this coordinator: `grpc+tcp://HOST:PORT`.
    pub fn flight_uri(&self) -> &str {
        self.entries.first().map_or("", |first| &first.uri)
    }

    /// The next number of a sequence that spreads load over equals.
    pub fn rotation(&self) -> usize {
        self.rotation.fetch_add(1, Ordering::Relaxed)
    }
}

/// The key of the cluster's tickets.
///
/// # Errors
/// UNAVAILABLE before the cluster is formed.
pub fn ticket_key(catalog: &Catalog) -> Result<TicketKey> {
    Ok(TicketKey::new(&formed(catalog)?.ticket_key))
}

/// The cluster.
///
/// # Errors
/// UNAVAILABLE before it is formed.
pub fn formed(catalog: &Catalog) -> Result<&Cluster> {
    catalog.cluster().ok_or_else(|| Error::unavailable("the cluster is still being formed: try again in a moment"))
}

/// The nodes that were heard from lately.
pub fn live_nodes(catalog: &Catalog) -> Vec<Node> {
    catalog.nodes().filter(|node| node.is_alive()).cloned().collect()
}

/// The nodes that get new parts: heard from lately, not draining, and willing.
pub fn writable_nodes(catalog: &Catalog) -> Vec<Node> {
    catalog.nodes().filter(|node| node.is_writable()).cloned().collect()
}

/// How many nodes are alive; refuses to go on without one.
///
/// # Errors
/// UNAVAILABLE that says how many nodes there are.
pub fn need_nodes(catalog: &Catalog) -> Result<usize> {
    let live = catalog.nodes().filter(|node| node.is_alive()).count();
    if live > 0 {
        return Ok(live);
    }
    Err(Error::unavailable(match catalog.nodes().count() {
        0 => "no node has joined the cluster yet: start volley-node, or try again when it is there".to_string(),
        n => format!("none of the cluster's {n} nodes has been heard from lately: start them, or try again"),
    }))
}
