//! The rows of a task on another node, given to the partitions that read them.
//!
//! All partitions come through one stream. Rows that wait are counted in the memory of queries, and the stream pauses when there
//! are many, unless a partition waits for rows: its reader may be what the others wait for, as in a join.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use arrow::array::RecordBatch;
use arrow_flight::FlightData;
use bytes::Bytes;
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryPool, MemoryReservation};
use datafusion::physical_plan::metrics::Count;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::QueryTaskRows;
use volley_common::{Code, Error, NodeId, Result};

use super::messages::of_node;
use crate::fault::{from_datafusion, into_datafusion};

/// Bytes of one task that wait for their readers before the stream pauses.
const MAX_WAITING: usize = 16 << 20;

/// The rows of a task's partitions, as the library takes them.
pub(super) type PartitionStream = BoxStream<'static, datafusion::error::Result<RecordBatch>>;

/// A stream for each of the partitions of a task that runs on `node`. Call it on the runtime of the query: a task there receives the rows until the last of
/// the streams is dropped. `received` counts the bytes that arrive.
pub(super) fn receive(
    node: NodeId,
    rows: BoxStream<'static, Result<QueryTaskRows>>,
    partitions: Range<usize>,
    pool: &Arc<dyn MemoryPool>,
    received: Count,
) -> Vec<PartitionStream> {
    let reservation = MemoryConsumer::new("rows of other nodes").register(pool);
    let queues = partitions.clone().map(|_| PartitionQueue::default()).collect();
    let state = Mutex::new(ReceivedState { schema: Bytes::new(), queues, waiting: 0, reservation });
    let shared = Arc::new(ReceivedRows { state, first: partitions.start, room: Notify::new(), received });
    let receiver = Arc::new(AbortOnDropHandle::new(tokio::spawn(shared.clone().receive(rows))));
    let reader = |at| ReceivedPartition { shared: shared.clone(), at, decoder: None, _receiver: receiver.clone() };
    let named = move |error| into_datafusion(of_node(node, error));
    (0..partitions.len()).map(|at| reader(at).map(move |batch| batch.map_err(named)).boxed()).collect()
}

struct ReceivedRows {
    state: Mutex<ReceivedState>,
    /// The number of the first partition.
    first: usize,
    /// Notified when there may be room for more rows.
    room: Notify,
    /// Bytes of all messages so far, also of those that nobody reads any more.
    received: Count,
}

struct ReceivedState {
    /// The bare flatbuffer; empty before it has arrived.
    schema: Bytes,
    queues: Vec<PartitionQueue>,
    /// Bytes in all queues.
    waiting: usize,
    reservation: MemoryReservation,
}

/// What has arrived for one partition.
#[derive(Default)]
struct PartitionQueue {
    messages: VecDeque<QueryTaskRows>,
    /// After the messages.
    end: Option<Result<()>>,
    /// Of the reader, while it waits.
    reader: Option<Waker>,
    /// Nobody reads it any more.
    is_closed: bool,
}

impl PartitionQueue {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }

    fn is_starving(&self) -> bool {
        self.reader.is_some() && !self.is_closed && self.end.is_none()
    }
}

impl ReceivedState {
    fn must_pause(&self) -> bool {
        self.waiting >= MAX_WAITING && !self.queues.iter().any(PartitionQueue::is_starving)
    }

    /// Ends all partitions that have not ended.
    fn end_all(&mut self, error: &Error) {
        for queue in &mut self.queues {
            queue.end.get_or_insert_with(|| Err(error.clone()));
            queue.wake();
        }
    }

    fn release(&mut self, bytes: usize) {
        self.waiting -= bytes;
        self.reservation.shrink(bytes);
    }
}

impl ReceivedRows {
    async fn receive(self: Arc<Self>, mut rows: BoxStream<'static, Result<QueryTaskRows>>) {
        loop {
            while self.state.lock().must_pause() {
                self.room.notified().await;
            }
            let error = match rows.next().await {
                Some(Ok(message)) => match self.add(message) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Some(Err(error)) => error,
                // Partitions that have ended stay so.
                None => Error::unavailable("its rows ended too early: the connection to it broke, or it stops"),
            };
            return self.state.lock().end_all(&error);
        }
    }

    /// # Errors
    /// INTERNAL: the message is none of these partitions. RESOURCE_EXHAUSTED: there is no memory for it.
    fn add(&self, message: QueryTaskRows) -> Result<()> {
        self.received.add(size(&message));
        let mut state = self.state.lock();
        if state.schema.is_empty() {
            state.schema = message.header;
            return Ok(());
        }
        let at = usize::try_from(message.partition).ok().and_then(|partition| partition.checked_sub(self.first));
        let ReceivedState { queues, waiting, reservation, .. } = &mut *state;
        let queue = at.and_then(|at| queues.get_mut(at));
        let queue = queue.ok_or_else(|| {
            Error::internal(format!("it sends rows of partition {}, which nobody requested", message.partition))
        })?;
        if queue.is_closed || queue.end.is_some() {
            return Ok(());
        }
        if message.end {
            queue.end = Some(Ok(()));
        } else {
            let bytes = size(&message);
            reservation.try_grow(bytes).map_err(from_datafusion)?;
            *waiting += bytes;
            queue.messages.push_back(message);
        }
        queue.wake();
        Ok(())
    }
}

fn size(message: &QueryTaskRows) -> usize {
    message.header.len() + message.body.len()
}

/// The rows of one partition.
struct ReceivedPartition {
    shared: Arc<ReceivedRows>,
    at: usize,
    /// `None` before the first message.
    decoder: Option<BatchDecoder>,
    _receiver: Arc<AbortOnDropHandle<()>>,
}

impl ReceivedPartition {
    /// The next message, and the schema if there is no decoder yet.
    fn poll_message(&self, context: &Context<'_>) -> Poll<Option<Result<(QueryTaskRows, Bytes)>>> {
        let mut state = self.shared.state.lock();
        let schema = state.schema.clone();
        let queue = &mut state.queues[self.at];
        let next = match queue.messages.pop_front() {
            Some(message) => {
                state.release(size(&message));
                Poll::Ready(Some(Ok((message, schema))))
            }
            None => match queue.end.replace(Ok(())) {
                Some(Ok(())) => Poll::Ready(None),
                // Once.
                Some(Err(error)) => Poll::Ready(Some(Err(error))),
                None => {
                    queue.end = None;
                    queue.reader = Some(context.waker().clone());
                    Poll::Pending
                }
            },
        };
        drop(state);
        self.shared.room.notify_one();
        next
    }

    /// The rows of a message; `None`: it is a dictionary of later ones.
    fn decode(&mut self, message: QueryTaskRows, schema: Bytes) -> Result<Option<RecordBatch>> {
        let decoder = match &mut self.decoder {
            Some(decoder) => decoder,
            None => {
                let mut first = BatchDecoder::new(MAX_PEER_MESSAGE);
                first.push(FlightData::new().with_data_header(schema))?;
                self.decoder.insert(first)
            }
        };
        let data = FlightData::new().with_data_header(message.header).with_data_body(message.body);
        match decoder.push(data)? {
            DecodedMessage::Batch(batch) => Ok(Some(batch)),
            DecodedMessage::Dictionary(_) => Ok(None),
            DecodedMessage::Schema(_) | DecodedMessage::Metadata => {
                Err(Error::internal("it sends a message that is neither rows nor a dictionary"))
            }
        }
    }
}

impl Stream for ReceivedPartition {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let (message, schema) = match self.poll_message(context) {
                Poll::Ready(Some(Ok(next))) => next,
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Some(Err(error))),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => return Poll::Pending,
            };
            match self.decode(message, schema) {
                Ok(Some(batch)) => return Poll::Ready(Some(Ok(batch))),
                Ok(None) => {}
                Err(error) => {
                    self.shared.state.lock().queues[self.at].end = Some(Ok(()));
                    return Poll::Ready(Some(Err(as_fault_of_sender(error))));
                }
            }
        }
    }
}

/// The client did nothing wrong if another node's message is malformed.
fn as_fault_of_sender(error: Error) -> Error {
    match error.code {
        Code::InvalidArgument => Error::internal(error.message),
        _ => error,
    }
}

impl Drop for ReceivedPartition {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        let queue = &mut state.queues[self.at];
        queue.is_closed = true;
        queue.reader = None;
        let bytes: usize = queue.messages.drain(..).map(|message| size(&message)).sum();
        state.release(bytes);
        drop(state);
        self.shared.room.notify_one();
    }
}

#[cfg(test)]
mod tests;
