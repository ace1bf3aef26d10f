//! Nodes in this process that only serve gets.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use arrow::array::{ArrayRef, DictionaryArray, FixedSizeBinaryArray, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use arrow_flight::FlightData;
use arrow_flight::decode::FlightRecordBatchStream;
use arrow_flight::error::FlightError;
use arrow_flight::flight_service_client::FlightServiceClient;
use bytes::Bytes;
use futures::{Stream, StreamExt, TryStreamExt};
use hyper::body::Incoming;
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;
use tonic::{Request, Status, Streaming};
use tower::Service;
use volley_common::http2::{ReplyBody, grpc_frames};
use volley_common::identity::Access;
use volley_common::ipc::flight_encoder::FlightFrame;
use volley_common::ipc::schema::schema_message;
use volley_common::net::ConnectionPool;
use volley_common::server::ServerConfig;
use volley_common::server::serve::{ServerLimits, bind, serve};
use volley_common::ticket::TicketKey;
use volley_common::wire::catalog::{self, Compression, NodeState};
use volley_common::wire::cluster::{Ticket, TicketPart};
use volley_common::{Error, PartId, Result, clock};

use crate::cluster_view::ClusterMembers;
use crate::config::NodeConfig;
use crate::context::{GetContext, NodeAddresses, NodeContext, NodeSecurity};
use crate::get::{open, serve_get};
use crate::get_resources::GetMemory;
use crate::router::NodeRouter;
use crate::storage::{BatchWrite, PartSpec, PartStore};

/// A node that serves gets, and its folder.
pub struct TestNode {
    pub context: Arc<NodeContext>,
    pub addr: String,
    shutdown: CancellationToken,
    dir: tempfile::TempDir,
}

impl Drop for TestNode {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// Nothing listens at the coordinator's address.
fn without_coordinator() -> NodeConfig {
    let config = NodeConfig { coordinators: vec!["127.0.0.1:1".into()], ..NodeConfig::default() };
    NodeConfig { server: ServerConfig { request_timeout_ms: 1, ..config.server }, ..config }
}

pub fn key() -> TicketKey {
    TicketKey::new(&[7; 32])
}

impl TestNode {
    pub async fn start() -> Self {
        TestNode::serving(|node, request| async move { serve_get(node.get.clone(), request).await }).await
    }

    /// A node that decompresses for so many gets at once.
    pub async fn decompressing(max_gets: usize) -> Self {
        let config = NodeConfig { max_decompressing_gets: max_gets, ..without_coordinator() };
        let serve = |node: Arc<NodeContext>, request| async move { serve_get(node.get.clone(), request).await };
        TestNode::configured(config, NodeSecurity::open(), serve).await
    }

    /// A node that compresses for so many gets at once.
    pub async fn compressing(max_gets: usize) -> Self {
        let config = NodeConfig { max_compressing_gets: max_gets, ..without_coordinator() };
        let serve = |node: Arc<NodeContext>, request| async move { serve_get(node.get.clone(), request).await };
        TestNode::configured(config, NodeSecurity::open(), serve).await
    }

    /// A node that filters for so many gets at once.
    pub async fn filtering(max_gets: usize) -> Self {
        let config = NodeConfig { max_filtered_gets: max_gets, ..without_coordinator() };
        let serve = |node: Arc<NodeContext>, request| async move { serve_get(node.get.clone(), request).await };
        TestNode::configured(config, NodeSecurity::open(), serve).await
    }

    /// A node that identifies its callers, and whose coordinator is at this address.
    pub async fn identifying(security: NodeSecurity, coordinator: &str) -> Self {
        let config = NodeConfig { coordinators: vec![coordinator.into()], ..NodeConfig::default() };
        TestNode::configured(config, security, |node, request| {
            let service = crate::flight::service(node.config.max_message, node.callers.clone());
            let mut router = NodeRouter::new(&node, Routes::new(service), "");
            async move { router.call(request).await.unwrap_or_else(|never| match never {}) }
        })
        .await
    }

    /// A node with this memory for each reply of another one.
    pub async fn with_relay_memory(bytes: u64) -> Self {
        TestNode::serving(move |node, request| async move {
            let pool = node.pool.clone().limit_relay_memory(bytes);
            serve_get(Arc::new(GetContext { pool, ..(*node.get).clone() }), request).await
        })
        .await
    }

    /// A node with this memory for what all its gets copy.
    pub async fn with_get_memory(bytes: u64) -> Self {
        let memory = GetMemory::new(bytes);
        TestNode::serving(move |node, request| {
            let get = GetContext { memory: memory.clone(), ..(*node.get).clone() };
            async move { serve_get(Arc::new(get), request).await }
        })
        .await
    }

    /// A node that ends each stream with an error after so many messages.
    pub async fn breaking_after(messages: usize) -> Self {
        TestNode::serving(move |node, request| async move {
            let reader = open(node.get.clone(), request).await.unwrap();
            grpc_frames(broken(reader.frames(0), messages))
        })
        .await
    }

    /// A node that serves requests by `serve_request`.
    pub async fn serving<F, Fut>(serve_request: F) -> Self
    where
        F: Fn(Arc<NodeContext>, http::Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = http::Response<ReplyBody>> + Send + 'static,
    {
        TestNode::configured(without_coordinator(), NodeSecurity::open(), serve_request).await
    }

    async fn configured<F, Fut>(config: NodeConfig, security: NodeSecurity, serve_request: F) -> Self
    where
        F: Fn(Arc<NodeContext>, http::Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = http::Response<ReplyBody>> + Send + 'static,
    {
        let dir = tempfile::tempdir().unwrap();
        let listener = bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let shutdown = CancellationToken::new();
        let flight_uri = format!("grpc+tcp://{addr}");
        let addresses = NodeAddresses { peer_addr: addr.clone(), flight_uri, ..NodeAddresses::default() };
        let context =
            NodeContext::new(config, PartStore::open(dir.path()).unwrap(), addresses, security, shutdown.clone());
        context.cluster.ticket_key.store(Some(Arc::new(key())));
        let node = context.clone();
        let service = tower::service_fn(move |mut request: http::Request<Incoming>| {
            // As the router of an open node does.
            request.extensions_mut().insert(Access::open());
            let reply = serve_request(node.clone(), request);
            async move { Ok::<_, Infallible>(reply.await) }
        });
        tokio::spawn(serve(listener, service, shutdown.clone(), ServerLimits::default()));
        TestNode { context, addr, shutdown, dir }
    }

    /// Writes a part of one message a batch.
    pub fn write(&self, batches: &[RecordBatch]) -> PartId {
        self.write_compressed(batches, Compression::None)
    }

    pub fn write_compressed(&self, batches: &[RecordBatch], compression: Compression) -> PartId {
        let mut writer = self
            .context
            .store
            .create(PartSpec {
                table: "t/1".parse().unwrap(),
                shard: 0,
                write: "w".into(),
                seq: 0,
                schema: batches[0].schema(),
                compression,
            })
            .unwrap();
        for batch in batches {
            assert_eq!(writer.write(batch).unwrap(), BatchWrite::Written);
        }
        writer.seal().unwrap().id
    }

    /// The file of the only part.
    pub fn file(&self) -> std::path::PathBuf {
        let mut path = self.dir.path().join("parts");
        while path.is_dir() {
            path = std::fs::read_dir(&path).unwrap().next().unwrap().unwrap().path();
        }
        path
    }

    /// Gets by a signed ticket.
    pub async fn get(&self, ticket: &Ticket) -> Result<Vec<RecordBatch>, Status> {
        self.get_bytes(key().sign(ticket)).await
    }

    /// Gets by these bytes, signed or not.
    pub async fn get_bytes(&self, ticket: impl Into<Bytes>) -> Result<Vec<RecordBatch>, Status> {
        let request = Request::new(arrow_flight::Ticket { ticket: ticket.into() });
        self.call(request).await
    }

    /// The messages of a get by a signed ticket, not decoded.
    pub async fn stream(&self, ticket: &Ticket) -> Result<Vec<FlightData>, Status> {
        self.open(ticket).await?.try_collect().await
    }

    /// The same, not read yet.
    pub async fn open(&self, ticket: &Ticket) -> Result<Streaming<FlightData>, Status> {
        let request = Request::new(arrow_flight::Ticket { ticket: key().sign(ticket).into() });
        let channel = ConnectionPool::new().channel(&self.addr).unwrap();
        Ok(FlightServiceClient::new(channel).do_get(request).await?.into_inner())
    }

    pub async fn call(&self, request: Request<arrow_flight::Ticket>) -> Result<Vec<RecordBatch>, Status> {
        let channel = ConnectionPool::new().channel(&self.addr).unwrap();
        let reply = FlightServiceClient::new(channel).do_get(request).await?.into_inner();
        let messages = reply.map_err(|status| FlightError::Tonic(Box::new(status)));
        let decoded = FlightRecordBatchStream::new_from_flight_data(messages).try_collect().await;
        decoded.map_err(|e| match e {
            FlightError::Tonic(status) => *status,
            other => Status::unknown(other.to_string()),
        })
    }
}

fn broken(
    frames: impl Stream<Item = Result<FlightFrame>> + Send + 'static,
    messages: usize,
) -> impl Stream<Item = Result<FlightFrame>> + Send + 'static {
    frames.enumerate().map(move |(at, frame)| match at < messages {
        true => frame,
        false => Err(Error::unavailable("this node breaks")),
    })
}

/// Makes the nodes members of one cluster.
pub fn introduce(nodes: &[&TestNode]) {
    let rows: BTreeMap<_, _> = nodes
        .iter()
        .map(|node| {
            let id = node.context.store.node();
            let row = catalog::Node {
                id: id.0,
                flight_uri: node.context.addresses.flight_uri.clone(),
                state: NodeState::Alive.into(),
                ..catalog::Node::default()
            };
            (id, row)
        })
        .collect();
    for node in nodes {
        let members = ClusterMembers { nodes: rows.clone(), ..ClusterMembers::default() };
        node.context.cluster.members.store(Arc::new(members));
    }
}

pub fn schema() -> SchemaRef {
    let word = DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8));
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("word", word, true),
        Field::new("text", DataType::Utf8, true),
    ]))
}

/// Rows `from..from + rows`; `words` is the dictionary.
pub fn batch(from: i64, rows: i64, words: &[&str]) -> RecordBatch {
    let ids: Vec<i64> = (from..from + rows).collect();
    let texts = ids.iter().map(|id| (id % 3 != 0).then(|| format!("text {id}")));
    let keys = ids.iter().map(|id| Some((*id as usize % words.len()) as i32));
    let words: ArrayRef = Arc::new(StringArray::from(words.to_vec()));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(ids.clone())),
        Arc::new(DictionaryArray::<Int32Type>::new(keys.collect(), words)),
        Arc::new(StringArray::from_iter(texts)),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// Batches of 128 rows of 8 KiB each, numbered: they fill windows.
pub fn large(batches: i64) -> Vec<RecordBatch> {
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("filler", DataType::FixedSizeBinary(8192), false),
    ]));
    let batch = |at: i64| {
        let ids: Vec<i64> = (at * 128..(at + 1) * 128).collect();
        let filler = ids.iter().map(|id| vec![*id as u8; 8192]);
        let filler = FixedSizeBinaryArray::try_from_iter(filler).unwrap();
        RecordBatch::try_new(schema.clone(), vec![Arc::new(Int64Array::from(ids)), Arc::new(filler)]).unwrap()
    };
    (0..batches).map(batch).collect()
}

/// A ticket for parts, each with its holders.
pub fn ticket(parts: &[(PartId, &[&TestNode])]) -> Ticket {
    let part = |(id, holders): &(PartId, &[&TestNode])| TicketPart {
        id: Some((*id).into()),
        holders: holders.iter().map(|node| node.context.store.node().0).collect(),
        ..TicketPart::default()
    };
    Ticket {
        flight: 5,
        expires_ms: clock::now_ms() + 600_000,
        table: vec!["t".into(), "1".into()],
        version: 1,
        parts: parts.iter().map(part).collect(),
        schema: schema_message(&schema()).unwrap(),
        ..Ticket::default()
    }
}
