//! Parts stream to their holders while they are written.

use std::sync::Arc;

use bytes::Bytes;
use tokio::task::JoinHandle;
use volley_common::server::serve::TonicService;
use volley_common::wire::cluster::node_server::{Node, NodeServer};
use volley_common::wire::cluster::{
    CopyOpenPartReply, CopyOpenPartRequest, CopyPart, CopyPartReply, DescribeWorkerReply, DescribeWorkerRequest,
    DiscardPartsReply, DiscardPartsRequest, FetchPartRequest, PartChunk, QueryTaskOrder, QueryTaskReport,
    QueryTaskRows, ReadQueryTaskRequest,
};

use super::*;
use crate::context::NodeContext;

/// A put whose last message waits.
struct HeldPut {
    put: JoinHandle<Result<Vec<Bytes>, Error>>,
    rest: CancellationToken,
}

impl HeldPut {
    /// Starts to put four megabytes of a keyed table, whose part ends with the put. `last`: what follows when the put goes on.
    async fn start(cluster: &InProcessCluster, last: impl FnOnce(FlightData) -> Result<FlightData, Error>) -> HeldPut {
        cluster.coordinator.state.lock().spec.shard_by = vec!["n".into()];
        let mut input = messages("t", megabytes(4)).await;
        let last = last(input.pop().unwrap().unwrap());
        let (rest, context) = (CancellationToken::new(), cluster.nodes[0].context.put.clone());
        let goes_on = rest.clone();
        let end = stream::once(async move {
            goes_on.cancelled().await;
            last
        });
        let input = Box::pin(stream::iter(input).chain(end));
        let put = tokio::spawn(async move {
            let slot = context.resources.admit().unwrap();
            let results = crate::put::put(context, MetadataMap::new(), Access::open(), input, slot);
            results.map_ok(|result| result.app_metadata).try_collect().await
        });
        HeldPut { put, rest }
    }

    async fn go_on(self) -> Result<Vec<Bytes>, Error> {
        self.rest.cancel();
        self.put.await.unwrap()
    }
}

async fn leave_nothing(cluster: &InProcessCluster) {
    for node in 0..cluster.nodes.len() {
        while !cluster.unfinished(node).is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn holders(cluster: &InProcessCluster) -> Vec<u64> {
    let parts = cluster.write().parts;
    assert_eq!(parts.len(), 1);
    let mut holders = parts[0].holders.clone();
    holders.sort_unstable();
    holders
}

fn sorted(cluster: &InProcessCluster, nodes: &[usize]) -> Vec<u64> {
    let mut ids: Vec<u64> = nodes.iter().map(|node| cluster.id(*node).0).collect();
    ids.sort_unstable();
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_copy_a_part_while_it_is_written() {
    for placement in [[0, 1], [1, 2]] {
        let cluster = InProcessCluster::start(3, &[&placement], 2).await;
        let put = HeldPut::start(&cluster, Ok).await;
        for node in placement.into_iter().filter(|node| *node > 0) {
            cluster.receives(node, 1 << 20).await;
        }
        assert!((0..3).all(|node| cluster.held(node) == 0), "the part is not complete");
        put.go_on().await.unwrap();
        assert_eq!(holders(&cluster), sorted(&cluster, &placement));
        cluster.settles(&[0, 1, 2].map(|node| usize::from(placement.contains(&node)))).await;
        leave_nothing(&cluster).await;
        let part = cluster.write().parts.remove(0);
        for node in placement {
            cluster.nodes[node].context.store.verify(part.part_id()).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holder_that_fails_while_a_part_grows_is_replaced() {
    let cluster = InProcessCluster::start(4, &[&[1, 2]], 2).await;
    let put = HeldPut::start(&cluster, Ok).await;
    let id = cluster.receives(1, 1 << 20).await;
    cluster.nodes[1].context.copier.cancel(id).await;
    // The substitute gets what was written before, too.
    cluster.receives(3, 1 << 20).await;
    put.go_on().await.unwrap();
    assert_eq!(holders(&cluster), sorted(&cluster, &[2, 3]));
    cluster.settles(&[0, 0, 1, 1]).await;
    leave_nothing(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn writer_keeps_a_part_if_no_other_node_is_left() {
    let cluster = InProcessCluster::start(3, &[&[1, 2]], 2).await;
    let put = HeldPut::start(&cluster, Ok).await;
    let id = cluster.receives(1, 1 << 20).await;
    cluster.nodes[1].context.copier.cancel(id).await;
    put.go_on().await.unwrap();
    assert_eq!(holders(&cluster), sorted(&cluster, &[0, 2]));
    cluster.settles(&[1, 0, 1]).await;
    leave_nothing(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_that_aborts_leaves_nothing_of_a_growing_part() {
    let cluster = InProcessCluster::start(3, &[&[0, 1]], 2).await;
    let put = HeldPut::start(&cluster, |_| Err(Error::unavailable("reset"))).await;
    cluster.receives(1, 1 << 20).await;
    put.go_on().await.unwrap_err();
    assert_eq!(cluster.write().state(), WriteState::Aborted);
    cluster.settles(&[0, 0, 0]).await;
    leave_nothing(&cluster).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn small_part_comes_with_its_order() {
    let cluster = InProcessCluster::start(3, &[&[1, 2]], 2).await;
    cluster.put(stream::iter(messages("t", vec![batch(0, 10)]).await)).await.unwrap();
    cluster.settles(&[0, 1, 1]).await;
    let part = cluster.write().parts.remove(0);
    let held = cluster.nodes[1].context.store.part(part.part_id()).unwrap().unwrap();
    let (store, copier) = (&cluster.nodes[0].context.store, &cluster.nodes[0].context.copier);
    let mut order = CopyOpenPartRequest {
        part: Some(part.clone()),
        table: vec!["t".into()],
        source: "127.0.0.1:1".into(),
        content: Bytes::from(vec![7; part.bytes as usize]),
    };
    assert_eq!(copier.copy_open(order.clone()).await.unwrap_err().code, Code::DataLoss);
    assert!(!store.holds(part.part_id()));
    order.content = held.slice(0..held.len());
    let reply = copier.copy_open(order).await.unwrap();
    assert_eq!(reply.end.map(|end| (end.bytes, end.crc32c)), Some((part.bytes, part.crc32c)));
    store.verify(part.part_id()).unwrap();
}

/// A node of the version before, which copies complete parts only.
struct FormerNode(Arc<NodeContext>);

#[tonic::async_trait]
impl Node for FormerNode {
    type FetchPartStream = stream::Empty<Result<PartChunk, Status>>;
    type RunQueryTaskStream = stream::Empty<Result<QueryTaskReport, Status>>;
    type ReadQueryTaskStream = stream::Empty<Result<QueryTaskRows, Status>>;

    async fn fetch_part(
        &self,
        _: tonic::Request<FetchPartRequest>,
    ) -> Result<tonic::Response<Self::FetchPartStream>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

    async fn copy_part(&self, order: tonic::Request<CopyPart>) -> Result<tonic::Response<CopyPartReply>, Status> {
        self.0.copier.copy(order.into_inner()).await?;
        Ok(tonic::Response::new(CopyPartReply {}))
    }

    async fn copy_open_part(
        &self,
        _: tonic::Request<CopyOpenPartRequest>,
    ) -> Result<tonic::Response<CopyOpenPartReply>, Status> {
        Err(Status::unimplemented("as without the method"))
    }

    async fn discard_parts(
        &self,
        _: tonic::Request<DiscardPartsRequest>,
    ) -> Result<tonic::Response<DiscardPartsReply>, Status> {
        Err(Status::unimplemented("not in these tests"))
    }

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

#[tokio::test(flavor = "multi_thread")]
async fn node_of_a_former_version_copies_complete_parts() {
    for rows in [megabytes(4), vec![batch(0, 10)]] {
        let cluster = InProcessCluster::start(3, &[&[1, 2]], 2).await;
        let listener = serve::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let service = TonicService(Routes::new(NodeServer::new(FormerNode(cluster.nodes[1].context.clone()))));
        tokio::spawn(serve::serve(listener, service, CancellationToken::new(), ServerLimits::default()));
        {
            let mut state = cluster.coordinator.state.lock();
            state.nodes[1].peer_addr = addr;
            state.spec.shard_by = vec!["n".into()];
        }
        cluster.put(stream::iter(messages("t", rows).await)).await.unwrap();
        assert_eq!(holders(&cluster), sorted(&cluster, &[1, 2]));
        cluster.settles(&[0, 1, 1]).await;
        leave_nothing(&cluster).await;
    }
}
