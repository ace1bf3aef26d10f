//! Nodes that run in this process, and a coordinator that only remembers what it is told.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema};
use arrow_flight::encode::FlightDataEncoderBuilder;
use arrow_flight::{FlightData, FlightDescriptor};
use futures::{Stream, StreamExt, TryStreamExt, stream};
use parking_lot::Mutex;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tonic::{Request, Response, Status};
use volley_common::proxy::Relay;
use volley_common::serve::{self, Limits, Tonic};
use volley_common::wire::catalog::{Holders, Node, TableSpec, Write, WriteOutcome, WriteState};
use volley_common::wire::cluster::coordinator_server::{Coordinator, CoordinatorServer};
use volley_common::wire::cluster::*;
use volley_common::{Error, NodeId};

use crate::config::Config;
use crate::coordinators::Coordinators;
use crate::copy::PartCopier;
use crate::peer;
use crate::state::Shared;
use crate::storage::PartStore;

/// What the coordinator of these tests knows.
#[derive(Default)]
pub struct Book {
    pub nodes: Vec<Node>,
    pub placement: Vec<Vec<u64>>,
    pub spec: TableSpec,
    pub staged: bool,
    pub writes: HashMap<String, Write>,
    pub staged_parts: Vec<StagePartsRequest>,
    pub refuse_commit: Option<Error>,
}

#[derive(Clone, Default)]
pub struct Fake(pub Arc<Mutex<Book>>);

type Orders = Pin<Box<dyn Stream<Item = Result<NodeOrder, Status>> + Send>>;

fn not_here<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("not in these tests"))
}

#[tonic::async_trait]
impl Coordinator for Fake {
    type SessionStream = Orders;

    async fn propose(&self, _: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        not_here()
    }
    async fn read_index(&self, _: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        not_here()
    }
    async fn session(&self, _: Request<tonic::Streaming<NodeReport>>) -> Result<Response<Orders>, Status> {
        not_here()
    }
    async fn plan_read(&self, _: Request<PlanReadRequest>) -> Result<Response<PlanReadReply>, Status> {
        not_here()
    }
    async fn renew_write(&self, _: Request<RenewWriteRequest>) -> Result<Response<RenewWriteReply>, Status> {
        Ok(Response::new(RenewWriteReply {}))
    }

    async fn begin_write(&self, request: Request<BeginWriteRequest>) -> Result<Response<WritePlan>, Status> {
        let request = request.into_inner();
        let mut book = self.0.lock();
        let placement = book.placement.iter().map(|nodes| Holders { nodes: nodes.clone() }).collect();
        let new = Write {
            id: request.write_id.clone(),
            table: request.table,
            spec: Some(book.spec.clone()),
            schema: request.schema,
            placement,
            staged: book.staged,
            attempt: request.attempt,
            ..Write::default()
        };
        let write = book.writes.entry(request.write_id).or_insert(new).clone();
        Ok(Response::new(WritePlan { write: Some(write), nodes: book.nodes.clone(), lease_ms: 60_000 }))
    }

    async fn stage_parts(&self, request: Request<StagePartsRequest>) -> Result<Response<StagePartsReply>, Status> {
        self.0.lock().staged_parts.push(request.into_inner());
        Ok(Response::new(StagePartsReply {}))
    }

    async fn commit_write(&self, request: Request<CommitWriteRequest>) -> Result<Response<WriteOutcome>, Status> {
        let request = request.into_inner();
        let mut book = self.0.lock();
        if let Some(error) = book.refuse_commit.clone() {
            return Err(error.into());
        }
        let write = book.writes.get_mut(&request.write).ok_or_else(|| Status::not_found("no such write"))?;
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
        Ok(Response::new(outcome))
    }

    async fn abort_write(&self, request: Request<AbortWriteRequest>) -> Result<Response<AbortWriteReply>, Status> {
        let request = request.into_inner();
        if let Some(write) = self.0.lock().writes.get_mut(&request.write) {
            write.set_state(WriteState::Aborted);
            write.abort_reason = request.reason;
        }
        Ok(Response::new(AbortWriteReply {}))
    }
}

pub struct Cluster {
    pub fake: Fake,
    pub nodes: Vec<(Arc<Shared>, TempDir, CancellationToken)>,
}

impl Cluster {
    /// `count` nodes; shards placed on the nodes of these indexes.
    pub async fn start(count: usize, placement: &[&[usize]], min_copies: u32) -> Cluster {
        let fake = Fake::default();
        let listener = serve::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let service = Tonic(Routes::new(CoordinatorServer::new(fake.clone())));
        tokio::spawn(serve::serve(listener, service, CancellationToken::new(), Limits::default()));
        let mut nodes = Vec::new();
        for _ in 0..count {
            nodes.push(start_node(&addr).await);
        }
        let cluster = Cluster { fake, nodes };
        let mut book = cluster.fake.0.lock();
        book.nodes = cluster.nodes.iter().map(|(state, ..)| row(state)).collect();
        book.placement = placement.iter().map(|shard| shard.iter().map(|i| cluster.id(*i).0).collect()).collect();
        book.spec = TableSpec { shards: placement.len() as u32, min_copies, replicas: 2, ..TableSpec::default() };
        drop(book);
        cluster
    }

    pub fn id(&self, node: usize) -> NodeId {
        self.nodes[node].0.node()
    }

    /// Puts at node 0 and gives the answers' metadata.
    pub async fn put(&self, input: impl crate::put::Input + 'static) -> volley_common::Result<Vec<bytes::Bytes>> {
        let results = crate::put::put(self.nodes[0].0.clone(), MetadataMap::new(), input);
        results.map_ok(|r| r.app_metadata).try_collect().await
    }

    pub fn held(&self, node: usize) -> usize {
        self.nodes[node].0.store.inventory().len()
    }

    pub fn write(&self) -> Write {
        self.fake.0.lock().writes.values().next().cloned().unwrap()
    }

    /// Waits until the nodes hold so many parts each.
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

async fn start_node(coordinator: &str) -> (Arc<Shared>, TempDir, CancellationToken) {
    let dir = TempDir::new().unwrap();
    let listener = serve::bind("127.0.0.1:0").await.unwrap();
    let peer_addr = listener.local_addr().unwrap().to_string();
    let relay = Relay::new();
    // Slow enough to be seen; puts are to take no notice of it.
    let config = Config { block_bytes: 1 << 20, copy_bytes_per_second: 1 << 20, ..Config::default() };
    let store = PartStore::open(dir.path()).unwrap();
    let copier = PartCopier::new(store.clone(), relay.clone(), peer_addr.clone(), &config);
    let state = Arc::new(Shared {
        coordinators: Coordinators::new(relay.clone(), vec![coordinator.into()], Duration::from_secs(5)),
        store,
        flight_uri: "grpc+tcp://127.0.0.1:1".into(),
        listeners: Vec::new(),
        peer_addr,
        config,
        relay,
        ticket_key: None.into(),
        cluster: None.into(),
        members: Default::default(),
        cancelled: Default::default(),
        puts: Default::default(),
        copier,
        shutdown: CancellationToken::new(),
    });
    let stop = CancellationToken::new();
    tokio::spawn(serve::serve(
        listener,
        Tonic(Routes::new(peer::service(state.clone()))),
        stop.clone(),
        Limits::default(),
    ));
    (state, dir, stop)
}

fn row(state: &Shared) -> Node {
    Node { id: state.node().0, peer_addr: state.peer_addr.clone(), ..Node::default() }
}

pub fn batch(from: i64, rows: i64) -> RecordBatch {
    let schema = Schema::new(vec![Field::new("n", DataType::Int64, false)]);
    RecordBatch::try_new(Arc::new(schema), vec![Arc::new(Int64Array::from_iter_values(from..from + rows))]).unwrap()
}

/// The messages of a client that puts these batches under a descriptor.
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
