//! Copies: throttling, and nodes that are full.

use std::time::Instant;

use std::sync::Arc;

use parking_lot::Mutex;
use tonic::Code;
use volley_common::server::serve::TonicService;
use volley_common::wire::cluster::node_server::{Node, NodeServer};
use volley_common::wire::cluster::{
    CopyOpenPartReply, CopyOpenPartRequest, CopyPart, CopyPartReply, DescribeWorkerReply, DescribeWorkerRequest,
    DiscardPartsReply, DiscardPartsRequest, FetchPartRequest, PartChunk, QueryTaskOrder, QueryTaskReport,
    QueryTaskRows, ReadQueryTaskRequest,
};

use super::*;
use crate::storage::DiskSpace;

/// Puts one part of 2 MiB on node 0 alone; returns the order to copy it from there.
async fn order(cluster: &InProcessCluster, background: bool) -> CopyPart {
    cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap();
    let part = cluster.write().parts.into_iter().next().unwrap();
    let sources = vec![cluster.nodes[0].context.addresses.peer_addr.clone()];
    CopyPart { part: Some(part), table: vec!["t".into()], sources, background }
}

#[tokio::test(flavor = "multi_thread")]
async fn background_copies_are_throttled() {
    let cluster = InProcessCluster::start(2, &[&[0]], 1).await;
    let order = order(&cluster, true).await;
    let began = Instant::now();
    cluster.nodes[1].context.copier.copy(order).await.unwrap();
    let took = began.elapsed();
    assert_eq!(cluster.held(1), 1);
    // What the rate permits in a quarter of a second may come at once.
    assert!(took >= Duration::from_millis(700), "a MiB at least at 1 MiB/s took {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn full_node_refuses_a_copy_with_the_reason() {
    let cluster = InProcessCluster::start(3, &[&[0]], 1).await;
    let order = order(&cluster, true).await;
    let full = &cluster.nodes[1].context;
    full.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    let error = full.copier.copy(order.clone()).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains(&full.store.node().to_string()) && error.message.contains("98.0 % used"), "{error}");
    assert_eq!(cluster.held(1), 0);
    full.store.override_space(Some(DiskSpace { total: 1 << 40, free: 1 << 39 }));
    full.copier.copy(order).await.unwrap();
    assert_eq!(cluster.held(1), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn put_avoids_full_nodes_and_fails_if_all_are_full() {
    let cluster = InProcessCluster::start(3, &[&[0, 1]], 2).await;
    cluster.nodes[1].context.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap();
    assert!(cluster.held(1) == 0 && cluster.held(2) > 0);
    cluster.nodes[2].context.store.override_space(Some(DiskSpace { total: 100, free: 2 }));
    let error = cluster.put(stream::iter(messages("t", megabytes(1)).await)).await.unwrap_err();
    assert_eq!(error.code, Code::ResourceExhausted, "{error}");
    assert!(error.message.contains("98.0 % used"), "{error}");
}

/// A node that sends a part's bytes up to an offset and then breaks the stream.
struct BrokenSource {
    bytes: bytes::Bytes,
    breaks_at: usize,
    /// The offsets that it was asked for.
    offsets: Arc<Mutex<Vec<u64>>>,
}

#[tonic::async_trait]
impl Node for BrokenSource {
    type FetchPartStream = futures::stream::BoxStream<'static, Result<PartChunk, Status>>;

    async fn fetch_part(
        &self,
        request: tonic::Request<FetchPartRequest>,
    ) -> Result<tonic::Response<Self::FetchPartStream>, Status> {
        let offset = request.into_inner().offset;
        self.offsets.lock().push(offset);
        let sent = self.bytes.slice((offset as usize).min(self.breaks_at)..self.breaks_at);
        let chunks: Vec<_> =
            sent.chunks(1 << 20).map(|data| Ok(PartChunk { data: sent.slice_ref(data), end: None })).collect();
        let broken = (self.breaks_at < self.bytes.len()).then(|| Err(Status::unavailable("the link broke")));
        Ok(tonic::Response::new(stream::iter(chunks.into_iter().chain(broken)).boxed()))
    }

    async fn copy_part(&self, _: tonic::Request<CopyPart>) -> Result<tonic::Response<CopyPartReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn copy_open_part(
        &self,
        _: tonic::Request<CopyOpenPartRequest>,
    ) -> Result<tonic::Response<CopyOpenPartReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn discard_parts(
        &self,
        _: tonic::Request<DiscardPartsRequest>,
    ) -> Result<tonic::Response<DiscardPartsReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    type RunQueryTaskStream = stream::Empty<Result<QueryTaskReport, Status>>;
    type ReadQueryTaskStream = stream::Empty<Result<QueryTaskRows, Status>>;

    async fn describe_worker(
        &self,
        _: tonic::Request<DescribeWorkerRequest>,
    ) -> Result<tonic::Response<DescribeWorkerReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn run_query_task(
        &self,
        _: tonic::Request<tonic::Streaming<QueryTaskOrder>>,
    ) -> Result<tonic::Response<Self::RunQueryTaskStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn read_query_task(
        &self,
        _: tonic::Request<ReadQueryTaskRequest>,
    ) -> Result<tonic::Response<Self::ReadQueryTaskStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }
}

/// Starts a source; returns its address and the offsets that it will be asked for.
async fn source(bytes: &[u8], breaks_at: usize) -> (String, Arc<Mutex<Vec<u64>>>) {
    let listener = serve::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    let offsets = Arc::default();
    let node = BrokenSource { bytes: bytes.to_vec().into(), breaks_at, offsets: Arc::clone(&offsets) };
    let service = TonicService(Routes::new(NodeServer::new(node)));
    tokio::spawn(serve::serve(listener, service, CancellationToken::new(), ServerLimits::default()));
    (addr, offsets)
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_copy_continues_where_it_was() {
    let cluster = InProcessCluster::start(2, &[&[0]], 1).await;
    cluster.put(stream::iter(messages("t", megabytes(2)).await)).await.unwrap();
    let part = cluster.write().parts.into_iter().next().unwrap();
    let held = cluster.nodes[0].context.store.part(part.part_id()).unwrap().unwrap();
    let bytes = held.slice(0..held.len());
    let copier = &cluster.nodes[1].context.copier;
    let copy = async |sources: Vec<String>| {
        let order = CopyPart { part: Some(part.clone()), table: vec!["t".into()], sources, background: false };
        let copied = copier.copy(order).await;
        cluster.nodes[1].context.store.remove(&[part.part_id()]).unwrap();
        copied
    };
    let half = bytes.len() / 2;
    // The next source continues.
    let ((first, _), (second, asked)) = (source(&bytes, half).await, source(&bytes, bytes.len()).await);
    copy(vec![first, second]).await.unwrap();
    assert_eq!(*asked.lock(), [half as u64]);
    // Half of a damaged copy does not fit to the rest: the next source sends all of it.
    let mut damaged = bytes.to_vec();
    damaged[half / 2] ^= 1;
    let ((first, _), (second, asked)) = (source(&damaged, half).await, source(&bytes, bytes.len()).await);
    copy(vec![first, second]).await.unwrap();
    assert_eq!(*asked.lock(), [half as u64, 0]);
    // Nothing is left of a part that no source sends whole, and the sources are not asked for ever.
    let (only, asked) = source(&bytes, half).await;
    assert_eq!(copy(vec![only]).await.unwrap_err().code, Code::Unavailable);
    assert_eq!(*asked.lock(), [0, half as u64]);
    assert_eq!(cluster.held(1), 0);
}
