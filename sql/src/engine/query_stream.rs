//! The rows of a running query.
//!
//! A task of its own drives the query, so that its time limit frees its memory even when nobody takes the rows. The stream says
//! that the query ended only when the task has said so: rows are never cut off silently.
//!
//! Rows that wait for the reader count in the memory of queries ([`waiting_rows`]), and the query keeps its place among those that run
//! until the stream is dropped: so results that nobody reads are bounded in size and number.

mod waiting_rows;

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::MemoryPool;
use datafusion::physical_plan::EmptyRecordBatchStream;
use futures::future::BoxFuture;
use futures::{FutureExt, Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use volley_common::ipc::shrink::detach;
use volley_common::ipc::size::data_bytes;
use volley_common::telemetry::trace::carry;
use volley_common::{Code, Error, Result};

use self::waiting_rows::WaitingRows;
use super::admission::QueryPermit;
use super::relabel::Relabel;
use super::{row_width, views};
use crate::fault::from_datafusion;

pub use self::waiting_rows::RowsShare;

/// Batches that wait for the receiver of the rows.
const QUEUED_BATCHES: usize = 2;

/// What the reader of a query gets.
enum Delivered {
    /// A batch, and its memory.
    Rows(RecordBatch, RowsShare),
    /// The end of the rows, with the place of the query.
    End(QueryPermit),
}

type Delivery = Result<Delivered>;

/// The rows of a query that is planned and started again.
pub(super) type RestartedRows = BoxFuture<'static, Result<SendableRecordBatchStream>>;

/// How a query starts again, as long as no row was sent.
pub(super) struct Restart {
    /// If other nodes run tasks of the query: after one of these was lost.
    pub(super) on_other_nodes: Option<RestartedRows>,
    /// On this node alone, with small batches: after rows of so many bytes were too wide.
    pub(super) for_rows_of: Box<dyn Fn(u64) -> RestartedRows + Send + Sync>,
}

/// The rows of a running query. Dropping it cancels the query. It can be polled anywhere; the query runs on the runtime where it
/// was started.
pub struct QueryStream {
    schema: SchemaRef,
    deliveries: mpsc::Receiver<Delivery>,
    /// Of the batch that was taken last.
    share: Option<RowsShare>,
    has_ended: bool,
    /// Once all rows were taken.
    _permit: Option<QueryPermit>,
    _driver: AbortOnDropHandle<()>,
}

/// When a query has to have ended, and the limit that says so.
#[derive(Clone, Copy)]
pub(super) struct Deadline {
    pub(super) at: Instant,
    pub(super) limit: Duration,
}

impl Deadline {
    /// `None` if there is no limit.
    pub(super) fn after(limit: Duration) -> Option<Self> {
        // One that is too far off for the clock is none.
        let at = Instant::now().checked_add(limit)?;
        (!limit.is_zero()).then_some(Deadline { at, limit })
    }

    /// The result of `work`.
    ///
    /// # Errors
    /// DEADLINE_EXCEEDED: `work` did not end in time, and is dropped.
    pub(super) async fn limit<T>(deadline: Option<Self>, work: impl Future<Output = T>) -> Result<T> {
        match deadline {
            None => Ok(work.await),
            Some(deadline) => timeout_at(deadline.at, work).await.map_err(|_| deadline.exceeded()),
        }
    }

    fn exceeded(&self) -> Error {
        Error::deadline(format!(
            "the query took longer than {} s, which is the limit (`statement_timeout_s`): select fewer rows, or ask the operator for a higher limit",
            self.limit.as_secs_f64()
        ))
    }
}

/// The result of `work`, or INTERNAL if it panics.
pub(super) async fn catch_panic<T>(work: impl Future<Output = T>) -> Result<T> {
    FutureExt::catch_unwind(AssertUnwindSafe(work)).await.map_err(|_| {
        Error::internal("the SQL engine failed for this statement: the log of the node says where, please report it")
    })
}

impl QueryStream {
    /// Starts to deliver `rows` with `schema`, which is the one of `relabel` without its views. `permit` is kept until the query
    /// fails or the stream is dropped. Rows that wait count in `memory`.
    pub(super) fn start(
        rows: SendableRecordBatchStream,
        restart: Restart,
        schema: SchemaRef,
        relabel: Relabel,
        deadline: Option<Deadline>,
        permit: QueryPermit,
        memory: &Arc<dyn MemoryPool>,
    ) -> Self {
        let (sender, deliveries) = mpsc::channel(QUEUED_BATCHES);
        let reader = RowsReader { promised: schema.clone(), sender: sender.clone(), waiting: WaitingRows::new(memory) };
        let driver = tokio::spawn(carry(async move {
            let work = deliver(rows, restart, relabel, reader, permit);
            if let Err(exceeded) = Deadline::limit(deadline, work).await {
                // The rows and the permit are dropped already; nobody has to take the error.
                let _ = sender.send(Err(exceeded)).await;
            }
        }));
        let driver = AbortOnDropHandle::new(driver);
        QueryStream { schema, deliveries, share: None, has_ended: false, _permit: None, _driver: driver }
    }

    /// The schema of all batches.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The memory of the batch that was taken last, if it still is there: it is given back when the next one is asked for.
    pub fn take_share(&mut self) -> Option<RowsShare> {
        self.share.take()
    }
}

/// Where the rows of a query go.
struct RowsReader {
    /// The schema of the batches.
    promised: SchemaRef,
    sender: mpsc::Sender<Delivery>,
    waiting: Arc<WaitingRows>,
}

/// Delivers all rows and then the end, or an error.
async fn deliver(
    mut rows: SendableRecordBatchStream,
    mut restart: Restart,
    relabel: Relabel,
    reader: RowsReader,
    permit: QueryPermit,
) {
    let mut has_sent = false;
    let last = loop {
        let batch = match catch_panic(rows.next()).await {
            Ok(Some(Ok(batch))) => batch,
            Ok(Some(Err(error))) => {
                // Memory and tasks of what failed are free before it starts again.
                rows = Box::pin(EmptyRecordBatchStream::new(rows.schema()));
                match after_failure(from_datafusion(error), has_sent, &mut restart).await {
                    Ok(again) => {
                        rows = again;
                        continue;
                    }
                    Err(error) => break Err(error),
                }
            }
            Ok(None) => break Ok(()),
            Err(panic) => break Err(panic),
        };
        if batch.num_rows() == 0 {
            continue;
        }
        has_sent = true;
        let sent = match relabel.apply(&batch) {
            Ok(batch) => reader.send(batch).await,
            Err(error) => Err(error),
        };
        match sent {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => break Err(error),
        }
    };
    // The memory of its operators is free before somebody takes the last rows, and after a failure its place.
    drop(rows);
    let last = last.map(|()| Delivered::End(permit));
    // Nobody has to take the end.
    let _ = reader.sender.send(last).await;
}

/// The rows from the beginning, if no row was sent, and a query with tasks on other nodes lost one of these, or its rows are too wide for its
/// batches.
///
/// # Errors
/// The failure, if the query is not started again.
async fn after_failure(error: Error, has_sent: bool, restart: &mut Restart) -> Result<SendableRecordBatchStream> {
    if let Some(width) = row_width::too_wide(&error) {
        if has_sent {
            return Err(error);
        }
        tracing::debug!(%error, width, "a query is started again with batches of fewer rows");
        return catch_panic((restart.for_rows_of)(width)).await?;
    }
    if error.code != Code::Unavailable {
        return Err(error);
    }
    match restart.on_other_nodes.take() {
        Some(_) if has_sent => Err(Error::unavailable(format!(
            "{error}; rows of the result were sent already, so the query was not started again: run it again"
        ))),
        Some(restart) => {
            tracing::warn!(%error, "a node of a query was lost: the query is planned again");
            catch_panic(restart).await?
        }
        None => Err(error),
    }
}

impl RowsReader {
    /// Sends the rows of a batch under the promised schema. False: nobody takes them.
    async fn send(&self, batch: RecordBatch) -> Result<bool> {
        if *batch.schema_ref() == self.promised {
            return self.send_counted(&batch).await;
        }
        for piece in views::pieces(&batch) {
            let piece = piece?;
            for rows in views::relaid(&piece, &self.promised) {
                if !self.send_counted(&rows?).await? {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    /// Sends a batch once there is memory for it.
    async fn send_counted(&self, batch: &RecordBatch) -> Result<bool> {
        // A slice would retain all rows of what it was cut from, which are not counted.
        let batch = detach(batch);
        let share = self.waiting.count(data_bytes(&batch)).await?;
        Ok(self.sender.send(Ok(Delivered::Rows(batch, share))).await.is_ok())
    }
}

impl Stream for QueryStream {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.share = None;
        let delivery = ready!(self.deliveries.poll_recv(context));
        let item = match delivery {
            Some(Ok(Delivered::Rows(batch, share))) => {
                self.share = Some(share);
                return Poll::Ready(Some(Ok(batch)));
            }
            Some(Ok(Delivered::End(permit))) => {
                self._permit = Some(permit);
                None
            }
            Some(Err(error)) => Some(Err(error)),
            None => Some(Err(Error::unavailable("the node stops and ended the query: ask another node"))),
        };
        self.has_ended = true;
        Poll::Ready(item)
    }
}

impl fmt::Debug for QueryStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QueryStream").field("schema", &self.schema).finish_non_exhaustive()
    }
}
