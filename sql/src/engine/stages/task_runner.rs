//! Runs the tasks of this node, for other nodes and for its own queries: in the engine's memory, with its functions and settings.

use std::future::ready;
use std::sync::Arc;

use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::SessionState;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{DistributedConfig, DistributedExt, DistributedTaskContext, MaybeEncoded, TaskMetrics};
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use http::HeaderMap;
use tokio::sync::oneshot;

use super::broadcasts::bounded;
use super::channel::{NewTask, NodeChannels};
use super::leaf_codec::LeafCodec;
use super::portability::{check_received, decode};
use super::task_plan::TaskPlan;
use super::task_registry::{TaskGuard, TaskRegistry};
use crate::engine::row_width::RepeatedRows;
use crate::erased::Erased;
use crate::query_network::QueryNetwork;

/// What tasks of a node need.
pub(super) struct TaskRunner {
    template: Erased<SessionState>,
    network: Arc<dyn QueryNetwork>,
    registry: Arc<TaskRegistry>,
}

impl TaskRunner {
    /// With the sessions of `template`, for at most `max_queries` queries of other nodes at once.
    pub(super) fn new(template: SessionState, network: Arc<dyn QueryNetwork>, max_queries: usize) -> Self {
        TaskRunner { template: Erased::new(template), network, registry: TaskRegistry::new(max_queries) }
    }

    pub(super) fn network(&self) -> &Arc<dyn QueryNetwork> {
        &self.network
    }

    pub(super) fn registry(&self) -> &Arc<TaskRegistry> {
        &self.registry
    }

    /// Begins a task: from now on its rows can be read. Call it on the runtime of queries.
    ///
    /// # Errors
    /// Those of decoding its plan. PERMISSION_DENIED: the plan has an operator that no head sends.
    pub(super) fn begin(&self, guard: &TaskGuard, task: NewTask) -> Result<Arc<TaskPlan>> {
        let NewTask { key, tasks, settings, plan } = task;
        let config =
            self.config(DistributedTaskContext { task_index: key.task_number, task_count: tasks }, &settings)?;
        let collects_metrics = DistributedConfig::from_session_config(&config)?.collect_metrics;
        let mut state = SessionState::clone(&self.template);
        *state.config_mut() = config;
        let context = state.task_ctx();
        let plan = match plan {
            MaybeEncoded::Encoded(encoded) => decode(&encoded, &context)?,
            MaybeEncoded::Decoded(plan) => plan,
        };
        check_received(&plan)?;
        let plan = Arc::new(TaskPlan::new(bounded(plan), context, collects_metrics));
        guard.set_plan(plan.clone());
        Ok(plan)
    }

    /// The session of a task: the engine's, with what the library sends of its query.
    fn config(&self, position: DistributedTaskContext, settings: &HeaderMap) -> Result<SessionConfig> {
        let mut config = SessionConfig::default()
            .with_extension(Arc::new(position))
            .with_distributed_option_extension_from_headers::<DistributedConfig>(settings)?;
        let distributed = DistributedConfig::from_session_config(&config)?.clone();
        *config.options_mut() = ConfigOptions::clone(self.template.config_options());
        config.options_mut().extensions.insert(distributed);
        config.set_extension(Arc::new(RepeatedRows::new(&self.template.runtime_env().memory_pool)));
        self.prepare(&mut config);
        Ok(config)
    }

    /// Adds what encodes leaves, and what reaches the nodes of a query, to a session.
    pub(super) fn prepare(&self, config: &mut SessionConfig) {
        config.set_distributed_user_codec(LeafCodec::new(self.network.clone()));
        config.set_distributed_channel_resolver(NodeChannels::of_task(self.network.clone(), self.registry.clone()));
    }
}

/// Ends a task when `ended` completes, also if the stream is dropped. The stream has the metrics of the task, if it reports them, and ends
/// with it. Call it on the runtime of queries, which drops what the task keeps.
pub(super) fn end_with(
    ended: impl Future<Output = ()> + Send + 'static,
    plan: Arc<TaskPlan>,
    guard: TaskGuard,
) -> BoxStream<'static, TaskMetrics> {
    let (sender, metrics) = oneshot::channel();
    tokio::spawn(async move {
        ended.await;
        let metrics = plan.metrics();
        drop(guard);
        drop(plan);
        // Nobody has to take them.
        let _ = sender.send(metrics);
    });
    stream::once(metrics).filter_map(|metrics| ready(metrics.ok().flatten())).boxed()
}
