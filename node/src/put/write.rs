//! Step 3 of a put: the client's messages become sealed parts.
//!
//! An async task queues the messages ([`super::feed`]); a thread of the node's writers ([`super::writers`]) decodes
//! them, splits their rows into shards and writes these into parts ([`MessageWriter`], [`PartSink`]); blocking threads seal full parts,
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

use super::bodies::PutSpool;
use super::growth::GrowthLimit;
use super::shards::{BatchPartitioner, ShardSink, TargetSizes};
use crate::put_memory::{BufferedRows, DictionaryKeys, PutMemory};
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
    /// Buffered rows are to be written: a message waited for memory. It may have got some by now, but the next shortage
    /// does not ask again.
    Flush,
    /// The stream is complete.
    End,
}

/// Turns messages into sealed parts. Blocks: used by one thread at a time.
pub struct MessageWriter {
    decoder: BatchDecoder,
    partitioner: BatchPartitioner,
    parts: PartSink,
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
        let spool = PutSpool { memory: memory.clone(), store: config.store.clone() };
        let decoder = decoder.with_spool(Arc::new(spool), resources.shares.decompressed);
        let parts = PartSink::new(config, sealed, runtime, memory.clone());
        Ok(MessageWriter { decoder, partitioner, parts, rows: BufferedRows::new(memory) })
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
                if self.rows.hold(self.partitioner.buffered()) { Ok(()) } else { self.give_back() }
            }
            WriterInput::Flush => self.give_back(),
            WriterInput::End => Ok(()),
        }
    }

    /// Gives back all memory that messages wait for.
    fn give_back(&mut self) -> Result<()> {
        self.flush()?;
        self.parts.release_dictionaries()
    }

    fn write_message(&mut self, data: FlightData) -> Result<()> {
        match self.decoder.push(data)? {
            DecodedMessage::Batch(batch) => {
                self.parts.growth.receive(&batch)?;
                let batch = conform(&batch, &self.parts.config.schema)?;
                self.partitioner.push(&batch, &mut self.parts)
            }
            // Buffered rows use the old dictionary.
            DecodedMessage::Dictionary => {
                self.flush()?;
                self.parts.growth.receive_dictionary();
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
    dictionary_keys: DictionaryKeys,
    seals: Arc<Semaphore>,
    sealed: SealedPartSender,
    runtime: Handle,
}

impl PartSink {
    /// Without any part yet. Each part is sent to `sealed` when it is durable. The keys of dictionaries are reserved from
    /// `memory`.
    pub fn new(config: PartSinkConfig, sealed: SealedPartSender, runtime: Handle, memory: Arc<PutMemory>) -> Self {
        PartSink {
            compression: Compression::try_from(config.spec.compression).unwrap_or(Compression::None),
            next_seq: config.first_seq,
            open: HashMap::new(),
            growth: GrowthLimit::default(),
            dictionary_keys: DictionaryKeys::new(memory),
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

    /// Bytes of the keys of all open parts' dictionaries, and the shard of the part with the most.
    fn dictionary_memory(&self) -> (usize, u32) {
        let parts = self.open.iter().map(|(shard, (writer, _))| (writer.dictionary_memory(), *shard));
        let (all, largest) = parts.fold((0, (0, 0)), |(all, largest), part| (all + part.0, part.max(largest)));
        (all, largest.1)
    }

    /// Ends the parts with the most dictionary values if all open parts together have too many, or if there is no memory
    /// for them.
    fn limit_dictionary_memory(&mut self) -> Result<()> {
        loop {
            let (bytes, largest) = self.dictionary_memory();
            let may_stay = bytes <= MAX_DICTIONARY_MEMORY && self.dictionary_keys.hold(bytes);
            if may_stay || bytes == 0 {
                return Ok(());
            }
            self.end_part(largest)?;
        }
    }

    /// Ends the parts with the most dictionary values until nothing is reserved that messages wait for.
    fn release_dictionaries(&mut self) -> Result<()> {
        let may_stay = self.dictionary_keys.release();
        loop {
            let (bytes, largest) = self.dictionary_memory();
            if bytes <= may_stay {
                return Ok(());
            }
            self.end_part(largest)?;
        }
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
        self.growth.check(open, self.count(), self.config.schema.fields().len())?;
        match self.open.get(&shard) {
            Some((writer, _)) if writer.bytes() >= self.config.part_bytes => self.end_part(shard),
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

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int64Array};
    use arrow_flight::utils::batches_to_flight_data;
    use tempfile::TempDir;

    use super::*;
    use crate::config::NodeConfig;

    #[tokio::test]
    async fn flush_writes_buffered_rows_also_after_the_shortage() {
        let dir = TempDir::new().unwrap();
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(0..1000));
        let batch = RecordBatch::try_from_iter([("k", column)]).unwrap();
        let mut messages = batches_to_flight_data(&batch.schema(), vec![batch.clone()]).unwrap().into_iter();
        let mut decoder = BatchDecoder::new(1 << 20);
        decoder.push(messages.next().unwrap()).unwrap();
        let resources = PutResources::new(&NodeConfig::default());
        let config = PartSinkConfig {
            store: PartStore::open(dir.path()).unwrap(),
            table: TableName::from_components(&["t"]).unwrap(),
            write_id: "w".into(),
            spec: TableSpec { shards: 2, shard_by: vec!["k".into()], ..TableSpec::default() },
            schema: batch.schema(),
            first_seq: 0,
            message_bytes: 1 << 20,
            block_bytes: 1 << 20,
            first_block_bytes: 1 << 20,
            part_bytes: 1 << 30,
            seals: resources.seals.clone(),
        };
        let (sealed, _sealed_parts) = mpsc::channel(SEALED_PARTS);
        let mut writer = MessageWriter::new(config, &resources, decoder, sealed, Handle::current()).unwrap();
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        writer.write(WriterInput::Message(messages.next().unwrap(), permit)).unwrap();
        assert!(writer.partitioner.buffered() > 0 && !resources.memory.is_short());
        // The message that waited has got its memory by now, but the next one that waits must find this memory too.
        writer.write(WriterInput::Flush).unwrap();
        assert_eq!(writer.partitioner.buffered(), 0);
        assert!(resources.memory.try_reserve(resources.memory.bytes()).is_some());
    }
}
