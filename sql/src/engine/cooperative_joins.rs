//! Joins that pause. A join computes as long as it has rows, and some operators above take all that is ready: a join that gives no
//! row, or very many, would keep its thread for hours, in which neither its query ends nor another one begins.
//!
//! What a join gives counts against the budget of its task, as what leaves give does. What it takes of its probe side is cut so
//! that it computes for some milliseconds with each piece, and its task pauses after some of these.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::RecordBatch;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, internal_err};
use datafusion::config::ConfigOptions;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_optimizer::PhysicalOptimizerRule;
use datafusion::physical_plan::coop::CooperativeExec;
use datafusion::physical_plan::joins::CrossJoinExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildStats, ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, StatisticsArgs, replace_children_if_necessary,
};
use futures::{Stream, StreamExt, stream};

use super::row_width::{BatchMemory, collects_left};

/// Rows of the first piece of a partition, and the fewest of any: a join without keys compares each of them with all rows of its
/// other side, which may be millions, before it pauses. Time in which nobody takes the rows of a join counts as its own.
const MIN_ROWS: usize = 1;
/// By how much the next piece is larger after one that was computed quickly.
const GROWTH: usize = 4;
/// A piece that takes less is made larger.
const QUICK: Duration = Duration::from_millis(5);
/// About how long a piece may take, and how long a task computes until it pauses.
const LONG: Duration = Duration::from_millis(20);

/// Makes the joins of a plan pause. It must be the last rule: others look for joins and their inputs.
#[derive(Debug)]
pub(super) struct CooperativeJoins;

impl PhysicalOptimizerRule for CooperativeJoins {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        plan.transform_up(with_pauses).map(|rewritten| rewritten.data)
    }

    fn name(&self) -> &str {
        "cooperative_joins"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The plan without the pieces of probe sides: for a planner that moves the inputs of joins.
pub(super) fn without_pieces(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let whole = |node: Arc<dyn ExecutionPlan>| -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
        let input = node.downcast_ref::<CooperativeProbeExec>().map(|probe| probe.input().clone());
        Ok(input.map_or_else(|| Transformed::no(node), Transformed::yes))
    };
    plan.transform_up(whole).map(|rewritten| rewritten.data)
}

/// The plan with the probe sides of all its joins in pieces.
pub(super) fn in_pieces(plan: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    plan.transform_up(with_pieces).map(|rewritten| rewritten.data)
}

fn with_pauses(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let join = with_pieces(node)?;
    if !join.transformed {
        return Ok(join);
    }
    Ok(Transformed::yes(Arc::new(CooperativeExec::new(join.data))))
}

/// The step with other inputs. With those of the same properties, its own and those of all above stay.
fn with_inputs(
    node: Arc<dyn ExecutionPlan>,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    replace_children_if_necessary(node, inputs).map(Transformed::yes)
}

fn with_pieces(node: Arc<dyn ExecutionPlan>) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    let sides: Vec<Arc<dyn ExecutionPlan>> = node.children().into_iter().cloned().collect();
    // The joins in question collect their left side.
    let [build, probe] = sides.as_slice() else { return Ok(Transformed::no(node)) };
    if !collects_left(&node) || probe.is::<CooperativeProbeExec>() {
        return Ok(Transformed::no(node));
    }
    let is_timed = !node.is::<CrossJoinExec>();
    let probe: Arc<dyn ExecutionPlan> = Arc::new(CooperativeProbeExec::new(probe.clone(), is_timed));
    with_inputs(node, vec![build.clone(), probe])
}

/// The probe side of a join, in pieces.
#[derive(Debug)]
pub(super) struct CooperativeProbeExec {
    input: Arc<dyn ExecutionPlan>,
    is_timed: bool,
}

impl CooperativeProbeExec {
    /// The rows of `input`, in pieces that fit into memory. With `is_timed` they are also so small that the join computes for some
    /// milliseconds with each. A cross join gives a batch for each row of its other side, and pauses after it: these batches have
    /// as many rows as the piece, so small pieces would only make it slow.
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, is_timed: bool) -> Self {
        CooperativeProbeExec { input, is_timed }
    }

    /// Whether pieces are as large as time allows.
    pub(super) fn is_timed(&self) -> bool {
        self.is_timed
    }

    /// Whose rows it has.
    pub(super) fn input(&self) -> &Arc<dyn ExecutionPlan> {
        &self.input
    }
}

impl DisplayAs for CooperativeProbeExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("CooperativeProbeExec")
    }
}

impl ExecutionPlan for CooperativeProbeExec {
    fn name(&self) -> &'static str {
        "CooperativeProbeExec"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
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
            Ok([input]) => Ok(Arc::new(CooperativeProbeExec::new(input, self.is_timed))),
            Err(children) => internal_err!("CooperativeProbeExec has one child, not {}", children.len()),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let memory = BatchMemory::of_stream(&context);
        let rows = pieces(self.input.execute(partition, context)?, memory, self.is_timed);
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
            [input] => Ok(input.clone()),
            _ => internal_err!("CooperativeProbeExec has one child"),
        }
    }
}

/// How far a partition is.
struct ProbeSlices {
    rows: SendableRecordBatchStream,
    /// Of the batches that the join makes of them.
    memory: BatchMemory,
    /// What is left of a batch.
    rest: Option<RecordBatch>,
    /// Of the next piece.
    piece_rows: usize,
    is_timed: bool,
    /// When the last piece was given, if it is timed.
    given: Option<Instant>,
    /// When the task paused last. A join that gives no rows takes one piece after the other, each of them short.
    paused: Instant,
}

fn pieces(
    rows: SendableRecordBatchStream,
    memory: BatchMemory,
    is_timed: bool,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let piece_rows = if is_timed { MIN_ROWS } else { usize::MAX };
    let slices = ProbeSlices { rows, memory, rest: None, piece_rows, is_timed, given: None, paused: Instant::now() };
    stream::try_unfold(slices, |mut slices| async move {
        if let Some(given) = slices.given {
            slices.piece_rows = next_rows(slices.piece_rows, given.elapsed());
            if slices.paused.elapsed() > LONG {
                tokio::task::yield_now().await;
                slices.paused = Instant::now();
            }
        }
        let batch = match slices.rest.take() {
            Some(rest) => rest,
            None => match slices.rows.next().await {
                Some(batch) => {
                    let batch = batch?;
                    slices.memory.check(&batch)?;
                    batch
                }
                None => return Ok(None),
            },
        };
        let rows = slices.piece_rows.min(slices.memory.batch_rows()).min(batch.num_rows());
        if rows < batch.num_rows() {
            slices.rest = Some(batch.slice(rows, batch.num_rows() - rows));
        }
        slices.given = slices.is_timed.then(Instant::now);
        Ok::<_, DataFusionError>(Some((batch.slice(0, rows), slices)))
    })
}

/// Rows of the next piece after one of so many, with which a join computed for so long.
fn next_rows(rows: usize, taken: Duration) -> usize {
    if taken < QUICK {
        return rows.saturating_mul(GROWTH);
    }
    if taken <= LONG {
        return rows;
    }
    let share = LONG.as_secs_f64() / taken.as_secs_f64();
    ((rows as f64 * share) as usize).max(MIN_ROWS)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::task::Poll;

    use arrow::array::{ArrayRef, AsArray, Int64Array};
    use arrow::datatypes::{Int64Type, Schema};
    use datafusion::common::JoinType;
    use datafusion::physical_plan::empty::EmptyExec;
    use datafusion::physical_plan::joins::NestedLoopJoinExec;
    use futures::TryStreamExt;

    use super::*;

    #[test]
    fn pieces_are_as_large_as_time_allows() {
        let ms = Duration::from_millis;
        assert_eq!(next_rows(64, ms(0)), 256);
        assert_eq!(next_rows(256, ms(10)), 256);
        assert_eq!(next_rows(8192, ms(200)), 819);
        assert_eq!(next_rows(64, ms(3_600_000)), MIN_ROWS);
        assert_eq!(next_rows(usize::MAX, ms(1)), usize::MAX);
    }

    #[tokio::test]
    async fn pieces_have_all_rows_in_order() {
        let batch = |rows: std::ops::Range<i64>| {
            let column: ArrayRef = Arc::new(Int64Array::from_iter_values(rows));
            RecordBatch::try_from_iter([("n", column)]).unwrap()
        };
        for (is_timed, first_rows) in [(true, MIN_ROWS), (false, 1000)] {
            let batches: Vec<Result<RecordBatch>> = vec![Ok(batch(0..1000)), Ok(batch(0..0)), Ok(batch(1000..1001))];
            let rows = RecordBatchStreamAdapter::new(batch(0..0).schema(), stream::iter(batches));
            let memory = BatchMemory::of_stream(&TaskContext::default());
            let pieces: Vec<RecordBatch> = pieces(Box::pin(rows), memory, is_timed).try_collect().await.unwrap();
            assert_eq!(pieces[0].num_rows(), first_rows);
            let numbers = pieces.iter().flat_map(|piece| piece.column(0).as_primitive::<Int64Type>().values().to_vec());
            assert_eq!(numbers.collect::<Vec<_>>(), (0..1001).collect::<Vec<i64>>());
        }
    }

    #[tokio::test]
    async fn task_pauses_after_many_short_pieces() {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..40));
        let batch = RecordBatch::try_from_iter([("n", column)]).unwrap();
        let rows = RecordBatchStreamAdapter::new(batch.schema(), stream::iter([Ok(batch)]));
        let mut pieces = Box::pin(pieces(Box::pin(rows), BatchMemory::of_stream(&TaskContext::default()), true));
        let mut pauses = 0;
        loop {
            match futures::poll!(pieces.next()) {
                Poll::Ready(Some(_)) => {
                    let given = Instant::now();
                    while given.elapsed() < QUICK * 2 {
                        std::hint::spin_loop();
                    }
                }
                Poll::Ready(None) => break,
                Poll::Pending => pauses += 1,
            }
        }
        assert!(pauses >= 10, "{pauses} pauses in {:?}", QUICK * 2 * 40);
    }

    #[test]
    fn cross_joins_take_whole_batches() {
        let side: Arc<dyn ExecutionPlan> = Arc::new(EmptyExec::new(Arc::new(Schema::empty())));
        let cross = in_pieces(Arc::new(CrossJoinExec::new(side.clone(), side.clone()))).unwrap();
        assert!(!cross.children()[1].downcast_ref::<CooperativeProbeExec>().unwrap().is_timed());
        let compared = NestedLoopJoinExec::try_new(side.clone(), side, None, &JoinType::Inner, None).unwrap();
        let compared = in_pieces(Arc::new(compared)).unwrap();
        assert!(compared.children()[1].downcast_ref::<CooperativeProbeExec>().unwrap().is_timed());
    }
}
