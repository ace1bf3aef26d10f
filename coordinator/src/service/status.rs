//! Figures about the cluster, as the JSON that actions answer with.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use volley_common::wire::catalog::{Compression, DescriptorKind, Node, Table, WriteState};
use volley_common::wire::cluster::Heartbeat;
use volley_common::{Error, NodeId, PartId, Result, TableName, clock};

use super::read::live_ids;
use super::survey::{Health, Survey, Unreadable};
use super::why::{Scene, condition, condition_text};
use super::{Service, live_nodes};
use crate::catalog::Catalog;
use crate::scheduler::Nodes;

/// Parts are counted at most this fraction of the time, however often somebody asks.
const SHARE: u32 = 20;
/// How long a health check waits for the leader's word.
const HEALTH_TIME: Duration = Duration::from_secs(1);

/// What a coordinator keeps for its answers.
#[derive(Default)]
pub struct Figures {
    /// Parts that are being copied, and to which node; only the leader knows.
    pub copying: Mutex<BTreeMap<PartId, NodeId>>,
    surveyed: Mutex<Option<Surveyed>>,
}

/// A survey, of which applied index it is, when it was begun and how long it took.
#[derive(Clone)]
struct Surveyed {
    survey: Arc<Survey>,
    applied: u64,
    began: Instant,
    took: Duration,
}

/// What only the leader knows; empty elsewhere.
#[derive(Default)]
pub struct Live {
    reports: BTreeMap<NodeId, Heartbeat>,
    copying: BTreeMap<PartId, NodeId>,
}

impl Live {
    /// The nodes as they are now.
    pub fn scene<'a>(&self, catalog: &'a Catalog, now_ms: u64, repair_delay_ms: u64) -> Scene<'a> {
        let nodes = Nodes::at(catalog, now_ms, repair_delay_ms);
        Scene { catalog, nodes, copying: self.copying.clone(), now_ms, repair_delay_ms }
    }
}

impl Service {
    /// All tables: `{"tables": [{"table", "version", "rows", "bytes", ...}]}`, in the order of their names.
    pub async fn list_tables(&self) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let tables: Vec<Value> = catalog.tables().map(table_json).collect();
        Ok(json!({ "tables": tables }))
    }

    /// Sums over all tables, or the figures of one.
    ///
    /// # Errors
    /// NOT_FOUND: no such table. UNAVAILABLE: no leader.
    pub async fn stats(&self, name: Option<&TableName>) -> Result<Value> {
        let catalog = self.raft.read().await?;
        let Some(name) = name else { return Ok(totals(&catalog)) };
        let table = catalog
            .table_named(name)
            .ok_or_else(|| Error::not_found(format!("there is no table {name:?}: list_tables names those that are")))?;
        let mut stats = table_json(table);
        stats["parts"] = catalog.parts_at(table.id, table.version).len().into();
        stats["created_ms"] = table.created_ms.into();
        stats["changed_ms"] = table.changed_ms.into();
        Ok(stats)
    }

    /// How the cluster is: green, yellow or red, coordinators, nodes, sums.
    ///
    /// Without a leader it is red, and the answer is what this coordinator last heard, `stale` says why.
    ///
    /// # Errors
    /// UNAVAILABLE: there is no leader, and this coordinator has no catalog yet.
    pub async fn cluster_status(&self) -> Result<Value> {
        let stale = self.raft.read().await.err();
        if let Some(error) = stale.clone().filter(|_| self.raft.view().cluster().is_none()) {
            return Err(error);
        }
        let survey = self.survey().await?;
        let live = self.live();
        let catalog = self.raft.view();
        let now_ms = clock::now_ms();
        let health = if stale.is_some() { Health::Red } else { survey.health() };
        let node = |node: &Node| node_json(node, &survey, live.reports.get(&NodeId(node.id)), now_ms);
        Ok(json!({
            "cluster": catalog.cluster().map(|c| c.id.clone()),
            "health": health.name(),
            "stale": stale.as_ref().map(|error| &error.message),
            "leader": self.raft.leader().filter(|_| stale.is_none()),
            "copies": {
                "parts": survey.parts,
                "below_replicas": survey.below,
                "bytes_to_copy": survey.below_bytes,
                "unreadable": survey.unreadable,
                "being_copied": live.copying.len(),
            },
            "unreadable": survey.named.iter().map(unreadable_json).collect::<Vec<_>>(),
            "coordinators": self.coordinators(),
            "nodes": catalog.nodes().map(node).collect::<Vec<_>>(),
            "stats": totals(&catalog),
        }))
    }

    /// What only the leader knows.
    pub fn live(&self) -> Live {
        if !self.raft.is_leader() {
            return Live::default();
        }
        Live { reports: self.reports.lock().clone(), copying: self.figures.copying.lock().clone() }
    }

    /// Counts all parts, or takes the last count if that is of the same catalog, or of one so lately that counting would
    /// be all that this coordinator does.
    async fn survey(&self) -> Result<Arc<Survey>> {
        let (applied, began) = (*self.raft.watch_applied().borrow(), Instant::now());
        let last = self.figures.surveyed.lock().clone();
        if let Some(last) = last.filter(|last| last.applied == applied || began - last.began < last.took * SHARE) {
            return Ok(last.survey);
        }
        let raft = self.raft.clone();
        let count = move || {
            let catalog = raft.view();
            Survey::of(&catalog, &live_ids(&catalog), clock::now_ms())
        };
        let survey = Arc::new(blocking(count).await?);
        let surveyed = Surveyed { survey: survey.clone(), applied, began, took: began.elapsed() };
        *self.figures.surveyed.lock() = Some(surveyed);
        Ok(survey)
    }

    /// Every coordinator; how far each one is only the leader can say.
    fn coordinators(&self) -> Vec<Value> {
        let (leader, progress) = (self.raft.leader(), self.raft.progress());
        let one = |(id, addr): (&u64, &String)| {
            let progress = progress.get(id);
            json!({
                "id": id,
                "peer": addr,
                "leader": Some(*id) == leader,
                "voter": progress.is_some_and(|progress| progress.voter),
                "answering": *id == self.config.id,
                "lag": progress.and_then(|progress| progress.lag),
                "quiet_ms": progress.and_then(|progress| progress.since_last_ack).map(|quiet| quiet.as_millis() as u64),
            })
        };
        self.raft.peers().iter().map(one).collect()
    }

    /// Whether this coordinator has a leader and nodes, as it last heard.
    pub fn health(&self) -> Value {
        let leader = self.raft.leader();
        let alive = live_nodes(&self.raft.view()).len();
        json!({ "status": if leader.is_some() { "ok" } else { "no leader" }, "leader": leader, "nodes_alive": alive })
    }

    /// As [`Service::health`], after asking the leader whether a majority still follows it: one that was cut off goes on
    /// naming itself. Says whether all is well.
    pub async fn checked_health(&self) -> (bool, Value) {
        let read = tokio::time::timeout(HEALTH_TIME, self.raft.read()).await;
        let mut health = self.health();
        let trouble = match read {
            Ok(Ok(_)) => return (true, health),
            Ok(Err(error)) => error.message,
            Err(_) => self.raft.fault().unwrap_or_else(|| {
                format!("no leader with a majority of the coordinators answered within {} s", HEALTH_TIME.as_secs())
            }),
        };
        health["status"] = "no leader".into();
        health["trouble"] = trouble.into();
        (false, health)
    }
}

/// Runs what takes long beside the tasks.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Error::internal(format!("a task broke: {e}")))
}

fn unreadable_json(part: &Unreadable) -> Value {
    json!({
        "table": part.table,
        "shard": part.shard,
        "part": part.part.to_string(),
        "newest": part.versions.1 == 0,
        "holders": part.holders.iter().map(NodeId::to_string).collect::<Vec<_>>(),
    })
}

fn node_json(node: &Node, survey: &Survey, report: Option<&Heartbeat>, now_ms: u64) -> Value {
    let (parts, bytes) = survey.held.get(&NodeId(node.id)).copied().unwrap_or_default();
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
        "bytes_used": report.map(|r| r.bytes_used),
        "bytes_free": report.map(|r| r.bytes_free),
        "bytes_total": report.map(|r| r.bytes_total),
        "damaged": report.map(|r| r.damaged),
        "scrubbed_ms": report.map(|r| r.scrubbed_ms).filter(|at| *at > 0),
    })
}

/// A table as the actions show it.
pub fn table_json(table: &Table) -> Value {
    let spec = table.spec.clone().unwrap_or_default();
    let by_command = table.kind == DescriptorKind::Command as i32;
    json!({
        "table": table.name.join("/"),
        "descriptor": if by_command { "command" } else { "path" },
        "version": table.version,
        "rows": table.rows,
        "bytes": table.bytes,
        "shards": spec.shards,
        "shard_by": spec.shard_by,
        "replicas": spec.replicas,
        "min_copies": spec.min_copies,
        "compression": match Compression::try_from(spec.compression) {
            Ok(Compression::None) | Err(_) => "none",
            Ok(Compression::Lz4) => "lz4",
            Ok(Compression::Zstd) => "zstd",
        },
    })
}

fn totals(catalog: &Catalog) -> Value {
    let (mut tables, mut rows, mut bytes) = (0u64, 0u64, 0u64);
    for table in catalog.tables() {
        (tables, rows, bytes) = (tables + 1, rows + table.rows, bytes + table.bytes);
    }
    let open = catalog.writes().filter(|write| write.state == WriteState::Open as i32).count();
    json!({
        "tables": tables,
        "rows": rows,
        "bytes": bytes,
        "nodes": catalog.nodes().count(),
        "nodes_alive": live_nodes(catalog).len(),
        "open_writes": open,
    })
}
