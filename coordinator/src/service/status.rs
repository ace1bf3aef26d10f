//! Cluster status and health checks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use volley_common::identity::{Access, DirectoryHandle};
use volley_common::net::ConnectionPool;
use volley_common::net::member_health::HealthRank;
use volley_common::wire::catalog::Node;
use volley_common::wire::cluster::Heartbeat;
use volley_common::wire::raft::Identity;
use volley_common::{NodeId, Result, clock};

use crate::catalog::Catalog;
use crate::catalog_scan::scan_catalog;
use crate::diagnostics::node_condition::{condition, condition_text};
use crate::diagnostics::replication_health::{ClusterHealth, ReplicationHealth, UnreadablePart};
use crate::diagnostics::table_stats::totals_json;
use crate::membership::clock_skew::ClockOwner;
use crate::membership::node_reports::NodeReports;
use crate::node_probes::nodes_of_rank;
use crate::raft::Handle;
use crate::service::exposure_report::{exposures, users_without_grants};

/// Counting parts takes at most one in this many units of time, independent of the rate of status requests.
const IDLE_FACTOR: u32 = 20;
/// How long a health check waits for the leader's confirmation.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(1);
/// A coordinator that does not answer within this time is reported as unreachable.
const COORDINATOR_TIMEOUT: Duration = Duration::from_secs(1);

/// Cluster status and health checks.
pub struct StatusService {
    raft: Handle,
    node_reports: Arc<NodeReports>,
    /// Knows which nodes do not answer probes.
    pool: ConnectionPool,
    last_count: Mutex<Option<HealthCount>>,
    exposure: Option<Exposure>,
}

/// Whom this coordinator lets in.
struct Exposure {
    /// The setting `insecure`.
    insecure: bool,
    /// Whether the cluster has users.
    directory: DirectoryHandle,
}

/// A count of all parts.
#[derive(Clone)]
struct HealthCount {
    health: Arc<ReplicationHealth>,
    /// The applied index of the catalog that was counted.
    applied: u64,
    started: Instant,
    took: Duration,
}

impl StatusService {
    /// Reports on this catalog.
    pub fn new(raft: Handle, node_reports: Arc<NodeReports>, pool: ConnectionPool) -> Self {
        StatusService { raft, node_reports, pool, last_count: Mutex::default(), exposure: None }
    }

    /// Reports whom this coordinator lets in, too: by its setting `insecure`, and by the users of the cluster.
    pub fn with_exposure(self, insecure: bool, directory: DirectoryHandle) -> Self {
        StatusService { exposure: Some(Exposure { insecure, directory }), ..self }
    }

    /// The cluster's status: health (green, yellow or red), coordinators, nodes, sums. Names only tables that the principal may
    /// read.
    ///
    /// `open`: the cluster has no users, so that everybody whom a listener serves may do everything; null while this coordinator
    /// does not know. `insecure`: its listeners serve other machines without TLS.
    ///
    /// `exposures`: what the settings of members leave open, `[{"kind", "members"}]`. `users_without_grants`: `{"count", "names"}`,
    /// the names for administrators only.
    ///
    /// Without a leader the health is red, the rest is this coordinator's last known state, and `stale` says why. While a
    /// coordinator or node does not answer it is yellow at best, and `unreachable` names each of them.
    ///
    /// # Errors
    /// UNAVAILABLE: there is no leader, and this coordinator has no catalog yet.
    pub async fn cluster_status(&self, access: &Access) -> Result<Value> {
        let read = async { self.raft.read().await.err() };
        let (stale, identities) = tokio::join!(read, self.raft.identities(COORDINATOR_TIMEOUT));
        let why_silent = |answer: &Result<Identity>| answer.as_ref().err().map(|error| error.message.clone());
        let unanswered = identities.iter().map(|(id, answer)| (*id, why_silent(answer))).collect::<BTreeMap<_, _>>();
        let diverged = self.raft.diverged();
        if let Some(error) = stale.clone().filter(|_| self.raft.view().cluster().is_none()) {
            return Err(error);
        }
        let replication = self.replication_health().await?;
        let (heartbeats, copying) = match self.raft.is_leader() {
            true => (self.node_reports.heartbeats.lock().clone(), self.node_reports.copying.lock().len()),
            false => (BTreeMap::new(), 0),
        };
        let catalog = self.raft.view();
        let now_ms = clock::now_ms();
        let hanging = nodes_of_rank(&catalog, &self.pool, HealthRank::Silent);
        let is_unreachable = |node: &&Node| !node.is_alive() || hanging.contains(&NodeId(node.id));
        let unreachable_nodes = catalog.nodes().filter(is_unreachable).map(|node| unreachable_node(node, now_ms));
        let unreachable: Vec<String> = unanswered.values().flatten().cloned().chain(unreachable_nodes).collect();
        let health = match stale {
            Some(_) => ClusterHealth::Red,
            None => replication.cluster_health(!(unreachable.is_empty() && diverged.is_empty())),
        };
        let skews = &self.node_reports.skews;
        let node = |node: &Node| {
            let id = NodeId(node.id);
            let mut json = node_json(node, &replication, heartbeats.get(&id), now_ms);
            if hanging.contains(&id) {
                set_hanging(&mut json);
            }
            json["clock_skew_ms"] = skews.get(ClockOwner::Node(id)).into();
            json
        };
        let exposure = self.exposure.as_ref();
        Ok(json!({
            "cluster": catalog.cluster().map(|c| c.id.clone()),
            "insecure": exposure.map(|exposure| exposure.insecure),
            "open": exposure.and_then(|exposure| exposure.directory.load()).map(|directory| directory.is_open()),
            "health": health.name(),
            "stale": stale.as_ref().map(|error| &error.message),
            "leader": self.raft.leader().filter(|_| stale.is_none()),
            "copies": {
                "parts": replication.parts,
                "below_replicas": replication.under_replicated,
                "bytes_to_copy": replication.bytes_to_copy,
                "unreadable": replication.unreadable,
                "being_copied": copying,
            },
            "unreachable": unreachable,
            "tls_failures": tls_failures(&identities, &heartbeats),
            "exposures": exposures(&identities, &heartbeats),
            "users_without_grants": users_without_grants(&catalog, access),
            "unreadable": replication.listed.iter().map(|part| unreadable_json(part, access)).collect::<Vec<_>>(),
            "coordinators": self.coordinators_json(&unanswered, &diverged),
            "nodes": catalog.nodes().map(node).collect::<Vec<_>>(),
            "stats": totals_json(&catalog),
        }))
    }

    /// How well parts are replicated: counts all parts. Returns the last count instead if the catalog has not changed since, or if it is so recent that
    /// counting again would keep this coordinator busy.
    ///
    /// # Errors
    /// INTERNAL: counting failed.
    pub async fn replication_health(&self) -> Result<Arc<ReplicationHealth>> {
        let (applied, started) = (*self.raft.watch_applied().borrow(), Instant::now());
        let last = self.last_count.lock().clone();
        let is_recent =
            |last: &HealthCount| last.applied == applied || started - last.started < last.took * IDLE_FACTOR;
        if let Some(last) = last.filter(is_recent) {
            return Ok(last.health);
        }
        let now_ms = self.raft.now_ms();
        let count = move |catalog: &Catalog| ReplicationHealth::of(catalog, catalog.live_node_ids(), now_ms);
        let health = Arc::new(scan_catalog(&self.raft, count).await?);
        let count = HealthCount { health: health.clone(), applied, started, took: started.elapsed() };
        *self.last_count.lock() = Some(count);
        Ok(health)
    }

    /// All coordinators. Only the leader knows how far each has replicated.
    fn coordinators_json(
        &self,
        unanswered: &BTreeMap<u64, Option<String>>,
        diverged: &BTreeMap<u64, String>,
    ) -> Vec<Value> {
        let (leader, progress) = (self.raft.leader(), self.raft.progress());
        let coordinator = |(id, addr): (&u64, &String)| {
            let progress = progress.get(id);
            let why = unanswered.get(id).and_then(Option::as_ref);
            json!({
                "id": id,
                "peer": addr,
                "leader": Some(*id) == leader,
                "voter": progress.is_some_and(|progress| progress.voter),
                "state": match (why, diverged.get(id)) {
                    (Some(_), _) => "unreachable",
                    (None, Some(_)) => "diverged",
                    (None, None) => "ok",
                },
                "answering": why.is_none(),
                "text": why.or(diverged.get(id)),
                "lag": progress.and_then(|progress| progress.lag),
                "clock_skew_ms": self.node_reports.skews.get(ClockOwner::Coordinator(*id)),
                "quiet_ms": progress.and_then(|progress| progress.since_last_ack).map(|quiet| quiet.as_millis() as u64),
            })
        };
        self.raft.peers().iter().map(coordinator).collect()
    }

    /// Whether this coordinator knows a leader, and how many nodes are alive, by its local state.
    pub fn health(&self) -> Value {
        let leader = self.raft.leader();
        let alive = self.raft.view().live_nodes().count();
        json!({ "status": if leader.is_some() { "ok" } else { "no leader" }, "leader": leader, "nodes_alive": alive })
    }

    /// As [`StatusService::health`], after a linearizable read: a leader that has lost its majority still considers
    /// itself the leader. The flag is true if the read succeeded.
    pub async fn verified_health(&self) -> (bool, Value) {
        let read = tokio::time::timeout(HEALTH_TIMEOUT, self.raft.read()).await;
        let mut health = self.health();
        let trouble = match read {
            Ok(Ok(_)) => return (true, health),
            Ok(Err(error)) => error.message,
            Err(_) => self.raft.fault().unwrap_or_else(|| {
                let timeout = HEALTH_TIMEOUT.as_secs();
                format!("no leader with a majority of the coordinators answered within {timeout} s")
            }),
        };
        health["status"] = "no leader".into();
        health["trouble"] = trouble.into();
        (false, health)
    }
}

/// A line about a node that is unreachable, or that hangs although its session has not timed out yet, for operators.
fn unreachable_node(node: &Node, now_ms: u64) -> String {
    let (id, uri) = (NodeId(node.id), &node.flight_uri);
    match node.is_alive() {
        true => format!("node {id} at {uri} {HANGS}"),
        false => format!("node {id} at {uri} is {}", condition_text(node, now_ms)),
    }
}

/// What operators read about a node whose process or machine hangs, or that is cut off.
const HANGS: &str = "does not answer probes";

/// The changed TLS files that the coordinators and nodes which answer cannot use, one line for each.
fn tls_failures(identities: &BTreeMap<u64, Result<Identity>>, heartbeats: &BTreeMap<NodeId, Heartbeat>) -> Vec<String> {
    let coordinators = identities.iter().filter_map(|(id, answer)| Some((id, answer.as_ref().ok()?)));
    let coordinators = coordinators
        .flat_map(|(id, answer)| answer.tls_failures.iter().map(move |failure| format!("coordinator {id}: {failure}")));
    let nodes = heartbeats
        .iter()
        .flat_map(|(id, heartbeat)| heartbeat.tls_failures.iter().map(move |failure| format!("node {id}: {failure}")));
    coordinators.chain(nodes).collect()
}

/// Reports a node as unreachable that hangs, but is alive in the catalog.
fn set_hanging(json: &mut Value) {
    json["condition"] = "silent".into();
    let text = json["text"].as_str().filter(|text| !text.is_empty());
    json["text"] = text.map_or_else(|| HANGS.to_string(), |text| format!("{HANGS}; {text}")).into();
}

/// What replaces the name of a table that a principal may not read.
const HIDDEN: &str = "(hidden)";

fn unreadable_json(part: &UnreadablePart, access: &Access) -> Value {
    let name = part.table.split('/').map(String::from).collect::<Vec<String>>();
    json!({
        "table": if access.can_read(&name) { part.table.as_str() } else { HIDDEN },
        "shard": part.shard,
        "part": part.part.to_string(),
        "newest": part.versions.1 == 0,
        "holders": part.holders.iter().map(NodeId::to_string).collect::<Vec<_>>(),
    })
}

/// A node as JSON. Programs read the state word `silent`, so it stays as it was released.
fn node_json(node: &Node, replication: &ReplicationHealth, heartbeat: Option<&Heartbeat>, now_ms: u64) -> Value {
    let (parts, bytes) = replication.held.get(&NodeId(node.id)).copied().unwrap_or_default();
    json!({
        "id": NodeId(node.id).to_string(),
        "state": if node.is_alive() { "alive" } else { "silent" },
        "condition": condition(node),
        "text": condition_text(node, now_ms),
        "silent_since_ms": Some(node.unreachable_since_ms).filter(|since| *since > 0),
        "draining": node.draining,
        "zone": node.zone,
        "capacity": node.capacity,
        "flight": node.flight_uri,
        "peer": node.peer_addr,
        "software": node.software,
        "parts": parts,
        "bytes": bytes,
        "bytes_used": heartbeat.map(|h| h.bytes_used),
        "bytes_free": heartbeat.map(|h| h.bytes_free),
        "bytes_total": heartbeat.map(|h| h.bytes_total),
        "damaged": heartbeat.map(|h| h.damaged),
        "orphaned": heartbeat.map(|h| h.orphaned),
        "orphaned_bytes": heartbeat.map(|h| h.orphaned_bytes),
        "scrubbed_ms": heartbeat.map(|h| h.scrubbed_ms).filter(|at| *at > 0),
    })
}

#[cfg(test)]
mod tests {
    use volley_common::Error;

    use super::*;

    #[test]
    fn tls_failures_of_all_members_are_reported() {
        let failures = vec!["a.crt: expired".to_string()];
        let failing = Identity { tls_failures: failures.clone(), ..Identity::default() };
        let identities = [(1, Ok(Identity::default())), (2, Ok(failing)), (3, Err(Error::unavailable("down")))].into();
        let heartbeats = [(NodeId(7), Heartbeat { tls_failures: failures, ..Heartbeat::default() })].into();
        let reported = tls_failures(&identities, &heartbeats);
        assert_eq!(reported, ["coordinator 2: a.crt: expired".into(), format!("node {}: a.crt: expired", NodeId(7))]);
    }

    #[test]
    fn node_that_hangs_is_not_reported_as_ok() {
        let mut json = json!({ "condition": "ok", "text": "" });
        set_hanging(&mut json);
        assert_eq!(json, json!({ "condition": "silent", "text": "does not answer probes" }));
        let mut json = json!({ "condition": "degraded", "text": "slow disk" });
        set_hanging(&mut json);
        assert_eq!(json["text"], "does not answer probes; slow disk");
        let node = Node { id: 7, flight_uri: "grpc+tcp://n:1".into(), state: 1, ..Node::default() };
        assert!(unreachable_node(&node, 0).ends_with("at grpc+tcp://n:1 does not answer probes"));
    }
}
