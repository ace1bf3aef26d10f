//! Tasks of other nodes' queries, run by this node's engine: in its memory, with its functions and settings.

use std::fmt;
use std::future::ready;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use async_trait::async_trait;
use datafusion::common::DataFusionError;
use datafusion::common::hash_utils::create_hashes;
use datafusion::config::ConfigOptions;
use datafusion::execution::SessionState;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    CoordinatorToWorkerMsg, DistributedConfig, DistributedExt, ExecuteTaskRequest, MaybeEncoded, SetPlanRequest,
    TaskKey, Worker, WorkerPlanRewriteEvent, WorkerPlanRewriteEventResponse, WorkerPlanRewriteHandler,
    WorkerQueryContext, WorkerSessionBuilder, WorkerToCoordinatorMsg,
};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, future, stream};
use volley_common::wire::cluster::{
    DescribeWorkerReply, QueryTaskReport, QueryTaskRows, ReadQueryTaskRequest, StartQueryTask,
};
use volley_common::{Error, Result};

use super::broadcasts::bounded;
use super::channel::NodeChannels;
use super::leaf_codec::LeafCodec;
use super::messages::{decode_key, decode_number, decode_output, decode_settings, url_of};
use super::portability::check_received;
use super::task_registry::{TaskGuard, TaskRegistry};
use super::{sent_rows, task_metrics};
use crate::engine::query_stream::catch_panic;
use crate::fault::{checked, from_datafusion};
use crate::query_network::QueryNetwork;

/// The version of what nodes send each other for queries, beside that of DataFusion: messages, and plans with the functions and
/// filters of the engine. Raised by each change that other versions do not understand, or understand in another way.
const MESSAGES_VERSION: u32 = 2;
/// The most partitions of a task that are read in one call: memory is taken for all of them before it is known whether they exist.
const MAX_READ_PARTITIONS: usize = 1 << 16;
/// How much longer than its query a task may run: the head says why a query ends, not its tasks.
const GRACE: Duration = Duration::from_secs(1);

/// Runs tasks for other nodes. Its futures and streams belong on the threads of queries; what they give can be read anywhere.
pub struct QueryWorker {
    worker: Worker,
    network: Arc<dyn QueryNetwork>,
    registry: Arc<TaskRegistry>,
}

/// The version of this node's engine, as nodes compare it. Nodes that distribute rows by another hash would join wrongly, so it
/// has a sample of that, too: the hash may depend on the processor and on how the program was compiled.
pub(super) fn engine_version() -> &'static str {
    static VERSION: LazyLock<String> = LazyLock::new(|| {
        let (engine, processor) = (datafusion::DATAFUSION_VERSION, std::env::consts::ARCH);
        let hashes = sample_hashes().unwrap_or_default();
        format!("datafusion {engine}, messages {MESSAGES_VERSION}, {processor}, hashes {hashes:x?}")
    });
    &VERSION
}

fn sample_hashes() -> datafusion::error::Result<Vec<u64>> {
    let columns: [ArrayRef; 3] = [
        Arc::new(Int64Array::from(vec![1, -7])),
        Arc::new(StringArray::from(vec!["", "a text of more than sixteen bytes"])),
        Arc::new(Float64Array::from(vec![0.5, -3.0])),
    ];
    let mut hashes = vec![0; 2];
    create_hashes(&columns, REPARTITION_RANDOM_STATE.random_state(), &mut hashes)?;
    Ok(hashes)
}

impl QueryWorker {
    /// With the sessions of `template`, for at most `max_queries` queries at once.
    pub(super) fn new(template: SessionState, network: Arc<dyn QueryNetwork>, max_queries: usize) -> Self {
        let runtime = template.runtime_env().clone();
        let sessions = TaskSessions { template, network: network.clone() };
        let worker = Worker::from_session_builder(sessions).with_runtime_env(runtime).with_version(engine_version());
        QueryWorker { worker, network, registry: TaskRegistry::new(max_queries) }
    }

    /// What other nodes have to know before they send tasks.
    pub fn describe(&self) -> DescribeWorkerReply {
        DescribeWorkerReply { engine: engine_version().into(), has_room: self.registry.has_room() }
    }

    /// Runs a task until `ended` completes or its time is over. The stream ends with the task. A caller that drops the stream has to
    /// complete `ended`, too: the service of nodes does, by the end of the call.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the task cannot be read. RESOURCE_EXHAUSTED: too many queries have tasks here. Those of its plan.
    pub async fn run_task(
        &self,
        start: StartQueryTask,
        ended: BoxFuture<'static, ()>,
    ) -> Result<BoxStream<'static, Result<QueryTaskReport>>> {
        let key = decode_key(start.key.as_ref())?;
        let guard = self.registry.begin(key).map(Arc::new);
        let begun = match &guard {
            Ok(guard) => self.begin(key, guard.clone(), start, ended).await,
            Err(error) => Err(error.clone()),
        };
        // Nodes that read its rows may know of it before the head does. They find it until the reason is known.
        begun.inspect_err(|error| self.registry.fail(key, error.clone()))
    }

    async fn begin(
        &self,
        key: TaskKey,
        guard: Arc<TaskGuard>,
        start: StartQueryTask,
        ended: BoxFuture<'static, ()>,
    ) -> Result<BoxStream<'static, Result<QueryTaskReport>>> {
        let headers = decode_settings(&start.settings)?;
        let request = SetPlanRequest {
            task_key: key,
            task_count: decode_number(start.tasks)?,
            plan: MaybeEncoded::Encoded(start.plan.into()),
            work_unit_feed_declarations: Vec::new(),
            target_worker_url: checked(url_of(self.network.own_node()))?,
            query_start_time_ns: decode_number(start.query_started_ns)?,
        };
        let task_ended = guard.ended();
        let limit = time_limit(start.time_left_ms);
        let orders = stream::once(async move {
            future::select(ended, limit).await;
            drop(guard);
        });
        let orders = orders.filter_map(|()| ready(None::<datafusion::error::Result<CoordinatorToWorkerMsg>>)).boxed();
        let reports = catch_panic(self.worker.coordinator_channel(headers, request, orders)).await?;
        let reports = checked(reports)?.filter_map(|message| ready(report_of(message)));
        let until_end = stream::once(async move { task_ended.cancelled().await }).filter_map(|()| ready(None));
        Ok(reports.chain(until_end).boxed())
    }

    /// The rows of some partitions of a task that runs here. They are computed until the task ends or the stream is dropped.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the request cannot be read. UNAVAILABLE: no such task runs here. Those of the task; later ones are the
    /// stream's last item.
    pub async fn read_task(&self, request: ReadQueryTaskRequest) -> Result<BoxStream<'static, Result<QueryTaskRows>>> {
        let key = decode_key(request.key.as_ref())?;
        let first = decode_number(request.first_partition)?;
        let end = decode_number(request.end_partition)?.max(first);
        if end - first > MAX_READ_PARTITIONS {
            return Err(Error::invalid(format!("a task does not have {} partitions", end - first)));
        }
        let request = ExecuteTaskRequest {
            task_key: key,
            target_partition_start: first,
            target_partition_end: end,
            producer_head: decode_output(request.output)?,
        };
        // It waits for a task that has not begun yet.
        let partitions = tokio::select! {
            biased;
            error = self.registry.failure(&key) => return Err(error),
            partitions = catch_panic(self.worker.execute_task(request)) => partitions?,
        };
        let Some(ended) = self.registry.end_of(&key) else {
            return Err(Error::unavailable(
                "no such task of a query runs here: it has ended, or the node was restarted",
            ));
        };
        let (partitions, _) = checked(partitions)?;
        sent_rows::send(partitions, first, &ended)
    }

    /// How many tasks run here.
    #[cfg(test)]
    pub(in crate::engine) fn running(&self) -> usize {
        self.registry.running()
    }

    /// For the sessions of queries of which this node is the head: it runs its own tasks without sending them.
    pub(super) fn head_channels(&self) -> NodeChannels {
        NodeChannels::of_head(self.network.clone(), self.worker.clone(), self.registry.clone())
    }
}

impl fmt::Debug for QueryWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryWorker").field("node", &self.network.own_node()).finish_non_exhaustive()
    }
}

/// Completes when the time is over; never, if there is no limit.
fn time_limit(time_left_ms: u64) -> BoxFuture<'static, ()> {
    match time_left_ms {
        0 => Box::pin(future::pending()),
        ms => Box::pin(tokio::time::sleep(Duration::from_millis(ms).saturating_add(GRACE))),
    }
}

fn report_of(message: datafusion::error::Result<WorkerToCoordinatorMsg>) -> Option<Result<QueryTaskReport>> {
    match message {
        Ok(WorkerToCoordinatorMsg::TaskMetrics(metrics)) => {
            Some(Ok(QueryTaskReport { metrics: Some(task_metrics::encode(&metrics)) }))
        }
        // Numbers of tasks are fixed when the query is planned.
        Ok(WorkerToCoordinatorMsg::LoadInfo(_) | WorkerToCoordinatorMsg::LoadInfoEos) => None,
        Err(error) => Some(Err(from_datafusion(error))),
    }
}

/// Makes the sessions of tasks.
struct TaskSessions {
    template: SessionState,
    network: Arc<dyn QueryNetwork>,
}

#[async_trait]
impl WorkerSessionBuilder for TaskSessions {
    async fn build_session_state(&self, ctx: WorkerQueryContext) -> Result<SessionState, DataFusionError> {
        let mut builder = ctx.builder;
        let mut config = builder.config().take().unwrap_or_default();
        let distributed = DistributedConfig::from_session_config(&config)?.clone();
        *config.options_mut() = ConfigOptions::clone(self.template.config_options());
        config.options_mut().extensions.insert(distributed);
        config.set_distributed_worker_plan_rewrite_handler(OperatorCheck);
        prepare(&mut config, &self.network);
        let mut state = self.template.clone();
        *state.config_mut() = config;
        Ok(state)
    }
}

/// Refuses plans that no head sends, and bounds what they keep in memory.
struct OperatorCheck;

impl WorkerPlanRewriteHandler for OperatorCheck {
    fn rewrite_worker_plan(
        &self,
        ev: WorkerPlanRewriteEvent<'_>,
    ) -> Result<WorkerPlanRewriteEventResponse, DataFusionError> {
        check_received(&ev.plan)?;
        Ok(WorkerPlanRewriteEventResponse::new(bounded(ev.plan)))
    }
}

/// Adds what encodes leaves, and what reaches other nodes, to a session.
pub(super) fn prepare(config: &mut SessionConfig, network: &Arc<dyn QueryNetwork>) {
    config.set_distributed_user_codec(LeafCodec::new(network.clone()));
    config.set_distributed_channel_resolver(NodeChannels::new(network.clone()));
}
