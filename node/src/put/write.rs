//! Step 3 of a put: the client's messages become sealed parts.
//!
//! An async task queues the messages ([`feed`]); a thread of the node's writers ([`super::writers`]) decodes them, splits
//! their rows into shards and writes these into parts ([`MessageWriter`], [`PartSink`]); blocking threads seal full parts,
//! which are then copied to their holders.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use volley_common::ipc::conform::conform;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::partition::first_shard;
use volley_common::wire::catalog::{self, Compression, TableSpec};
use volley_common::{Error, Result, TableName};

use super::ack_stream::AckSender;
use super::growth::GrowthLimit;
use super::handshake::{PutMessages, next_message};
use super::shards::{BatchPartitioner, ShardSink, TargetSizes};
use crate::put_memory::{BufferedRows, PutMemory};
use crate::put_resources::PutResources;
use crate::storage::{BatchWrite, PartSpec, PartStore, PartWriter, SealedPart};

/// Maximum bytes of messages that are queued for the writer thread. A larger message is queued alone.
pub const QUEUED_BYTES: usize = 4 << 20;
/// Messages that may wait for the writer thread.
pub const QUEUED_MESSAGES: usize = 64;
/// Sealed parts that may wait for replication.
pub const SEALED_PARTS: usize = 16;
/// Maximum number of parts of one put that are being sealed at the same time, while the next is being written.
const MAX_SEALS: usize = 2;
/// Maximum memory for the dictionaries of all open parts of a put, bytes.
const MAX_DICTIONARY_MEMORY: usize = 64 << 20;

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

    fn write_message(&mut self, data: FlightData) -> Result<()> {
        match self.decoder.push(data)? {
            DecodedMessage::Batch(batch) => {
                self.parts.growth.receive(&batch);
                let batch = conform(&batch, &self.parts.config.schema)?;
                self.partitioner.push(&batch, &mut self.parts)
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

/// Which parts are written, and where.
pub struct PartSinkConfig {
    /// This node's disk.
    pub store: PartStore,
    /// The table.
    pub table: TableName,
    /// The write's id.
    pub write_id: String,
    /// How the table is sharded and stored.
    pub spec: TableSpec,
    /// The table's schema. All batches must have it.
    pub schema: SchemaRef,
    /// The `seq` of the first part.
    pub first_seq: u64,
    /// See [`crate::config::NodeConfig::message_bytes`]; at most `MAX_SPLIT_BYTES`.
    pub message_bytes: usize,
    /// See [`crate::config::NodeConfig::block_bytes`].
    pub block_bytes: u64,
    /// The first block of each shard, bytes; blocks grow up to `block_bytes`.
    pub first_block_bytes: u64,
    /// See [`crate::config::NodeConfig::part_bytes`].
    pub part_bytes: u64,
    /// The permits of all seals of this node.
    pub seals: Arc<Semaphore>,
}

/// Receives sealed parts. The channel closes when the writer and all its seals have ended.
pub type SealedPartSender = mpsc::Sender<Result<catalog::Part>>;

/// Writes batches into the open parts of a write, at most one for each shard.
pub struct PartSink {
    /// Which parts, and where.
    pub config: PartSinkConfig,
    compression: Compression,
    /// By shard: the part's writer and its `seq`.
    open: HashMap<u32, (PartWriter, u64)>,
    next_seq: u64,
    /// The bytes that were received and written.
    pub growth: GrowthLimit,
    seals: Arc<Semaphore>,
    sealed: SealedPartSender,
    runtime: Handle,
}

impl PartSink {
    /// Without any part yet. Each part is sent to `sealed` when it is durable.
    pub fn new(config: PartSinkConfig, sealed: SealedPartSender, runtime: Handle) -> Self {
        PartSink {
            compression: Compression::try_from(config.spec.compression).unwrap_or(Compression::None),
            next_seq: config.first_seq,
            open: HashMap::new(),
            growth: GrowthLimit::new(&config.schema),
            seals: Arc::new(Semaphore::new(MAX_SEALS)),
            config,
            sealed,
            runtime,
        }
    }

    fn create(&mut self, shard: u32) -> Result<(PartWriter, u64)> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let writer = self.config.store.create(PartSpec {
            table: self.config.table.clone(),
            shard,
            write: self.config.write_id.clone(),
            seq,
            schema: self.config.schema.clone(),
            compression: self.compression,
        })?;
        Ok((writer, seq))
    }

    /// Writes into the shard's open part, or into a new one.
    fn try_write(&mut self, shard: u32, batch: &RecordBatch) -> Result<BatchWrite> {
        if !self.open.contains_key(&shard) {
            let new = self.create(shard)?;
            self.open.insert(shard, new);
        }
        match self.open.get_mut(&shard) {
            Some((writer, _)) => writer.write(batch),
            None => Err(Error::internal("a part that was just created is missing")),
        }
    }

    /// Seals a part on a blocking thread, so that the next one can be written meanwhile.
    fn seal(&mut self, shard: u32, writer: PartWriter, seq: u64) -> Result<()> {
        let acquire = |permits: &Arc<Semaphore>| {
            let permit = self.runtime.block_on(permits.clone().acquire_owned());
            permit.map_err(|_| Error::internal("the permits of seals are never closed"))
        };
        let (permit, node_permit) = (acquire(&self.seals)?, acquire(&self.config.seals)?);
        let (sealed, write_id) = (self.sealed.clone(), self.config.write_id.clone());
        self.runtime.spawn_blocking(move || {
            let part = writer.seal().map(|part| catalog_part(&part, shard, seq, write_id));
            drop(node_permit);
            let _ = sealed.blocking_send(part);
            drop(permit);
        });
        Ok(())
    }

    /// Ends the part with the most dictionary values if all open parts together have too many.
    fn limit_dictionary_memory(&mut self) -> Result<()> {
        let parts = self.open.iter().map(|(shard, (writer, _))| (*shard, writer.dictionary_memory()));
        let (largest, all) = parts
            .fold(((0, 0), 0), |(largest, all), part| (if part.1 > largest.1 { part } else { largest }, all + part.1));
        if all > MAX_DICTIONARY_MEMORY { self.end_part(largest.0) } else { Ok(()) }
    }

    /// How many parts were created.
    pub fn count(&self) -> u64 {
        self.next_seq - self.config.first_seq
    }

    /// Seals all open parts.
    pub fn seal_all(&mut self) -> Result<()> {
        let mut open: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by_key(|(_, (_, seq))| *seq);
        open.into_iter().try_for_each(|(shard, (writer, seq))| self.seal(shard, writer, seq))
    }
}

impl ShardSink for PartSink {
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()> {
        match self.try_write(shard, batch)? {
            BatchWrite::Written => {}
            BatchWrite::NeedsNewPart if self.open.get(&shard).is_some_and(|(writer, _)| writer.rows() > 0) => {
                self.end_part(shard)?;
                return self.write(shard, batch);
            }
            BatchWrite::NeedsNewPart if batch.num_rows() > 1 => {
                let half = batch.num_rows() / 2;
                self.write(shard, &shrink_to_fit(&batch.slice(0, half)))?;
                return self.write(shard, &shrink_to_fit(&batch.slice(half, batch.num_rows() - half)));
            }
            BatchWrite::NeedsNewPart => return Err(Error::internal("a new part refused one row")),
        }
        self.limit_dictionary_memory()?;
        let open = self.open.values().map(|(writer, _)| writer.bytes()).sum();
        self.growth.check(open, self.count())?;
        match self.open.get(&shard) {
            Some((writer, _)) if writer.is_full(self.config.part_bytes) => self.end_part(shard),
            _ => Ok(()),
        }
    }

    fn end_part(&mut self, shard: u32) -> Result<()> {
        match self.open.remove(&shard) {
            Some((writer, seq)) => {
                self.growth.end_part(writer.bytes());
                self.seal(shard, writer, seq)
            }
            None => Ok(()),
        }
    }
}

/// The catalog's row for a sealed part; replication fills in its holders.
fn catalog_part(part: &SealedPart, shard: u32, seq: u64, write: String) -> catalog::Part {
    catalog::Part {
        id: Some(part.id.into()),
        shard,
        write,
        seq,
        rows: part.rows,
        bytes: part.bytes,
        crc32c: part.crc32c,
        ..Default::default()
    }
}
