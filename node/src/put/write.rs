//! Step 3 of a put: the client's messages become parts.
//!
//! An async task queues the messages ([`super::feed`]); a thread of the node's writers ([`super::writers`]) decodes them, splits
//! their rows into shards ([`MessageWriter`]) and writes these into parts ([`super::part_sink`]).

use std::sync::Arc;

use arrow_flight::FlightData;
use metrics::Counter;
use tokio::runtime::Handle;
use tokio::sync::OwnedSemaphorePermit;
use volley_common::ipc::conform::conform;
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::partition::first_shard;
use volley_common::{Error, Result};

use super::blocks::TargetSizes;
use super::bodies::PutSpool;
use super::part_events::PartEventSender;
use super::part_sink::{PartSink, PartSinkConfig};
use super::shards::BatchPartitioner;
use crate::put_memory::BufferedRows;
use crate::put_resources::PutResources;

/// Maximum bytes of messages that are queued for the writer thread. A larger message is queued alone.
pub const QUEUED_BYTES: usize = 4 << 20;
/// Messages that may wait for the writer thread.
pub const QUEUED_MESSAGES: usize = 64;
/// Events of parts that may wait for replication.
pub const PART_EVENTS: usize = 16;

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

/// Turns messages into parts. Blocks: used by one thread at a time.
pub struct MessageWriter {
    decoder: BatchDecoder,
    partitioner: BatchPartitioner,
    parts: PartSink,
    rows: BufferedRows,
    received_bytes: Counter,
    received_rows: Counter,
}

impl MessageWriter {
    /// `decoder` has read the schema. What happens to each part is sent to `events`.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: a key column that does not exist or cannot be hashed.
    pub fn new(
        config: PartSinkConfig,
        resources: &PutResources,
        decoder: BatchDecoder,
        events: PartEventSender,
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
        let decoder = decoder.with_cost_limit();
        let parts = PartSink::new(config, events, runtime, memory.clone());
        let received_bytes = metrics::counter!("volley_put_bytes_total");
        let received_rows = metrics::counter!("volley_put_rows_total");
        let rows = BufferedRows::new(memory);
        Ok(MessageWriter { decoder, partitioner, parts, rows, received_bytes, received_rows })
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

    fn write_message(&mut self, mut data: FlightData) -> Result<()> {
        let (app_metadata, header) = (std::mem::take(&mut data.app_metadata), data.data_header.len());
        self.received_bytes.increment((header + app_metadata.len() + data.data_body.len()) as u64);
        match self.decoder.push(data)? {
            DecodedMessage::Batch(batch) => {
                self.parts.growth.receive(&batch);
                self.received_rows.increment(batch.num_rows() as u64);
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

    /// Writes all buffered rows and finishes all parts.
    ///
    /// # Errors
    /// Disk errors.
    pub fn finish(&mut self) -> Result<()> {
        self.flush()?;
        self.parts.seal_all()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use arrow::array::{ArrayRef, Int64Array};
    use arrow_flight::utils::batches_to_flight_data;
    use tempfile::TempDir;
    use tokio::sync::{Semaphore, mpsc};

    use arrow::array::RecordBatch;
    use volley_common::TableName;
    use volley_common::wire::catalog::TableSpec;

    use super::*;
    use crate::config::NodeConfig;
    use crate::storage::PartStore;

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
            contents: resources.contents.clone(),
            remote_shards: HashSet::new(),
        };
        let (events, _received) = mpsc::channel(PART_EVENTS);
        let mut writer = MessageWriter::new(config, &resources, decoder, events, Handle::current()).unwrap();
        let permit = Arc::new(Semaphore::new(1)).acquire_owned().await.unwrap();
        writer.write(WriterInput::Message(messages.next().unwrap(), permit)).unwrap();
        assert!(writer.partitioner.buffered() > 0 && !resources.memory.is_short());
        // The message that waited has got its memory by now, but the next one that waits must find this memory too.
        writer.write(WriterInput::Flush).unwrap();
        assert_eq!(writer.partitioner.buffered(), 0);
        assert!(resources.memory.try_reserve(resources.memory.bytes()).is_some());
    }
}
