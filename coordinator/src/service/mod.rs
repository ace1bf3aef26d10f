//! The use cases of a coordinator, shared by the two APIs ([`crate::flight`] and [`crate::peer`]).
//!
//! | module | what it holds |
//! |---|---|
//! | [`read`], [`columns`] | read plans, listing; the columns of a read, as far as its reader may see them |
//! | [`tickets`] | verifying, cancelling and renewing tickets |
//! | [`live_nodes`] | waiting for nodes after a change of the leader |
//! | [`plan_cache`], [`planning_queue`] | cached plans of large tables; waiting for a place in turn |
//! | [`mod@write`] | writes: begin, stage, renew, commit, abort |
//! | [`tables`], [`restore`] | tables without a write: create, drop, clear, list, statistics; restoring versions |
//! | [`status`], `exposure_report` | cluster status and health checks; what members leave open |
//! | [`admin`] | operators' actions: nodes and coordinators, layout and versions of tables |
//! | [`login`] | passwords and tokens to session tokens |
//! | [`identity`] | users, service tokens, grants, quotas |
//! | [`key_rotation`] | new keys for sessions and tickets |
//!
//! What a principal may do is checked where its call arrives; services that reply with less than the whole to some principals
//! take its `Access`. Each service holds only what it needs. The decisions are pure functions in [`crate::planner`] and
//! [`crate::diagnostics`].

pub mod admin;
pub mod columns;
mod exposure_report;
pub mod identity;
pub mod key_rotation;
pub mod live_nodes;
pub mod login;
pub mod plan_cache;
pub mod planning_queue;
pub mod read;
pub mod restore;
pub mod status;
pub mod tables;
#[cfg(test)]
pub mod testing;
pub mod tickets;
pub mod write;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use volley_common::Result;
use volley_common::identity::{Authenticator, DirectoryHandle, IdentityRules};
use volley_common::net::ConnectionPool;
use volley_common::server::audit::AuditLog;
use volley_common::server::{ExposureKind, ServerConfig, ServerTls};

use crate::client_listener::{ClientListener, ListenerTable};
use crate::config::CoordinatorConfig;
use crate::membership::node_reports::NodeReports;
use crate::raft::Handle;
use admin::AdminService;
use identity::IdentityService;
use login::LoginService;
use planning_queue::PlanningQueue;
use read::ReadService;
use restore::RestoreService;
use status::StatusService;
use tables::TableService;
use tickets::{TicketService, ticket_key};
use write::WriteService;

/// How callers are identified, and where their calls are recorded.
pub struct CallerPolicy {
    /// The rules by which they are identified.
    pub rules: IdentityRules,
    /// The audit log.
    pub audit: AuditLog,
}

impl CallerPolicy {
    /// That of a server's settings. Opens the audit log, and reads the keys of an OIDC issuer if they are in a file.
    ///
    /// # Errors
    /// Those of [`ServerConfig::identity_rules`] and [`ServerConfig::audit_log`].
    pub fn of(config: &ServerConfig) -> Result<Self> {
        Ok(CallerPolicy { rules: config.identity_rules()?, audit: config.audit_log()? })
    }
}

/// Everything that the APIs use; one per process. Cheap to clone.
#[derive(Clone)]
pub struct Services {
    /// The configuration that the process was started with.
    pub config: Arc<CoordinatorConfig>,
    /// The replicated catalog.
    pub raft: Handle,
    /// Connections to other members.
    pub pool: ConnectionPool,
    /// Users, grants and signing keys, as this coordinator's catalog has them.
    pub directory: DirectoryHandle,
    /// Identifies callers, by the directory.
    pub authenticator: Authenticator,
    /// Where calls are recorded.
    pub audit: AuditLog,
    /// The client listeners.
    pub listeners: Arc<ListenerTable>,
    /// The heartbeats of nodes and the copies in progress, if this coordinator leads.
    pub node_reports: Arc<NodeReports>,
    /// Cancelled when the process is to stop.
    pub stop: CancellationToken,
    /// Passwords and tokens to session tokens.
    pub login: LoginService,
    /// Users, service tokens, grants, quotas.
    pub identity: IdentityService,
    /// Reads.
    pub read: Arc<ReadService>,
    /// Tickets.
    pub tickets: TicketService,
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
        callers: CallerPolicy,
        stop: CancellationToken,
    ) -> Self {
        let (listeners, node_reports) = (Arc::new(ListenerTable::new(listeners)), Arc::<NodeReports>::default());
        raft.report_tls_failures(Arc::new(move || tls.reload_failures()));
        raft.report_exposures(ExposureKind::names_of(&config.server));
        let (directory, CallerPolicy { rules, audit }) = (DirectoryHandle::new(), callers);
        let status = StatusService::new(raft.clone(), node_reports.clone(), pool.clone());
        let of_catalog = raft.clone();
        let key = Arc::new(move || ticket_key(&of_catalog.view()).ok().map(Arc::new));
        let authenticator = Authenticator::new(directory.clone(), rules, key);
        let login = LoginService::new(raft.clone(), authenticator.clone(), audit.clone());
        Services {
            identity: IdentityService::new(raft.clone(), authenticator.clone(), login.clone()),
            login,
            tickets: TicketService::new(raft.clone(), &config),
            read: Arc::new(ReadService::new(raft.clone(), listeners.clone(), pool.clone(), &config)),
            write: WriteService::new(raft.clone(), &config),
            tables: TableService::new(raft.clone(), &config),
            restore: RestoreService::new(raft.clone(), &config),
            status: Arc::new(status.with_exposure(config.server.insecure, directory.clone())),
            admin: AdminService::new(raft.clone(), node_reports.clone(), &config),
            calls: config.server.limits.call_limit(),
            planning: PlanningQueue::new(config.limits.max_concurrent_plans, config.server.limits.max_calls),
            config: Arc::new(config),
            raft,
            pool,
            directory,
            authenticator,
            audit,
            listeners,
            node_reports,
            stop,
        }
    }
}
