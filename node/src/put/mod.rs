//! A put: writes rows into parts, copies the parts to their holders, and commits once.
//!
//! `run` has the steps in order, and each step is a file:
//!
//! | module | step |
//! |---|---|
//! | [`handshake`] | reads the first messages: descriptor, options, schema |
//! | [`plan`] | begins the write at the coordinators, which choose the targets |
//! | [`feed`] | queues the messages for the writer |
//! | [`write`](mod@write) | messages become parts ([`part_sink`]), on the threads of [`writers`]; [`shards`] (pure) splits rows into shards, [`blocks`] counts their blocks; [`part_events`] says what becomes of the parts, [`part_compression`] how they are compressed |
//! | [`growth`] | bounds what is stored by what was sent |
//! | [`replicate`] | lets the holders of the parts copy them while they are written |
//! | [`commit`] | commits the write, or rolls it back |
//! | [`ack_stream`] | the results that the client reads during the put |
//!
//! All puts of a node share [`crate::put_resources`]: a budget of memory ([`crate::put_memory`]), from which the bodies of
//! messages are reserved ([`bodies`]), a few threads, and a number of puts.
//!
//! The messages are decoded below tonic, whose codec would add a copy of every body.

pub mod ack_stream;
pub mod blocks;
pub mod bodies;
pub mod commit;
pub mod feed;
pub mod growth;
pub mod handshake;
pub mod part_compression;
pub mod part_events;
pub mod part_sink;
pub mod plan;
pub mod replicate;
pub mod shards;
pub mod write;
pub mod writers;

use std::pin::Pin;
use std::sync::Arc;

use arrow_flight::FlightData;
use bytes::Bytes;
use futures::{FutureExt, Stream};
use http::Request;
use http::request::Parts;
use hyper::body::Incoming;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::Status;
use tonic::metadata::MetadataMap;
use volley_common::Result;
use volley_common::fairness::CallerKey;
use volley_common::grpc::retry_later;
use volley_common::http2::{CompleteBody, decompressed};
use volley_common::identity::Access;
use volley_common::ipc::flight_stream::FlightDataStream;
use volley_common::server::audit::{AuditEvent, AuditKind, request_id};
use volley_common::telemetry::trace::{CallSpan, carry, note};

use crate::assertion::{AssertedCaller, is_refused_by_coordinator};
use crate::context::PutContext;
use crate::put_resources::PutSlot;
use ack_stream::{AckSender, AckStream};
use bodies::PutBodies;
use handshake::{PutHandshake, PutMessages};
use plan::PutPlan;
use write::MessageWriter;

/// How long a client should wait before it repeats a put that was refused because too many run, milliseconds.
const RETRY_MS: u64 = 500;

/// The client's messages, as they arrive.
pub type PutInput = Pin<Box<dyn Stream<Item = Result<FlightData>> + Send>>;

/// What the rows of a put become.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutTarget {
    /// Rows of the table that the put names.
    Table,
    /// Rows of a temporary table, which the put names: it expires.
    TemporaryTable,
    /// The result of a query of the caller, which needs no right to write for it: a new table, which only tickets name.
    QueryResult,
}

/// A DoPut that has a place among those of this node. Nothing of its messages has been read.
pub struct AdmittedPut {
    /// Its headers, and its extensions, which have the caller's [`Access`].
    pub head: Parts,
    /// Its messages.
    pub input: PutInput,
    /// Its place.
    pub slot: PutSlot,
}

/// Admits a DoPut. The router has put the caller's [`Access`] into the request's extensions; a coordinator checks whether it
/// suffices, when the write begins.
///
/// # Errors
/// RESOURCE_EXHAUSTED, with the time after which to try again: too many puts run. UNIMPLEMENTED: an unknown compression.
pub fn admit(context: &PutContext, request: Request<Incoming>) -> Result<AdmittedPut, Status> {
    let (head, body) = decompressed(request.map(CompleteBody), context.config.max_message)?.into_parts();
    let (resources, caller) = (&context.resources, CallerKey::of(&Access::of(&head.extensions)));
    let slot = resources.admit_for(&caller).map_err(|error| retry_later(error, RETRY_MS))?;
    let body = body.with_stall_timeout(context.config.message_timeout());
    let bodies = PutBodies::new(resources.memory.clone(), resources.buffers.for_stream(), context.store.clone());
    let bodies = bodies.for_caller(caller);
    let input = FlightDataStream::with_bodies(body, bodies, context.config.max_message)
        .with_stall_timeout(context.config.message_timeout());
    Ok(AdmittedPut { head, input: Box::pin(input), slot })
}

/// Runs a put as a task of its own. If the client disconnects before its stream ends, the put is rolled back. After the
/// end of the stream it is committed, whether or not the client reads the results.
///
/// `headers`: the call's, which may hold options. `access`: the caller's, as of the beginning of the put. An error in `input` means that the client did not finish. `slot` is given
/// back at the put's end.
pub fn put(
    context: Arc<PutContext>,
    headers: MetadataMap,
    access: Access,
    input: impl PutMessages + 'static,
    slot: PutSlot,
) -> AckStream {
    put_into(PutTarget::Table, context, headers, access, input, slot)
}

/// As [`put`], into this target.
pub fn put_into(
    target: PutTarget,
    context: Arc<PutContext>,
    headers: MetadataMap,
    access: Access,
    input: impl PutMessages + 'static,
    slot: PutSlot,
) -> AckStream {
    let (acks, stream) = ack_stream::channel(context.resources.memory.clone());
    let tasks = context.tasks.clone();
    tasks.spawn(carry(async move {
        let outcome = run(target, context, headers, access, input, &acks).await;
        drop(slot);
        acks.end(outcome);
    }));
    stream
}

/// The steps of a put, and its line in the audit log when it has ended, which the result of a query has as a read. Returns what
/// [`write_rows`] does.
///
/// # Errors
/// Those of the handshake and of [`write_rows`].
async fn run(
    target: PutTarget,
    context: Arc<PutContext>,
    headers: MetadataMap,
    access: Access,
    mut input: impl PutMessages,
    acks: &AckSender,
) -> Result<Option<Bytes>> {
    let handshake = handshake::read(&mut input, &headers, context.config.max_message, acks).await?;
    let caller = AssertedCaller::client(access.clone(), context.cluster.clone()).named_by(headers.as_ref());
    let (audit, table) = (context.audit.clone(), handshake.request.name.clone());
    note("volley.table", || table.to_string());
    let planning = plan::begin(context.clone(), &handshake, &caller, target).boxed();
    let planned = CallSpan::begin("put.begin").run(planning).await;
    let is_planned = planned.is_ok();
    let outcome = match planned {
        Ok(planned) => write_rows(context, handshake, planned, input, acks).await,
        Err(error) => Err(error),
    };
    let event = AuditEvent {
        access: &access,
        kind: AuditKind::Write,
        operation: "DoPut",
        table: Some(table.components()),
        request_id: request_id(headers.as_ref()),
        result: outcome.as_ref().map(|_| ()),
    };
    if target != PutTarget::QueryResult && (is_planned || !is_refused_by_coordinator(&event)) {
        audit.record(event);
    }
    outcome
}

/// Writes and commits the rows of a put whose write has begun. Returns the outcome as JSON; nothing if the table preserves
/// batches and they had `app_metadata`: such a client expects one result for each batch, and no other (as the integration tests
/// of Arrow do).
///
/// # Errors
/// Those of the input, the table and the cluster. After an error nothing is visible, unless its message says that the
/// outcome is unknown.
async fn write_rows(
    context: Arc<PutContext>,
    handshake: PutHandshake,
    planned: PutPlan,
    mut input: impl PutMessages,
    acks: &AckSender,
) -> Result<Option<Bytes>> {
    let write = match planned {
        PutPlan::Write(write) => {
            note("volley.write_id", || write.write_id.clone());
            write
        }
        PutPlan::Committed(outcome) => {
            feed::skip_rows(&mut input, acks).await?;
            return Ok(Some(outcome));
        }
    };
    let (table, began) = (handshake.request.name.clone(), Instant::now());
    let (config, resources) = (write.sink_config(), context.resources.clone());
    let preserves_batches = config.spec.preserve_batches;
    let (events, part_events) = mpsc::channel(write::PART_EVENTS);
    let writing = async {
        let (messages, queue) = mpsc::channel(write::QUEUED_MESSAGES);
        let writer = MessageWriter::new(config, &resources, handshake.decoder, events, Handle::current())?;
        let feed = feed::feed(input, acks, messages, &resources.memory, preserves_batches);
        tokio::try_join!(feed, writers::write_messages(resources.writers.clone(), writer, queue)).map(|_| ())
    };
    let outcome = commit::execute(write, writing, part_events).await?;
    let seconds = began.elapsed().as_secs_f64();
    tracing::info!(%table, outcome = %String::from_utf8_lossy(&outcome), seconds, "a put was committed");
    Ok((!preserves_batches || !acks.has_metadata()).then_some(outcome))
}

#[cfg(test)]
pub(crate) mod tests;
