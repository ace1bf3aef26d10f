//! The plan of a task while it runs. It ends with the task, and with it all that its operators keep and compute: tables of joins, rows
//! of broadcasts, files of sorts.
//!
//! The worker of the library leaves the plans of tasks to a cache, which drops them at some later time.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion_distributed::{BroadcastExec, ProducerHead, TaskMetrics};
use volley_common::{Error, Result};

use crate::fault::checked;

/// The plan of one task, and the session to execute it in.
pub(super) struct TaskPlan {
    plan: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    /// Whether the task reports the metrics of its operators.
    collects_metrics: bool,
    /// The plan with the operator on top that distributes its rows, as the first of its readers says.
    output: OnceLock<Result<Arc<dyn ExecutionPlan>>>,
}

impl TaskPlan {
    pub(super) fn new(plan: Arc<dyn ExecutionPlan>, context: Arc<TaskContext>, collects_metrics: bool) -> Self {
        TaskPlan { plan, context, collects_metrics, output: OnceLock::new() }
    }

    /// The rows of some of its partitions, which `head` distributes. Each partition can be read once.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: it has fewer partitions. Those of its operators.
    pub(super) fn execute(
        &self,
        head: ProducerHead,
        partitions: Range<usize>,
    ) -> Result<Vec<SendableRecordBatchStream>> {
        let plan = self.output.get_or_init(|| checked(self.with_output(head))).clone()?;
        let count = plan.properties().partitioning.partition_count();
        if partitions.end > count {
            return Err(Error::invalid(format!("a task has {count} partitions, but {partitions:?} were requested")));
        }
        let rows = partitions.map(|partition| plan.execute(partition, self.context.clone()));
        checked(rows.collect::<datafusion::error::Result<Vec<_>>>())
    }

    fn with_output(&self, head: ProducerHead) -> datafusion::error::Result<Arc<dyn ExecutionPlan>> {
        let rows = without_output(&self.plan);
        let plan: Arc<dyn ExecutionPlan> = match head {
            ProducerHead::None => rows,
            ProducerHead::BroadcastExec { output_partitions } => {
                let partitions = rows.properties().partitioning.partition_count().max(1);
                Arc::new(BroadcastExec::new(rows, output_partitions / partitions))
            }
            ProducerHead::RepartitionExec { partitioning } => {
                let partitioning = partitioning.decode(rows.schema(), &self.context)?;
                Arc::new(RepartitionExec::try_new(rows, partitioning)?)
            }
        };
        Ok(plan)
    }

    /// The metrics of its operators, in the order of the plan, if they are to be reported and the task was read.
    pub(super) fn metrics(&self) -> Option<TaskMetrics> {
        let plan = self.output.get()?.as_ref().ok().filter(|_| self.collects_metrics)?;
        let mut operators = Vec::new();
        add_metrics(plan, &mut operators);
        Some(TaskMetrics { pre_order_plan_metrics: operators, task_metrics: MetricsSet::new() })
    }
}

/// What a plan does without the operator on top that distributes its rows, if it has one.
fn without_output(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    if let Some(exchange) = plan.downcast_ref::<RepartitionExec>() {
        return exchange.input().clone();
    }
    match plan.downcast_ref::<BroadcastExec>() {
        Some(broadcast) => broadcast.input().clone(),
        None => plan.clone(),
    }
}

/// Those of an operator, then those of its inputs.
fn add_metrics(plan: &Arc<dyn ExecutionPlan>, found: &mut Vec<MetricsSet>) {
    found.push(plan.metrics().unwrap_or_default());
    for input in plan.children() {
        add_metrics(input, found);
    }
}
