//! How the library reaches the nodes of a query: others by the node's own calls, its own tasks without any.

use std::future::ready;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::metrics::ExecutionPlanMetricsSet;
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    SetPlanRequest, Worker, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::HeaderMap;
use tokio::time::Instant;
use url::Url;
use volley_common::NodeId;
use volley_common::wire::cluster::{QueryTaskReport, ReadQueryTaskRequest, StartQueryTask};

use super::messages::{encode_key, encode_output, encode_settings, node_of, of_node};
use super::task_registry::TaskRegistry;
use super::{received_rows, task_metrics};
use crate::fault::{from_datafusion, into_datafusion};
use crate::query_network::QueryNetwork;

/// When a query has to have ended, for its tasks on other nodes: in the session of the query.
pub(super) struct QueryEnd(pub(super) Option<Instant>);

/// Finds the channels to nodes.
pub(super) struct NodeChannels {
    network: Arc<dyn QueryNetwork>,
    /// Runs the tasks on this node.
    own: Option<OwnChannel>,
}

impl NodeChannels {
    /// For a task: the library finds those on the same node by itself.
    pub(super) fn new(network: Arc<dyn QueryNetwork>) -> Self {
        NodeChannels { network, own: None }
    }

    /// For the head of a query. The library's way to tasks on the same node would not report the metrics of all.
    pub(super) fn of_head(network: Arc<dyn QueryNetwork>, worker: Worker, registry: Arc<TaskRegistry>) -> Self {
        NodeChannels { network, own: Some(OwnChannel { worker, registry }) }
    }
}

#[async_trait]
impl ChannelResolver for NodeChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>, DataFusionError> {
        let node = node_of(url)?;
        let channel: Box<dyn WorkerChannel> = match &self.own {
            Some(own) if node == self.network.own_node() => Box::new(own.clone()),
            _ => Box::new(NodeChannel { network: self.network.clone(), node }),
        };
        Ok(channel)
    }
}

/// Calls of this node's worker, in this process.
#[derive(Clone)]
struct OwnChannel {
    worker: Worker,
    /// Where other nodes that read rows of the tasks find them.
    registry: Arc<TaskRegistry>,
}

#[async_trait]
impl WorkerChannel for OwnChannel {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        set_plan_request: SetPlanRequest,
        c2w_stream: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        _task_ctx: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        let operators = task_metrics::operators_of(&set_plan_request.plan);
        let key = set_plan_request.task_key;
        let guard = Arc::new(self.registry.begin_own(key).map_err(into_datafusion)?);
        // The task ends with the query. If it cannot begin, its readers find it until the reason is known.
        let running = guard.clone();
        let end = stream::once(async move { drop(running) }).filter_map(|()| ready(None));
        let orders = c2w_stream.chain(end).map(Ok).boxed();
        match self.worker.coordinator_channel(headers, set_plan_request, orders).await {
            Ok(messages) => Ok(task_metrics::complete(messages, operators)),
            Err(error) => {
                let error = from_datafusion(error);
                self.registry.fail(key, error.clone());
                Err(into_datafusion(error))
            }
        }
    }

    async fn execute_task(
        &mut self,
        _headers: HeaderMap,
        request: ExecuteTaskRequest,
        _metrics: ExecutionPlanMetricsSet,
        _task_ctx: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let (partitions, _) = self.worker.execute_task(request).await?;
        Ok(partitions.into_iter().map(|rows| rows.boxed()).collect())
    }

    async fn get_worker_info(&mut self, _request: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        Ok(GetWorkerInfoResponse { version: self.worker.version().to_string() })
    }
}

/// Calls of one node.
struct NodeChannel {
    network: Arc<dyn QueryNetwork>,
    node: NodeId,
}

impl NodeChannel {
    fn failed(&self, error: volley_common::Error) -> DataFusionError {
        into_datafusion(of_node(self.node, error))
    }
}

#[async_trait]
impl WorkerChannel for NodeChannel {
    async fn coordinator_channel(
        &mut self,
        headers: HeaderMap,
        set_plan_request: SetPlanRequest,
        c2w_stream: BoxStream<'static, CoordinatorToWorkerMsg>,
        _metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> Result<BoxStream<'static, Result<WorkerToCoordinatorMsg>>> {
        let operators = task_metrics::operators_of(&set_plan_request.plan);
        let start = StartQueryTask {
            key: Some(encode_key(&set_plan_request.task_key)),
            tasks: set_plan_request.task_count as u64,
            plan: set_plan_request.plan.encode(task_ctx)?.into(),
            settings: encode_settings(&headers).map_err(into_datafusion)?,
            query_started_ns: set_plan_request.query_start_time_ns as u64,
            time_left_ms: time_left_ms(task_ctx),
        };
        // Plans have no feeds of work, so the messages say nothing. Their end is that of the query.
        let ended = Box::pin(c2w_stream.for_each(|_| ready(())));
        let node = self.node;
        let reports = self.network.run_task(node, start, ended).await.map_err(|error| self.failed(error))?;
        let message = move |report: volley_common::Result<QueryTaskReport>| {
            let metrics = match report {
                Ok(report) => report.metrics?,
                Err(error) => return Some(Err(into_datafusion(of_node(node, error)))),
            };
            Some(Ok(WorkerToCoordinatorMsg::TaskMetrics(task_metrics::decode(&metrics))))
        };
        Ok(task_metrics::complete(reports.filter_map(move |report| ready(message(report))).boxed(), operators))
    }

    /// The task computes from now on, as far as its rows have room, whether they are read or not.
    async fn execute_task(
        &mut self,
        _headers: HeaderMap,
        request: ExecuteTaskRequest,
        _metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let partitions = request.target_partition_start..request.target_partition_end;
        let request = ReadQueryTaskRequest {
            key: Some(encode_key(&request.task_key)),
            first_partition: partitions.start as u64,
            end_partition: partitions.end as u64,
            output: encode_output(request.producer_head, task_ctx).map_err(into_datafusion)?,
        };
        let rows = self.network.read_task(self.node, request).await.map_err(|error| self.failed(error))?;
        Ok(received_rows::receive(self.node, rows, partitions, task_ctx.memory_pool()))
    }

    async fn get_worker_info(&mut self, _request: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        let described = self.network.describe(self.node).await.map_err(|error| self.failed(error))?;
        Ok(GetWorkerInfoResponse { version: described.engine })
    }
}

/// How long tasks of the query may run, milliseconds; 0: as long as they like.
fn time_left_ms(context: &TaskContext) -> u64 {
    let end = context.session_config().get_extension::<QueryEnd>().and_then(|end| end.0);
    end.map_or(0, |end| {
        let left = end.saturating_duration_since(Instant::now()).as_millis();
        u64::try_from(left).unwrap_or(u64::MAX).max(1)
    })
}
