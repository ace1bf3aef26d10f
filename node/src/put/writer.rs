//! One stream's messages → sealed parts, on a thread of its own.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use volley_common::ipc::conform::conform;
use volley_common::ipc::decode::{Decoder, Event};
use volley_common::partition::first_shard;
use volley_common::wire::catalog::{self, Compression, TableSpec};
use volley_common::{Error, Result, TableName};

use super::shards::{Shards, Sink, Sizes};
use crate::storage::{BatchWrite, PartSpec, PartStore, PartWriter, SealedPart};

/// Parts of one put that are sealed at once, while the next is being written.
const MAX_SEALS: usize = 2;

/// What the thread is fed.
pub enum Feed {
    /// The next message; its share of what may wait is freed when it is decoded.
    Message(FlightData, OwnedSemaphorePermit),
    /// The client ended its stream: what came is whole.
    End,
}

/// What parts are written, and where to.
pub struct Target {
    /// This node's disk.
    pub store: PartStore,
    /// The table.
    pub table: TableName,
    /// The write's id.
    pub write: String,
    /// How the table is cut and stored.
    pub spec: TableSpec,
    /// The table's schema; batches must fit it.
    pub schema: SchemaRef,
    /// The `seq` of the first part.
    pub first_seq: u64,
    /// See [`crate::config::Config::message_bytes`]; at most `MAX_CUT_BYTES`.
    pub message_bytes: usize,
    /// See [`crate::config::Config::block_bytes`].
    pub block_bytes: u64,
    /// See [`crate::config::Config::part_bytes`].
    pub part_bytes: u64,
}

/// Sealed parts as they come; the channel closes when the thread and all its seals are at their end.
pub type Sealed = mpsc::Sender<Result<catalog::Part>>;

/// Starts the thread; the answer comes when it has taken its feed to the end, or failed.
///
/// If `feed` closes without [`Feed::End`], what is not sealed is thrown away.
///
/// # Errors
/// RESOURCE_EXHAUSTED: no further thread could be started. Bad input and disk errors come through the answer.
pub fn start(
    target: Target,
    decoder: Decoder,
    feed: mpsc::Receiver<Feed>,
    sealed: Sealed,
) -> Result<oneshot::Receiver<Result<()>>> {
    on_thread(move |runtime| write_all(target, decoder, feed, sealed, runtime))
}

/// Runs what writes parts on a thread of its own.
///
/// # Errors
/// RESOURCE_EXHAUSTED: no further thread could be started.
pub fn on_thread(work: impl FnOnce(Handle) -> Result<()> + Send + 'static) -> Result<oneshot::Receiver<Result<()>>> {
    let (tell, told) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("put".into())
        .spawn(move || {
            let result = work(runtime);
            let _ = tell.send(result);
        })
        .map_err(|e| Error::exhausted(format!("no thread for another put: {e}")))?;
    Ok(told)
}

/// Waits for what [`start`] or [`on_thread`] began.
pub async fn end(written: oneshot::Receiver<Result<()>>) -> Result<()> {
    written.await.unwrap_or_else(|_| Err(Error::internal("writing broke down; see the node's log")))
}

fn write_all(
    target: Target,
    mut decoder: Decoder,
    mut feed: mpsc::Receiver<Feed>,
    sealed: Sealed,
    runtime: Handle,
) -> Result<()> {
    let first = first_shard(&target.write, target.first_seq, target.spec.shards);
    let sizes = Sizes { message: target.message_bytes, block: target.block_bytes };
    let mut shards = Shards::new(&target.spec, &target.schema, sizes, first)?;
    let mut parts = Parts::new(target, sealed, runtime);
    while let Some(next) = feed.blocking_recv() {
        let Feed::Message(data, permit) = next else {
            shards.flush(&mut parts)?;
            return parts.seal_all();
        };
        match decoder.push(data)? {
            Event::Batch(batch) => shards.push(&conform(&batch, &parts.target.schema)?, &mut parts)?,
            // Rows that wait were made with the dictionary as it was.
            Event::Dictionary => shards.flush(&mut parts)?,
            Event::Metadata => {}
            Event::Schema(_) => return Err(Error::invalid("the stream has a second schema message")),
        }
        drop(permit);
    }
    Err(Error::cancelled("the put was called off"))
}

/// The parts that are being written.
pub struct Parts {
    /// What they are.
    pub target: Target,
    compression: Compression,
    open: HashMap<u32, (PartWriter, u64)>,
    next_seq: u64,
    seals: Arc<Semaphore>,
    sealed: Sealed,
    runtime: Handle,
}

impl Parts {
    /// None yet; each is handed to `sealed` when it is durable.
    pub fn new(target: Target, sealed: Sealed, runtime: Handle) -> Self {
        Parts {
            compression: Compression::try_from(target.spec.compression).unwrap_or(Compression::None),
            next_seq: target.first_seq,
            open: HashMap::new(),
            seals: Arc::new(Semaphore::new(MAX_SEALS)),
            target,
            sealed,
            runtime,
        }
    }

    fn create(&mut self, shard: u32) -> Result<(PartWriter, u64)> {
        let seq = self.next_seq;
        self.next_seq += 1;
        let writer = self.target.store.create(PartSpec {
            table: self.target.table.clone(),
            shard,
            write: self.target.write.clone(),
            seq,
            schema: self.target.schema.clone(),
            compression: self.compression,
        })?;
        Ok((writer, seq))
    }

    /// Writes into the shard's part, or into a new one.
    fn try_write(&mut self, shard: u32, batch: &RecordBatch) -> Result<BatchWrite> {
        if !self.open.contains_key(&shard) {
            let new = self.create(shard)?;
            self.open.insert(shard, new);
        }
        match self.open.get_mut(&shard) {
            Some((writer, _)) => writer.write(batch),
            None => Err(Error::internal("a part that was just begun is not there")),
        }
    }

    /// Hands a part to a blocking thread that seals it, so that the next one goes on.
    fn seal(&mut self, shard: u32, writer: PartWriter, seq: u64) -> Result<()> {
        let permit = self
            .runtime
            .block_on(self.seals.clone().acquire_owned())
            .map_err(|_| Error::internal("seals are never closed"))?;
        let (sealed, write) = (self.sealed.clone(), self.target.write.clone());
        self.runtime.spawn_blocking(move || {
            let part = writer.seal().map(|part| row(&part, shard, seq, write));
            let _ = sealed.blocking_send(part);
            drop(permit);
        });
        Ok(())
    }

    /// How many were begun.
    pub fn count(&self) -> u64 {
        self.next_seq - self.target.first_seq
    }

    /// Seals all that are open.
    pub fn seal_all(mut self) -> Result<()> {
        let mut open: Vec<_> = std::mem::take(&mut self.open).into_iter().collect();
        open.sort_by_key(|(_, (_, seq))| *seq);
        open.into_iter().try_for_each(|(shard, (writer, seq))| self.seal(shard, writer, seq))
    }
}

impl Sink for Parts {
    fn write(&mut self, shard: u32, batch: &RecordBatch) -> Result<()> {
        if self.try_write(shard, batch)? == BatchWrite::DictionaryReplaced {
            self.end_part(shard)?;
            if self.try_write(shard, batch)? == BatchWrite::DictionaryReplaced {
                return Err(Error::internal("a new part refused its first batch for its dictionary"));
            }
        }
        match self.open.get(&shard) {
            Some((writer, _)) if writer.bytes() >= self.target.part_bytes => self.end_part(shard),
            _ => Ok(()),
        }
    }

    fn end_part(&mut self, shard: u32) -> Result<()> {
        match self.open.remove(&shard) {
            Some((writer, seq)) => self.seal(shard, writer, seq),
            None => Ok(()),
        }
    }
}

/// The catalog's row for a sealed part; its holders are still to come.
fn row(part: &SealedPart, shard: u32, seq: u64, write: String) -> catalog::Part {
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
