//! The other nodes of a query: calls to their peer ports, and parts that this node reads for them.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use arrow::array::RecordBatch;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, stream};
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;
use tonic::Streaming;
use volley_common::http2::SilenceWatch;
use volley_common::net::{ConnectionPool, MemberChannel};
use volley_common::telemetry::trace::{KeptContext, carry};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::catalog::Node;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{
    DescribeWorkerReply, DescribeWorkerRequest, QueryTaskOrder, QueryTaskReport, QueryTaskRows, ReadQueryTaskRequest,
    StartQueryTask, Ticket,
};
use volley_common::{Error, NodeId, Result, clock};
use volley_sql::query_network::QueryNetwork;
use volley_sql::source::{ListedTable, PartScan, PlannedTable, TableSource};
use volley_sql::statement::TableAt;

use super::source::read_on;
use crate::assertion::AssertedCaller;
use crate::context::GetContext;
use crate::get::part_scan::PartScanner;

/// A node that does not describe itself within this time takes no part in a query.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(1);

/// The nodes of the cluster, for the engine of this one.
pub struct NodeNetwork {
    get: Arc<GetContext>,
    /// Where connections and disks are waited for: the threads of the node, not those of the engine.
    io: Handle,
}

impl NodeNetwork {
    /// Call it on a thread of the node.
    pub fn new(get: Arc<GetContext>) -> Self {
        NodeNetwork { get, io: Handle::current() }
    }

    fn peer_addr(&self, node: NodeId) -> Result<String> {
        let members = self.get.cluster.members.load();
        let addr = members.node(node).map(|node| node.peer_addr.clone()).filter(|addr| !addr.is_empty());
        addr.ok_or_else(|| Error::unavailable("it is no member of the cluster any more"))
    }

    /// Runs `call` on the threads of the node.
    async fn on_node<T: Send + 'static>(&self, call: impl Future<Output = Result<T>> + Send + 'static) -> Result<T> {
        let ended = AbortOnDropHandle::new(self.io.spawn(carry(call))).await;
        ended.unwrap_or_else(|e| Err(Error::internal(format!("a call to a node failed: {e}"))))
    }
}

impl fmt::Debug for NodeNetwork {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeNetwork").field("node", &self.get.store.node()).finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl QueryNetwork for NodeNetwork {
    fn own_node(&self) -> NodeId {
        self.get.store.node()
    }

    fn nodes(&self) -> Vec<NodeId> {
        let is_usable = |node: &&Node| node.is_alive() && !node.is_degraded() && !node.peer_addr.is_empty();
        self.get.cluster.members.load().nodes.values().filter(is_usable).map(|node| NodeId(node.id)).collect()
    }

    async fn describe(&self, node: NodeId) -> Result<DescribeWorkerReply> {
        let (pool, addr) = (self.get.pool.clone(), self.peer_addr(node)?);
        let call = async move {
            let mut client = worker_client(&pool, &addr)?;
            let described = tokio::time::timeout(DESCRIBE_TIMEOUT, client.describe_worker(DescribeWorkerRequest {}));
            let described = described.await.map_err(|_| {
                Error::unavailable(format!("the member at {addr} did not answer within {DESCRIBE_TIMEOUT:?}"))
            })?;
            Ok::<_, Error>(described?.into_inner())
        };
        self.on_node(call).await
    }

    fn sign(&self, ticket: &Ticket) -> Result<Bytes> {
        Ok(self.get.cluster.ticket_key()?.sign(ticket).into())
    }

    fn verify(&self, ticket: &[u8]) -> Result<Ticket> {
        self.get.cluster.ticket_key()?.verify(ticket, clock::now_ms())
    }

    fn parts(&self) -> Arc<dyn TableSource> {
        Arc::new(TaskSource { get: self.get.clone(), io: self.io.clone() })
    }

    async fn run_task(
        &self,
        node: NodeId,
        start: StartQueryTask,
        ended: BoxFuture<'static, ()>,
    ) -> Result<BoxStream<'static, Result<QueryTaskReport>>> {
        let (pool, addr) = (self.get.pool.clone(), self.peer_addr(node)?);
        let orders = TaskOrders { start: Some(start), ended };
        let call = async move {
            let mut client = worker_client(&pool, &addr)?;
            let started = async { Ok::<_, Error>(client.run_query_task(orders).await?.into_inner()) };
            let reports = pool.while_answering(&addr, started).await?;
            Ok::<_, Error>(while_answering(reports, pool.silence(&addr)).boxed())
        };
        Ok(read_on(self.io.clone(), KeptContext::current(), self.on_node(call).await?))
    }

    async fn read_task(
        &self,
        node: NodeId,
        request: ReadQueryTaskRequest,
    ) -> Result<BoxStream<'static, Result<QueryTaskRows>>> {
        let (pool, addr) = (self.get.pool.clone(), self.peer_addr(node)?);
        let call = async move {
            let mut client = worker_client(&pool, &addr)?;
            let started = async { Ok::<_, Error>(client.read_query_task(request).await?.into_inner()) };
            let rows = pool.while_answering(&addr, started).await?;
            Ok::<_, Error>(while_answering(rows, pool.silence(&addr)).boxed())
        };
        Ok(read_on(self.io.clone(), KeptContext::current(), self.on_node(call).await?))
    }
}

/// This node's side of the call that runs a task: open as long as the query runs. A type of its own, because the compiler cannot
/// prove that a future with a boxed stream in a generic call is `Send`.
struct TaskOrders {
    start: Option<StartQueryTask>,
    ended: BoxFuture<'static, ()>,
}

impl Stream for TaskOrders {
    type Item = QueryTaskOrder;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<QueryTaskOrder>> {
        match self.start.take() {
            Some(start) => Poll::Ready(Some(QueryTaskOrder { start: Some(start) })),
            None => self.ended.as_mut().poll(cx).map(|()| None),
        }
    }
}

fn worker_client(pool: &ConnectionPool, addr: &str) -> Result<NodeClient<MemberChannel>> {
    let client = NodeClient::new(pool.channel(addr)?);
    Ok(client.max_decoding_message_size(MAX_PEER_MESSAGE).max_encoding_message_size(MAX_PEER_MESSAGE))
}

/// The replies of a call, which fails when the member hangs.
fn while_answering<T: Send + 'static>(
    replies: Streaming<T>,
    silence: SilenceWatch,
) -> impl Stream<Item = Result<T>> + Send + 'static {
    stream::unfold(Some((replies, silence)), |state| async move {
        let (mut replies, mut silence) = state?;
        let next = tokio::select! {
            biased;
            next = replies.message() => next.map_err(Error::from).transpose()?,
            error = &mut silence => Err(error),
        };
        let rest = next.is_ok().then_some((replies, silence));
        Some((next, rest))
    })
}

/// Parts that this node reads for queries of other nodes. Their heads have checked the rights of the callers.
struct TaskSource {
    get: Arc<GetContext>,
    io: Handle,
}

impl fmt::Debug for TaskSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TaskSource").finish_non_exhaustive()
    }
}

#[tonic::async_trait]
impl TableSource for TaskSource {
    async fn plan(&self, _tables: &[TableAt]) -> Result<Vec<PlannedTable>> {
        Err(Error::internal("a task plans no tables"))
    }

    async fn list(&self) -> Result<Vec<ListedTable>> {
        Err(Error::internal("a task lists no tables"))
    }

    fn scan(&self, scan: PartScan) -> BoxStream<'static, Result<RecordBatch>> {
        let PartScan { table, parts, columns, filter, limit, counts } = scan;
        // A part that is not here is read from its holders as the cluster's own work.
        let caller = AssertedCaller::cluster(self.get.cluster.clone());
        let scanner = PartScanner::new(self.get.clone(), caller).counting(counts);
        let (ticket, schema) = (table.ticket.clone(), table.schema.clone());
        let rows = scanner.scan(ticket, schema, parts, columns, filter, limit.map(|rows| rows as u64));
        read_on(self.io.clone(), KeptContext::current(), rows)
    }
}
