//! The API for members: the `Coordinator` service of `cluster.proto`.
//!
//! Which role may call which method is checked at the port: `volley_common::server::serve::member_rights`. Here the ids in
//! the messages are compared with the caller's certificate, and what nodes call on behalf of clients is checked against the rights
//! of the principal that they assert.

#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};
use volley_common::identity::{Access, Authenticator, Identified, Secret};
use volley_common::options::{Options, check_filter};
use volley_common::server::audit::{AuditEvent, AuditKind, AuditLog, UnidentifiedCall, request_id};
use volley_common::server::serve::PeerAddress;
use volley_common::telemetry::trace::note;
use volley_common::tls::{Caller, MemberRole};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::{Role, WriteOutcome};
use volley_common::wire::cluster::coordinator_server::{Coordinator, CoordinatorServer};
use volley_common::wire::cluster::{
    AbortWriteReply, AbortWriteRequest, BeginWriteRequest, CommitWriteRequest, DeletablePartsReply,
    DeletablePartsRequest, ListTablesReply, ListTablesRequest, LoginReply, LoginRequest, NodeOrder, NodeReport,
    PlanReadReply, PlanReadRequest, PlanTablesReply, PlanTablesRequest, ProposeReply, ProposeRequest, ReadIndexReply,
    ReadIndexRequest, RenewWriteReply, RenewWriteRequest, StagePartsReply, StagePartsRequest, WritePlan,
};
use volley_common::{Code, Error, NodeId, TableName, clock};

use crate::client_listener::ListenerTable;
use crate::membership::NodeMembership;
use crate::membership::node_reports::NodeReports;
use crate::node_claims::{check_node, check_writer, is_bound, is_writer_bound};
use crate::raft::Handle;
use crate::scheduler::reconcile::deletable;
use crate::service::Services;
use crate::service::login::{IssuedToken, LoginService};
use crate::service::planning_queue::PlanningQueue;
use crate::service::read::ReadService;
use crate::service::read::queries::{QueriedTable, queried_tables};
use crate::service::write::WriteService;

const BEGIN_WRITE: &str = "/volley.cluster.v1.Coordinator/BeginWrite";
const PLAN_READ: &str = "/volley.cluster.v1.Coordinator/PlanRead";
const PLAN_TABLES: &str = "/volley.cluster.v1.Coordinator/PlanTables";
const LIST_TABLES: &str = "/volley.cluster.v1.Coordinator/ListTables";

/// The tonic service for members.
pub struct CoordinatorPeerService {
    raft: Handle,
    read: Arc<ReadService>,
    write: WriteService,
    membership: Arc<NodeMembership>,
    node_reports: Arc<NodeReports>,
    authenticator: Authenticator,
    login: LoginService,
    audit: AuditLog,
    planning: Arc<PlanningQueue>,
    listeners: Arc<ListenerTable>,
}

impl CoordinatorPeerService {
    /// The tonic server, with its message limits.
    pub fn server(services: &Services, membership: Arc<NodeMembership>) -> CoordinatorServer<CoordinatorPeerService> {
        let service = CoordinatorPeerService {
            raft: services.raft.clone(),
            read: services.read.clone(),
            write: services.write.clone(),
            membership,
            node_reports: services.node_reports.clone(),
            authenticator: services.authenticator.clone(),
            login: services.login.clone(),
            audit: services.audit.clone(),
            planning: services.planning.clone(),
            listeners: services.listeners.clone(),
        };
        CoordinatorServer::new(service)
            .max_decoding_message_size(MAX_PEER_MESSAGE)
            .max_encoding_message_size(MAX_PEER_MESSAGE)
    }
}

impl CoordinatorPeerService {
    fn record_clock(&self, coordinator: u64, now_ms: u64) {
        self.node_reports.skews.record_coordinator(coordinator, &self.raft.peers(), now_ms, clock::now_ms());
    }

    /// As [`check_node`]. The local catalog may lag: where it knows no name that the node is bound to, the newest one decides.
    async fn check_node(&self, caller: &Caller, node: NodeId) -> volley_common::Result<()> {
        if caller.node_name()?.is_none() {
            return Ok(());
        }
        let is_known = is_bound(&self.raft.view(), node);
        match is_known {
            true => check_node(&self.raft.view(), caller, node),
            false => {
                let newest = self.raft.read().await?;
                check_node(&newest, caller, node)
            }
        }
    }

    /// As [`check_writer`], likewise by the newest catalog where the local one does not know the writer.
    async fn check_writer(&self, caller: &Caller, write: &str, attempt: u64) -> volley_common::Result<()> {
        if caller.node_name()?.is_none() {
            return Ok(());
        }
        let is_known = is_writer_bound(&self.raft.view(), write, attempt);
        match is_known {
            true => check_writer(&self.raft.view(), caller, write, attempt),
            false => {
                let newest = self.raft.read().await?;
                check_writer(&newest, caller, write, attempt)
            }
        }
    }
}

/// Calls that nodes make because of a client.
impl CoordinatorPeerService {
    /// For whom a node makes a call of the method `path`: for the principal that it asserts. In an open cluster for everybody.
    ///
    /// # Errors
    /// UNAUTHENTICATED: there is no assertion, or an invalid one. UNAVAILABLE: this coordinator knows no users yet.
    fn asserted<T>(&self, request: &Request<T>, path: &str) -> volley_common::Result<Access> {
        if self.authenticator.directory().is_some_and(|directory| directory.is_open()) {
            return Ok(Access::open());
        }
        let (caller, peer) = (Caller::of(request.extensions()), PeerAddress::of(request.extensions()));
        match self.authenticator.identify(request.metadata().as_ref(), caller, peer, path)? {
            Identified::Access(access) if access.require_identity().is_ok() => Ok(access),
            Identified::Access(_) | Identified::Login { .. } => Err(Error::unauthenticated(format!(
                "the cluster has users, and the call of {path} does not say for which of them a node makes it: upgrade the node"
            ))),
        }
    }

    /// Begins the write of a client's put. For the result of its query it needs no right to write: it gets what it may read.
    async fn begin_for(
        &self,
        access: &Access,
        table: &TableName,
        request: BeginWriteRequest,
    ) -> Result<WritePlan, Status> {
        if !request.query_result {
            access.require(Role::Writer, table.components())?;
        }
        // The put gets no addresses: only a misspelt name must not pass unnoticed.
        if !request.listener.is_empty() {
            self.listeners.resolve("", Some(&request.listener))?;
        }
        let _place = self.planning.enter(access).await?;
        Ok(match request.transaction.is_empty() {
            true => self.write.begin_write(access, request).await?,
            false => self.write.begin_in_transaction(access, request).await?,
        })
    }

    /// Plans the read of a client's get by name.
    async fn plan_for(
        &self,
        access: &Access,
        table: &TableName,
        request: PlanReadRequest,
    ) -> Result<PlanReadReply, Status> {
        self.require_reader(access, table)?;
        let PlanReadRequest { table: _, columns, version, limit, decompress, filter } = request;
        let filter = (!filter.is_empty()).then_some(filter);
        filter.as_deref().map_or(Ok(()), check_filter)?;
        let columns = (!columns.is_empty()).then_some(columns);
        let decompress = decompress.then_some(true);
        let options = Options { columns, version, filter, limit, decompress, ..Options::default() };
        let _place = self.planning.enter(access).await?;
        let ticket = self.read.plan_ticket(access, table, &options).await?;
        Ok(PlanReadReply { ticket: ticket.into() })
    }

    /// Checks that a client may read a table.
    fn require_reader(&self, access: &Access, table: &TableName) -> Result<(), Status> {
        let permitted = access.require(Role::Reader, table.components());
        permitted.map_err(|error| self.read.with_similar_table(access, table, error).into())
    }

    /// Checks that a client's query may read its tables. A refusal is recorded as one of its get: nodes plan the tables of a query
    /// whichever call of the client it belongs to.
    fn require_tables(&self, access: &Access, tables: &[QueriedTable], metadata: &MetadataMap) -> Result<(), Status> {
        for QueriedTable { name, .. } in tables {
            let permitted = self.require_reader(access, name);
            self.record_refusal(access, (AuditKind::Read, "DoGet"), name, metadata, &permitted);
            permitted?;
        }
        Ok(())
    }

    /// Records in the audit log that a call for a client was refused. The node leaves these lines to the coordinator, which knows
    /// the newest grants, and records how all other calls end. `operation`: what the client calls.
    fn record_refusal<T>(
        &self,
        access: &Access,
        (kind, operation): (AuditKind, &str),
        table: &TableName,
        metadata: &MetadataMap,
        result: &Result<T, Status>,
    ) {
        let Err(status) = result else { return };
        let error = Error::from(status.clone());
        let (table, request_id) = (Some(table.components()), request_id(metadata.as_ref()));
        let event = AuditEvent { access, kind, operation, table, request_id, result: Err(&error) };
        if event.is_refusal() {
            self.audit.record(event);
        }
    }

    /// Records the login of a client at a node.
    fn record_login(&self, user: &str, address: &str, result: Result<&IssuedToken, &Error>) {
        let address = address.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, 0));
        match result {
            Ok(issued) => {
                let Ok(access) = self.authenticator.access_of_token(&issued.token, address) else { return };
                let (kind, operation) = (AuditKind::Login, "Handshake");
                let event =
                    AuditEvent { access: &access, kind, operation, table: None, request_id: None, result: Ok(()) };
                self.audit.record(event);
            }
            Err(error) if error.code == Code::Unavailable => {}
            Err(error) => self.audit.record_unidentified(UnidentifiedCall {
                address,
                claimed: Some(user),
                kind: AuditKind::Login,
                operation: "Handshake",
                request_id: None,
                error,
            }),
        }
    }
}

type OrderStream = Pin<Box<dyn Stream<Item = Result<NodeOrder, Status>> + Send>>;

#[tonic::async_trait]
impl Coordinator for CoordinatorPeerService {
    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        let (caller, ProposeRequest { command, coordinator }) = Caller::split(request);
        caller.speaks_for_coordinator(coordinator)?;
        let command = command.ok_or_else(|| Error::invalid("the proposal has no command"))?;
        self.record_clock(coordinator, command.now_ms);
        let reply = self.raft.propose_local(command).await?;
        Ok(Response::new(ProposeReply { reply: Some(reply) }))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        let (caller, ReadIndexRequest { follower }) = Caller::split(request);
        match &follower {
            Some(follower) => {
                caller.speaks_for_coordinator(follower.id)?;
                self.record_clock(follower.id, follower.now_ms);
            }
            None => caller.speaks_as(MemberRole::Coordinator)?,
        }
        let index = self.raft.read_index_local(follower).await?;
        Ok(Response::new(ReadIndexReply { index }))
    }

    type SessionStream = OrderStream;

    async fn session(&self, request: Request<Streaming<NodeReport>>) -> Result<Response<OrderStream>, Status> {
        let (caller, reports) = Caller::split(request);
        let orders = self.membership.clone().begin_session(caller, reports).await?;
        Ok(Response::new(Box::pin(orders)))
    }

    async fn begin_write(&self, request: Request<BeginWriteRequest>) -> Result<Response<WritePlan>, Status> {
        let caller = Caller::of(request.extensions()).clone();
        self.check_node(&caller, NodeId(request.get_ref().writer)).await?;
        let access = self.asserted(&request, BEGIN_WRITE)?;
        let table = TableName::from_components(&request.get_ref().table)?;
        let (metadata, _, request) = request.into_parts();
        note("volley.write_id", || request.write_id.clone());
        let plan = self.begin_for(&access, &table, request).await;
        self.record_refusal(&access, (AuditKind::Write, "DoPut"), &table, &metadata, &plan);
        plan.map(Response::new)
    }

    async fn stage_parts(&self, request: Request<StagePartsRequest>) -> Result<Response<StagePartsReply>, Status> {
        let (caller, request) = Caller::split(request);
        // The streams of a staged write may come from any node.
        caller.speaks_as(MemberRole::Node)?;
        note("volley.write_id", || request.write.clone());
        self.write.stage_parts(request).await?;
        Ok(Response::new(StagePartsReply {}))
    }

    async fn renew_write(&self, request: Request<RenewWriteRequest>) -> Result<Response<RenewWriteReply>, Status> {
        let (caller, RenewWriteRequest { write }) = Caller::split(request);
        self.check_writer(&caller, &write, 0).await?;
        self.write.renew_write(write).await?;
        Ok(Response::new(RenewWriteReply {}))
    }

    async fn commit_write(&self, request: Request<CommitWriteRequest>) -> Result<Response<WriteOutcome>, Status> {
        let (caller, request) = Caller::split(request);
        self.check_writer(&caller, &request.write, request.attempt).await?;
        note("volley.write_id", || request.write.clone());
        Ok(Response::new(self.write.commit_write(request).await?))
    }

    async fn abort_write(&self, request: Request<AbortWriteRequest>) -> Result<Response<AbortWriteReply>, Status> {
        let (caller, AbortWriteRequest { write, reason, attempt }) = Caller::split(request);
        self.check_writer(&caller, &write, attempt).await?;
        self.write.abort_write(write, reason, attempt).await?;
        Ok(Response::new(AbortWriteReply {}))
    }

    async fn deletable_parts(
        &self,
        request: Request<DeletablePartsRequest>,
    ) -> Result<Response<DeletablePartsReply>, Status> {
        let (caller, DeletablePartsRequest { node, parts }) = Caller::split(request);
        caller.speaks_as(MemberRole::Node)?;
        let catalog = self.raft.read().await?;
        check_node(&catalog, &caller, NodeId(node))?;
        let deletable = deletable(&catalog, NodeId(node), &parts, catalog.live_node_ids());
        Ok(Response::new(DeletablePartsReply { parts: deletable.into_iter().map(Into::into).collect() }))
    }

    async fn plan_read(&self, request: Request<PlanReadRequest>) -> Result<Response<PlanReadReply>, Status> {
        Caller::of(request.extensions()).speaks_as(MemberRole::Node)?;
        let access = self.asserted(&request, PLAN_READ)?;
        let table = TableName::from_components(&request.get_ref().table)?;
        let (metadata, _, request) = request.into_parts();
        let plan = self.plan_for(&access, &table, request).await;
        self.record_refusal(&access, (AuditKind::Read, "DoGet"), &table, &metadata, &plan);
        plan.map(Response::new)
    }

    async fn plan_tables(&self, request: Request<PlanTablesRequest>) -> Result<Response<PlanTablesReply>, Status> {
        Caller::of(request.extensions()).speaks_as(MemberRole::Node)?;
        let access = self.asserted(&request, PLAN_TABLES)?;
        let tables = queried_tables(request.get_ref())?;
        self.require_tables(&access, &tables, request.metadata())?;
        let _place = self.planning.enter(&access).await?;
        let tables = self.read.plan_tables(&access, &tables).await?;
        Ok(Response::new(PlanTablesReply { tables }))
    }

    async fn list_tables(&self, request: Request<ListTablesRequest>) -> Result<Response<ListTablesReply>, Status> {
        Caller::of(request.extensions()).speaks_as(MemberRole::Node)?;
        let access = self.asserted(&request, LIST_TABLES)?;
        let _place = self.planning.enter(&access).await?;
        Ok(Response::new(ListTablesReply { tables: self.read.list_for_queries(&access).await? }))
    }

    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginReply>, Status> {
        let (caller, LoginRequest { user, password, address }) = Caller::split(request);
        caller.speaks_as(MemberRole::Node)?;
        let result = self.login.login(&user, &Secret::new(password), &address).await;
        self.record_login(&user, &address, result.as_ref());
        let IssuedToken { token, expires_ms } = result?;
        Ok(Response::new(LoginReply { token: token.expose().to_string(), expires_ms }))
    }
}
