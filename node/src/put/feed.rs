//! Queues a put's messages for its writer.

use std::sync::Arc;

use arrow_flight::FlightData;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use volley_common::{Error, Result};

use super::ack_stream::AckSender;
use super::handshake::{PutMessages, next_message};
use super::write::{QUEUED_BYTES, WriterInput};
use crate::put_memory::PutMemory;

/// Queues the client's messages for the writer, with backpressure, and acknowledges each. An acknowledgement means that the
/// message was received, not that it is durable. While the client pauses, the writer buffers rows only as long as no put
/// waits for `memory`. Only if `keeps_metadata` the writer gets the messages' metadata.
///
/// # Errors
/// CANCELLED: the client disconnected. Those of [`next_message`].
pub async fn feed(
    mut input: impl PutMessages,
    acks: &AckSender,
    messages: mpsc::Sender<WriterInput>,
    memory: &PutMemory,
    keeps_metadata: bool,
) -> Result<()> {
    let permits = Arc::new(Semaphore::new(QUEUED_BYTES));
    let mut may_buffer = false;
    loop {
        let message = tokio::select! {
            biased;
            () = acks.disconnected() => return Err(Error::cancelled("the client disconnected")),
            message = next_message(&mut input) => message?,
            () = memory.shortage(), if may_buffer => {
                if messages.send(WriterInput::Flush).await.is_err() {
                    return Ok(());
                }
                may_buffer = false;
                continue;
            }
            () = messages.closed() => return Ok(()),
        };
        let Some(mut data) = message else {
            // If the writer has ended, it returns its own error.
            let _ = messages.send(WriterInput::End).await;
            return Ok(());
        };
        let ack = is_acknowledged(&data).then(|| data.app_metadata.clone());
        if !keeps_metadata {
            data.app_metadata.clear();
        }
        let permit = tokio::select! {
            permit = acquire_permits(&permits, &data) => permit?,
            () = acks.disconnected() => return Err(Error::cancelled("the client disconnected")),
            () = messages.closed() => return Ok(()),
        };
        if messages.send(WriterInput::Message(data, permit)).await.is_err() {
            return Ok(());
        }
        may_buffer = true;
        if let Some(metadata) = ack {
            acks.acknowledge(metadata)?;
        }
    }
}

/// Waits until the message fits into what is left of [`QUEUED_BYTES`].
pub async fn acquire_permits(permits: &Arc<Semaphore>, data: &FlightData) -> Result<OwnedSemaphorePermit> {
    let bytes = (data.data_body.len() + data.data_header.len() + data.app_metadata.len()).clamp(1, QUEUED_BYTES);
    let acquired = permits.clone().acquire_many_owned(bytes as u32).await;
    acquired.map_err(|_| Error::internal("the permits of queued messages are never closed"))
}

/// Whether a message gets a result: rows and bare metadata do, dictionaries do not.
fn is_acknowledged(data: &FlightData) -> bool {
    if data.data_header.is_empty() {
        return true;
    }
    arrow_ipc::root_as_message(&data.data_header)
        .is_ok_and(|message| message.header_type() == arrow_ipc::MessageHeader::RecordBatch)
}

/// Reads and drops the rows of a write that was committed before, acknowledging each message.
///
/// # Errors
/// Those of [`next_message`].
pub async fn skip_rows(input: &mut impl PutMessages, acks: &AckSender) -> Result<()> {
    while let Some(data) = next_message(input).await? {
        if is_acknowledged(&data) {
            acks.acknowledge(data.app_metadata)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use futures::{StreamExt, stream};

    use super::*;
    use crate::put::ack_stream;

    const MIB: usize = 1 << 20;

    #[tokio::test]
    async fn pausing_put_is_flushed_at_each_shortage() {
        let memory = PutMemory::new(8 * MIB, 0);
        let (acks, mut results) = ack_stream::channel(memory.clone());
        let (queue, mut queued) = mpsc::channel(8);
        let message = FlightData { app_metadata: Bytes::from_static(b"m"), ..FlightData::default() };
        let (again, more) = mpsc::channel(1);
        let more = stream::unfold(more, |mut more| async move { Some((more.recv().await?, more)) });
        let input = Box::pin(stream::iter([Ok(message.clone())]).chain(more));
        let feeding = tokio::spawn({
            let memory = memory.clone();
            async move { feed(input, &acks, queue, &memory, false).await }
        });
        let mut next = async || tokio::time::timeout(Duration::from_secs(10), queued.recv()).await.unwrap().unwrap();
        for _ in 0..2 {
            assert!(matches!(next().await, WriterInput::Message(data, _) if data.app_metadata.is_empty()));
            let held = memory.try_reserve(8 * MIB).unwrap();
            let waiting = tokio::spawn(memory.clone().reserve(MIB));
            memory.shortage().await;
            assert!(matches!(next().await, WriterInput::Flush));
            drop(held);
            drop(waiting.await.unwrap());
            assert_eq!(results.next().await.unwrap().unwrap().app_metadata, "m");
            again.send(Ok(message.clone())).await.unwrap();
        }
        drop(again);
        assert!(matches!(next().await, WriterInput::Message(_, _)));
        assert!(matches!(next().await, WriterInput::End));
        feeding.await.unwrap().unwrap();
    }
}
