//! The memory of batches with wide rows. Operators do not count the batches that they compute, only those that they keep: so the largest
//! batches that a step can make of its rows are counted in the memory of queries before it gets these rows.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arrow::array::RecordBatch;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::TaskContext;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryLimit, MemoryPool, MemoryReservation};
use volley_common::{Code, Error};

use super::{can_be_wide, widest_row};
use crate::fault::{from_datafusion, into_datafusion};

/// The most bytes of one side of a join in a batch, and of the columns beside `unnest` for one row.
pub(in crate::engine) const MAX_BATCH_BYTES: u64 = 128 << 20;
/// The share of the memory of queries that batches of one side may take in all partitions together, if that is less.
const BATCH_SHARE: u64 = 8;
/// Batches of so few rows are not too large: a row has at most some tens of megabytes.
const MIN_BATCH_ROWS: usize = 2;
/// How many times wider than the others some rows of a table are expected to be.
const UNEVEN: u64 = 16;
/// The same after a query has started again.
const UNEVEN_AGAIN: u64 = 4;
/// How many batches of a partition there are at once: one that is computed, and one that the step above makes of those before.
const COPIES: u64 = 2;
/// Less is not counted: ordinary batches have some hundreds of kilobytes.
const UNCOUNTED_BYTES: u64 = 1 << 20;
/// How errors name it.
const NAME: &str = "rows that are repeated";
/// What the error says that asks for smaller batches. The error may come from another node.
const TOO_WIDE: &str = "the query joins or repeats rows of ";

/// In the settings of a running query or task: its memory for batches of rows that it keeps and repeats, until it ends.
pub(in crate::engine) struct RepeatedRows(Arc<MemoryReservation>);

impl RepeatedRows {
    pub(in crate::engine) fn new(pool: &Arc<dyn MemoryPool>) -> Self {
        RepeatedRows(Arc::new(MemoryConsumer::new(NAME).register(pool)))
    }
}

/// Counts the batches that a step makes of its rows.
pub(in crate::engine) struct BatchMemory {
    batch_rows: usize,
    /// The most bytes of a batch.
    most_bytes: u64,
    /// How many partitions compute such batches at once.
    partitions: u64,
    /// Bytes that are counted, in `memory` beside others.
    counted: Arc<AtomicU64>,
    memory: Arc<MemoryReservation>,
}

impl BatchMemory {
    /// For rows that pass through one partition of a step.
    pub(in crate::engine) fn of_stream(context: &TaskContext) -> Self {
        let RepeatedRows(memory) = RepeatedRows::new(context.memory_pool());
        Self::new(context, 1, Arc::default(), memory)
    }

    /// For rows that a step collects, and repeats in all its partitions once this stream has ended. What is counted stays so until the query
    /// or task ends. `counted` is that of all streams of these rows.
    pub(super) fn of_collected(context: &TaskContext, counted: &Arc<AtomicU64>) -> Self {
        let settings = context.session_config();
        let memory = match settings.get_extension::<RepeatedRows>() {
            Some(query) => query.0.clone(),
            None => RepeatedRows::new(context.memory_pool()).0,
        };
        Self::new(context, settings.target_partitions() as u64, counted.clone(), memory)
    }

    fn new(context: &TaskContext, partitions: u64, counted: Arc<AtomicU64>, memory: Arc<MemoryReservation>) -> Self {
        let settings = context.session_config();
        let most_bytes = most_batch_bytes(context.memory_pool(), settings.target_partitions());
        BatchMemory { batch_rows: settings.batch_size(), most_bytes, partitions, counted, memory }
    }

    /// The most rows of a batch.
    pub(in crate::engine) fn batch_rows(&self) -> usize {
        self.batch_rows
    }

    /// The most bytes of a batch.
    pub(super) fn most_bytes(&self) -> u64 {
        self.most_bytes
    }

    /// Counts batches whose rows are as wide as the widest one here.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: they would be too large, or there is no memory for them. If fewer rows would help, [`too_wide`] says so.
    pub(in crate::engine) fn check(&self, batch: &RecordBatch) -> Result<()> {
        if !can_be_wide(batch.schema_ref()) {
            return Ok(());
        }
        let width = widest_row(batch);
        let bytes = width.saturating_mul(self.batch_rows as u64);
        let can_be_smaller = self.batch_rows > MIN_BATCH_ROWS;
        if can_be_smaller && bytes > self.most_bytes {
            return Err(self.too_wide(width));
        }
        match self.count_batches(bytes) {
            // If the query starts again, such batches are smaller.
            Err(_) if can_be_smaller && bytes > self.most_bytes / UNEVEN_AGAIN => Err(self.too_wide(width)),
            counted => counted,
        }
    }

    /// Counts batches of so many bytes each.
    pub(super) fn count_batches(&self, bytes: u64) -> Result<()> {
        self.count(bytes.saturating_mul(COPIES).saturating_mul(self.partitions))
    }

    /// Counts so many bytes, if there were never more.
    pub(super) fn count(&self, bytes: u64) -> Result<()> {
        let bytes = if bytes > UNCOUNTED_BYTES { bytes } else { 0 };
        let more = bytes.saturating_sub(self.counted.fetch_max(bytes, Ordering::Relaxed));
        let more = usize::try_from(more).unwrap_or(usize::MAX / 2);
        // With this error no join tries to use the disk: it would make the same batches of what it reads from there.
        self.memory.try_grow(more).map_err(|error| into_datafusion(from_datafusion(error)))
    }

    fn too_wide(&self, width: u64) -> DataFusionError {
        into_datafusion(Error::exhausted(format!(
            "{TOO_WIDE}{width} bytes, of which {} would be in memory at once (`sql_memory_bytes`): select shorter values, or join first and collect values in lists and texts afterwards",
            self.batch_rows
        )))
    }
}

/// The most bytes of a batch in a session of so many partitions.
pub(in crate::engine) fn most_batch_bytes(pool: &Arc<dyn MemoryPool>, partitions: usize) -> u64 {
    match pool.memory_limit() {
        MemoryLimit::Finite(bytes) => {
            let share = bytes as u64 / BATCH_SHARE / partitions.max(1) as u64;
            share.clamp(UNCOUNTED_BYTES, MAX_BATCH_BYTES)
        }
        _ => MAX_BATCH_BYTES,
    }
}

/// How wide the rows are that need smaller batches; `None`: it is another error.
pub(in crate::engine) fn too_wide(error: &Error) -> Option<u64> {
    if error.code != Code::ResourceExhausted {
        return None;
    }
    let (_, rest) = error.message.split_once(TOO_WIDE)?;
    rest.split(' ').next()?.parse().ok()
}

/// How many rows of this width a batch of at most so many bytes may have.
pub(in crate::engine) fn rows_of_width(width: u64, most_bytes: u64) -> usize {
    usize::try_from(most_bytes / width.max(1)).unwrap_or(usize::MAX).max(MIN_BATCH_ROWS)
}

/// How many rows a batch may have in a query that starts again, because rows had this width.
pub(in crate::engine) fn rows_again(width: u64, most_bytes: u64) -> usize {
    rows_of_width(width.saturating_mul(UNEVEN_AGAIN), most_bytes)
}

/// How many rows a batch may have whose rows are of a table with rows of this width on average.
pub(in crate::engine) fn rows_of_average(width: u64, most_bytes: u64) -> usize {
    rows_of_width(width.saturating_mul(UNEVEN), most_bytes)
}
