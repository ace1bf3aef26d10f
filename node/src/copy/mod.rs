//! Copies parts from other nodes to this one: the mechanism behind replication, repair and rebalancing.
//!
//! A part that is ordered twice is copied once. Copies for puts and background copies (repair and rebalancing) have permits
//! of their own, so that the background does not delay puts; only background copies are throttled.

mod job;
mod measured_copy;
mod received;
mod transfer;

pub use received::ReceivedParts;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, Shared as SharedFuture};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio_util::sync::CancellationToken;
use volley_common::net::{ConnectionPool, Failover};
use volley_common::telemetry::trace::{CallSpan, carry};
use volley_common::wire::cluster::{CopyOpenPartReply, CopyOpenPartRequest, CopyPart, HeldPart, PartEnd};
use volley_common::{Code, Error, PartId, Result, TableName};

use self::job::{CopyJob, CopyOrigin};
use self::measured_copy::{MeasuredCopy, kind_of};
use self::transfer::{FailedTransfer, transfer};
use crate::config::NodeConfig;
use crate::storage::{PartReceiver, PartStore};
use crate::throttle::Throttle;

/// Copies for puts that run at the same time.
const MAX_FOREGROUND_COPIES: usize = 8;
/// Copies of open parts at the same time, each of which takes some 4 MiB.
const MAX_OPEN_COPIES: usize = 32;
/// Copies at the same time whose order has the whole part, which is small.
const MAX_CONTENT_COPIES: usize = 512;
/// Cancelled parts that are remembered, so that an order that arrives late does not bring them back.
const MAX_REMEMBERED_CANCELS: usize = 10_000;

/// The result of a copy, for everyone who ordered it.
type CopyOutcome = SharedFuture<BoxFuture<'static, Result<()>>>;

/// Copies parts to this node; clones share the work.
#[derive(Clone)]
pub struct PartCopier(Arc<CopierState>);

struct CopierState {
    store: PartStore,
    pool: ConnectionPool,
    /// This node's peer address: never a source.
    peer_addr: String,
    copies: Mutex<Copies>,
    received: ReceivedParts,
    foreground: Semaphore,
    background: Semaphore,
    open: Arc<Semaphore>,
    contents: Arc<Semaphore>,
    background_rate: Throttle,
}

#[derive(Default)]
struct Copies {
    running: HashMap<PartId, RunningCopy>,
    cancelled: VecDeque<PartId>,
}

#[derive(Clone)]
struct RunningCopy {
    outcome: CopyOutcome,
    cancel: CancellationToken,
    background: bool,
}

impl PartCopier {
    /// Copies into `store`. `peer_addr`: this node's own.
    pub fn new(store: PartStore, pool: ConnectionPool, peer_addr: String, config: &NodeConfig) -> Self {
        PartCopier(Arc::new(CopierState {
            store,
            pool,
            peer_addr,
            copies: Mutex::default(),
            received: ReceivedParts::default(),
            foreground: Semaphore::new(MAX_FOREGROUND_COPIES),
            background: Semaphore::new(config.max_concurrent_copies),
            open: Arc::new(Semaphore::new(MAX_OPEN_COPIES)),
            contents: Arc::new(Semaphore::new(MAX_CONTENT_COPIES)),
            background_rate: Throttle::new(config.copy_bytes_per_second),
        }))
    }

    /// The parts that were copied and are not yet reported to the leader.
    pub fn received(&self) -> &ReceivedParts {
        &self.0.received
    }

    /// Copies a part from the first source that delivers it; returns when it is verified and durable.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: an order without a part or with a bad table name. RESOURCE_EXHAUSTED: this node's disk is too full.
    /// CANCELLED: see [`PartCopier::cancel`]. UNAVAILABLE: no source delivered it; with the error of each.
    pub async fn copy(&self, order: CopyPart) -> Result<()> {
        let part = order.part.ok_or_else(no_part)?;
        let table = TableName::from_components(&order.table)?;
        let origin = CopyOrigin::Holder { background: order.background };
        self.run(CopyJob { part, table, sources: order.sources, origin }).await
    }

    /// Copies a part from the node that writes it, while it is written, or from the order; returns when it is durable, with its length and
    /// checksum. It never waits for its turn: the reply says if the node is busy.
    ///
    /// # Errors
    /// As [`PartCopier::copy`]. DATA_LOSS: the content is not the part's.
    pub async fn copy_open(&self, order: CopyOpenPartRequest) -> Result<CopyOpenPartReply> {
        let part = order.part.ok_or_else(no_part)?;
        let table = TableName::from_components(&order.table)?;
        let id = part.part_id();
        let has_content = !order.content.is_empty();
        let places = if has_content { &self.0.contents } else { &self.0.open };
        let Ok(place) = places.clone().try_acquire_owned() else {
            return Ok(CopyOpenPartReply { end: None, busy: true });
        };
        let origin = match has_content {
            true => CopyOrigin::Content { content: order.content, _place: place },
            false => CopyOrigin::Writer { _place: place },
        };
        self.run(CopyJob { part, table, sources: vec![order.source], origin }).await?;
        let held = self.0.store.held(&[id]).pop();
        let held = held.ok_or_else(|| Error::unavailable(format!("part {id} was removed after it was copied")))?;
        Ok(CopyOpenPartReply { end: Some(PartEnd { bytes: held.bytes, crc32c: held.crc32c }), busy: false })
    }

    /// Runs a copy, or waits for the one of the same part that runs.
    async fn run(&self, job: CopyJob) -> Result<()> {
        let id = job.part.part_id();
        if self.0.store.holds(id) {
            return Ok(());
        }
        let outcome = {
            let mut copies = self.0.copies.lock();
            // What the leader orders is committed.
            if !job.is_background() && copies.cancelled.contains(&id) {
                return Err(cancelled(id));
            }
            match copies.running.get(&id) {
                Some(copy) => copy.outcome.clone(),
                None => {
                    let copy = self.start(job);
                    copies.running.insert(id, copy.clone());
                    copy.outcome
                }
            }
        };
        outcome.await
    }

    /// Cancels a part's copy for a put, now and in the future. When this returns, no such copy is being written. Copies that
    /// the leader ordered go on: it orders those of committed parts only.
    pub async fn cancel(&self, id: PartId) {
        let running = {
            let mut copies = self.0.copies.lock();
            if copies.cancelled.len() >= MAX_REMEMBERED_CANCELS {
                copies.cancelled.pop_front();
            }
            copies.cancelled.push_back(id);
            copies.running.get(&id).cloned()
        };
        if let Some(copy) = running.filter(|copy| !copy.background) {
            copy.cancel.cancel();
            let _ = copy.outcome.await;
        }
    }

    /// Starts the copy as a task, which continues if the caller no longer waits for it.
    fn start(&self, job: CopyJob) -> RunningCopy {
        let cancel = CancellationToken::new();
        let (copier, stop, id, background) = (self.clone(), cancel.clone(), job.part.part_id(), job.is_background());
        let copying = async move {
            let measured = MeasuredCopy::begin(background);
            let copied = match &job.origin {
                CopyOrigin::Content { content, .. } => copier.store_content(&job, content.clone()).await,
                CopyOrigin::Holder { .. } | CopyOrigin::Writer { .. } => copier.copy_from_any(&job, &stop).await,
            };
            measured.end(copied.is_ok());
            copied?;
            let held = copier.0.store.held(&[id]).pop();
            held.ok_or_else(|| Error::unavailable(format!("part {id} was removed when it had been copied")))
        };
        RunningCopy { outcome: self.spawn(id, background, copying), cancel, background }
    }

    /// Runs a copy, whose part is among those that are received once it is no more among those that are copied.
    fn spawn(
        &self,
        id: PartId,
        background: bool,
        copying: impl Future<Output = Result<HeldPart>> + Send + 'static,
    ) -> CopyOutcome {
        let copier = self.clone();
        let task = tokio::spawn(carry(async move {
            let copied = {
                // Removed also if the copy panics: the next order copies the part again.
                let _running = RemoveRunning { copier: &copier, id };
                copying.await
            };
            copied.map(|held| copier.0.received.add(held, background))
        }));
        let outcome =
            async move { task.await.unwrap_or_else(|e| Err(Error::internal(format!("copying part {id}: {e}")))) };
        outcome.boxed().shared()
    }

    /// Makes a part durable whose bytes came with its order.
    async fn store_content(&self, job: &CopyJob, content: Bytes) -> Result<()> {
        let (store, part, table) = (self.0.store.clone(), job.part.clone(), job.table.clone());
        let received = metrics::counter!("volley_part_copy_bytes_total", "kind" => kind_of(false));
        received.increment(content.len() as u64);
        let storing = move || {
            let mut receiver = store.receive(&part, &table)?;
            receiver.write(&content)?;
            receiver.finish()
        };
        let stored = tokio::task::spawn_blocking(storing).await;
        stored.map_err(|e| Error::internal(format!("storing part {}: {e}", job.part.part_id())))?
    }

    async fn copy_from_any(&self, job: &CopyJob, stop: &CancellationToken) -> Result<()> {
        let CopyJob { part, table, .. } = job;
        let id = part.part_id();
        let permits = match job.origin {
            CopyOrigin::Holder { background: true } => Some(&self.0.background),
            CopyOrigin::Holder { background: false } => Some(&self.0.foreground),
            CopyOrigin::Writer { .. } | CopyOrigin::Content { .. } => None,
        };
        let _permit = tokio::select! {
            permit = acquire(permits) => permit?,
            () = stop.cancelled() => return Err(cancelled(id)),
        };
        let mut sources: Vec<String> =
            job.sources.iter().filter(|source| **source != self.0.peer_addr).cloned().collect();
        self.0.pool.sort_by_health(&mut sources);
        let count = sources.len();
        // If this node's disk failed, another source does not help.
        let other_may_help =
            |error: &Error| error.code != Code::ResourceExhausted && self.0.store.write_failure().is_none();
        let (mut failover, mut partial) = (Failover::new(sources), None);
        // The second round continues what a source began to send.
        failover.set_attempts_left(2 * count);
        while let Some(source) = failover.next_candidate() {
            if failover.attempts() > count && partial.is_none() {
                break;
            }
            let span = CallSpan::begin("copy.fetch").with("volley.part", || id.to_string());
            let span = span.with("volley.source", || source.clone());
            let outcome = match span.run(self.copy_from(job, &source, &mut partial, stop).boxed()).await {
                Err(_) if stop.is_cancelled() => return Err(cancelled(id)),
                outcome => outcome.map_err(|error| if other_may_help(&error) { error.at(&source) } else { error }),
            };
            match &outcome {
                Ok(()) => {
                    tracing::debug!(part = %id, %table, shard = part.shard, source, bytes = part.bytes, "copied a part")
                }
                Err(error) => tracing::warn!(part = %id, %table, shard = part.shard, %error, "copying a part failed"),
            }
            if failover.record_if(outcome, other_may_help)?.is_some() {
                return Ok(());
            }
        }
        let failures: Vec<String> = failover.into_errors().into_iter().map(|error| error.message).collect();
        Err(Error::unavailable(format!(
            "part {id} of {table} could not be copied from any of {} nodes: {}",
            count,
            failures.join("; ")
        )))
    }

    /// Copies from one source, from the byte on that an earlier one did not send. `partial` is then what was received, if
    /// another source can continue.
    async fn copy_from(
        &self,
        job: &CopyJob,
        source: &str,
        partial: &mut Option<Box<PartReceiver>>,
        stop: &CancellationToken,
    ) -> Result<()> {
        let began = partial.take();
        let resumed = began.as_ref().is_some_and(|receiver| receiver.received() > 0);
        let mut result = self.fetch(job, source, began, stop).await;
        // The bytes of two sources do not fit together. One of them is damaged: this one alone may be whole.
        if resumed && result.as_ref().is_err_and(|failed| failed.error.code == Code::DataLoss) {
            result = self.fetch(job, source, None, stop).await;
        }
        result.map_err(|failed| {
            *partial = failed.partial.filter(|receiver| receiver.received() > 0 && !stop.is_cancelled());
            failed.error
        })
    }

    async fn fetch(
        &self,
        job: &CopyJob,
        source: &str,
        began: Option<Box<PartReceiver>>,
        stop: &CancellationToken,
    ) -> Result<(), FailedTransfer> {
        let receiver = match began {
            Some(receiver) => *receiver,
            None => {
                let (store, part, table) = (self.0.store.clone(), job.part.clone(), job.table.clone());
                let open = job.is_open();
                // Checks the space before the source sends anything.
                let begin = move || if open { store.receive_open(&part, &table) } else { store.receive(&part, &table) };
                tokio::task::spawn_blocking(begin)
                    .await
                    .map_err(|e| Error::internal(format!("receiving a part: {e}")))??
            }
        };
        let throttle = job.is_background().then_some(&self.0.background_rate);
        transfer(&self.0.pool, source, job.part.part_id(), receiver, job.is_open(), throttle, stop).await
    }
}

/// Removes a copy from those that run.
struct RemoveRunning<'a> {
    copier: &'a PartCopier,
    id: PartId,
}

impl Drop for RemoveRunning<'_> {
    fn drop(&mut self) {
        self.copier.0.copies.lock().running.remove(&self.id);
    }
}

fn no_part() -> Error {
    Error::invalid("the order to copy names no part")
}

/// A permit, if the copy needs one.
async fn acquire(permits: Option<&Semaphore>) -> Result<Option<SemaphorePermit<'_>>> {
    match permits {
        Some(permits) => permits.acquire().await.map(Some).map_err(|_| Error::cancelled("the node is stopping")),
        None => Ok(None),
    }
}

fn cancelled(id: PartId) -> Error {
    Error::cancelled(format!("the copy of part {id} was cancelled, because its write failed"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
