//! The parts that one write writes: at most one open part for each shard. Their holders copy them while they grow. Blocking threads
//! finish full parts.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use volley_common::ipc::batch_header::MAX_APP_METADATA;
use volley_common::ipc::shrink::shrink_to_fit;
use volley_common::ipc::size::data_bytes;
use volley_common::wire::catalog::{self, Compression, TableSpec};
use volley_common::{Error, Result, TableName};

use super::blocks::ShardSink;
use super::growth::GrowthLimit;
use super::part_compression::part_compression;
use super::part_events::{PartEvent, PartEventSender, PendingPart};
use crate::put_memory::{DictionaryKeys, PutMemory};
use crate::storage::{
    BatchWrite, FOLLOWED_BYTES, FinishedPart, MAX_WHOLE_BATCH_BYTES, PartSpec, PartStore, PartWriter, SealedPart,
};

/// Maximum number of parts of one put that are complete and not durable on this node, although they are placed here, while the next is
/// being written. The parts of a table with a few shards end together, and their holders wait for their ends.
const MAX_SEALS: usize = 8;
/// Maximum number of parts of one put that are complete and wait for their copies: each has a file open.
const MAX_PENDING_PARTS: usize = 64;
/// A part of at most so many bytes is sent with the order to copy it.
const MAX_CONTENT_BYTES: u64 = 128 << 10;
/// Maximum memory for the dictionaries of all open parts of a put, bytes.
const MAX_DICTIONARY_MEMORY: usize = 64 << 20;
/// Maximum bytes of the statistics of all open parts of a put, about; the vectors that hold them take up to twice as much.
const MAX_STATISTICS_MEMORY: usize = 32 << 20;
/// Maximum bytes of the bounds of all parts of a stream in the catalog: further parts have none. A commit of the most parts that a
/// write may have still fits into a message.
const MAX_BOUNDS_BYTES: usize = 16 << 20;
/// Maximum number of record batches of a part: readers keep the positions of all of them in memory.
const MAX_PART_BATCHES: u32 = 1 << 16;

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
    /// The permits of the contents of small parts that wait for their copies, of this node.
    pub contents: Arc<Semaphore>,
    /// The shards that are not placed on this node: their parts need not reach its disk.
    pub remote_shards: HashSet<u32>,
}

/// The open part of a shard.
struct OpenShardPart {
    writer: PartWriter,
    seq: u64,
    /// Its holders copy it already.
    is_announced: bool,
}

/// Writes batches into the open parts of a write, at most one for each shard.
pub struct PartSink {
    /// Which parts, and where.
    pub config: PartSinkConfig,
    compression: Compression,
    /// By shard.
    open: HashMap<u32, OpenShardPart>,
    next_seq: u64,
    /// The bytes that were received and written.
    pub growth: GrowthLimit,
    dictionary_keys: DictionaryKeys,
    /// The columns whose bounds come first: those that the table is sharded by, unless it names some for its statistics.
    first_columns: Vec<usize>,
    /// The columns that the table names for its statistics.
    stats_columns: Vec<usize>,
    /// What is left of [`MAX_BOUNDS_BYTES`].
    bounds_left: usize,
    seals: Arc<Semaphore>,
    pending: Arc<Semaphore>,
    events: PartEventSender,
    runtime: Handle,
}

impl PartSink {
    /// Without any part yet. What happens to each part is sent to `events`. The keys of dictionaries are reserved from
    /// `memory`.
    pub fn new(config: PartSinkConfig, events: PartEventSender, runtime: Handle, memory: Arc<PutMemory>) -> Self {
        let indexes = |names: &[String]| -> Vec<usize> {
            names.iter().filter_map(|name| config.schema.index_of(name).ok()).collect()
        };
        let stats_columns = indexes(&config.spec.stats_columns);
        PartSink {
            first_columns: if stats_columns.is_empty() { indexes(&config.spec.shard_by) } else { Vec::new() },
            stats_columns,
            bounds_left: MAX_BOUNDS_BYTES,
            compression: Compression::try_from(config.spec.compression).unwrap_or(Compression::None),
            next_seq: config.first_seq,
            open: HashMap::new(),
            growth: GrowthLimit::new(&config.schema),
            dictionary_keys: DictionaryKeys::new(memory),
            seals: Arc::new(Semaphore::new(MAX_SEALS)),
            pending: Arc::new(Semaphore::new(MAX_PENDING_PARTS)),
            config,
            events,
            runtime,
        }
    }

    /// A new part of a shard, which begins with these rows.
    fn create(&mut self, shard: u32, first: &RecordBatch) -> Result<OpenShardPart> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let mut writer = self.config.store.create(PartSpec {
            table: self.config.table.clone(),
            shard,
            write: self.config.write_id.clone(),
            seq,
            schema: self.config.schema.clone(),
            compression: part_compression(self.compression, first),
        })?;
        if !self.stats_columns.is_empty() {
            writer.choose_statistics(&self.stats_columns);
        }
        writer.limit_statistics(MAX_STATISTICS_MEMORY / self.max_open());
        if self.config.remote_shards.contains(&shard) {
            writer.keep_off_disk();
        }
        Ok(OpenShardPart { writer, seq, is_announced: false })
    }

    /// How many parts can be open at the same time: without keys, one shard's part ends before the next one's begins.
    fn max_open(&self) -> usize {
        let spec = &self.config.spec;
        if spec.shard_by.is_empty() { 1 } else { spec.shards.max(1) as usize }
    }

    /// The writer of the shard's open part, or of a new one, which begins with these rows.
    fn writer(&mut self, shard: u32, next: &RecordBatch) -> Result<&mut PartWriter> {
        if !self.open.contains_key(&shard) {
            let new = self.create(shard, next)?;
            self.open.insert(shard, new);
        }
        let missing = || Error::internal("a part that was just created is missing");
        self.open.get_mut(&shard).map(|part| &mut part.writer).ok_or_else(missing)
    }

    fn is_started(&self, shard: u32) -> bool {
        self.open.get(&shard).is_some_and(|part| part.writer.batches() > 0)
    }

    /// Checks the limits after a batch was written, and ends the shard's part if it is full.
    fn after_write(&mut self, shard: u32) -> Result<()> {
        self.limit_dictionary_memory()?;
        let open = self.open.values().map(|part| part.writer.bytes()).sum();
        self.growth.check(open, self.count())?;
        let is_full =
            |writer: &PartWriter| writer.is_full(self.config.part_bytes) || writer.batches() >= MAX_PART_BATCHES;
        match self.open.get(&shard) {
            Some(part) if is_full(&part.writer) => self.end_part(shard),
            _ => self.announce(shard),
        }
    }

    /// Lets the holders of the shard's part copy it while it grows, once it is worth a call of its own.
    fn announce(&mut self, shard: u32) -> Result<()> {
        let Some(part) = self.open.get_mut(&shard) else { return Ok(()) };
        if part.is_announced || part.writer.written() < FOLLOWED_BYTES {
            return Ok(());
        }
        part.is_announced = true;
        let row = new_row(&self.config, shard, part);
        // If nobody receives it, the put has failed, and its writer is told by its queue.
        let _ = self.events.blocking_send(Ok(PartEvent::Growing(Box::new(row))));
        Ok(())
    }

    /// Refuses what a table that preserves batches cannot store as it is.
    fn check_whole(&self, batch: &RecordBatch, app_metadata: &[u8]) -> Result<()> {
        let refused = |what: &str, bytes: usize, most: usize| {
            Err(Error::exhausted(format!(
                "table {:?} has preserve_batches, and {what} has {bytes} bytes, more than the limit of {most}: send less at once",
                self.config.table
            )))
        };
        match (data_bytes(batch), app_metadata.len()) {
            (_, bytes) if bytes > MAX_APP_METADATA => refused("the app_metadata of a batch", bytes, MAX_APP_METADATA),
            (bytes, _) if bytes > MAX_WHOLE_BATCH_BYTES => refused("a batch", bytes, MAX_WHOLE_BATCH_BYTES),
            _ => Ok(()),
        }
    }

    /// Finishes a part on a blocking thread, so that the next one can be written meanwhile. Whoever receives it makes it durable.
    fn finish(&mut self, shard: u32, part: OpenShardPart) -> Result<()> {
        let acquire = |permits: &Arc<Semaphore>| {
            let permit = self.runtime.block_on(permits.clone().acquire_owned());
            permit.map_err(|_| Error::internal("the permits of parts are never closed"))
        };
        let mut places = vec![acquire(&self.pending)?];
        let seals = vec![acquire(&self.seals)?, acquire(&self.config.seals)?];
        let statistics = self.bounds_of(&part.writer);
        let row = catalog::Part { statistics, ..new_row(&self.config, shard, &part) };
        let (events, contents) = (self.events.clone(), self.config.contents.clone());
        self.runtime.spawn_blocking(move || {
            let finished = part.writer.finish().and_then(|file| {
                let content = content_of(&file, part.is_announced, &contents)?;
                let row = catalog_part(&file.sealed(), row);
                let content = content.map(|(content, place)| {
                    places.push(place);
                    content
                });
                let pending = PendingPart::new(row, file, content, seals, places);
                Ok(PartEvent::Finished(Box::new(pending)))
            });
            let _ = events.blocking_send(finished);
        });
        Ok(())
    }

    /// The bounds of a part that has ended; empty if the parts before took all that there may be.
    fn bounds_of(&mut self, writer: &PartWriter) -> Bytes {
        let bounds = writer.part_bounds(&self.first_columns);
        match self.bounds_left.checked_sub(bounds.len()) {
            Some(left) => {
                self.bounds_left = left;
                bounds
            }
            None => Bytes::new(),
        }
    }

    /// Bytes of the keys of all open parts' dictionaries, and the shard of the part with the most.
    fn dictionary_memory(&self) -> (usize, u32) {
        let parts = self.open.iter().map(|(shard, part)| (part.writer.dictionary_memory(), *shard));
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
    pub fn release_dictionaries(&mut self) -> Result<()> {
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

    /// Finishes all open parts.
    pub fn seal_all(&mut self) -> Result<()> {
        let mut open: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by_key(|(_, part)| part.seq);
        open.into_iter().try_for_each(|(shard, part)| self.finish(shard, part))
    }
}

impl ShardSink for PartSink {
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()> {
        match self.writer(shard, batch)?.write(batch)? {
            BatchWrite::Written => {}
            BatchWrite::NeedsNewPart if self.is_started(shard) => {
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
        self.after_write(shard)
    }

    fn write_whole(&mut self, shard: u32, batch: &RecordBatch, app_metadata: &[u8]) -> Result<()> {
        self.check_whole(batch, app_metadata)?;
        if self.writer(shard, batch)?.write_whole(batch, app_metadata)? == BatchWrite::NeedsNewPart {
            // The open part has another dictionary.
            self.end_part(shard)?;
            if self.writer(shard, batch)?.write_whole(batch, app_metadata)? == BatchWrite::NeedsNewPart {
                return Err(Error::exhausted(format!(
                    "table {:?} has preserve_batches, and a batch uses more than {MAX_WHOLE_BATCH_BYTES} bytes of dictionary values: \
                     send smaller batches",
                    self.config.table
                )));
            }
        }
        self.after_write(shard)
    }

    fn end_part(&mut self, shard: u32) -> Result<()> {
        match self.open.remove(&shard) {
            Some(part) => {
                self.growth.end_part(part.writer.bytes());
                self.finish(shard, part)
            }
            None => Ok(()),
        }
    }
}

/// What is known of a part before its last byte is written.
fn new_row(config: &PartSinkConfig, shard: u32, part: &OpenShardPart) -> catalog::Part {
    let (id, write) = (Some(part.writer.id().into()), config.write_id.clone());
    catalog::Part { id, shard, write, seq: part.seq, ..catalog::Part::default() }
}

/// The bytes of a small part that nobody copies yet, and their place among those of this node; none if there is no place.
fn content_of(
    file: &FinishedPart,
    is_copied: bool,
    contents: &Arc<Semaphore>,
) -> Result<Option<(Bytes, OwnedSemaphorePermit)>> {
    if is_copied || file.sealed().bytes > MAX_CONTENT_BYTES {
        return Ok(None);
    }
    let place = contents.clone().try_acquire_owned().ok();
    place.map(|place| Ok((file.content()?, place))).transpose()
}

/// The catalog's row for a finished part, of which `row` has what was known before; replication fills in its holders.
fn catalog_part(part: &SealedPart, row: catalog::Part) -> catalog::Part {
    catalog::Part {
        id: Some(part.id.into()),
        rows: part.rows,
        bytes: part.bytes,
        batches: part.batches,
        crc32c: part.crc32c,
        ..row
    }
}
