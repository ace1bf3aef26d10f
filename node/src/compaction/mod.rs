//! Compaction: rewrites the rows of small parts, in order, as few parts, which are copied and committed like the parts
//! of a put.
//!
//! The sources are read as a client would read them, from this node or from their holders. Their batches are joined to
//! messages of about 1 MiB. A file has one dictionary per column, so batches with dictionaries are joined in large groups,
//! each of which gets one dictionary that all its messages share. In a table that preserves batches none is joined.

mod join;
mod rewriter;

use std::sync::Arc;

use arrow_flight::FlightData;
use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc, oneshot};
use volley_common::ipc::decode::BatchDecoder;
use volley_common::ipc::schema::{flight_header, parse_schema};
use volley_common::wire::catalog::{Part, Write};
use volley_common::wire::cluster::{CompactParts, Ticket, TicketPart};
use volley_common::{Code, Error, PartId, Result, TableName, clock};

use self::rewriter::PartRewriter;
use crate::assertion::AssertedCaller;
use crate::context::NodeContext;
use crate::get::message::EncodedMessage;
use crate::get::reader::TicketReader;
use crate::put::commit;
use crate::put::feed::acquire_permits;
use crate::put::plan::PlannedWrite;
use crate::put::write::{PART_EVENTS, QUEUED_BYTES, QUEUED_MESSAGES, WriterInput};
use crate::storage::PartStore;

/// How long other nodes serve the sources for one compaction.
const TICKET_MS: u64 = 3_600_000;

/// Executes the leader's order to compact parts. A compaction that fails leaves nothing behind.
///
/// # Errors
/// ABORTED: the table changed meanwhile, or the leader cancelled the compaction. FAILED_PRECONDITION: the number of parts
/// cannot be halved. UNAVAILABLE: a source cannot be read, or copies cannot be made.
pub async fn compact(state: Arc<NodeContext>, order: CompactParts) -> Result<()> {
    let (tasks, parts) = (state.put.tasks.clone(), order.sources.len() as u64);
    let compacted = tasks.track_future(run(state, order)).await;
    let result = match &compacted {
        Ok(()) => "ok",
        // Its write is open no more, or the table has another version: no fault.
        Err(error) if error.code == Code::Aborted => "aborted",
        Err(_) => "failed",
    };
    metrics::counter!("volley_compactions_total", "result" => result).increment(1);
    if compacted.is_ok() {
        metrics::counter!("volley_compacted_parts_total").increment(parts);
    }
    compacted
}

async fn run(state: Arc<NodeContext>, order: CompactParts) -> Result<()> {
    let plan = order.plan.ok_or_else(|| Error::invalid("the order to compact has no plan"))?;
    let write = plan.write.clone().ok_or_else(|| Error::invalid("the order to compact names no write"))?;
    let name = TableName::from_components(&write.table)?;
    let schema = parse_schema(&write.schema)?;
    let planned = PlannedWrite::new(state.put.clone(), plan, name, schema, write.attempt, None);
    let ticket = ticket(&write, &order.sources);
    let shard = order.sources.first().map_or(0, |part| part.shard);
    let max_parts = order.sources.len() as u64 / 2;
    let (events, parts) = mpsc::channel(PART_EVENTS);
    let (input, queued) = mpsc::channel(QUEUED_MESSAGES);
    let (target, max_message) = (planned.sink_config(), state.config.max_message);
    let memory = state.put.resources.memory.clone();
    let writing = async {
        let written = spawn_writer(move |runtime| {
            PartRewriter::new(target, shard, max_parts, events, runtime, memory)
                .write_all(BatchDecoder::new(max_message), queued)
        })?;
        verify_local_sources(state.store.clone(), &ticket).await?;
        let reading = read_sources(&state, ticket, input);
        tokio::try_join!(reading, join_writer(written)).map(|_| ())
    };
    commit::execute(planned, writing, parts).await?;
    let table = write.table.join("/");
    tracing::info!(write = write.id, table, parts = order.sources.len(), "compacted small parts");
    Ok(())
}

/// A ticket for the rows of all sources.
fn ticket(write: &Write, sources: &[Part]) -> Ticket {
    let part =
        |part: &Part| TicketPart { id: part.id, holders: part.holders.clone(), rows: part.rows, skip_batches: 0 };
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

/// Verifies the sources that this node holds. The new parts get checksums of their own, so a source that was damaged since
/// its last verification would otherwise become the only copy. A damaged one is quarantined and read from another holder.
async fn verify_local_sources(store: PartStore, ticket: &Ticket) -> Result<()> {
    let ids: Vec<PartId> = ticket.parts.iter().filter_map(|part| part.id.as_ref()).map(PartId::from).collect();
    let verify = move || ids.into_iter().filter(|id| store.holds(*id)).for_each(|id| drop(store.verify(id)));
    tokio::task::spawn_blocking(verify).await.map_err(|e| Error::internal(format!("verifying parts: {e}")))
}

/// Sends the sources' messages to the writing thread, which limits the bytes that may be queued.
async fn read_sources(state: &Arc<NodeContext>, ticket: Ticket, input: mpsc::Sender<WriterInput>) -> Result<()> {
    let permits = Arc::new(Semaphore::new(QUEUED_BYTES));
    let schema = FlightData { data_header: flight_header(&ticket.schema), ..FlightData::default() };
    let source = TicketReader::new(state.get.clone(), ticket, false)?;
    let mut source = source.on_behalf_of(AssertedCaller::cluster(state.cluster.clone()));
    let mut next = Some(schema);
    while let Some(data) = next {
        let permit = tokio::select! {
            permit = acquire_permits(&permits, &data) => permit?,
            () = input.closed() => return Ok(()),
            () = state.shutdown.cancelled() => return Err(Error::cancelled("the node is stopping")),
        };
        if input.send(WriterInput::Message(data, permit)).await.is_err() {
            // The thread has ended, and returns the error.
            return Ok(());
        }
        next = source.next_message().await?.map(to_flight_data);
    }
    let _ = input.send(WriterInput::End).await;
    Ok(())
}

fn to_flight_data(message: EncodedMessage) -> FlightData {
    let data_body = match <[Bytes; 1]>::try_from(message.body) {
        Ok([body]) => body,
        Err(slices) => {
            let mut body = BytesMut::with_capacity(slices.iter().map(Bytes::len).sum());
            slices.iter().for_each(|slice| body.extend_from_slice(slice));
            body.freeze()
        }
    };
    FlightData { data_header: message.header, data_body, app_metadata: message.app_metadata, ..FlightData::default() }
}

/// Runs `work`, which writes parts, on a thread of its own.
///
/// # Errors
/// RESOURCE_EXHAUSTED: no further thread could be started.
fn spawn_writer(work: impl FnOnce(Handle) -> Result<()> + Send + 'static) -> Result<oneshot::Receiver<Result<()>>> {
    let (reply, result) = oneshot::channel();
    let runtime = Handle::current();
    std::thread::Builder::new()
        .name("compaction".into())
        .spawn(move || {
            let result = work(runtime);
            let _ = reply.send(result);
        })
        .map_err(|e| Error::exhausted(format!("no thread for a compaction: {e}")))?;
    Ok(result)
}

/// Waits for the result of a thread that [`spawn_writer`] started.
async fn join_writer(result: oneshot::Receiver<Result<()>>) -> Result<()> {
    result.await.unwrap_or_else(|_| Err(Error::internal("the writer thread panicked; see the node's log")))
}

#[cfg(test)]
mod tests;
