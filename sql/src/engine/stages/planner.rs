//! What the library asks when it makes stages of a plan: how many tasks, which leaf in each, and where they run.

use std::future::ready;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::context::QueryPlanner;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionConfig;
use datafusion_distributed::{
    DesiredTaskCountEvent, DesiredTaskCountEventResponse, DesiredTaskCountHandler, DistributedExt, DistributedLeafExec,
    RouteTasksEvent, RouteTasksEventResponse, RouteTasksHandler, ScaleUpLeafNodeEvent, ScaleUpLeafNodeEventResponse,
    ScaleUpLeafNodeHandler, SessionStateBuilderExt, WorkerResolver,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use url::Url;
use volley_common::Error;

use super::broadcasts::without_local_broadcasts;
use super::colocated_join::ColocatedJoinExec;
use super::messages::url_of;
use super::routing::TaskRouting;
use super::worker::QueryWorker;
use crate::engine::cooperative_joins::{in_pieces, without_pieces};
use crate::engine::part_scan::PartScanExec;
use crate::engine::row_width::with_row_checks;
use crate::fault::into_datafusion;

/// Makes the stages of one query.
pub(super) struct StagePlanner<'a> {
    pub(super) routing: Arc<dyn TaskRouting>,
    pub(super) worker: &'a QueryWorker,
    /// Whether tasks report the metrics of their operators.
    pub(super) collects_metrics: bool,
}

impl StagePlanner<'_> {
    /// The plan with stages, or as it was if it has no place for them; and the configuration of the session to execute it in,
    /// which is `config` with what the library needs.
    pub(super) async fn plan(
        &self,
        state: &SessionState,
        logical: &LogicalPlan,
        plan: Arc<dyn ExecutionPlan>,
        config: SessionConfig,
    ) -> Result<(Arc<dyn ExecutionPlan>, SessionConfig)> {
        let config = self.config(config)?;
        // The library looks for joins and their inputs, too: it exchanges the sides of some, and distributes those of others.
        let plan = without_pieces(plan)?;
        let mut builder = SessionStateBuilder::new()
            .with_config(config)
            .with_query_planner(Arc::new(KnownPlan(plan)))
            .with_distributed_planner();
        let missing = || into_datafusion(Error::internal("the planner of stages is missing"));
        let planner = builder.query_planner().take().ok_or_else(missing)?;
        let config = builder.config().take().ok_or_else(missing)?;
        let mut state = state.clone();
        *state.config_mut() = config.clone();
        let plan = planner.create_physical_plan(logical, &state).await?;
        Ok((in_pieces(with_row_checks(without_local_broadcasts(plan)?)?)?, config))
    }

    fn config(&self, mut config: SessionConfig) -> Result<SessionConfig> {
        let workers = self.routing.nodes(self.routing.max_tasks());
        let urls = workers.into_iter().map(url_of).collect::<Result<Vec<_>>>()?;
        config.set_distributed_worker_resolver(Workers(urls));
        config.set_distributed_channel_resolver(self.worker.head_channels());
        config.set_distributed_metrics_collection(self.collects_metrics)?;
        // All inputs of a union are read in all tasks, so that each part is read where it is.
        config.set_distributed_children_isolator_unions(false)?;
        let decisions = || StageDecisions(self.routing.clone());
        config.set_distributed_desired_task_count_handler(decisions());
        config.set_distributed_scale_up_leaf_node_handler(decisions());
        config.set_distributed_route_tasks_handler(decisions());
        Ok(config)
    }
}

/// The planner that the library asks first: the plan is known already.
#[derive(Debug)]
struct KnownPlan(Arc<dyn ExecutionPlan>);

impl QueryPlanner for KnownPlan {
    // As `async_trait` writes it, but the future does not hold the arguments: see `crate::erased`.
    fn create_physical_plan<'a, 'b, 'c, 'f>(
        &'a self,
        _logical_plan: &'b LogicalPlan,
        _session: &'c dyn Session,
    ) -> BoxFuture<'f, Result<Arc<dyn ExecutionPlan>>>
    where
        'a: 'f,
        'b: 'f,
        'c: 'f,
        Self: 'f,
    {
        ready(Ok(self.0.clone())).boxed()
    }
}

/// The nodes of the query.
struct Workers(Vec<Url>);

impl WorkerResolver for Workers {
    fn get_urls(&self) -> Result<Vec<Url>, DataFusionError> {
        Ok(self.0.clone())
    }
}

/// Answers by the routing of the query.
struct StageDecisions(Arc<dyn TaskRouting>);

#[async_trait]
impl DesiredTaskCountHandler for StageDecisions {
    /// A leaf of one partition stays whole: an operator that needs all rows in one partition may be above it.
    async fn handle(&self, ev: DesiredTaskCountEvent<'_>) -> Option<Result<DesiredTaskCountEventResponse>> {
        let is_whole = match ev.plan.downcast_ref::<PartScanExec>() {
            Some(scan) => scan.partition_count() == 1,
            None if ev.plan.is::<ColocatedJoinExec>() => false,
            None => return None,
        };
        Some(Ok(match is_whole {
            true => DesiredTaskCountEventResponse::maximum(1),
            false => DesiredTaskCountEventResponse::desired(self.0.max_tasks()),
        }))
    }
}

impl ScaleUpLeafNodeHandler for StageDecisions {
    fn handle(&self, ev: ScaleUpLeafNodeEvent<'_>) -> Option<Result<ScaleUpLeafNodeEventResponse>> {
        if ev.task_count < 2 {
            return None;
        }
        let leaf = self
            .split(ev.plan, ev.task_count)?
            .and_then(|variants| DistributedLeafExec::try_new(ev.plan.clone(), variants));
        Some(leaf.map(|leaf| ScaleUpLeafNodeEventResponse::new(Arc::new(leaf))))
    }
}

impl StageDecisions {
    /// The leaf of each task; `None`: it is no leaf of ours.
    fn split(&self, leaf: &Arc<dyn ExecutionPlan>, tasks: usize) -> Option<Result<Vec<Arc<dyn ExecutionPlan>>>> {
        if let Some(join) = leaf.downcast_ref::<ColocatedJoinExec>() {
            return Some(join.split(self.0.as_ref(), tasks));
        }
        let scan = leaf.downcast_ref::<PartScanExec>()?;
        Some(scan.split(&self.0.assign_parts(scan.ticket_parts(), tasks), &self.0.nodes(tasks)))
    }
}

impl RouteTasksHandler for StageDecisions {
    fn handle(&self, ev: RouteTasksEvent<'_>) -> Option<Result<RouteTasksEventResponse>> {
        let urls = self.0.nodes(ev.task_count).into_iter().map(url_of).collect::<Result<Vec<_>>>();
        Some(urls.map(RouteTasksEventResponse::new))
    }
}
