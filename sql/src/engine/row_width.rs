//! How wide the rows are that operators copy. Joins, subqueries and `unnest` give the same value with many rows, and steps above them collect
//! batches of as many rows as the session says: one list of some megabytes would become gigabytes that no operator accounts for.
//!
//! Rows are measured before they are multiplied, and the largest batches that can be made of them are counted in the memory of queries. If a
//! batch of rows as wide as the widest one would be too large, or there is no memory for it, the query is started again with batches of fewer
//! rows; it fails if rows were sent already. So a batch has at most [`MAX_BATCH_BYTES`] of each side of a join, and less with less memory.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch, UInt64Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Schema};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Statistics, internal_err};
use datafusion::error::Result;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::expressions::Literal;
use datafusion::physical_plan::coalesce_partitions::CoalescePartitionsExec;
use datafusion::physical_plan::repartition::RepartitionExec;
use datafusion::physical_plan::sorts::sort_preserving_merge::SortPreservingMergeExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildStats, ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, StatisticsArgs,
};
use futures::{StreamExt, stream};
use volley_common::Error;
use volley_common::ipc::size::array_bytes;

use self::batch_memory::MAX_BATCH_BYTES;
pub(super) use self::batch_memory::{
    BatchMemory, RepeatedRows, most_batch_bytes, rows_again, rows_of_average, rows_of_width, too_wide,
};
pub(super) use self::rule::{RowWidthChecks, collects_left, with_row_checks};
use super::growth::{bytes_of_rows, elements_of_rows};
use crate::fault::into_datafusion;

mod batch_memory;
mod columnless;
mod rule;

/// Columns of which a batch has less are not measured value by value.
const NARROW_BYTES: u64 = 4 << 10;

/// In the settings of a session whose batches are smaller than those of others: leaves cut theirs.
pub(super) struct SmallBatches;

/// Whether a batch with this schema can have wide rows.
pub(super) fn can_be_wide(schema: &Schema) -> bool {
    schema.fields().iter().any(|field| is_variable(field.data_type()))
}

/// Whether values of a type have different sizes.
pub(super) fn is_variable(data_type: &DataType) -> bool {
    let is_fixed = matches!(data_type, DataType::Null | DataType::Boolean) || data_type.primitive_width().is_some();
    !is_fixed
}

/// About how many bytes the widest value has; never fewer, but for numbers and the like.
pub(super) fn widest_value(array: &ArrayRef) -> u64 {
    if !is_variable(array.data_type()) {
        return array.data_type().primitive_width().unwrap_or(1) as u64;
    }
    let all = array_bytes(array.as_ref()) as u64;
    if all <= NARROW_BYTES {
        return all;
    }
    let most = |values: Vec<u64>| values.into_iter().max().unwrap_or(0);
    match array.data_type() {
        DataType::List(item) | DataType::LargeList(item) if item.data_type().primitive_width().is_some() => {
            let width = item.data_type().primitive_width().unwrap_or(1) as u64;
            most(elements_of_rows(array)).saturating_mul(width)
        }
        _ => most(bytes_of_rows(array)),
    }
}

/// At most how many bytes a row of the batch has.
fn widest_row(batch: &RecordBatch) -> u64 {
    batch.columns().iter().map(widest_value).fold(0, u64::saturating_add)
}

/// Bytes of the long constants of one operator: it may repeat them for each row.
pub(super) fn constant_bytes(node: &Arc<dyn ExecutionPlan>) -> Result<u64> {
    let mut sum = 0u64;
    node.apply_expressions(&mut |root| {
        root.apply(|expr| {
            if let Some(literal) = expr.downcast_ref::<Literal>() {
                let bytes = literal.value().size() as u64;
                sum = sum.saturating_add(if bytes > NARROW_BYTES { bytes } else { 0 });
            }
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    Ok(sum)
}

/// The batch in pieces of at most so many rows, which share no memory with each other: operators account for each as if it were alone.
pub(super) fn small_batches(batch: &RecordBatch, most: usize) -> Vec<Result<RecordBatch>> {
    if batch.num_rows() <= most {
        return vec![Ok(batch.clone())];
    }
    let rows = batch.num_rows();
    let piece = |start: usize| -> Result<RecordBatch> {
        let end = start.saturating_add(most).min(rows);
        let at = UInt64Array::from_iter_values(start as u64..end as u64);
        Ok(take_record_batch(batch, &at)?)
    };
    (0..rows).step_by(most.max(1)).map(piece).collect()
}

/// The plan with a check of its rows, below the steps that only distribute or collect these: others look for those steps above.
fn checked_rows(plan: &Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let is_counted = plan.schema().fields().is_empty() || can_be_wide(&plan.schema());
    if plan.is::<RowWidthExec>() || !is_counted {
        return Ok(plan.clone());
    }
    let passes =
        plan.is::<CoalescePartitionsExec>() || plan.is::<RepartitionExec>() || plan.is::<SortPreservingMergeExec>();
    match plan.children().as_slice() {
        [input] if passes => {
            let input = checked_rows(input)?;
            // The check has the properties of its input.
            plan.clone().replace_children(vec![input], ReplaceChildrenOptions::new(ChildrenPropertiesMode::Keep))
        }
        _ => Ok(Arc::new(RowWidthExec::new(plan.clone(), Vec::new()))),
    }
}

/// Rows that are not too wide, or have no columns and are few batches.
#[derive(Debug)]
pub(super) struct RowWidthExec {
    input: Arc<dyn ExecutionPlan>,
    /// The lists whose elements become rows above, each with the other columns.
    lists: Vec<usize>,
    /// Bytes that are counted for the batches that are made of the rows of all partitions.
    counted: Arc<AtomicU64>,
}

impl RowWidthExec {
    /// The rows of `input`. The step above makes rows of the elements of `lists`, if there are any.
    pub(super) fn new(input: Arc<dyn ExecutionPlan>, lists: Vec<usize>) -> Self {
        RowWidthExec { input, lists, counted: Arc::default() }
    }

    /// The lists whose elements become rows above.
    pub(super) fn lists(&self) -> &[usize] {
        &self.lists
    }

    /// The rows in batches that can be copied as often as the step above does.
    fn pieces(batch: RecordBatch, memory: &BatchMemory, lists: &[usize]) -> Result<Vec<Result<RecordBatch>>> {
        if lists.is_empty() {
            memory.check(&batch)?;
            return Ok(vec![Ok(batch)]);
        }
        let kept: Vec<usize> = (0..batch.num_columns()).filter(|column| !lists.contains(column)).collect();
        memory.check(&batch.project(&kept)?)?;
        let costs = unnested_bytes(&batch, lists, &kept)?;
        if let Some(most) = costs.iter().max().filter(|most| **most > MAX_BATCH_BYTES) {
            return Err(into_datafusion(Error::exhausted(format!(
                "unnest would repeat the other columns of one row in {most} bytes, and {} MiB is the limit: select fewer columns beside unnest, above all not the list itself",
                MAX_BATCH_BYTES >> 20
            ))));
        }
        let (mut pieces, mut start, mut bytes) = (Vec::new(), 0, 0u64);
        for (row, cost) in costs.iter().enumerate() {
            if row > start && bytes.saturating_add(*cost) > memory.most_bytes() {
                pieces.push(Ok(batch.slice(start, row - start)));
                (start, bytes) = (row, 0);
            }
            bytes = bytes.saturating_add(*cost);
            memory.count_batches(bytes)?;
        }
        pieces.push(Ok(batch.slice(start, batch.num_rows() - start)));
        Ok(pieces)
    }
}

/// At most how many bytes of the columns `kept` there are for each row once the elements of `lists` are rows.
fn unnested_bytes(batch: &RecordBatch, lists: &[usize], kept: &[usize]) -> Result<Vec<u64>> {
    let mut widths = vec![0u64; batch.num_rows()];
    for column in kept.iter().filter_map(|at| batch.columns().get(*at)) {
        for (width, bytes) in widths.iter_mut().zip(bytes_of_rows(column)) {
            *width = width.saturating_add(bytes);
        }
    }
    let mut elements = vec![1u64; batch.num_rows()];
    for column in lists.iter().filter_map(|at| batch.columns().get(*at)) {
        for (row, most) in elements.iter_mut().enumerate() {
            *most = (*most).max(leaves(&column.slice(row, 1)));
        }
    }
    Ok(widths.into_iter().zip(elements).map(|(width, elements)| width.saturating_mul(elements)).collect())
}

/// How many values are in lists, and in lists of these.
fn leaves(array: &ArrayRef) -> u64 {
    match array.data_type() {
        DataType::List(_) => {
            let list = array.as_list::<i32>();
            let (first, last) = ends(list.value_offsets().iter().map(|offset| *offset as usize));
            leaves(&list.values().slice(first, last - first))
        }
        DataType::LargeList(_) => {
            let list = array.as_list::<i64>();
            let (first, last) = ends(list.value_offsets().iter().map(|offset| *offset as usize));
            leaves(&list.values().slice(first, last - first))
        }
        DataType::FixedSizeList(_, size) => (array.len() as u64).saturating_mul(u64::try_from(*size).unwrap_or(0)),
        _ => array.len() as u64,
    }
}

fn ends(mut offsets: impl Iterator<Item = usize>) -> (usize, usize) {
    let first = offsets.next().unwrap_or(0);
    (first, offsets.last().unwrap_or(first))
}

impl DisplayAs for RowWidthExec {
    fn fmt_as(&self, format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        match format {
            DisplayFormatType::Default | DisplayFormatType::Verbose if !self.lists.is_empty() => {
                write!(f, "RowWidthExec: lists={:?}", self.lists)
            }
            _ => f.write_str("RowWidthExec"),
        }
    }
}

impl ExecutionPlan for RowWidthExec {
    fn name(&self) -> &'static str {
        "RowWidthExec"
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
            Ok([input]) => {
                // A recursion, which runs its steps again and again, counts their batches once.
                let (lists, counted) = (self.lists.clone(), self.counted.clone());
                Ok(Arc::new(RowWidthExec { input, lists, counted }))
            }
            Err(children) => internal_err!("RowWidthExec has one child, not {}", children.len()),
        }
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let rows = self.input.execute(partition, context.clone())?;
        if self.schema().fields().is_empty() {
            let rows = columnless::merged(rows, BatchMemory::of_stream(&context));
            return Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)));
        }
        let lists = self.lists.clone();
        let memory = match lists.is_empty() {
            true => BatchMemory::of_collected(&context, &self.counted),
            // The step above has made its batches when the rows end.
            false => BatchMemory::of_stream(&context),
        };
        let rows = rows.flat_map(move |batch: Result<RecordBatch>| {
            let pieces = batch.and_then(|batch| RowWidthExec::pieces(batch, &memory, &lists));
            stream::iter(pieces.unwrap_or_else(|error| vec![Err(error)]))
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
            [input] => Ok(input.clone()),
            _ => internal_err!("RowWidthExec has one child"),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
