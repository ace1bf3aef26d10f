//! Step 3 of a put: the client's messages become sealed parts.
//!
//! An async task queues the messages ([`feed`]); a thread of the node's writers ([`super::writers`]) decodes them, splits
//! their rows into shards ([`MessageWriter`]) and writes these into parts ([`super::part_sink`]).

use std::sync::Arc;

use arrow_flight::FlightData;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use volley_common::ipc::conform::conform;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::partition::first_shard;
use volley_common::{Error, Result};

use super::ack_stream::AckSender;
use super::blocks::TargetSizes;
use super::handshake::{PutMessages, next_message};
use super::part_sink::{PartSink, PartSinkConfig, SealedPartSender};
use super::shards::BatchPartitioner;
use crate::put_memory::{BufferedRows, PutMemory};
use crate::put_resources::PutResources;

/// Maximum bytes of messages that are queued for the writer thread. A larger message is queued alone.
pub const QUEUED_BYTES: usize = 4 << 20;
/// Messages that may wait for the writer thread.
pub const QUEUED_MESSAGES: usize = 64;
/// Sealed parts that may wait for replication.
pub const SEALED_PARTS: usize = 16;

/// What a writer receives.
pub enum WriterInput {
    /// The next message. Its permits are released once it is decoded.
    Message(FlightData, OwnedSemaphorePermit),
    /// Buffered rows are to be written if memory is short.
    Flush,
    /// The stream is complete.
    End,
}

/// Queues the client's messages for the writer, with backpressure, and acknowledges each. An acknowledgement means that the
/// message was received, not that it is durable. While the client pauses, the writer buffers rows only as long as no put
/// waits for `memory`.
///
/// # Errors
/// CANCELLED: the client disconnected. Those of [`next_message`].
pub async fn feed(
    mut input: impl PutMessages,
    acks: &AckSender,
    messages: mpsc::Sender<WriterInput>,
    memory: &PutMemory,
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
        let Some(data) = message else {
            // If the writer has ended, it returns its own error.
            let _ = messages.send(WriterInput::End).await;
            return Ok(());
        };
        let ack = is_acknowledged(&data).then(|| data.app_metadata.clone());
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
    let bytes = (data.data_body.len() + data.data_header.len()).clamp(1, QUEUED_BYTES);
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

/// Turns messages into sealed parts. Blocks: used by one thread at a time.
pub struct MessageWriter {
    decoder: BatchDecoder,
    partitioner: BatchPartitioner,
    parts: PartSink,
    memory: Arc<PutMemory>,
    rows: BufferedRows,
}

impl MessageWriter {
    /// `decoder` has read the schema. Each part is sent to `sealed` when it is durable.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a key column that does not exist or cannot be hashed.
    pub fn new(
        config: PartSinkConfig,
        resources: &PutResources,
        decoder: BatchDecoder,
        sealed: SealedPartSender,
        runtime: Handle,
    ) -> Result<Self> {
        let first = first_shard(&config.write_id, config.first_seq, config.spec.shards);
        let sizes = TargetSizes {
            message: config.message_bytes,
            block: config.block_bytes,
            first_block: config.first_block_bytes.min(config.block_bytes),
        };
        let mut partitioner = BatchPartitioner::new(&config.spec, &config.schema, sizes, first)?;
        partitioner.limit_window(resources.shares.window);
        let memory = resources.memory.clone();
        let decoder = decoder.with_spool(Arc::new(config.store.clone()), resources.shares.decompressed);
        let decoder = decoder.with_cost_limit();
        let (parts, rows) = (PartSink::new(config, sealed, runtime), BufferedRows::new(memory.clone()));
        Ok(MessageWriter { decoder, partitioner, parts, memory, rows })
    }

    /// Writes one message.
    ///
    /// # Errors
    /// Bad input and disk errors.
    pub fn write(&mut self, input: WriterInput) -> Result<()> {
        match input {
            WriterInput::Message(data, permit) => {
                self.write_message(data)?;
                drop(permit);
                if self.rows.hold(self.partitioner.buffered()) { Ok(()) } else { self.flush() }
            }
            WriterInput::Flush if self.memory.is_short() => self.flush(),
            WriterInput::Flush | WriterInput::End => Ok(()),
        }
    }

    fn write_message(&mut self, mut data: FlightData) -> Result<()> {
        let (app_metadata, header) = (std::mem::take(&mut data.app_metadata), data.data_header.len());
        match self.decoder.push(data)? {
            DecodedMessage::Batch(batch) => {
                self.parts.growth.receive(&batch);
                let batch = conform(&batch, &self.parts.config.schema)?;
                if self.parts.config.spec.preserve_batches {
                    // A batch of few rows is stored with about as much around it as was sent around it.
                    self.parts.growth.receive_header(header + app_metadata.len());
                }
                self.partitioner.push(&batch, &app_metadata, &mut self.parts)
            }
            // Buffered rows use the old dictionary.
            DecodedMessage::Dictionary(bytes) => {
                self.flush()?;
                self.parts.growth.receive_dictionary(bytes);
                Ok(())
            }
            DecodedMessage::Metadata => Ok(()),
            DecodedMessage::Schema(_) => Err(Error::invalid("the stream has a second schema message")),
        }
    }

    fn flush(&mut self) -> Result<()> {
        self.partitioner.flush(&mut self.parts)?;
        self.rows.release();
        Ok(())
    }

    /// Writes all buffered rows and seals all parts.
    ///
    /// # Errors
    /// Disk errors.
    pub fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.parts.seal_all()
    }
}
