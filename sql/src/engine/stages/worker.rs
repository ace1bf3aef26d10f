//! Tasks of other nodes' queries, run by this node's engine: in its memory, with its functions and settings.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use datafusion::common::hash_utils::create_hashes;
use datafusion::execution::SessionState;
use datafusion::physical_plan::repartition::REPARTITION_RANDOM_STATE;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{MaybeEncoded, TaskKey};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{StreamExt, future};
use volley_common::wire::cluster::{
    DescribeWorkerReply, QueryTaskReport, QueryTaskRows, ReadQueryTaskRequest, StartQueryTask,
};
use volley_common::{Error, Result};

use super::channel::{BeginTask, NewTask, NodeChannels};
use super::messages::{decode_key, decode_number, decode_output, decode_settings};
use super::task_registry::TaskGuard;
use super::task_runner::{TaskRunner, end_with};
use super::{sent_rows, task_metrics};
use crate::engine::query_stream::catch_panic;
use crate::fault::checked;
use crate::query_network::QueryNetwork;

/// The version of what nodes send each other for queries, beside that of DataFusion: messages, and plans with the functions and
/// filters of the engine. Raised by each change that other versions do not understand, or understand in another way.
const MESSAGES_VERSION: u32 = 3;
/// The most partitions of a task that are read in one call: memory is taken for all of them before it is known whether they exist.
const MAX_READ_PARTITIONS: usize = 1 << 16;
/// How much longer than its query a task may run: the head says why a query ends, not its tasks.
const GRACE: Duration = Duration::from_secs(1);

/// Runs tasks for other nodes. Its futures and streams belong on the threads of queries; what they give can be read anywhere.
pub struct QueryWorker {
    runner: Arc<TaskRunner>,
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
        QueryWorker { runner: Arc::new(TaskRunner::new(template, network, max_queries)) }
    }

    /// What other nodes have to know before they send tasks.
    pub fn describe(&self) -> DescribeWorkerReply {
        DescribeWorkerReply { engine: engine_version().into(), has_room: self.runner.registry().has_room() }
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
        let begun = match self.runner.registry().begin(key) {
            Ok(guard) => self.begin(key, guard, start, ended).await,
            Err(error) => Err(error),
        };
        // Nodes that read its rows may know of it before the head does. They find it until the reason is known.
        begun.inspect_err(|error| self.runner.registry().fail(key, error.clone()))
    }

    async fn begin(
        &self,
        key: TaskKey,
        guard: TaskGuard,
        start: StartQueryTask,
        ended: BoxFuture<'static, ()>,
    ) -> Result<BoxStream<'static, Result<QueryTaskReport>>> {
        let settings = decode_settings(&start.settings)?;
        let tasks = decode_number(start.tasks)?;
        let limit = time_limit(start.time_left_ms);
        let task = NewTask { key, tasks, settings, plan: MaybeEncoded::Encoded(start.plan.into()) };
        let plan = checked(catch_panic(async { self.runner.begin(&guard, task) }).await?)?;
        let ended = async move {
            future::select(ended, limit).await;
        };
        let reports = end_with(ended, plan, guard)
            .map(|metrics| Ok(QueryTaskReport { metrics: Some(task_metrics::encode(&metrics)) }));
        Ok(reports.boxed())
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
        let output = decode_output(request.output)?;
        let (plan, ended) = self.runner.registry().plan_of(&key).await?;
        let partitions = catch_panic(async { plan.execute(output, first..end) }).await??;
        sent_rows::send(partitions, first, &ended)
    }

    /// How many tasks run here.
    #[cfg(test)]
    pub(in crate::engine) fn running(&self) -> usize {
        self.runner.registry().running()
    }

    /// For the sessions of queries of which this node is the head: it runs its own tasks without sending them.
    pub(super) fn head_channels(&self) -> NodeChannels {
        let runner = self.runner.clone();
        let begin: BeginTask = Arc::new(move |guard: TaskGuard, task: NewTask, ended: BoxFuture<'static, ()>| {
            let plan = runner.begin(&guard, task)?;
            Ok(end_with(ended, plan, guard))
        });
        NodeChannels::of_head(self.runner.network().clone(), self.runner.registry().clone(), begin)
    }

    /// Adds what encodes leaves, and what reaches other nodes, to a session.
    pub(super) fn prepare(&self, config: &mut SessionConfig) {
        self.runner.prepare(config);
    }
}

impl fmt::Debug for QueryWorker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryWorker").field("node", &self.runner.network().own_node()).finish_non_exhaustive()
    }
}

/// Completes when the time is over; never, if there is no limit.
fn time_limit(time_left_ms: u64) -> BoxFuture<'static, ()> {
    match time_left_ms {
        0 => Box::pin(future::pending()),
        ms => Box::pin(tokio::time::sleep(Duration::from_millis(ms).saturating_add(GRACE))),
    }
}
