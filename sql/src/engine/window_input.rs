//! The rows of a window on their way into it: in pieces whose results have room in the memory of queries.
//!
//! A result has at most the bytes of the largest one so far and of the arguments of the rows that came since. Results that a window has not
//! given yet count as if all were as large.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::{Array, RecordBatch};
use arrow::compute::SortColumn;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::utils::evaluate_partition_ranges;
use datafusion::common::{ScalarValue, Statistics, internal_err};
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    ChildStats, ChildrenPropertiesMode, DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties,
    ReplaceChildrenOptions, StatisticsArgs,
};
use futures::{Stream, StreamExt, stream};
use parking_lot::Mutex;
use volley_common::ipc::size::data_bytes;

use super::growth::bytes_of_rows;
use super::row_width::is_variable;

/// The most bytes that the results of one piece should have; with little memory a share of that.
const PIECE_BYTES: u64 = 32 << 20;
const PIECE_SHARE: u64 = 16;
/// Bytes of a result of fixed size, at most.
const FIXED_BYTES: u64 = 32;

/// How large the results of a window function are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ResultGrowth {
    /// All have the same size.
    Fixed,
    /// Each is one of the arguments.
    Chosen,
    /// Each has the arguments of all rows of its frame.
    Collected,
}

/// What is measured of a window function.
#[derive(Clone, Debug)]
pub(super) struct WindowFunction {
    pub(super) arguments: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) growth: ResultGrowth,
}

/// How far each partition of a window is.
#[derive(Debug, Default)]
pub(super) struct WindowProgress {
    partitions: Mutex<HashMap<usize, Arc<PartitionProgress>>>,
}

/// How far one partition of a window is.
#[derive(Debug)]
pub(super) struct PartitionProgress {
    memory: MemoryReservation,
    /// Bytes of the widest results of a row, and rows that the window gave.
    pub(super) widest: AtomicU64,
    pub(super) rows_out: AtomicU64,
}

impl WindowProgress {
    /// That of a partition that begins. The plan forgets it once its input is executed, too.
    pub(super) fn begin(&self, partition: usize, pool: &Arc<dyn MemoryPool>) -> Arc<PartitionProgress> {
        let progress = Arc::new(PartitionProgress {
            memory: MemoryConsumer::new(format!("WindowAggExec[{partition}]")).register(pool),
            widest: AtomicU64::new(0),
            rows_out: AtomicU64::new(0),
        });
        self.partitions.lock().insert(partition, progress.clone());
        progress
    }
}

/// The input of a window.
#[derive(Debug)]
pub(super) struct WindowInputExec {
    input: Arc<dyn ExecutionPlan>,
    functions: Vec<WindowFunction>,
    partition_by: Vec<Arc<dyn PhysicalExpr>>,
    /// Whether the window keeps all rows and computes at the end.
    keeps_all: bool,
    progress: Arc<WindowProgress>,
}

impl WindowInputExec {
    /// The rows of `input`, for these functions over rows with equal `partition_by`.
    pub(super) fn new(
        input: Arc<dyn ExecutionPlan>,
        functions: Vec<WindowFunction>,
        partition_by: Vec<Arc<dyn PhysicalExpr>>,
        keeps_all: bool,
        progress: Arc<WindowProgress>,
    ) -> Self {
        WindowInputExec { input, functions, partition_by, keeps_all, progress }
    }

    /// Whether the results of the window above may grow from row to row.
    pub(super) fn grows(&self) -> bool {
        !self.keeps_all && self.functions.iter().any(|function| function.growth == ResultGrowth::Collected)
    }
}

/// Bytes of the arguments of each row: of functions that choose one of them, and of those that collect them.
struct ArgumentBytes {
    chosen: Vec<u64>,
    collected: Vec<u64>,
}

impl ArgumentBytes {
    fn of(batch: &RecordBatch, functions: &[WindowFunction]) -> Result<Self> {
        let rows = batch.num_rows();
        let mut bytes = ArgumentBytes { chosen: vec![0; rows], collected: vec![0; rows] };
        for function in functions {
            let sums = match function.growth {
                ResultGrowth::Fixed => continue,
                ResultGrowth::Chosen => &mut bytes.chosen,
                ResultGrowth::Collected => &mut bytes.collected,
            };
            for argument in &function.arguments {
                let values = argument.evaluate(batch)?.into_array(rows)?;
                let collects = function.growth == ResultGrowth::Collected;
                if collects || is_variable(values.data_type()) {
                    sums.iter_mut().zip(bytes_of_rows(&values)).for_each(|(sum, more)| *sum = sum.saturating_add(more));
                }
            }
        }
        Ok(bytes)
    }
}

/// Rows whose results come together, and what these need.
#[derive(Default)]
struct FrameRows {
    rows: u64,
    /// Of the widest chosen argument, and of all collected ones.
    chosen: u64,
    collected: u64,
}

impl FrameRows {
    fn add(&mut self, bytes: &ArgumentBytes, row: usize) {
        self.rows += 1;
        self.chosen = self.chosen.max(bytes.chosen.get(row).copied().unwrap_or(0));
        self.collected = self.collected.saturating_add(bytes.collected.get(row).copied().unwrap_or(0));
    }

    fn with(&self, more: &FrameRows) -> FrameRows {
        FrameRows {
            rows: self.rows.saturating_add(more.rows),
            chosen: self.chosen.max(more.chosen),
            collected: self.collected.saturating_add(more.collected),
        }
    }

    /// At most the bytes of all results, the largest so far having `widest`.
    fn results(&self, widest: u64) -> u64 {
        self.rows.saturating_mul(widest.saturating_add(self.chosen).saturating_add(self.collected))
    }
}

/// Gives rows to a window that computes as they come.
struct PieceFeeder {
    rows: SendableRecordBatchStream,
    functions: Vec<WindowFunction>,
    progress: Arc<PartitionProgress>,
    piece_bytes: u64,
    /// What is left of a batch, and the bytes of all its rows.
    rest: Option<(RecordBatch, ArgumentBytes, usize)>,
    /// Pieces of which the window has not given all rows, and rows of those before.
    waiting: VecDeque<FrameRows>,
    given: u64,
    rows_in: u64,
}

impl PieceFeeder {
    /// How many rows the next piece has.
    fn next_rows(&mut self, bytes: &ArgumentBytes, start: usize, end: usize) -> Result<usize> {
        let widest = self.progress.widest.load(Ordering::Relaxed);
        let waiting = self.waiting();
        let mut piece = FrameRows::default();
        let (mut length, mut needed) = (0, 0);
        for row in start..end {
            piece.add(bytes, row);
            let results = waiting.with(&piece).results(widest);
            if length > 0 && results > self.piece_bytes {
                break;
            }
            (length, needed) = (length + 1, results);
        }
        let mut piece = FrameRows::default();
        (start..start + length).for_each(|row| piece.add(bytes, row));
        self.waiting.push_back(piece);
        self.reserve(needed)?;
        Ok(length)
    }

    /// All rows of which the window has not given the results.
    fn waiting(&mut self) -> FrameRows {
        let rows_out = self.progress.rows_out.load(Ordering::Relaxed);
        while let Some(rows) = self.waiting.front().map(|first| first.rows).filter(|rows| self.given + rows <= rows_out)
        {
            self.given += rows;
            self.waiting.pop_front();
        }
        let all = self.waiting.iter().fold(FrameRows::default(), |all, piece| all.with(piece));
        FrameRows { rows: self.rows_in.saturating_sub(rows_out), ..all }
    }

    /// Asks for what the window may have in memory when it has computed.
    fn reserve(&self, bytes: u64) -> Result<()> {
        self.progress.memory.try_resize(usize::try_from(bytes).unwrap_or(usize::MAX / 2))
    }

    /// What the window computes when it has all rows.
    fn reserve_last(&mut self) -> Result<()> {
        let needed = self.waiting().results(self.progress.widest.load(Ordering::Relaxed));
        self.reserve(needed)
    }

    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        let (batch, bytes, start) = match self.rest.take() {
            Some(rest) => rest,
            None => match self.rows.next().await {
                Some(batch) => {
                    let batch = batch?;
                    let bytes = ArgumentBytes::of(&batch, &self.functions)?;
                    (batch, bytes, 0)
                }
                None => {
                    self.reserve_last()?;
                    return Ok(None);
                }
            },
        };
        let length = self.next_rows(&bytes, start, batch.num_rows())?;
        self.rows_in += length as u64;
        let piece = batch.slice(start, length);
        if start + length < batch.num_rows() {
            self.rest = Some((batch, bytes, start + length));
        }
        Ok(Some(piece))
    }
}

/// Counts rows for a window that keeps all of them.
struct KeptRows {
    functions: Vec<WindowFunction>,
    partition_by: Vec<Arc<dyn PhysicalExpr>>,
    progress: Arc<PartitionProgress>,
    /// Values of the last partition, its rows, and what they have been counted as.
    last: Option<Vec<ScalarValue>>,
    open: FrameRows,
    counted: u64,
}

impl KeptRows {
    /// Asks for the memory of the batch and of all results of its rows.
    fn keep(&mut self, batch: &RecordBatch) -> Result<()> {
        let fixed = FIXED_BYTES.saturating_mul(self.functions.len() as u64).saturating_mul(batch.num_rows() as u64);
        // The window copies all batches into one.
        let mut needed = (2 * data_bytes(batch) as u64).saturating_add(fixed);
        if self.functions.iter().any(|function| function.growth != ResultGrowth::Fixed) {
            let bytes = ArgumentBytes::of(batch, &self.functions)?;
            for (key, rows) in self.partitions(batch)? {
                if self.last.as_ref() != Some(&key) {
                    (self.last, self.open, self.counted) = (Some(key), FrameRows::default(), 0);
                }
                rows.for_each(|row| self.open.add(&bytes, row));
                let results = self.open.results(0);
                needed = needed.saturating_add(results.saturating_sub(self.counted));
                self.counted = results;
            }
        }
        self.progress.memory.try_grow(usize::try_from(needed).unwrap_or(usize::MAX / 2))
    }

    /// The rows with equal values, and these.
    fn partitions(&self, batch: &RecordBatch) -> Result<Vec<(Vec<ScalarValue>, Range<usize>)>> {
        let rows = batch.num_rows();
        if rows == 0 {
            return Ok(Vec::new());
        }
        let column = |key: &Arc<dyn PhysicalExpr>| -> Result<SortColumn> {
            Ok(SortColumn { values: key.evaluate(batch)?.into_array(rows)?, options: None })
        };
        let columns = self.partition_by.iter().map(column).collect::<Result<Vec<_>>>()?;
        let with_key = |range: Range<usize>| -> Result<(Vec<ScalarValue>, Range<usize>)> {
            let values = columns.iter().map(|column| ScalarValue::try_from_array(&column.values, range.start));
            Ok((values.collect::<Result<Vec<_>>>()?, range))
        };
        evaluate_partition_ranges(rows, &columns)?.into_iter().map(with_key).collect()
    }
}

fn fed(feeder: PieceFeeder) -> impl Stream<Item = Result<RecordBatch>> + Send {
    stream::try_unfold(feeder, |mut feeder| async move {
        Ok::<_, DataFusionError>(feeder.next().await?.map(|piece| (piece, feeder)))
    })
}

impl DisplayAs for WindowInputExec {
    fn fmt_as(&self, _format: DisplayFormatType, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("WindowInputExec")
    }
}

impl ExecutionPlan for WindowInputExec {
    fn name(&self) -> &'static str {
        "WindowInputExec"
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
        let [input] = match <[_; 1]>::try_from(children) {
            Ok(input) => input,
            Err(children) => return internal_err!("WindowInputExec has one child, not {}", children.len()),
        };
        let (functions, partition_by) = (self.functions.clone(), self.partition_by.clone());
        Ok(Arc::new(WindowInputExec::new(input, functions, partition_by, self.keeps_all, self.progress.clone())))
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        self.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let limit = match context.memory_pool().memory_limit() {
            MemoryLimit::Finite(bytes) => bytes as u64,
            _ => u64::MAX,
        };
        let Some(progress) = self.progress.partitions.lock().remove(&partition) else {
            return internal_err!("a window is executed without its output");
        };
        let rows = self.input.execute(partition, context)?;
        let (functions, partition_by) = (self.functions.clone(), self.partition_by.clone());
        if self.keeps_all {
            let mut kept =
                KeptRows { functions, partition_by, progress, last: None, open: FrameRows::default(), counted: 0 };
            let rows = rows.map(move |batch| batch.and_then(|batch| kept.keep(&batch).map(|()| batch)));
            return Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)));
        }
        if functions.iter().all(|function| function.growth == ResultGrowth::Fixed) {
            return Ok(rows);
        }
        let piece_bytes = PIECE_BYTES.min(limit / PIECE_SHARE).max(1);
        let waiting = VecDeque::new();
        let feeder = PieceFeeder { rows, functions, progress, piece_bytes, rest: None, waiting, given: 0, rows_in: 0 };
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), fed(feeder))))
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
            _ => internal_err!("WindowInputExec has one child"),
        }
    }
}
