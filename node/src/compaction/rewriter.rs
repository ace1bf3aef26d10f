//! The writing thread of a compaction: the sources' messages into one shard's parts.

use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use volley_common::ipc::conform::{conform, conform_split};
use volley_common::ipc::decode::{BatchDecoder, DecodedMessage};
use volley_common::ipc::size::data_bytes;
use volley_common::ipc::split::split;
use volley_common::{Error, Result};

use super::join::{has_dictionary, join, share_dictionaries};
use crate::put::blocks::ShardSink;
use crate::put::part_events::PartEventSender;
use crate::put::part_sink::{PartSink, PartSinkConfig};
use crate::put::write::WriterInput;
use crate::put_memory::PutMemory;

/// Bytes of rows with dictionaries that are joined at a time.
const DICTIONARY_GROUP_BYTES: usize = 64 << 20;

/// Writes the rows of all sources into one shard's parts.
pub struct PartRewriter {
    parts: PartSink,
    schema: SchemaRef,
    shard: u32,
    /// With more parts than this the compaction is not worth it.
    max_parts: u64,
    /// Bytes of rows that are joined at a time.
    group_bytes: usize,
    group: Vec<RecordBatch>,
    bytes: usize,
}

impl PartRewriter {
    /// What happens to each part is sent to `events`.
    pub fn new(
        target: PartSinkConfig,
        shard: u32,
        max_parts: u64,
        events: PartEventSender,
        runtime: Handle,
        memory: Arc<PutMemory>,
    ) -> Self {
        let schema = target.schema.clone();
        let group_bytes = if has_dictionary(&schema) { DICTIONARY_GROUP_BYTES } else { target.message_bytes };
        let parts = PartSink::new(target, events, runtime, memory);
        PartRewriter { parts, schema, shard, max_parts, group_bytes, group: Vec::new(), bytes: 0 }
    }

    /// Blocks until the input ends.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: more than `max_parts` parts. CANCELLED: the input closed without its end marker. Errors of
    /// the sources' data and of the disk.
    pub fn write_all(mut self, mut decoder: BatchDecoder, mut input: mpsc::Receiver<WriterInput>) -> Result<()> {
        while let Some(next) = input.blocking_recv() {
            let (mut data, permit) = match next {
                WriterInput::Message(data, permit) => (data, permit),
                WriterInput::Flush => continue,
                WriterInput::End => {
                    self.flush()?;
                    return self.parts.seal_all();
                }
            };
            let app_metadata = std::mem::take(&mut data.app_metadata);
            match decoder.push(data)? {
                DecodedMessage::Batch(batch) if self.parts.config.spec.preserve_batches => {
                    self.parts.write_whole(self.shard, &conform(&batch, &self.schema)?, &app_metadata)?;
                    self.check_count()?;
                }
                DecodedMessage::Batch(batch) if batch.num_rows() > 0 => {
                    let schema = self.schema.clone();
                    conform_split(&batch, &schema).try_for_each(|batch| self.push(batch?))?;
                }
                DecodedMessage::Batch(_)
                | DecodedMessage::Schema(_)
                | DecodedMessage::Dictionary(_)
                | DecodedMessage::Metadata => {}
            }
            drop(permit);
        }
        Err(Error::cancelled("the compaction was cancelled"))
    }

    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let bytes = data_bytes(&batch);
        if self.bytes + bytes > self.group_bytes {
            self.flush()?;
        }
        self.bytes += bytes;
        let batch = match self.group.last() {
            Some(last) => share_dictionaries(batch, last)?,
            None => batch,
        };
        self.group.push(batch);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        for batch in join(std::mem::take(&mut self.group)) {
            for message in split(&batch, self.parts.config.message_bytes) {
                self.parts.write(self.shard, &message?)?;
                self.check_count()?;
            }
        }
        Ok(())
    }

    fn check_count(&self) -> Result<()> {
        if self.parts.count() <= self.max_parts {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "shard {} of table {:?} cannot be compacted: its rows would still need more than {} parts, because their dictionaries differ",
            self.shard, self.parts.config.table, self.max_parts
        )))
    }
}
