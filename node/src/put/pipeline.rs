//! A put from its first message to its commit.

use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use arrow_flight::FlightData;
use bytes::Bytes;
use futures::StreamExt;
use futures::stream::FuturesUnordered;
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::metadata::MetadataMap;
use volley_common::ipc::decode::BatchDecoder;
use volley_common::ipc::schema::{parse_schema, schema_message};
use volley_common::wire::catalog::{Part, Write, WriteState};
use volley_common::wire::cluster::{AbortWriteRequest, CommitWriteRequest, StagePartsRequest, WritePlan};
use volley_common::{Code, Error, PartId, Result, TableName};

use super::opening::{Input, begin_request, next, open};
use super::replicate::Replication;
use super::results::Results;
use super::writer::{self, Feed, Target};
use crate::state::Shared;

/// Bytes of messages that may wait for the writing thread; a larger one waits alone.
pub const WAITING_BYTES: usize = 4 << 20;
/// Messages that may wait for the writing thread.
pub const WAITING_MESSAGES: usize = 64;
/// Sealed parts that may wait to be copied.
pub const WAITING_PARTS: usize = 16;

/// Runs a put; the answer is the outcome's JSON.
///
/// # Errors
/// Whatever is wrong with the input, the table or the cluster. Unless it says that the outcome is unknown,
/// nothing is visible.
pub async fn run(state: Arc<Shared>, headers: MetadataMap, mut input: impl Input, results: &Results) -> Result<Bytes> {
    let opening = open(&state, &headers, &mut input, results).await?;
    let (request, name) = begin_request(&state, &opening)?;
    let attempt = request.attempt;
    let plan = state.coordinators.begin_write(request).await?;
    let write = plan.write.as_ref().ok_or_else(|| Error::internal("the coordinator planned no write"))?;
    if write.state() == WriteState::Committed {
        return repeat(write, &mut input, results).await;
    }
    let schema = match write.schema.as_ref() {
        [] => opening.schema.clone(),
        message => parse_schema(message)?,
    };
    // One and the same, where they are equal: comparing them for every batch costs nothing then.
    let schema = if schema == opening.schema { opening.schema.clone() } else { schema };
    let stream = write.staged.then(rand::random::<u64>);
    let put_schema = opening.schema.clone();
    Put::new(state, plan, name, Schemas { table: schema, put: put_schema }, attempt, stream)
        .run(opening.decoder, input, results)
        .await
}

/// The table's schema, and as the rows came.
pub struct Schemas {
    /// What is written.
    pub table: SchemaRef,
    /// What was sent.
    pub put: SchemaRef,
}

/// A write by this node that has been planned: a client's put, or a merge.
pub struct Put {
    state: Arc<Shared>,
    plan: Arc<WritePlan>,
    name: TableName,
    write: String,
    attempt: u64,
    /// Of a staged write: this stream's id.
    stream: Option<u64>,
    schemas: Schemas,
    replication: Replication,
}

impl Put {
    /// `stream`: of a staged write, this stream's id.
    pub fn new(
        state: Arc<Shared>,
        plan: WritePlan,
        name: TableName,
        schemas: Schemas,
        attempt: u64,
        stream: Option<u64>,
    ) -> Self {
        let write = plan.write.as_ref().map(|write| write.id.clone()).unwrap_or_default();
        let plan = Arc::new(plan);
        let replication = Replication::new(state.clone(), plan.clone(), name.components().to_vec());
        Put { state, plan, name, write, attempt, stream, schemas, replication }
    }

    async fn run(self, decoder: BatchDecoder, input: impl Input, results: &Results) -> Result<Bytes> {
        let (sealed, parts) = mpsc::channel(WAITING_PARTS);
        let (feed, fed) = mpsc::channel(WAITING_MESSAGES);
        let target = self.target();
        let writing = async {
            let written = writer::start(target, decoder, fed, sealed)?;
            tokio::try_join!(feed_all(input, results, feed), writer::end(written)).map(|_| ())
        };
        self.carry_out(writing, parts).await
    }

    /// From the first row to the commit; what is to be undone is undone. `writing` sends sealed parts to `parts`.
    ///
    /// # Errors
    /// Of `writing`, of the copies, of the commit.
    pub async fn carry_out(
        self,
        writing: impl Future<Output = Result<()>>,
        mut parts: mpsc::Receiver<Result<Part>>,
    ) -> Result<Bytes> {
        let moved = self.transfer(writing, &mut parts).await;
        let put = Arc::new(self);
        let error = match moved {
            Ok(()) => match put.clone().commit().await {
                Ok(outcome) => return Ok(outcome),
                Err(error) => error,
            },
            Err(error) => {
                put.throw_away(&error, parts).await;
                return Err(error);
            }
        };
        if matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) {
            // It may have been committed: the coordinators will say what is to be removed.
            return Err(error);
        }
        put.throw_away(&error, parts).await;
        Err(error)
    }

    /// The rows into parts that enough nodes hold.
    async fn transfer(
        &self,
        writing: impl Future<Output = Result<()>>,
        parts: &mut mpsc::Receiver<Result<Part>>,
    ) -> Result<()> {
        let work = async { tokio::try_join!(writing, self.copy_all(parts)) };
        tokio::select! {
            done = work => done.map(|_| ()),
            error = self.keep_lease() => Err(error),
        }
    }

    /// What its parts are.
    pub fn target(&self) -> Target {
        let spec = self.plan.write.as_ref().and_then(|w| w.spec.clone()).unwrap_or_default();
        Target {
            store: self.state.store.clone(),
            table: self.name.clone(),
            write: self.write.clone(),
            spec,
            schema: self.schemas.table.clone(),
            // The parts of one stream of a staged write stay together.
            first_seq: self.stream.map_or(0, |stream| (stream >> 33) << 32),
            message_bytes: self.state.config.message_bytes_of(self.schemas.table.fields().len()),
            block_bytes: self.state.config.block_bytes,
            part_bytes: self.state.config.part_bytes,
        }
    }

    /// Copies parts as they are sealed; returns when all are, and enough nodes hold each.
    async fn copy_all(&self, parts: &mut mpsc::Receiver<Result<Part>>) -> Result<()> {
        let mut copies: FuturesUnordered<oneshot::Receiver<Result<()>>> = FuturesUnordered::new();
        let mut open = true;
        while open || !copies.is_empty() {
            tokio::select! {
                part = parts.recv(), if open => match part {
                    Some(part) => copies.push(self.replication.begin(part?)),
                    None => open = false,
                },
                Some(copied) = copies.next() => {
                    copied.unwrap_or_else(|_| Err(Error::internal("copying broke down; see the node's log")))?;
                }
            }
        }
        Ok(())
    }

    /// Prolongs the write's lease for ever; returns when the write is no longer open.
    async fn keep_lease(&self) -> Error {
        let period = Duration::from_millis((self.plan.lease_ms / 3).max(100));
        loop {
            tokio::time::sleep(period).await;
            match self.state.coordinators.renew(&self.write).await {
                Ok(()) => {}
                Err(error) if error.code == Code::Unavailable => {
                    tracing::warn!(write = self.write, %error, "a write's lease could not be renewed");
                }
                Err(error) => return error.at(format_args!("write {}", self.write)),
            }
        }
    }

    /// Makes the parts visible, or stages them for the call that will.
    async fn commit(self: Arc<Self>) -> Result<Bytes> {
        let rows = self.replication.rows();
        let kept = self.held_here(&rows);
        let outcome = match self.stream {
            Some(stream) => self.stage(stream, rows).await?,
            None => {
                let request = CommitWriteRequest { write: self.write.clone(), parts: rows, attempt: self.attempt };
                self.state.coordinators.commit(request).await?.to_json()
            }
        };
        tokio::spawn(self.finish(kept));
        Ok(to_bytes(&outcome))
    }

    async fn stage(&self, stream: u64, parts: Vec<Part>) -> Result<Value> {
        let outcome = json!({
            "table": self.name.to_string(),
            "write_id": self.write,
            "staged": true,
            "rows": parts.iter().map(|p| p.rows).sum::<u64>(),
            "bytes": parts.iter().map(|p| p.bytes).sum::<u64>(),
            "parts": parts.len(),
        });
        let schema = schema_message(&self.schemas.put)?;
        let request = StagePartsRequest { write: self.write.clone(), stream, parts, schema };
        self.state.coordinators.stage(request).await?;
        Ok(outcome)
    }

    /// The parts of which this node is a holder in the catalog.
    fn held_here(&self, rows: &[Part]) -> Vec<PartId> {
        let me = self.state.node().0;
        rows.iter().filter(|p| p.holders.contains(&me)).map(Part::part_id).collect()
    }

    /// After the commit: the remaining copies, then this node's copies that nobody counts on.
    async fn finish(self: Arc<Self>, kept: Vec<PartId>) {
        self.replication.finish().await;
        let all = self.replication.rows();
        let spare: Vec<PartId> = all.iter().map(Part::part_id).filter(|id| !kept.contains(id)).collect();
        self.remove(spare).await;
    }

    async fn remove(&self, ids: Vec<PartId>) {
        if ids.is_empty() {
            return;
        }
        let store = self.state.store.clone();
        let removed = tokio::task::spawn_blocking(move || store.remove(&ids)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(write = self.write, %error, "parts that are not needed could not be removed");
        }
    }

    /// Undoes a failed put: nothing was visible, and nothing stays.
    async fn throw_away(&self, why: &Error, mut parts: mpsc::Receiver<Result<Part>>) {
        tracing::warn!(write = self.write, table = %self.name, code = ?why.code, error = %why, "a put failed");
        let local = async {
            let mut ids: Vec<PartId> = self.replication.rows().iter().map(Part::part_id).collect();
            // Seals that are under way come to their end.
            while let Some(sealed) = parts.recv().await {
                ids.extend(sealed.iter().map(Part::part_id));
            }
            self.remove(ids).await;
        };
        tokio::join!(local, self.replication.discard(&self.write), self.abort(why));
    }

    /// Ends the write; a staged one goes on, for its other streams may succeed.
    async fn abort(&self, why: &Error) {
        if self.stream.is_some() {
            return;
        }
        let request =
            AbortWriteRequest { write: self.write.clone(), reason: why.message.clone(), attempt: self.attempt };
        if let Err(error) = self.state.coordinators.abort(request).await {
            tracing::warn!(write = self.write, %error, "a failed write could not be aborted; its lease will end it");
        }
    }
}

/// Hands the client's messages to the writing thread, no faster than it takes them, and answers each.
async fn feed_all(mut input: impl Input, results: &Results, feed: mpsc::Sender<Feed>) -> Result<()> {
    let room = Arc::new(Semaphore::new(WAITING_BYTES));
    loop {
        let message = tokio::select! {
            biased;
            () = results.gone() => return Err(Error::cancelled("the client went away")),
            message = next(&mut input) => message?,
        };
        let Some(data) = message else {
            // If the thread has ended it says why itself.
            let _ = feed.send(Feed::End).await;
            return Ok(());
        };
        let answer = answers(&data).then(|| data.app_metadata.clone());
        let permit = tokio::select! {
            permit = room_for(&room, &data) => permit?,
            () = results.gone() => return Err(Error::cancelled("the client went away")),
            () = feed.closed() => return Ok(()),
        };
        if feed.send(Feed::Message(data, permit)).await.is_err() {
            return Ok(());
        }
        if let Some(metadata) = answer {
            results.acknowledge(metadata)?;
        }
    }
}

/// A message's share of [`WAITING_BYTES`], once there is room for it.
pub async fn room_for(room: &Arc<Semaphore>, data: &FlightData) -> Result<OwnedSemaphorePermit> {
    let bytes = (data.data_body.len() + data.data_header.len()).clamp(1, WAITING_BYTES);
    let permits = room.clone().acquire_many_owned(bytes as u32);
    permits.await.map_err(|_| Error::internal("the room for messages is never closed"))
}

/// Whether a message is answered: rows and bare metadata are, dictionaries are not.
fn answers(data: &FlightData) -> bool {
    if data.data_header.is_empty() {
        return true;
    }
    arrow_ipc::root_as_message(&data.data_header)
        .is_ok_and(|message| message.header_type() == arrow_ipc::MessageHeader::RecordBatch)
}

/// A write that took effect before: takes the client's rows in and throws them away.
async fn repeat(write: &Write, input: &mut impl Input, results: &Results) -> Result<Bytes> {
    while let Some(data) = next(input).await? {
        if answers(&data) {
            results.acknowledge(data.app_metadata)?;
        }
    }
    let outcome = write.outcome.as_ref().ok_or_else(|| Error::internal("a committed write has no outcome"))?;
    Ok(to_bytes(&outcome.to_json()))
}

fn to_bytes(json: &Value) -> Bytes {
    Bytes::from(json.to_string())
}
