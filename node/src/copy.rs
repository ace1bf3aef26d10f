//! Pulling parts of other nodes: the one mechanism behind replication, repair and moving.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use volley_common::proxy::Relay;
use volley_common::wire::cluster::node_client::NodeClient;
use volley_common::wire::cluster::{CopyPart, FetchPartRequest, HeldPart, PartChunk};
use volley_common::wire::{MAX_PEER_MESSAGE, catalog};
use volley_common::{Code, Error, PartId, Result, TableName};

use crate::config::Config;
use crate::storage::{Receiver, Store};
use crate::throttle::Throttle;

/// Parts that are pulled at once for puts.
const MAX_PULLS: usize = 8;
/// A source that sends nothing for so long is given up.
const STALL: Duration = Duration::from_secs(30);
/// Chunks of 1 MiB that wait for the disk.
const CHUNKS_WAITING: usize = 2;

type Outcome = SharedFuture<BoxFuture<'static, Result<()>>>;

/// Called-off parts that are remembered, so that an order that was on its way does not bring them back.
const REMEMBERED: usize = 10_000;

/// The pulls in progress: a part that is asked for twice is pulled once.
pub struct PartCopier {
    store: Store,
    relay: Relay,
    peer_addr: String,
    received: ReceivedParts,
    inner: Mutex<Inner>,
    /// For the copies of puts.
    room: Semaphore,
    /// For repair and moves, which must not keep puts waiting.
    background: Semaphore,
    background_rate: Throttle,
}

#[derive(Default)]
struct Inner {
    active: HashMap<PartId, Pull>,
    called_off: VecDeque<PartId>,
}

#[derive(Clone)]
struct Pull {
    outcome: Outcome,
    cancel: CancellationToken,
}

impl PartCopier {
    /// None is in progress; as many in the background as the configuration allows.
    pub fn new(store: Store, relay: Relay, peer_addr: String, config: &Config) -> Self {
        PartCopier {
            store,
            relay,
            peer_addr,
            received: ReceivedParts::default(),
            inner: Mutex::default(),
            room: Semaphore::new(MAX_PULLS),
            background: Semaphore::new(config.max_concurrent_copies),
            background_rate: Throttle::new(config.copy_bytes_per_second),
        }
    }

    fn room(&self, background: bool) -> &Semaphore {
        if background { &self.background } else { &self.room }
    }

    /// Calls a part off: it is not pulled any more, and nothing of it is being written when this returns.
    pub async fn cancel(&self, id: PartId) {
        let pull = {
            let mut inner = self.inner.lock();
            if inner.called_off.len() >= REMEMBERED {
                inner.called_off.pop_front();
            }
            inner.called_off.push_back(id);
            inner.active.get(&id).cloned()
        };
        if let Some(pull) = pull {
            pull.cancel.cancel();
            let _ = pull.outcome.await;
        }
    }
}

impl PartCopier {
    /// Parts that came to be held and are not yet reported.
    pub fn received(&self) -> &ReceivedParts {
        &self.received
    }

    /// Pulls a part from the first source that gives it whole; returns when it is verified and durable.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an order without a part or with a bad name. RESOURCE_EXHAUSTED: this node's disk is too full.
    /// UNAVAILABLE: no source gave it, with what each said.
    pub async fn copy(self: &Arc<Self>, order: CopyPart) -> Result<()> {
        let part = order.part.ok_or_else(|| Error::invalid("the order to copy names no part"))?;
        let table = TableName::from_components(&order.table)?;
        if self.store.holds(part.part_id()) {
            return Ok(());
        }
        let id = part.part_id();
        let outcome = {
            let mut inner = self.inner.lock();
            if inner.called_off.contains(&id) {
                return Err(called_off(id));
            }
            match inner.active.get(&id) {
                Some(pull) => pull.outcome.clone(),
                None => {
                    let wanted = Wanted { part, table, sources: order.sources, background: order.background };
                    let pull = start(self.clone(), wanted);
                    inner.active.insert(id, pull.clone());
                    pull.outcome
                }
            }
        };
        outcome.await
    }
}

fn called_off(id: PartId) -> Error {
    Error::cancelled(format!("part {id} was called off: its write failed"))
}

/// What is to be pulled from where.
struct Wanted {
    part: catalog::Part,
    table: TableName,
    sources: Vec<String>,
    background: bool,
}

/// A pull as a task of its own: it goes on though whoever asked for it no longer waits.
fn start(copier: Arc<PartCopier>, wanted: Wanted) -> Pull {
    let cancel = CancellationToken::new();
    let stop = cancel.clone();
    let id = wanted.part.part_id();
    let task = tokio::spawn(async move {
        let result = pull_from_any(&copier, &wanted, &stop).await;
        copier.inner.lock().active.remove(&id);
        if result.is_ok() {
            copier.received.add(held(&wanted.part));
        }
        result
    });
    let outcome = async move { task.await.unwrap_or_else(|e| Err(Error::internal(format!("copying part {id}: {e}")))) };
    Pull { outcome: outcome.boxed().shared(), cancel }
}

fn held(part: &catalog::Part) -> HeldPart {
    HeldPart { id: part.id, write: part.write.clone(), crc32c: part.crc32c, bytes: part.bytes }
}

async fn pull_from_any(copier: &Arc<PartCopier>, wanted: &Wanted, stop: &CancellationToken) -> Result<()> {
    let Wanted { part, table, .. } = wanted;
    let id = part.part_id();
    let _room = tokio::select! {
        room = copier.room(wanted.background).acquire() =>
            room.map_err(|_| Error::cancelled("the node is stopping"))?,
        () = stop.cancelled() => return Err(called_off(id)),
    };
    let mut failures = Vec::new();
    for source in wanted.sources.iter().filter(|source| **source != copier.peer_addr) {
        match pull_from(copier, wanted, source, stop).await {
            Ok(()) => {
                tracing::debug!(part = %id, %table, shard = part.shard, source, bytes = part.bytes, "copied a part");
                return Ok(());
            }
            Err(_) if stop.is_cancelled() => return Err(called_off(id)),
            // That is this node's disk: no other source helps.
            Err(error) if error.code == Code::ResourceExhausted || copier.store.stopped().is_some() => {
                return Err(error);
            }
            Err(error) => {
                tracing::warn!(part = %id, %table, shard = part.shard, source, %error, "a part could not be copied");
                failures.push(format!("{source}: {error}"));
            }
        }
    }
    Err(Error::unavailable(format!(
        "part {id} of {table} could not be copied from any of {} nodes: {}",
        failures.len(),
        failures.join("; ")
    )))
}

/// The part's bytes from one source to the disk. Stopped half-way it leaves nothing: the receiver's file goes with
/// it. It returns only when the disk's thread is at its end, so that what it leaves can be removed.
async fn pull_from(copier: &Arc<PartCopier>, wanted: &Wanted, source: &str, stop: &CancellationToken) -> Result<()> {
    let Wanted { part, table, .. } = wanted;
    // Before anything is sent.
    let (store, bytes) = (copier.store.clone(), part.bytes);
    tokio::task::spawn_blocking(move || store.accepts(bytes))
        .await
        .map_err(|e| Error::internal(format!("looking at the disk: {e}")))??;
    let mut client = NodeClient::new(copier.relay.channel(source)?).max_decoding_message_size(MAX_PEER_MESSAGE);
    let request = FetchPartRequest { id: part.id, offset: 0 };
    let reply = tokio::select! {
        reply = tokio::time::timeout(STALL, client.fetch_part(request)) => reply.map_err(|_| stalled())??,
        () = stop.cancelled() => return Err(called_off(part.part_id())),
    };
    let (store, row, name) = (copier.store.clone(), part.clone(), table.clone());
    let (chunks, waiting) = mpsc::channel(CHUNKS_WAITING);
    let disk = tokio::task::spawn_blocking(move || receive(store.receive(&row, &name)?, waiting));
    let throttle = wanted.background.then_some(&copier.background_rate);
    let fetched = tokio::select! {
        fetched = forward(reply.into_inner(), &chunks, throttle) => fetched,
        () = stop.cancelled() => Err(called_off(part.part_id())),
    };
    if fetched.is_ok() {
        // Without this last word the receiver does not keep what it has.
        let _ = chunks.send(None).await;
    }
    drop(chunks);
    let written = disk.await.map_err(|e| Error::internal(format!("writing part {}: {e}", part.part_id())))?;
    fetched.and(written)
}

fn stalled() -> Error {
    Error::unavailable(format!("nothing came for {} s", STALL.as_secs()))
}

async fn forward(
    mut stream: tonic::Streaming<PartChunk>,
    chunks: &mpsc::Sender<Option<Bytes>>,
    throttle: Option<&Throttle>,
) -> Result<()> {
    loop {
        let chunk = tokio::time::timeout(STALL, stream.message()).await.map_err(|_| stalled())??;
        let Some(chunk) = chunk else { return Ok(()) };
        if let Some(throttle) = throttle {
            tokio::time::sleep(throttle.take(chunk.data.len())).await;
        }
        if chunks.send(Some(chunk.data)).await.is_err() {
            // The disk's side failed and says why itself.
            return Ok(());
        }
    }
}

/// Blocks: writes chunks until `None`, which ends the part; a channel that just closes discards it.
fn receive(mut receiver: Receiver, mut chunks: mpsc::Receiver<Option<Bytes>>) -> Result<()> {
    loop {
        match chunks.blocking_recv() {
            Some(Some(bytes)) => receiver.write(&bytes)?,
            Some(None) => return receiver.finish(),
            None => return Err(Error::cancelled("the part did not come to its end")),
        }
    }
}

/// Parts that came to be held since the last report to the leader: bounded by what the disk holds, as
/// the same part is noted once.
#[derive(Default)]
pub struct ReceivedParts {
    parts: Mutex<BTreeMap<PartId, HeldPart>>,
    changed: Notify,
}

impl ReceivedParts {
    /// Notes a part for the next report.
    pub fn add(&self, part: HeldPart) {
        let id = part.id.as_ref().map_or(PartId(0), PartId::from);
        self.parts.lock().insert(id, part);
        self.changed.notify_one();
    }

    /// Takes up to `max` parts that are to be reported.
    pub fn take(&self, max: usize) -> Vec<HeldPart> {
        let mut parts = self.parts.lock();
        let ids: Vec<PartId> = parts.keys().take(max).copied().collect();
        ids.iter().filter_map(|id| parts.remove(id)).collect()
    }

    /// Waits until there may be something to report.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
