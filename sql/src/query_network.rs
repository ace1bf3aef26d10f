//! What the engine needs of a node to run a query on several nodes: who they are, calls to them, and the parts of tables.

use std::fmt::Debug;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use volley_common::wire::cluster::{
    DescribeWorkerReply, QueryTaskReport, QueryTaskRows, ReadQueryTaskRequest, StartQueryTask, Ticket,
};
use volley_common::{NodeId, Result};

use crate::source::TableSource;

/// The nodes that can run tasks of a query, as one of them sees them. Errors of another node name it.
#[async_trait]
pub trait QueryNetwork: Send + Sync + Debug + 'static {
    /// This node.
    fn own_node(&self) -> NodeId;

    /// The nodes that are alive, this one included.
    fn nodes(&self) -> Vec<NodeId>;

    /// What another node says of itself as a worker. It has to answer soon.
    ///
    /// # Errors
    /// UNIMPLEMENTED: its version runs no tasks. UNAVAILABLE: it does not answer.
    async fn describe(&self, node: NodeId) -> Result<DescribeWorkerReply>;

    /// Signs a ticket, for another node.
    ///
    /// # Errors
    /// UNAVAILABLE: this node does not have the key yet.
    fn sign(&self, ticket: &Ticket) -> Result<Bytes>;

    /// The ticket that another node signed.
    ///
    /// # Errors
    /// It is none of this cluster, or has expired. UNAVAILABLE: this node does not have the key yet.
    fn verify(&self, ticket: &[u8]) -> Result<Ticket>;

    /// Scans parts of verified tickets, which this node reads for a query of another one. It plans and lists no tables.
    fn parts(&self) -> Arc<dyn TableSource>;

    /// Runs a task on another node. The task lasts until `ended` completes, or what is returned is dropped.
    ///
    /// # Errors
    /// The node refuses the task. UNAVAILABLE: it cannot be reached. Later ones are the stream's last item.
    async fn run_task(
        &self,
        node: NodeId,
        start: StartQueryTask,
        ended: BoxFuture<'static, ()>,
    ) -> Result<BoxStream<'static, Result<QueryTaskReport>>>;

    /// The rows of a task that runs on another node. Dropping the stream ends their computation.
    ///
    /// # Errors
    /// UNAVAILABLE: the node cannot be reached, or does not know the task. Those of the task, also as the stream's last item.
    async fn read_task(
        &self,
        node: NodeId,
        request: ReadQueryTaskRequest,
    ) -> Result<BoxStream<'static, Result<QueryTaskRows>>>;
}
