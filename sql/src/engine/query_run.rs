//! The start of a planned query: on this node alone, or in stages on several nodes.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use datafusion::common::display::{PlanType, StringifiedPlan};
use datafusion::common::format::ExplainFormat;
use datafusion::execution::{SendableRecordBatchStream, SessionState};
use datafusion::logical_expr::{Explain, LogicalPlan};
use datafusion::physical_plan::explain::ExplainExec;
use datafusion::physical_plan::{ExecutionPlan, execute_stream};
use volley_common::Result;

use super::query_stream::Deadline;
use super::stages::{QueryPlacement, QueryStages};
use crate::fault::checked;

/// The step of planning, as EXPLAIN VERBOSE names it.
const STAGES: &str = "stages";

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
    pub(super) async fn start(&self) -> Result<StartedQuery> {
        let plan = checked(self.state.create_physical_plan(&self.plan).await)?;
        let Some(stages) = &self.stages else { return execute(plan, &self.state, false) };
        if let LogicalPlan::Explain(explain) = &self.plan {
            let explained = self.explain(explain, plan, stages).await?;
            return execute(explained, &self.state, false);
        }
        match stages.place(&self.state, &self.plan, &plan, self.deadline).await? {
            QueryPlacement::Head(reason) => {
                tracing::debug!(reason, "a query stays on this node");
                execute(plan, &self.state, false)
            }
            QueryPlacement::Stages(staged) => execute(staged.plan, &staged.state, true),
        }
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

fn execute(plan: Arc<dyn ExecutionPlan>, state: &SessionState, has_stages: bool) -> Result<StartedQuery> {
    let schema = plan.schema();
    let rows = checked(execute_stream(plan, state.task_ctx()))?;
    Ok(StartedQuery { rows, schema, has_stages })
}
