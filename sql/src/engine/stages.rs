//! Queries on several nodes: datafusion-distributed splits a plan into stages and tasks, and the nodes run these for each other.
//!
//! The node that gets a query is its head. See docs/adr/0013-distributed-queries.md.
//!
//! | module | what it has |
//! |---|---|
//! | `routing` | which parts a task reads, and which node runs it |
//! | `colocation`, `colocated_join` | joins of tables with equal shards, for which no row is exchanged |
//! | `planner` | what the library asks when it makes stages |
//! | `portability` | plans that would not be the same on another node |
//! | `broadcasts` | broadcasts of a side of a join, within the memory of queries |
//! | `leaf_codec` | the engine's own operators as bytes |
//! | `channel`, `messages`, `task_metrics` | calls to other nodes, and what is sent in them |
//! | `received_rows`, `sent_rows` | rows of tasks on their way between nodes |
//! | `worker`, `task_runner`, `task_plan`, `task_registry` | tasks that run here |

mod broadcasts;
mod channel;
mod colocated_join;
mod colocation;
mod leaf_codec;
mod messages;
mod planner;
mod portability;
mod received_rows;
mod routing;
mod sent_rows;
mod task_metrics;
mod task_plan;
mod task_registry;
mod task_runner;
mod worker;

use std::fmt::Write;
use std::sync::Arc;

use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::{FunctionRegistry, SessionState};
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::analyze::AnalyzeExec;
use datafusion_distributed::{DistributedExec, NetworkBoundaryExt, display_plan_ascii};
use futures::future::join_all;
use volley_common::wire::cluster::TicketPart;
use volley_common::{NodeId, Result};

use self::channel::QueryEnd;
use self::colocation::colocate;
use self::planner::StagePlanner;
use self::routing::{HolderRouting, TaskRouting, candidates};
use self::worker::engine_version;
use super::bounded_functions;
use super::part_scan::PartScanExec;
use super::query_stream::Deadline;
use crate::erased::Erased;
use crate::exact_casts::fence;
use crate::fault::checked;
use crate::query_network::QueryNetwork;

pub use self::worker::QueryWorker;

/// The most nodes that run one query: each reads from all others.
const MAX_WORKERS: usize = 32;

/// What queries on several nodes have in common.
pub(super) struct QueryStages {
    network: Arc<dyn QueryNetwork>,
    /// Queries that read fewer bytes stay on one node.
    min_bytes: u64,
    /// As that of `worker`.
    template: Erased<SessionState>,
    worker: Arc<QueryWorker>,
}

/// How a query runs.
pub(super) enum QueryPlacement {
    /// On this node alone, for this reason.
    Head(String),
    /// On several nodes.
    Stages(Box<StagedPlan>),
}

/// A plan with stages.
pub(super) struct StagedPlan {
    pub(super) plan: Arc<dyn ExecutionPlan>,
    /// The session to execute it in.
    pub(super) state: SessionState,
    nodes: Vec<NodeId>,
}

impl StagedPlan {
    /// Counts the query and its stages in the metrics.
    pub(super) fn count(&self) {
        let mut stages = 1;
        // A plan that cannot be walked has one.
        let _ = self.plan.apply(|node| {
            stages += u64::from(node.is_network_boundary());
            Ok(TreeNodeRecursion::Continue)
        });
        metrics::counter!("volley_queries_distributed_total").increment(1);
        metrics::counter!("volley_query_stages_total").increment(stages);
    }

    /// The stages, and the node of each task.
    pub(super) fn describe(&self) -> String {
        let mut text = String::from("tasks:");
        for (task, node) in self.nodes.iter().enumerate() {
            // A string takes all that is written.
            let _ = write!(text, " t{task} on node {node},");
        }
        text.pop();
        text + "; a stage of one task on this node\n" + &display_plan_ascii(self.plan.as_ref(), false)
    }
}

impl QueryStages {
    /// For an engine whose sessions are as `template`.
    ///
    /// # Errors
    /// INTERNAL: a function cannot be registered.
    pub(super) fn new(
        network: Arc<dyn QueryNetwork>,
        min_bytes: u64,
        template: &SessionState,
        max_queries: usize,
    ) -> Result<Self> {
        let mut template = template.clone();
        // Plans have them, but no statement can call them by name.
        for function in [bounded_functions::text_concat(), fence()] {
            checked(template.register_udf(function))?;
        }
        let worker = Arc::new(QueryWorker::new(template.clone(), network.clone(), max_queries));
        Ok(QueryStages { network, min_bytes, template: Erased::new(template), worker })
    }

    pub(super) fn worker(&self) -> &Arc<QueryWorker> {
        &self.worker
    }

    /// Where a plan of the session `state` runs, which is that of the logical plan `logical`.
    ///
    /// # Errors
    /// Those of planning stages. Nodes that do not answer are left out.
    pub(super) async fn place(
        &self,
        state: &SessionState,
        logical: &LogicalPlan,
        plan: &Arc<dyn ExecutionPlan>,
        deadline: Option<Deadline>,
    ) -> Result<QueryPlacement> {
        let analyzed = plan.downcast_ref::<AnalyzeExec>().map(AnalyzeExec::input);
        let rows = analyzed.unwrap_or(plan);
        let leaves = checked(Leaves::of(rows))?;
        if let Some(reason) = self.reason_of_size(&leaves) {
            return Ok(QueryPlacement::Head(reason));
        }
        let own = self.network.own_node();
        let workers = candidates(leaves.parts(), &self.network.nodes(), own, MAX_WORKERS);
        let mut config = state.config().clone();
        self.worker.prepare(&mut config);
        let mut as_worker = SessionState::clone(&self.template);
        *as_worker.config_mut() = config.clone();
        if let Some(reason) = portability::reason_to_stay(rows, &as_worker.task_ctx()) {
            return Ok(QueryPlacement::Head(reason));
        }
        let workers = self.ready(workers, own).await;
        if workers.len() < 2 {
            return Ok(QueryPlacement::Head("no other node of this version has room".into()));
        }
        let routing: Arc<dyn TaskRouting> = Arc::new(HolderRouting::new(own, workers));
        let nodes = routing.nodes(routing.max_tasks());
        config.set_extension(Arc::new(QueryEnd(deadline.map(|deadline| deadline.at))));
        let planner = StagePlanner { routing, worker: &self.worker, collects_metrics: analyzed.is_some() };
        let plan = checked(colocate(plan, planner.routing.max_tasks()))?;
        let (plan, config) = checked(planner.plan(state, logical, plan, config).await)?;
        if !checked(plan.exists(|node| Ok(node.is::<DistributedExec>())))? {
            return Ok(QueryPlacement::Head(
                "its tables have too few parts, or its steps need all rows in one place".into(),
            ));
        }
        let mut state = state.clone();
        *state.config_mut() = config;
        Ok(QueryPlacement::Stages(Box::new(StagedPlan { plan, state, nodes })))
    }

    /// Why a query does not need other nodes.
    fn reason_of_size(&self, leaves: &Leaves) -> Option<String> {
        if leaves.scans.is_empty() {
            return Some("it reads no table".into());
        }
        let (bytes, least) = (leaves.bytes, self.min_bytes);
        (bytes < least)
            .then(|| format!("its parts have about {bytes} bytes, fewer than {least} (`sql_distribute_bytes`)"))
    }

    /// Those of the nodes that accept tasks of one more query, in their order.
    async fn ready(&self, nodes: Vec<NodeId>, own: NodeId) -> Vec<NodeId> {
        let asked = nodes.into_iter().map(|node| async move {
            if node == own {
                return Some(node);
            }
            match self.network.describe(node).await {
                Ok(described) if described.engine == engine_version() && described.has_room => Some(node),
                Ok(described) => {
                    tracing::debug!(%node, engine = described.engine, "a node takes no part in a query");
                    None
                }
                Err(error) => {
                    tracing::debug!(%node, %error, "a node takes no part in a query");
                    None
                }
            }
        });
        join_all(asked).await.into_iter().flatten().collect()
    }
}

/// What a plan reads.
#[derive(Default)]
struct Leaves {
    scans: Vec<Arc<dyn ExecutionPlan>>,
    /// Of all parts, about.
    bytes: u64,
}

impl Leaves {
    fn of(plan: &Arc<dyn ExecutionPlan>) -> datafusion::error::Result<Self> {
        let mut leaves = Leaves::default();
        plan.apply(|node| {
            if let Some(scan) = node.downcast_ref::<PartScanExec>() {
                leaves.bytes = leaves.bytes.saturating_add(scan.table_bytes());
                leaves.scans.push(node.clone());
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(leaves)
    }

    fn parts(&self) -> impl Iterator<Item = &TicketPart> {
        self.scans.iter().filter_map(|scan| scan.downcast_ref::<PartScanExec>()).flat_map(PartScanExec::ticket_parts)
    }
}
