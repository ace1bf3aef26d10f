//! The API for members: the `Coordinator` service of `cluster.proto`.
//!
//! Which role may call which method is checked at the port: `volley_common::server::serve::member_rights`. Here the ids in
//! the messages are compared with the caller's certificate.

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use tonic::{Request, Response, Status, Streaming};
use volley_common::options::Options;
use volley_common::tls::{Caller, MemberRole};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::WriteOutcome;
use volley_common::wire::cluster::coordinator_server::{Coordinator, CoordinatorServer};
use volley_common::wire::cluster::{
    AbortWriteReply, AbortWriteRequest, BeginWriteRequest, CommitWriteRequest, DeletablePartsReply,
    DeletablePartsRequest, NodeOrder, NodeReport, PlanReadReply, PlanReadRequest, ProposeReply, ProposeRequest,
    ReadIndexReply, ReadIndexRequest, RenewWriteReply, RenewWriteRequest, StagePartsReply, StagePartsRequest,
    WritePlan,
};
use volley_common::{Error, NodeId, TableName, clock};

use crate::membership::NodeMembership;
use crate::membership::node_reports::NodeReports;
use crate::node_claims::{check_node, check_writer, is_bound, is_writer_bound};
use crate::raft::Handle;
use crate::scheduler::reconcile::deletable;
use crate::service::Services;
use crate::service::read::ReadService;
use crate::service::write::WriteService;

/// The tonic service for members.
pub struct CoordinatorPeerService {
    raft: Handle,
    read: Arc<ReadService>,
    write: WriteService,
    membership: Arc<NodeMembership>,
    node_reports: Arc<NodeReports>,
}

impl CoordinatorPeerService {
    /// The tonic server, with its message limits.
    pub fn server(services: &Services, membership: Arc<NodeMembership>) -> CoordinatorServer<CoordinatorPeerService> {
        let (raft, read, write) = (services.raft.clone(), services.read.clone(), services.write.clone());
        let node_reports = services.node_reports.clone();
        CoordinatorServer::new(CoordinatorPeerService { raft, read, write, membership, node_reports })
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
        let (caller, request) = Caller::split(request);
        self.check_node(&caller, NodeId(request.writer)).await?;
        Ok(Response::new(self.write.begin_write(request).await?))
    }

    async fn stage_parts(&self, request: Request<StagePartsRequest>) -> Result<Response<StagePartsReply>, Status> {
        let (caller, request) = Caller::split(request);
        // The streams of a staged write may come from any node.
        caller.speaks_as(MemberRole::Node)?;
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
        let deletable = deletable(&catalog, NodeId(node), &parts, &catalog.live_node_ids());
        Ok(Response::new(DeletablePartsReply { parts: deletable.into_iter().map(Into::into).collect() }))
    }

    async fn plan_read(&self, request: Request<PlanReadRequest>) -> Result<Response<PlanReadReply>, Status> {
        let (caller, request) = Caller::split(request);
        caller.speaks_as(MemberRole::Node)?;
        let PlanReadRequest { table, columns, version, limit, decompress } = request;
        let name = TableName::from_components(&table)?;
        let columns = (!columns.is_empty()).then_some(columns);
        let decompress = decompress.then_some(true);
        let options = Options { columns, version, limit, decompress, ..Options::default() };
        let ticket = self.read.plan_ticket(&name, &options).await?;
        Ok(Response::new(PlanReadReply { ticket: ticket.into() }))
    }
}
