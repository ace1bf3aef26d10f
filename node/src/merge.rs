//! Merging small parts: their rows, in order, into few parts; copied and committed as those of a put are.
//!
//! The sources are read as a client would read them, from here or from their holders. Rows are joined to messages of
//! about 1 MiB. A file has one dictionary a column, so batches with dictionaries are joined in large groups, each of
//! which gets one that all its messages share.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use arrow::array::{AnyDictionaryArray, Array, ArrayRef, AsArray, RecordBatch, RecordBatchOptions};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Schema, SchemaRef};
use arrow_flight::FlightData;
use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use volley_common::ipc::conform::conform;
use volley_common::ipc::decode::{Decoder, Event};
use volley_common::ipc::schema::{flight_header, parse_schema};
use volley_common::ipc::split::{data_bytes, split};
use volley_common::wire::catalog::Write;
use volley_common::wire::cluster::{CompactParts, Ticket, TicketPart};
use volley_common::{Error, PartId, Result, TableName, clock};

use crate::context::NodeContext;
use crate::get::message::EncodedMessage;
use crate::get::reader::TicketReader;
use crate::put::commit;
use crate::put::plan::{PlannedWrite, WriteSchemas};
use crate::put::shards::ShardSink;
use crate::put::write::{
    self, PartSink, PartSinkConfig, QUEUED_BYTES, QUEUED_MESSAGES, SEALED_PARTS, SealedPartSender, WriterInput,
};
use crate::storage::Store;

/// Bytes of rows with dictionaries that are joined at once.
const GROUP_BYTES: usize = 64 << 20;
/// How long the sources may be asked for at other nodes.
const TICKET_MS: u64 = 3_600_000;

/// Carries the leader's order out; nothing stays of a merge that fails.
///
/// # Errors
/// ABORTED: the table changed meanwhile, or the leader gave the merge up. FAILED_PRECONDITION: the parts cannot become
/// half as many. UNAVAILABLE: a source cannot be read, or copies cannot be made.
pub async fn merge(state: Arc<NodeContext>, order: CompactParts) -> Result<()> {
    let tasks = state.put.tasks.clone();
    tasks.track_future(run(state, order)).await
}

async fn run(state: Arc<NodeContext>, order: CompactParts) -> Result<()> {
    let plan = order.plan.ok_or_else(|| Error::invalid("the order to merge has no plan"))?;
    let write = plan.write.clone().ok_or_else(|| Error::invalid("the order to merge names no write"))?;
    let name = TableName::from_components(&write.table)?;
    let schema = parse_schema(&write.schema)?;
    let schemas = WriteSchemas { table: schema.clone(), put: schema };
    let planned = PlannedWrite::new(state.put.clone(), plan, name, schemas, write.attempt, None);
    let ticket = ticket(&write, &order.sources);
    let shard = order.sources.first().map_or(0, |part| part.shard);
    let most = order.sources.len() as u64 / 2;
    let (sealed, parts) = mpsc::channel(SEALED_PARTS);
    let (feed, fed) = mpsc::channel(QUEUED_MESSAGES);
    let (target, largest) = (planned.sink_config(), state.config.max_message);
    let writing = async {
        let written = write::spawn_writer(move |runtime| {
            Merger::new(target, shard, most, sealed, runtime).write_all(Decoder::new(largest), fed)
        })?;
        verify_here(&state.store, &ticket).await?;
        let reading = read_all(&state, ticket, feed);
        tokio::try_join!(reading, write::join_writer(written)).map(|_| ())
    };
    commit::execute(planned, writing, parts).await?;
    tracing::info!(write = write.id, table = write.table.join("/"), parts = order.sources.len(), "merged small parts");
    Ok(())
}

/// The sources as a stream to read.
fn ticket(write: &Write, sources: &[volley_common::wire::catalog::Part]) -> Ticket {
    let part = |part: &volley_common::wire::catalog::Part| TicketPart {
        id: part.id,
        holders: part.holders.clone(),
        rows: part.rows,
        skip_batches: 0,
    };
    Ticket {
        flight: rand::random(),
        expires_ms: clock::now_ms() + TICKET_MS,
        table: write.table.clone(),
        table_id: write.table_id,
        parts: sources.iter().map(part).collect(),
        schema: write.schema.clone(),
        ..Ticket::default()
    }
}

/// Compares the checksums of the sources that this node has: what a merge writes gets checksums of its own, and must not
/// make a copy that rotted since it was verified into the only one. A bad one is put aside, and read from another holder.
async fn verify_here(store: &Store, ticket: &Ticket) -> Result<()> {
    let ids: Vec<PartId> = ticket.parts.iter().filter_map(|part| part.id.as_ref()).map(PartId::from).collect();
    let store = store.clone();
    let verify = move || ids.into_iter().filter(|id| store.holds(*id)).for_each(|id| drop(store.verify(id)));
    tokio::task::spawn_blocking(verify).await.map_err(|e| Error::internal(format!("verifying parts: {e}")))
}

/// Hands the sources' messages to the writing thread, no faster than it takes them.
async fn read_all(state: &Arc<NodeContext>, ticket: Ticket, feed: mpsc::Sender<WriterInput>) -> Result<()> {
    let room = Arc::new(Semaphore::new(QUEUED_BYTES));
    let schema = FlightData { data_header: flight_header(&ticket.schema), ..FlightData::default() };
    let mut source = TicketReader::new(state.get.clone(), ticket, false)?;
    let mut next = Some(schema);
    while let Some(data) = next {
        let permit = tokio::select! {
            permit = write::acquire_permits(&room, &data) => permit?,
            () = feed.closed() => return Ok(()),
            () = state.shutdown.cancelled() => return Err(Error::cancelled("the node is stopping")),
        };
        if feed.send(WriterInput::Message(data, permit)).await.is_err() {
            // The thread has ended, and says why itself.
            return Ok(());
        }
        next = source.next_message().await?.map(message);
    }
    let _ = feed.send(WriterInput::End).await;
    Ok(())
}

fn message(piece: EncodedMessage) -> FlightData {
    let data_body = match <[Bytes; 1]>::try_from(piece.body) {
        Ok([whole]) => whole,
        Err(slices) => slices
            .into_iter()
            .fold(BytesMut::new(), |mut body, slice| {
                body.extend_from_slice(&slice);
                body
            })
            .freeze(),
    };
    FlightData { data_header: piece.header, data_body, ..FlightData::default() }
}

/// Writes the rows of all sources into one shard's parts.
struct Merger {
    parts: PartSink,
    schema: SchemaRef,
    shard: u32,
    /// Parts that the merge may have at most: with more it is not worth it.
    most: u64,
    /// Bytes of rows that are joined at once.
    group: usize,
    waiting: Vec<RecordBatch>,
    bytes: usize,
}

impl Merger {
    fn new(target: PartSinkConfig, shard: u32, most: u64, sealed: SealedPartSender, runtime: Handle) -> Self {
        let schema = target.schema.clone();
        let group = if has_dictionary(&schema) { GROUP_BYTES } else { target.message_bytes };
        Merger {
            parts: PartSink::new(target, sealed, runtime),
            schema,
            shard,
            most,
            group,
            waiting: Vec::new(),
            bytes: 0,
        }
    }

    fn write_all(mut self, mut decoder: Decoder, mut feed: mpsc::Receiver<WriterInput>) -> Result<()> {
        while let Some(next) = feed.blocking_recv() {
            let WriterInput::Message(data, permit) = next else {
                self.flush()?;
                return self.parts.seal_all();
            };
            match decoder.push(data)? {
                Event::Batch(batch) if batch.num_rows() > 0 => self.push(conform(&batch, &self.schema)?)?,
                Event::Batch(_) | Event::Schema(_) | Event::Dictionary | Event::Metadata => {}
            }
            drop(permit);
        }
        Err(Error::cancelled("the merge was called off"))
    }

    fn push(&mut self, batch: RecordBatch) -> Result<()> {
        let bytes = data_bytes(&batch);
        if self.bytes + bytes > self.group {
            self.flush()?;
        }
        self.bytes += bytes;
        let batch = match self.waiting.last() {
            Some(last) => share_dictionaries(batch, last)?,
            None => batch,
        };
        self.waiting.push(batch);
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        self.bytes = 0;
        for batch in join(std::mem::take(&mut self.waiting)) {
            for piece in split(&batch, self.parts.config.message_bytes) {
                self.parts.write(self.shard, &piece)?;
                if self.parts.count() > self.most {
                    return Err(Error::precondition(format!(
                        "shard {} of table {:?} is not merged: its rows would still be in more than {} parts, for their dictionaries differ",
                        self.shard, self.parts.config.table, self.most
                    )));
                }
            }
        }
        Ok(())
    }
}

/// One batch of all; all as they are if arrow cannot join them (the values of their dictionaries are too many for the keys).
fn join(batches: Vec<RecordBatch>) -> Vec<RecordBatch> {
    let Some(first) = batches.first().filter(|_| batches.len() > 1) else { return batches };
    // Arrow panics where a nested dictionary overflows.
    let joined = catch_unwind(AssertUnwindSafe(|| concat_batches(&first.schema(), &batches)));
    match joined {
        Ok(Ok(joined)) => vec![joined],
        Ok(Err(_)) | Err(_) => batches,
    }
}

fn has_dictionary(schema: &Schema) -> bool {
    schema.flattened_fields().iter().any(|field| matches!(field.data_type(), DataType::Dictionary(_, _)))
}

/// The batch with `like`'s dictionaries where they are equal to its own: joined, they are not repeated then.
fn share_dictionaries(batch: RecordBatch, like: &RecordBatch) -> Result<RecordBatch> {
    let columns = batch.columns().iter().zip(like.columns()).map(|(column, like)| share(column, like)).collect();
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(batch.schema(), columns, &options)
        .map_err(|e| Error::internal(format!("equal dictionaries cannot be exchanged: {e}")))
}

fn share(column: &ArrayRef, like: &ArrayRef) -> ArrayRef {
    let (Some(own), Some(like)) = (column.as_any_dictionary_opt(), like.as_any_dictionary_opt()) else {
        return column.clone();
    };
    if own.values().len() == like.values().len() && own.values() == like.values() {
        AnyDictionaryArray::with_values(own, like.values().clone())
    } else {
        column.clone()
    }
}

#[cfg(test)]
mod tests;
