//! Window functions whose memory is accounted for. The engine's own count nothing: neither the rows that they keep nor their results, and
//! `array_agg(x) OVER (ORDER BY x)` has one list for each row, each longer than the one before.
//!
//! The input of a window comes in pieces, the smaller the larger its results are, and before each piece the most that the window can give for
//! it is asked of the memory of queries. `window_input` does that; what is above a window measures the results.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::window::{
    PlainAggregateWindowExpr, SlidingAggregateWindowExpr, StandardWindowExpr, WindowExpr,
};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::windows::{BoundedWindowAggExec, WindowAggExec};
use datafusion::physical_plan::{
    ChildStats, ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, StatisticsArgs,
};
use futures::StreamExt;

use super::row_width::{BatchMemory, is_variable, widest_value};
use super::window_input::{ResultGrowth, WindowFunction, WindowInputExec, WindowProgress};

/// Aggregates that give one of the values of their frame. Others that give texts or lists may give all of them together.
const CHOOSING: [&str; 5] = ["min", "max", "first_value", "last_value", "nth_value"];

/// Accounts for the window functions of a plan.
#[derive(Debug)]
pub(super) struct BoundedWindows;

impl PhysicalOptimizerRule for BoundedWindows {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(bounded).map(|rewritten| rewritten.data)
    }

    fn name(&self) -> &str {
        "bounded_windows"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn bounded(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let (functions, input, keeps_all) = if let Some(window) = node.downcast_ref::<WindowAggExec>() {
        (window.window_expr(), window.input(), true)
    } else if let Some(window) = node.downcast_ref::<BoundedWindowAggExec>() {
        (window.window_expr(), window.input(), false)
    } else {
        return Ok(Transformed::no(node));
    };
    if input.is::<WindowInputExec>() {
        return Ok(Transformed::no(node));
    }
    let partition_by = functions.first().map(|function| function.partition_by().to_vec()).unwrap_or_default();
    let functions = functions.iter().map(|function| window_function(function.as_ref())).collect::<Result<Vec<_>>>()?;
    let grows = !keeps_all && functions.iter().any(|function| function.growth == ResultGrowth::Collected);
    let progress = Arc::new(WindowProgress::default());
    let input = WindowInputExec::new(input.clone(), functions, partition_by, keeps_all, progress.clone());
    // It has the properties of its input.
    let options = ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep);
    let window = node.replace_children(vec![Arc::new(input)], options)?;
    Ok(Transformed::yes(Arc::new(WindowOutputExec { window, grows, progress })))
}

/// What is measured of a function.
fn window_function(function: &dyn WindowExpr) -> Result<WindowFunction> {
    let is_fixed = !is_variable(function.field()?.data_type());
    let any = function.as_any();
    let plain = any.downcast_ref::<PlainAggregateWindowExpr>().map(PlainAggregateWindowExpr::get_aggregate_expr);
    let sliding = any.downcast_ref::<SlidingAggregateWindowExpr>().map(SlidingAggregateWindowExpr::get_aggregate_expr);
    let chooses = any.is::<StandardWindowExpr>()
        || plain.or(sliding).is_some_and(|aggregate| CHOOSING.contains(&aggregate.fun().name()));
    let growth = match (is_fixed, chooses) {
        (true, _) => ResultGrowth::Fixed,
        (false, true) => ResultGrowth::Chosen,
        (false, false) => ResultGrowth::Collected,
    };
    Ok(WindowFunction { arguments: function.expressions(), growth })
}

/// The rows of a window, which are measured.
#[derive(Debug)]
struct WindowOutputExec {
    window: Arc<dyn ExecutionPlan>,
    /// Whether results may grow from row to row.
    grows: bool,
    progress: Arc<WindowProgress>,
}

impl DisplayAs for WindowOutputExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("WindowOutputExec")
    }
}

impl ExecutionPlan for WindowOutputExec {
    fn name(&self) -> &'static str {
        "WindowOutputExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.window.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.window]
    }

    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn replace_children(
        self: Arc<Self>,
        children: Vec<Arc<dyn ExecutionPlan>>,
        _options: ReplaceChildrenOptions,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        match <[_; 1]>::try_from(children) {
            Ok([window]) => {
                Ok(Arc::new(WindowOutputExec { window, grows: self.grows, progress: self.progress.clone() }))
            }
            Err(children) => internal_err!("WindowOutputExec has one child, not {}", children.len()),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        // Steps above collect so many rows as a batch has.
        let collected = self.grows.then(|| BatchMemory::of_stream(&context));
        // The input finds it when it is executed below.
        let progress = self.progress.begin(partition, context.memory_pool());
        let results_from = match self.window.children().as_slice() {
            [input] => input.schema().fields().len(),
            _ => return internal_err!("a window has one input"),
        };
        let rows =
            self.window.execute(partition, context)?.map(move |batch: Result<RecordBatch>| -> Result<RecordBatch> {
                let batch = batch?;
                if let Some(collected) = &collected {
                    collected.check(&batch)?;
                }
                let results = batch.columns().iter().skip(results_from);
                let widest = results.map(widest_value).fold(0, u64::saturating_add);
                progress.widest.fetch_max(widest, Ordering::Relaxed);
                progress.rows_out.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
                Ok(batch)
            });
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }

    fn child_stats_requests(&self, partition: Option<usize>) -> Vec<ChildStats> {
        vec![ChildStats::At(partition)]
    }

    fn statistics_from_inputs(
        &self,
        input_stats: &[Arc<Statistics>],
        _args: &StatisticsArgs,
    ) -> Result<Arc<Statistics>> {
        match input_stats {
            [window] => Ok(window.clone()),
            _ => internal_err!("WindowOutputExec has one child"),
        }
    }
}
