//! Broadcasts of one side of a join to all tasks, within the memory of queries.
//!
//! The library's BroadcastExec keeps the rows of its input until every task has read them. It counts them in the memory of queries,
//! but does not ask whether there is any, and does not wait for its readers: a side that is larger than was expected would take
//! all memory of the node. So its input asks before each batch, and a broadcast that is too large ends its query with an error, as a
//! join on one node does. Without broadcasts the library would run such joins in one task.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::error::Result;
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::physical_plan::metrics::MetricsSet;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, SendableRecordBatchStream, replace_children_if_necessary,
};
use datafusion_distributed::{BroadcastExec, NetworkBoundaryExt};
use futures::StreamExt;

/// The plan of a task, which sends rows to others by a broadcast only if there is memory for them.
pub(super) fn bounded(plan: Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    let broadcast = plan.downcast_ref::<BroadcastExec>();
    let broadcast = broadcast.map(|broadcast| (broadcast.input().clone(), broadcast.consumer_task_count()));
    let Some((inner, tasks)) = broadcast else { return plan };
    Arc::new(BroadcastExec::new(Arc::new(RefusableRows { inner }), tasks))
}

/// A plan with stages, without broadcasts whose rows do not leave their task. The library leaves them where the tasks on both sides
/// are one, and there nothing would bound them.
///
/// # Errors
/// Those of operators that do not accept their inputs.
pub(super) fn without_local_broadcasts(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    without_local(plan, false)
}

/// `is_sent`: the plan is that of a stage, whose rows go to other tasks.
fn without_local(plan: Arc<dyn ExecutionPlan>, is_sent: bool) -> Result<Arc<dyn ExecutionPlan>> {
    let broadcast = plan.downcast_ref::<BroadcastExec>().filter(|_| !is_sent);
    if let Some(local) = broadcast.filter(|broadcast| broadcast.consumer_task_count() == 1) {
        return without_local(local.input().clone(), false);
    }
    let is_boundary = plan.is_network_boundary();
    let inputs: Vec<Arc<dyn ExecutionPlan>> = plan.children().into_iter().cloned().collect();
    if inputs.is_empty() {
        return Ok(plan);
    }
    let inputs = inputs.into_iter().map(|input| without_local(input, is_boundary)).collect::<Result<Vec<_>>>()?;
    replace_children_if_necessary(plan, inputs)
}

/// An operator whose rows are refused when there is no memory for them. To all others it is this operator, also to those that count
/// the operators of a task.
#[derive(Debug)]
struct RefusableRows {
    inner: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for RefusableRows {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        self.inner.fmt_as(format, f)
    }
}

impl ExecutionPlan for RefusableRows {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn downcast_delegate(&self) -> Option<&dyn ExecutionPlan> {
        Some(self.inner.as_ref())
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.inner.properties()
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inner.children()
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        self.inner.apply_expressions(f)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let inner = self.inner.clone().replace_children(children, options)?;
        Ok(Arc::new(RefusableRows { inner }))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let memory = MemoryConsumer::new(format!("BroadcastExec[{partition}]")).register(context.memory_pool());
        let rows = self.inner.execute(partition, context)?;
        let admitted = rows.map(move |batch: Result<RecordBatch>| -> Result<RecordBatch> {
            let batch = batch?;
            // BroadcastExec takes as much, as soon as it has the batch.
            let bytes = batch.get_array_memory_size();
            memory.try_grow(bytes)?;
            memory.shrink(bytes);
            Ok(batch)
        });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), admitted)))
    }

    fn metrics(&self) -> Option<MetricsSet> {
        self.inner.metrics()
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use datafusion::catalog::memory::{DataSourceExec, MemorySourceConfig};
    use datafusion::execution::memory_pool::GreedyMemoryPool;
    use datafusion::execution::runtime_env::RuntimeEnvBuilder;
    use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
    use datafusion::physical_plan::common::collect;
    use volley_common::Code;

    use super::*;
    use crate::fault::from_datafusion;

    /// Rows of a batch of 64 KiB.
    const ROWS: usize = 8192;

    fn source(batches: usize) -> Arc<dyn ExecutionPlan> {
        let column: ArrayRef = Arc::new(Int64Array::from(vec![7; ROWS]));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let schema = batch.schema();
        MemorySourceConfig::try_new_exec(&[vec![batch; batches]], schema, None).unwrap()
    }

    /// How many rows the second of two tasks reads, with memory for some ten batches.
    async fn read(batches: usize) -> Result<usize> {
        let pool = Arc::new(GreedyMemoryPool::new(10 * ROWS * size_of::<i64>()));
        let runtime = RuntimeEnvBuilder::new().with_memory_pool(pool).build_arc()?;
        let context = Arc::new(TaskContext::default().with_runtime(runtime));
        let plan = bounded(Arc::new(BroadcastExec::new(source(batches), 2)));
        // It may still read all rows, so none is dropped.
        let _first = plan.execute(0, context.clone())?;
        let rows = collect(plan.execute(1, context)?).await?;
        Ok(rows.iter().map(RecordBatch::num_rows).sum())
    }

    #[tokio::test]
    async fn broadcast_beyond_the_memory_ends_with_an_error() {
        assert_eq!(read(4).await.unwrap(), 4 * ROWS);
        let error = from_datafusion(read(40).await.unwrap_err());
        assert_eq!(error.code, Code::ResourceExhausted, "{error}");
        assert!(error.message.contains("BroadcastExec"), "{error}");
    }

    #[test]
    fn input_of_a_broadcast_is_the_same_operator_to_others() {
        let plan = bounded(Arc::new(BroadcastExec::new(source(1), 3)));
        let input = plan.children()[0];
        assert!(input.is::<DataSourceExec>() && input.children().is_empty());
        assert_eq!(input.name(), source(1).name());
        let other = bounded(source(1));
        assert!(other.is::<DataSourceExec>());
    }

    #[test]
    fn broadcast_within_a_task_is_left_out() {
        let broadcast = Arc::new(BroadcastExec::new(source(1), 1));
        let collected: Arc<dyn ExecutionPlan> = Arc::new(CoalescePartitionsExec::new(broadcast));
        let plan = without_local_broadcasts(collected).unwrap();
        assert!(plan.is::<CoalescePartitionsExec>() && plan.children()[0].is::<DataSourceExec>());
        let sent: Arc<dyn ExecutionPlan> = Arc::new(BroadcastExec::new(source(1), 2));
        assert!(without_local_broadcasts(sent).unwrap().is::<BroadcastExec>());
    }
}
