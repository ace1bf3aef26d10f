//! Nodes in this process, and a fake coordinator that records what they call.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{FlightData, FlightDescriptor};
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use volley_common::identity::{ASSERTION_HEADER, Access};
use volley_common::server::audit::request_id;
use volley_common::server::serve::{self, ServerLimits, TonicService};
use volley_common::wire::catalog::{Node, ShardPlacement, TableSpec, Write, WriteMode, WriteOutcome, WriteState};
use volley_common::wire::cluster::coordinator_server::{Coordinator, CoordinatorServer};
use volley_common::wire::cluster::*;
use volley_common::{Error, NodeId, PartId};

use crate::config::NodeConfig;
use crate::context::{NodeAddresses, NodeContext, NodeSecurity};
use crate::peer;
use crate::put::PutTarget;
use crate::put::handshake::PutMessages;
use crate::storage::PartStore;

/// The state of the fake coordinator.
#[derive(Default)]
pub struct FakeCoordinatorState {
    pub nodes: Vec<Node>,
    pub placement: Vec<Vec<u64>>,
    pub spec: TableSpec,
    pub staged: bool,
    /// Whether puts are distributed over all shards.
    pub spreads: bool,
    /// Whether it is of a version that knows transactions.
    pub knows_transactions: bool,
    /// Whether it is of a version that knows results of queries.
    pub knows_query_results: bool,
    /// Whether it is of a version that knows tables that expire, and that name the columns of their statistics.
    pub knows_table_options: bool,
    pub writes: HashMap<String, Write>,
    pub staged_parts: Vec<StagePartsRequest>,
    pub refuse_begin: Option<Error>,
    pub refuse_commit: Option<Error>,
    /// The options of a table that another put creates after each put has begun, and before its commit.
    pub created_meanwhile: Option<TableSpec>,
    /// By user: the password, and the session token for it.
    pub passwords: HashMap<String, (String, String)>,
    pub logins: Vec<LoginRequest>,
    /// The ticket that plans of reads give.
    pub planned_ticket: Bytes,
    /// The assertions of BeginWrite and PlanRead, as they were signed; `None` for a call without one.
    pub assertions: Vec<Option<Bytes>>,
    /// How clients name the calls of BeginWrite.
    pub request_ids: Vec<Option<String>>,
    /// The error after each commit, which takes effect nevertheless.
    pub lose_commit_reply: Option<Error>,
}

#[derive(Clone, Default)]
pub struct FakeCoordinator {
    pub state: Arc<Mutex<FakeCoordinatorState>>,
}

type FakeOrderStream = Pin<Box<dyn Stream<Item = Result<NodeOrder, Status>> + Send>>;

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in these tests"))
}

fn assertion(metadata: &MetadataMap) -> Option<Bytes> {
    metadata.get_bin(ASSERTION_HEADER).map(|value| value.to_bytes().unwrap())
}

#[tonic::async_trait]
impl Coordinator for FakeCoordinator {
    type SessionStream = FakeOrderStream;

    async fn propose(&self, _: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        unimplemented()
    }
    async fn read_index(&self, _: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        unimplemented()
    }
    async fn session(&self, _: Request<tonic::Streaming<NodeReport>>) -> Result<Response<FakeOrderStream>, Status> {
        unimplemented()
    }
    async fn plan_read(&self, request: Request<PlanReadRequest>) -> Result<Response<PlanReadReply>, Status> {
        let mut state = self.state.lock();
        state.assertions.push(assertion(request.metadata()));
        Ok(Response::new(PlanReadReply { ticket: state.planned_ticket.clone() }))
    }
    async fn plan_tables(&self, _: Request<PlanTablesRequest>) -> Result<Response<PlanTablesReply>, Status> {
        unimplemented()
    }
    async fn list_tables(&self, _: Request<ListTablesRequest>) -> Result<Response<ListTablesReply>, Status> {
        unimplemented()
    }
    async fn login(&self, request: Request<LoginRequest>) -> Result<Response<LoginReply>, Status> {
        let (request, mut state) = (request.into_inner(), self.state.lock());
        state.logins.push(request.clone());
        match state.passwords.get(&request.user) {
            Some((password, token)) if *password == request.password => {
                Ok(Response::new(LoginReply { token: token.clone(), expires_ms: u64::MAX }))
            }
            _ => Err(Status::unauthenticated("no such user, or another password")),
        }
    }
    async fn renew_write(&self, _: Request<RenewWriteRequest>) -> Result<Response<RenewWriteReply>, Status> {
        Ok(Response::new(RenewWriteReply {}))
    }

    async fn begin_write(&self, request: Request<BeginWriteRequest>) -> Result<Response<WritePlan>, Status> {
        let asserted = assertion(request.metadata());
        let request_id = request_id(request.metadata().as_ref()).map(str::to_string);
        let request = request.into_inner();
        let mut state = self.state.lock();
        state.assertions.push(asserted);
        state.request_ids.push(request_id);
        if let Some(error) = state.refuse_begin.clone() {
            return Err(error.into());
        }
        let ttl_ms = request.ttl_ms.unwrap_or(request.temporary_ttl_ms);
        let stats_columns = request.stats_columns.unwrap_or_default().names;
        let (ttl_ms, stats_columns) =
            if state.knows_table_options { (ttl_ms, stats_columns) } else { Default::default() };
        let placement = state.placement.iter().map(|nodes| ShardPlacement { nodes: nodes.clone() }).collect();
        let mut new = Write {
            id: request.write_id.clone(),
            table: request.table,
            mode: request.mode,
            spec: Some(TableSpec { ttl_ms, stats_columns, ..state.spec.clone() }),
            schema: request.schema,
            placement,
            staged: state.staged || request.staged,
            attempt: request.attempt,
            transaction: if state.knows_transactions { request.transaction } else { String::new() },
            query_result: request.query_result && state.knows_query_results,
            ..Write::default()
        };
        let is_known = state.writes.contains_key(&request.write_id);
        if let Some(spec) = state.created_meanwhile.clone().filter(|_| is_known && request.create_append) {
            (new.mode, new.spec) = (WriteMode::Append.into(), Some(spec));
            state.writes.remove(&request.write_id);
        }
        let write = state.writes.entry(request.write_id).or_insert(new).clone();
        let (nodes, spreads) = (state.nodes.clone(), state.spreads);
        Ok(Response::new(WritePlan { write: Some(write), nodes, lease_ms: 60_000, spreads }))
    }

    async fn stage_parts(&self, request: Request<StagePartsRequest>) -> Result<Response<StagePartsReply>, Status> {
        self.state.lock().staged_parts.push(request.into_inner());
        Ok(Response::new(StagePartsReply {}))
    }

    async fn commit_write(&self, request: Request<CommitWriteRequest>) -> Result<Response<WriteOutcome>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock();
        if let Some(error) = state.refuse_commit.clone() {
            return Err(error.into());
        }
        let is_created = state.created_meanwhile.is_some();
        let write = state.writes.get_mut(&request.write).ok_or_else(|| Status::not_found("no such write"))?;
        if is_created && write.attempt != request.attempt {
            return Err(Status::aborted("superseded"));
        }
        if is_created && write.mode() == WriteMode::Create {
            return Err(Status::already_exists("there is a table"));
        }
        let outcome = WriteOutcome {
            table: write.table.clone(),
            version: 1,
            rows: request.parts.iter().map(|p| p.rows).sum(),
            bytes: request.parts.iter().map(|p| p.bytes).sum(),
            parts: request.parts.len() as u32,
            write: request.write,
        };
        write.set_state(WriteState::Committed);
        write.parts = request.parts;
        write.outcome = Some(outcome.clone());
        match state.lose_commit_reply.clone() {
            Some(error) => Err(error.into()),
            None => Ok(Response::new(outcome)),
        }
    }

    /// As the catalog: parts of an ended write without them, and committed parts on a node that is no holder.
    async fn deletable_parts(
        &self,
        request: Request<DeletablePartsRequest>,
    ) -> Result<Response<DeletablePartsReply>, Status> {
        let DeletablePartsRequest { node, parts } = request.into_inner();
        let state = self.state.lock();
        let is_deletable = |held: &HeldPart| {
            let Some(write) = state.writes.get(&held.write) else { return false };
            match write.parts.iter().find(|part| part.id == held.id) {
                Some(part) => !part.holders.contains(&node),
                None => write.state() != WriteState::Open,
            }
        };
        let parts = parts.into_iter().filter(is_deletable).filter_map(|held| held.id).collect();
        Ok(Response::new(DeletablePartsReply { parts }))
    }

    async fn abort_write(&self, request: Request<AbortWriteRequest>) -> Result<Response<AbortWriteReply>, Status> {
        let request = request.into_inner();
        if let Some(write) = self.state.lock().writes.get_mut(&request.write) {
            if write.state() == WriteState::Committed {
                return Err(Status::failed_precondition("the write is committed already"));
            }
            write.set_state(WriteState::Aborted);
            write.abort_reason = request.reason;
        }
        Ok(Response::new(AbortWriteReply {}))
    }
}

/// A node that serves its peers.
pub struct PeerNode {
    pub context: Arc<NodeContext>,
    /// Stops the peer service.
    pub stop: CancellationToken,
    dir: TempDir,
}

pub struct InProcessCluster {
    pub coordinator: FakeCoordinator,
    pub nodes: Vec<PeerNode>,
}

impl InProcessCluster {
    /// `count` nodes; shards placed on the nodes of these indexes.
    pub async fn start(count: usize, placement: &[&[usize]], min_copies: u32) -> InProcessCluster {
        let coordinator = FakeCoordinator::default();
        let listener = serve::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let service = TonicService(Routes::new(CoordinatorServer::new(coordinator.clone())));
        tokio::spawn(serve::serve(listener, service, CancellationToken::new(), ServerLimits::default()));
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(start_node(&addr).await);
        }
        let cluster = InProcessCluster { coordinator, nodes };
        let mut state = cluster.coordinator.state.lock();
        state.nodes = cluster.nodes.iter().map(|node| catalog_node(&node.context)).collect();
        state.placement = placement.iter().map(|shard| shard.iter().map(|i| cluster.id(*i).0).collect()).collect();
        state.spec = TableSpec { shards: placement.len() as u32, min_copies, replicas: 2, ..TableSpec::default() };
        drop(state);
        cluster
    }

    /// The coordinator's peer address.
    pub fn coordinator_addr(&self) -> &str {
        &self.nodes[0].context.config.coordinators[0]
    }

    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].context.store.node()
    }

    /// Puts at node 0; returns the results' metadata.
    pub async fn put(&self, input: impl PutMessages + 'static) -> volley_common::Result<Vec<Bytes>> {
        self.put_into(PutTarget::Table, input).await
    }

    /// The same, into this target.
    pub async fn put_into(
        &self,
        target: PutTarget,
        input: impl PutMessages + 'static,
    ) -> volley_common::Result<Vec<Bytes>> {
        let context = self.nodes[0].context.put.clone();
        let slot = context.resources.admit()?;
        let results = crate::put::put_into(target, context, MetadataMap::new(), Access::open(), input, slot);
        results.map_ok(|r| r.app_metadata).try_collect().await
    }

    pub fn held(&self, node: usize) -> usize {
        self.nodes[node].context.store.inventory().len()
    }

    /// The files of parts that a node has not finished, with their lengths.
    pub fn unfinished(&self, node: usize) -> Vec<(PartId, u64)> {
        let files = std::fs::read_dir(self.nodes[node].dir.path().join("tmp")).unwrap();
        let part = |file: std::fs::DirEntry| {
            let id = file.file_name().to_str()?.split('-').next()?.parse::<PartId>().ok()?;
            Some((id, file.metadata().ok()?.len()))
        };
        files.filter_map(|file| part(file.ok()?)).collect()
    }

    /// Waits until a node has received so many bytes of a part that is not finished.
    pub async fn receives(&self, node: usize, bytes: u64) -> PartId {
        loop {
            if let Some((id, _)) = self.unfinished(node).into_iter().find(|(_, length)| *length >= bytes) {
                return id;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub fn write(&self) -> Write {
        self.coordinator.state.lock().writes.values().next().cloned().unwrap()
    }

    /// Waits until each node holds as many parts.
    pub async fn settles(&self, parts: &[usize]) {
        let held = || parts.iter().enumerate().map(|(node, _)| self.held(node)).collect::<Vec<_>>();
        let settled = async {
            while held() != parts {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(20), settled).await;
        assert!(in_time.is_ok(), "the nodes hold {:?} parts, not {parts:?}", held());
    }
}

async fn start_node(coordinator: &str) -> PeerNode {
    let dir = TempDir::new().unwrap();
    let listener = serve::bind("127.0.0.1:0").await.unwrap();
    let addresses = NodeAddresses {
        peer_addr: listener.local_addr().unwrap().to_string(),
        flight_uri: "grpc+tcp://127.0.0.1:1".into(),
        ..NodeAddresses::default()
    };
    let config = NodeConfig {
        coordinators: vec![coordinator.into()],
        block_bytes: 1 << 20,
        // Slow enough to be noticed. Copies of puts must not be throttled.
        copy_bytes_per_second: 1 << 20,
        ..NodeConfig::default()
    };
    let context = NodeContext::new(
        config,
        PartStore::open(dir.path()).unwrap(),
        addresses,
        NodeSecurity::open(),
        CancellationToken::new(),
    );
    let stop = CancellationToken::new();
    let service = TonicService(Routes::new(peer::service(&context)));
    tokio::spawn(serve::serve(listener, service, stop.clone(), ServerLimits::default()));
    PeerNode { context, stop, dir }
}

fn catalog_node(context: &NodeContext) -> Node {
    Node { id: context.store.node().0, peer_addr: context.addresses.peer_addr.clone(), ..Node::default() }
}

pub fn batch(from: i64, rows: i64) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from_iter_values(from..from + rows))]).unwrap()
}

/// The messages of a client that puts these batches with this descriptor.
pub async fn messages(command: &str, batches: Vec<RecordBatch>) -> Vec<volley_common::Result<FlightData>> {
    let schema = batch(0, 0).schema();
    let encoder = FlightDataEncoderBuilder::new()
        .with_schema(schema)
        .with_flight_descriptor(Some(FlightDescriptor::new_cmd(command.to_string())))
        .build(stream::iter(batches.into_iter().map(Ok)));
    encoder.map(|m| m.map_err(|e| Error::internal(e.to_string()))).collect().await
}

pub fn megabytes(count: i64) -> Vec<RecordBatch> {
    (0..count).map(|i| batch(i * 131_072, 131_072)).collect()
}
