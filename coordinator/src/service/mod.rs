//! The use cases of a coordinator, shared by the two APIs ([`crate::flight`] and [`crate::peer`]).
//!
//! | module | what it holds |
//! |---|---|
//! | [`read`], [`columns`] | read plans, tickets, listing; the columns of a read |
//! | [`live_nodes`] | waiting for nodes after a change of the leader |
//! | [`plan_cache`], [`planning_queue`] | cached plans of large tables; waiting for a place in turn |
//! | [`mod@write`] | writes: begin, stage, renew, commit, abort |
//! | [`tables`], [`restore`] | tables without a write: create, drop, clear, list, statistics; restoring versions |
//! | [`status`] | cluster status and health checks |
//! | [`admin`] | operators' actions: nodes and coordinators, layout and versions of tables |
//!
//! Each service holds only what it needs. The decisions are pure functions in [`crate::planner`] and
//! [`crate::diagnostics`].

pub mod admin;
pub mod columns;
pub mod live_nodes;
pub mod plan_cache;
pub mod planning_queue;
pub mod read;
pub mod restore;
pub mod status;
pub mod tables;
pub mod write;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use volley_common::net::ConnectionPool;
use volley_common::server::ServerTls;

use crate::client_listener::{ClientListener, ListenerTable};
use crate::config::CoordinatorConfig;
use crate::membership::node_reports::NodeReports;
use crate::raft::Handle;
use admin::AdminService;
use planning_queue::PlanningQueue;
use read::ReadService;
use restore::RestoreService;
use status::StatusService;
use tables::TableService;
use write::WriteService;

/// Everything that the APIs use; one per process. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// The configuration that the process was started with.
    pub config: Arc<CoordinatorConfig>,
    /// The replicated catalog.
    pub raft: Handle,
    /// Connections to other members.
    pub pool: ConnectionPool,
    /// The client listeners.
    pub listeners: Arc<ListenerTable>,
    /// The heartbeats of nodes and the copies in progress, if this coordinator leads.
    pub node_reports: Arc<NodeReports>,
    /// Cancelled when the process is to stop.
    pub stop: CancellationToken,
    /// Reads.
    pub read: Arc<ReadService>,
    /// Writes.
    pub write: WriteService,
    /// Tables without a write.
    pub tables: TableService,
    /// Restores versions and dropped tables.
    pub restore: RestoreService,
    /// Status and health.
    pub status: Arc<StatusService>,
    /// Operators' actions.
    pub admin: AdminService,
    /// Counts the calls of clients.
    pub calls: Arc<volley_common::fairness::CallLimit>,
    /// The places of reads and actions that are being planned.
    pub planning: Arc<PlanningQueue>,
}

impl Services {
    /// Wires the services together.
    pub fn new(
        config: CoordinatorConfig,
        raft: Handle,
        pool: ConnectionPool,
        listeners: Vec<ClientListener>,
        tls: Arc<ServerTls>,
        stop: CancellationToken,
    ) -> Self {
        let (listeners, node_reports) = (Arc::new(ListenerTable::new(listeners)), Arc::<NodeReports>::default());
        raft.report_tls_failures(Arc::new(move || tls.reload_failures()));
        let status = StatusService::new(raft.clone(), node_reports.clone(), pool.clone());
        Services {
            read: Arc::new(ReadService::new(raft.clone(), listeners.clone(), pool.clone(), &config)),
            write: WriteService::new(raft.clone(), &config),
            tables: TableService::new(raft.clone(), &config),
            restore: RestoreService::new(raft.clone(), &config),
            status: Arc::new(status),
            admin: AdminService::new(raft.clone(), node_reports.clone(), &config),
            calls: config.server.limits.call_limit(),
            planning: PlanningQueue::new(config.limits.max_concurrent_plans, config.server.limits.max_calls),
            config: Arc::new(config),
            raft,
            pool,
            listeners,
            node_reports,
            stop,
        }
    }
}
