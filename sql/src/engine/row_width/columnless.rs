//! Rows without columns, of which only the number counts. A join keeps its left side as a list of batches and counts the bytes of their
//! columns, so it would count nothing here: the list of 10^11 rows has gigabytes.

use std::mem::take;

use arrow::array::{RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::SendableRecordBatchStream;
use futures::stream::Fuse;
use futures::{Stream, StreamExt, stream};

use super::batch_memory::BatchMemory;

/// So many rows cost a byte: a join may keep a bit for each.
const ROWS_OF_BYTE: usize = 8;

/// The same rows in few batches, each with as many rows as all before it. So there are at most as many batches as a number has bits, and a
/// reader that needs only some rows gets them soon.
pub(super) fn merged(
    rows: SendableRecordBatchStream,
    memory: BatchMemory,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    let counts = RowCounts { schema: rows.schema(), rows: rows.fuse(), memory, waiting: 0, given: 0 };
    stream::try_unfold(counts, |mut counts| async move {
        Ok::<_, DataFusionError>(counts.next().await?.map(|batch| (batch, counts)))
    })
}

/// How many rows there were.
struct RowCounts {
    schema: SchemaRef,
    rows: Fuse<SendableRecordBatchStream>,
    memory: BatchMemory,
    /// Rows that were not given yet, and those that were.
    waiting: usize,
    given: usize,
}

impl RowCounts {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while let Some(batch) = self.rows.next().await {
            self.waiting = self.waiting.saturating_add(batch?.num_rows());
            if self.waiting > self.given {
                return self.give().map(Some);
            }
        }
        if self.waiting == 0 { Ok(None) } else { self.give().map(Some) }
    }

    fn give(&mut self) -> Result<RecordBatch> {
        let rows = take(&mut self.waiting);
        self.given = self.given.saturating_add(rows);
        self.memory.count((self.given / ROWS_OF_BYTE) as u64)?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        Ok(RecordBatch::try_new_with_options(self.schema.clone(), Vec::new(), &options)?)
    }
}
