//! The rows of a task, sent to the task that reads them: partitions are computed at the same time, each by a task of its own.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use datafusion::execution::SendableRecordBatchStream;
use futures::stream::BoxStream;
use futures::{StreamExt, stream};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use volley_common::ipc::MESSAGE_BYTES;
use volley_common::ipc::encode::{IpcMessage, encode_messages};
use volley_common::ipc::schema::{flight_header, schema_message};
use volley_common::telemetry::trace::carry;
use volley_common::wire::MAX_PEER_MESSAGE;
use volley_common::wire::cluster::QueryTaskRows;
use volley_common::{Error, Result};

use crate::engine::query_stream::catch_panic;
use crate::fault::from_datafusion;

/// Messages of about 1 MiB that wait for the connection.
const QUEUED_MESSAGES: usize = 4;

type SentMessage = Result<QueryTaskRows>;

/// The rows of consecutive partitions, of which the first has this number. They are computed on the current runtime, until
/// `ended` is cancelled or the stream is dropped. An error is the stream's last item, and each partition that is complete has
/// its end.
///
/// # Errors
/// INVALID_ARGUMENT: a type that cannot be sent.
pub(super) fn send(
    partitions: Vec<SendableRecordBatchStream>,
    first: usize,
    ended: &CancellationToken,
) -> Result<BoxStream<'static, SentMessage>> {
    let schema = partitions.first().map_or_else(|| Arc::new(Schema::empty()), |rows| rows.schema());
    let header = flight_header(&schema_message(&schema)?);
    let (sender, mut deliveries) = mpsc::channel(QUEUED_MESSAGES);
    let mut computing = JoinSet::new();
    for (at, rows) in partitions.into_iter().enumerate() {
        let partition = PartitionSender { partition: (first + at) as u64, sender: sender.clone() };
        let ended = ended.clone();
        computing.spawn(carry(async move {
            if ended.run_until_cancelled(partition.send_all(rows)).await.is_none() {
                // Nobody has to take it.
                let _ = partition.sender.try_send(Err(Error::unavailable("the query has ended, or its head is lost")));
            }
        }));
    }
    let begin = QueryTaskRows { header, ..QueryTaskRows::default() };
    let rest = stream::poll_fn(move |context| {
        // Dropping the stream ends the tasks.
        let _ = &computing;
        deliveries.poll_recv(context)
    });
    let mut has_failed = false;
    let rest = rest.take_while(move |delivery| {
        let is_after_error = has_failed;
        has_failed |= delivery.is_err();
        std::future::ready(!is_after_error)
    });
    Ok(stream::once(std::future::ready(Ok(begin))).chain(rest).boxed())
}

/// Sends the rows of one partition.
struct PartitionSender {
    partition: u64,
    sender: mpsc::Sender<SentMessage>,
}

impl PartitionSender {
    async fn send_all(&self, mut rows: SendableRecordBatchStream) {
        let schema = rows.schema();
        let last = loop {
            let batch = match catch_panic(rows.next()).await {
                Ok(Some(Ok(batch))) => batch,
                Ok(Some(Err(error))) => break Err(from_datafusion(error)),
                Ok(None) => {
                    break Ok(QueryTaskRows { partition: self.partition, end: true, ..QueryTaskRows::default() });
                }
                Err(panic) => break Err(panic),
            };
            match self.messages(&batch, &schema) {
                Ok(messages) => {
                    for message in messages {
                        if self.sender.send(Ok(message)).await.is_err() {
                            return;
                        }
                    }
                }
                Err(error) => break Err(error),
            }
        };
        // Memory is free before somebody takes the last rows.
        drop(rows);
        let _ = self.sender.send(last).await;
    }

    fn messages(&self, batch: &RecordBatch, schema: &Schema) -> Result<Vec<QueryTaskRows>> {
        check_types(batch.schema_ref(), schema)?;
        encode_messages(batch, MESSAGE_BYTES)?.into_iter().map(|message| self.message(message)).collect()
    }

    /// # Errors
    /// RESOURCE_EXHAUSTED: it is larger than what nodes accept. One row can be: the state of an `array_agg` has all its values.
    fn message(&self, message: IpcMessage) -> Result<QueryTaskRows> {
        let IpcMessage { header, body } = message;
        let message = QueryTaskRows { partition: self.partition, header, body, end: false };
        let bytes = message.encoded_len();
        match bytes <= MAX_PEER_MESSAGE {
            true => Ok(message),
            false => Err(Error::exhausted(format!(
                "a row between the steps of the query has {bytes} bytes, and nodes send each other at most {MAX_PEER_MESSAGE}: \
                 put fewer values into one group, or ask the operator for a larger `sql_distribute_bytes`"
            ))),
        }
    }
}

/// A batch is decoded by the schema that was sent, so it must have these types.
///
/// # Errors
/// INTERNAL: it has others.
fn check_types(batch: &Schema, sent: &Schema) -> Result<()> {
    let types = |schema: &Schema| schema.fields().iter().map(|field| field.data_type().clone()).collect::<Vec<_>>();
    let is_same = batch.fields().len() == sent.fields().len()
        && batch.fields().iter().zip(sent.fields()).all(|(a, b)| a.data_type().equals_datatype(b.data_type()));
    match is_same {
        true => Ok(()),
        false => Err(Error::internal(format!(
            "a task gives rows of the types {:?}, but its plan says {:?}",
            types(batch),
            types(sent)
        ))),
    }
}
