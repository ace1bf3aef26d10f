//! How the library reaches the nodes of a query: others by the node's own calls, its own tasks without any.

use std::future::ready;
use std::sync::Arc;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::{ExecutionPlanMetricsSet, MetricBuilder};
use datafusion_distributed::{
    ChannelResolver, CoordinatorToWorkerMsg, ExecuteTaskRequest, GetWorkerInfoRequest, GetWorkerInfoResponse,
    MaybeEncoded, SetPlanRequest, TaskKey, TaskMetrics, WorkerChannel, WorkerToCoordinatorMsg,
};
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use http::HeaderMap;
use tokio::time::Instant;
use url::Url;
use volley_common::telemetry::trace::KeptContext;
use volley_common::wire::cluster::{QueryTaskReport, ReadQueryTaskRequest, StartQueryTask};
use volley_common::{Error, NodeId};

use super::messages::{encode_key, encode_output, encode_settings, node_of, of_node};
use super::task_registry::{TaskGuard, TaskRegistry};
use super::{received_rows, task_metrics};
use crate::fault::{from_datafusion, into_datafusion};
use crate::query_network::QueryNetwork;

/// When a query has to have ended, for its tasks on other nodes: in the session of the query.
pub(super) struct QueryEnd(pub(super) Option<Instant>);

/// A task to begin.
pub(super) struct NewTask {
    pub(super) key: TaskKey,
    /// How many tasks its stage has.
    pub(super) tasks: usize,
    /// The settings of its query.
    pub(super) settings: HeaderMap,
    pub(super) plan: MaybeEncoded<Arc<dyn ExecutionPlan>>,
}

/// Begins a task on this node, which ends when the future completes. The stream has its metrics, if it reports them, and ends with it.
pub(super) type BeginTask =
    Arc<dyn Fn(TaskGuard, NewTask, BoxFuture<'static, ()>) -> Result<BoxStream<'static, TaskMetrics>> + Send + Sync>;

/// Finds the channels to nodes.
pub(super) struct NodeChannels {
    network: Arc<dyn QueryNetwork>,
    own: OwnChannel,
    /// The call that the query belongs to.
    call: KeptContext,
}

impl NodeChannels {
    /// For a task, which reads rows of others.
    pub(super) fn of_task(network: Arc<dyn QueryNetwork>, registry: Arc<TaskRegistry>) -> Self {
        NodeChannels { network, own: OwnChannel { registry, begin: None }, call: KeptContext::current() }
    }

    /// For the head of a query, which begins tasks, too.
    pub(super) fn of_head(network: Arc<dyn QueryNetwork>, registry: Arc<TaskRegistry>, begin: BeginTask) -> Self {
        NodeChannels { network, own: OwnChannel { registry, begin: Some(begin) }, call: KeptContext::current() }
    }
}

#[async_trait]
impl ChannelResolver for NodeChannels {
    async fn get_worker_client_for_url(&self, url: &Url) -> Result<Box<dyn WorkerChannel>, DataFusionError> {
        let node = node_of(url)?;
        let channel: Box<dyn WorkerChannel> = match node == self.network.own_node() {
            true => Box::new(self.own.clone()),
            false => Box::new(NodeChannel { network: self.network.clone(), node, call: self.call.clone() }),
        };
        Ok(channel)
    }
}

/// Tasks of this node, in this process.
#[derive(Clone)]
struct OwnChannel {
    registry: Arc<TaskRegistry>,
    /// `None`: it only reads their rows.
    begin: Option<BeginTask>,
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
        let missing = || into_datafusion(Error::internal("a task begins no other one"));
        let begin = self.begin.as_ref().ok_or_else(missing)?;
        let operators = task_metrics::operators_of(&set_plan_request.plan);
        let SetPlanRequest { task_key: key, task_count: tasks, plan, .. } = set_plan_request;
        let guard = self.registry.begin_own(key).map_err(into_datafusion)?;
        // The task ends with the query.
        let ended: BoxFuture<'static, ()> = Box::pin(c2w_stream.for_each(|_| ready(())));
        match begin(guard, NewTask { key, tasks, settings: headers, plan }, ended) {
            Ok(metrics) => {
                let messages = metrics.map(|metrics| Ok(WorkerToCoordinatorMsg::TaskMetrics(metrics)));
                Ok(task_metrics::complete(messages.boxed(), operators))
            }
            Err(error) => {
                // Its readers find it until the reason is known.
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
        let (plan, _) = self.registry.plan_of(&request.task_key).await.map_err(into_datafusion)?;
        let partitions = request.target_partition_start..request.target_partition_end;
        let rows = plan.execute(request.producer_head, partitions).map_err(into_datafusion)?;
        Ok(rows.into_iter().map(|rows| rows.boxed()).collect())
    }

    async fn get_worker_info(&mut self, _request: GetWorkerInfoRequest) -> Result<GetWorkerInfoResponse> {
        Err(into_datafusion(Error::internal("a query asks its own node nothing")))
    }
}

/// Calls of one node.
struct NodeChannel {
    network: Arc<dyn QueryNetwork>,
    node: NodeId,
    call: KeptContext,
}

impl NodeChannel {
    fn failed(&self, error: Error) -> DataFusionError {
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
        let running = self.call.carry(self.network.run_task(node, start, ended));
        let reports = running.await.map_err(|error| self.failed(error))?;
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
        metrics: ExecutionPlanMetricsSet,
        task_ctx: &Arc<TaskContext>,
    ) -> Result<Vec<BoxStream<'static, Result<RecordBatch>>>> {
        let partitions = request.target_partition_start..request.target_partition_end;
        let request = ReadQueryTaskRequest {
            key: Some(encode_key(&request.task_key)),
            first_partition: partitions.start as u64,
            end_partition: partitions.end as u64,
            output: encode_output(request.producer_head, task_ctx).map_err(into_datafusion)?,
        };
        let reading = self.call.carry(self.network.read_task(self.node, request));
        let rows = reading.await.map_err(|error| self.failed(error))?;
        // Of the exchange that reads them. Leaves have the same for what they read of parts.
        let received = MetricBuilder::new(&metrics).global_counter("bytes_received");
        Ok(received_rows::receive(self.node, rows, partitions, task_ctx.memory_pool(), received))
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
