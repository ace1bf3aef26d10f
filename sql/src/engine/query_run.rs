//! The start of a planned query: on this node alone, or in stages on several nodes.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::display::{PlanType, StringifiedPlan};
use datafusion::common::format::ExplainFormat;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::execution::{RecordBatchStream, SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Explain, LogicalPlan};
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use futures::{Stream, StreamExt};
use volley_common::Result;

use super::cooperative_joins::CooperativeProbeExec;
use super::part_scan::PartScanExec;
use super::query_stream::Deadline;
use super::row_width::{self, RepeatedRows, SmallBatches};
use super::stages::{QueryPlacement, QueryStages};
use super::window_input::WindowInputExec;
use crate::fault::checked;

/// The step of planning, as EXPLAIN VERBOSE names it.
const STAGES: &str = "stages";

/// Bytes of a row of a window that collects lists and texts, which grow from row to row.
const COLLECTED_ROW_BYTES: u64 = 512 << 10;

/// Starts one query, as often as it has to be planned.
pub(super) struct QueryRun {
    pub(super) state: SessionState,
    pub(super) plan: LogicalPlan,
    /// `None`: this node knows no others.
    pub(super) stages: Option<Arc<QueryStages>>,
    pub(super) deadline: Option<Deadline>,
}

/// A query that has been started.
pub(super) struct StartedQuery {
    pub(super) rows: SendableRecordBatchStream,
    /// Of the rows, as the plan says.
    pub(super) schema: SchemaRef,
    /// Whether other nodes run tasks of it.
    pub(super) has_stages: bool,
}

impl QueryRun {
    /// Plans and starts the query on the current runtime.
    ///
    /// # Errors
    /// Those of planning.
    pub(super) async fn start(self: Arc<Self>) -> Result<StartedQuery> {
        let plan = checked(self.state.create_physical_plan(&self.plan).await)?;
        let rows = checked(expected_rows(&plan, self.most_batch_bytes()))?;
        if let Some(rows) = rows.on_this_node.filter(|rows| *rows < self.state.config().batch_size()) {
            return execute(plan, &with_small_batches(&self.state, rows), false);
        }
        let narrowed = rows.of_tables.filter(|rows| *rows < self.state.config().batch_size());
        let narrowed = narrowed.map(|rows| {
            let mut state = self.state.clone();
            *state.config_mut() = state.config().clone().with_batch_size(rows);
            state
        });
        let state = narrowed.as_ref().unwrap_or(&self.state);
        let Some(stages) = &self.stages else { return execute(plan, state, false) };
        if let LogicalPlan::Explain(explain) = &self.plan {
            let explained = self.explain(explain, plan, stages).await?;
            return execute(explained, state, false);
        }
        match stages.place(state, &self.plan, &plan, self.deadline).await? {
            QueryPlacement::Head(reason) => {
                tracing::debug!(reason, "a query stays on this node");
                execute(plan, state, false)
            }
            QueryPlacement::Stages(staged) => {
                staged.count();
                execute(staged.plan, &staged.state, true)
            }
        }
    }

    /// The same on this node alone, with batches for rows of so many bytes.
    pub(super) fn for_rows_of(&self, width: u64) -> Self {
        let rows = row_width::rows_again(width, self.most_batch_bytes());
        let state = with_small_batches(&self.state, rows);
        QueryRun { state, plan: self.plan.clone(), stages: None, deadline: self.deadline }
    }

    fn most_batch_bytes(&self) -> u64 {
        row_width::most_batch_bytes(&self.state.runtime_env().memory_pool, self.state.config().target_partitions())
    }

    /// What EXPLAIN shows: the stages, if there are any. EXPLAIN VERBOSE says why there are none.
    async fn explain(
        &self,
        explain: &Explain,
        shown: Arc<dyn ExecutionPlan>,
        stages: &QueryStages,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let is_text = matches!(explain.explain_format, ExplainFormat::Indent);
        let Some(exec) = shown.downcast_ref::<ExplainExec>().filter(|_| is_text) else { return Ok(shown) };
        // What is shown says why there is none.
        let Ok(plan) = self.state.create_physical_plan(&explain.plan).await else { return Ok(shown) };
        let mut plans = exec.stringified_plans().to_vec();
        match stages.place(&self.state, &explain.plan, &plan, self.deadline).await? {
            QueryPlacement::Head(reason) => {
                let of_stages = PlanType::OptimizedPhysicalPlan { optimizer_name: STAGES.into() };
                plans.push(StringifiedPlan::new(of_stages, format!("this node alone: {reason}")));
            }
            QueryPlacement::Stages(staged) => {
                plans.retain(|plan| plan.plan_type != PlanType::FinalPhysicalPlan);
                plans.push(StringifiedPlan::new(PlanType::FinalPhysicalPlan, staged.describe()));
            }
        }
        Ok(Arc::new(ExplainExec::new(exec.schema(), plans, exec.verbose())))
    }
}

/// A session whose leaves and steps have batches of so many rows.
fn with_small_batches(state: &SessionState, rows: usize) -> SessionState {
    let mut state = state.clone();
    let mut config = state.config().clone().with_batch_size(rows.max(1));
    config.set_extension(Arc::new(SmallBatches));
    *state.config_mut() = config;
    state
}

/// How many rows batches may have, as far as a plan tells.
struct ExpectedBatchRows {
    /// For constants and windows, which need that leaves have such batches, too.
    on_this_node: Option<usize>,
    /// For the rows of tables that are joined.
    of_tables: Option<usize>,
}

fn expected_rows(plan: &Arc<dyn ExecutionPlan>, most_bytes: u64) -> datafusion::error::Result<ExpectedBatchRows> {
    let (mut constants, mut row_bytes, mut is_joined, mut collects) = (0, 0u64, false, false);
    plan.apply(|node| {
        constants = row_width::constant_bytes(node)?.max(constants);
        row_bytes = row_bytes.saturating_add(node.downcast_ref::<PartScanExec>().map_or(0, PartScanExec::row_bytes));
        is_joined |= node.is::<CooperativeProbeExec>();
        collects |= node.downcast_ref::<WindowInputExec>().is_some_and(WindowInputExec::grows);
        Ok(TreeNodeRecursion::Continue)
    })?;
    let of_constants = (constants > 0).then(|| row_width::rows_of_width(constants, most_bytes));
    let of_windows = collects.then(|| row_width::rows_of_width(COLLECTED_ROW_BYTES, most_bytes));
    Ok(ExpectedBatchRows {
        on_this_node: of_constants.into_iter().chain(of_windows).min(),
        of_tables: is_joined.then(|| row_width::rows_of_average(row_bytes, most_bytes)),
    })
}

fn execute(plan: Arc<dyn ExecutionPlan>, state: &SessionState, has_stages: bool) -> Result<StartedQuery> {
    let schema = plan.schema();
    let memory = Arc::new(RepeatedRows::new(&state.runtime_env().memory_pool));
    let mut state = state.clone();
    state.config_mut().set_extension(memory.clone());
    let rows = checked(execute_stream(plan, state.task_ctx()))?;
    Ok(StartedQuery { rows: Box::pin(CountedRows { rows, _memory: memory }), schema, has_stages })
}

/// Rows of a query. What is counted for it is counted until they are dropped.
struct CountedRows {
    rows: SendableRecordBatchStream,
    _memory: Arc<RepeatedRows>,
}

impl Stream for CountedRows {
    type Item = datafusion::error::Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.rows.poll_next_unpin(context)
    }
}

impl RecordBatchStream for CountedRows {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }
}
