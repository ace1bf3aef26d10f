//! Runs a planned write: its parts are replicated while they are written, under the write's lease; then the write is
//! committed, or rolled back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use volley_common::ipc::schema::schema_message;
use volley_common::telemetry::trace::{CallSpan, carry};
use volley_common::wire::catalog::{Part, WriteOutcome};
use volley_common::wire::cluster::{AbortWriteRequest, CommitWriteRequest, StagePartsRequest};
use volley_common::{Code, Error, PartId, Result};

use super::part_events::PartEvent;
use super::plan::{BeginAgain, PlannedWrite};
use super::replicate::PartReplicator;
use crate::unneeded_parts::remove_unneeded;

/// How often, after a commit, the catalog is asked whether this node may remove its surplus copies, and the growth of the
/// pause between. What stays is found by the next inventory.
const SURPLUS_ATTEMPTS: u32 = 3;
const SURPLUS_PAUSE: Duration = Duration::from_millis(300);

/// Executes a planned write, from its first row to its commit, and rolls it back if it fails. Returns the outcome as JSON.
///
/// `writing` writes the parts; it sends what happens to each to `events`.
///
/// # Errors
/// Those of `writing`, of replication, of the commit.
pub async fn execute(
    write: PlannedWrite,
    writing: impl Future<Output = Result<()>>,
    mut events: mpsc::Receiver<Result<PartEvent>>,
) -> Result<Bytes> {
    let replicator = PartReplicator::new(write.context.clone(), write.plan.clone(), write.table.components().to_vec());
    let attempt = AtomicU64::new(write.attempt);
    let execution = Arc::new(WriteExecution { write, replicator, attempt });
    match execution.write_and_replicate(writing, &mut events).await {
        Ok(()) => match CallSpan::begin("put.commit").run(execution.clone().commit().boxed()).await {
            Ok(outcome) => Ok(outcome),
            Err(error) => Err(execution.settle_failed_commit(error).await),
        },
        Err(error) => {
            execution.rollback(&error, events).await;
            Err(error)
        }
    }
}

struct WriteExecution {
    write: PlannedWrite,
    replicator: PartReplicator,
    /// The attempt that a commit or an abort names: another one once the write was begun again.
    attempt: AtomicU64,
}

impl WriteExecution {
    /// Runs `writing` and replicates its parts, under the write's lease. Returns when enough nodes hold each part.
    async fn write_and_replicate(
        &self,
        writing: impl Future<Output = Result<()>>,
        events: &mut mpsc::Receiver<Result<PartEvent>>,
    ) -> Result<()> {
        let work = async { tokio::try_join!(writing, self.replicate(events)) };
        tokio::select! {
            done = work => done.map(|_| ()),
            error = self.keep_lease() => Err(error),
        }
    }

    /// Replicates parts as they are written. Returns when there are no more and enough nodes hold each.
    async fn replicate(&self, events: &mut mpsc::Receiver<Result<PartEvent>>) -> Result<()> {
        let mut replications: FuturesUnordered<oneshot::Receiver<Result<()>>> = FuturesUnordered::new();
        let mut open = true;
        while open || !replications.is_empty() {
            tokio::select! {
                event = events.recv(), if open => match event {
                    Some(event) => replications.extend(self.replicator.handle(event?)),
                    None => open = false,
                },
                Some(replicated) = replications.next() => {
                    replicated.unwrap_or_else(|_| Err(Error::internal("replication panicked; see the node's log")))?;
                }
            }
        }
        Ok(())
    }

    /// Renews the write's lease until the write is no longer open; returns why.
    async fn keep_lease(&self) -> Error {
        let PlannedWrite { context, write_id, plan, .. } = &self.write;
        let period = Duration::from_millis((plan.lease_ms / 3).max(100));
        loop {
            tokio::time::sleep(period).await;
            match context.coordinators.renew(write_id).await {
                Ok(()) => {}
                Err(error) if error.code == Code::Unavailable => {
                    tracing::warn!(write = write_id, %error, "a write's lease could not be renewed");
                }
                Err(error) => return error.at(format_args!("write {write_id}")),
            }
        }
    }

    /// Makes the parts visible, or stages them for the call that commits them. Copies beyond the required ones continue
    /// in the background.
    async fn commit(self: Arc<Self>) -> Result<Bytes> {
        let PlannedWrite { stream, again, .. } = &self.write;
        let parts = self.replicator.parts();
        let kept = self.held_here(&parts);
        let outcome = match (stream, again) {
            (Some(stream), _) => self.stage(*stream, parts).await?,
            (None, None) => self.commit_parts(parts).await?.to_json(),
            (None, Some(again)) => match self.commit_parts(parts.clone()).await {
                // Refused, so nothing has changed.
                Err(error) if error.code == Code::AlreadyExists => self.commit_again(again, parts).await?.to_json(),
                committed => committed?.to_json(),
            },
        };
        let outcome = Bytes::from(outcome.to_string());
        tokio::spawn(carry(self.finish(kept)));
        Ok(outcome)
    }

    async fn commit_parts(&self, parts: Vec<Part>) -> Result<WriteOutcome> {
        let PlannedWrite { context, write_id, .. } = &self.write;
        let attempt = self.attempt.load(Ordering::Relaxed);
        let began = Instant::now();
        let request = CommitWriteRequest { write: write_id.clone(), parts, attempt };
        let committed = context.coordinators.commit(request).await?;
        metrics::histogram!("volley_put_commit_duration_seconds").record(began.elapsed());
        Ok(committed)
    }

    /// Commits the parts by another plan of the write, which may append to the table. The write keeps its id, so that its parts are
    /// needed throughout, and no two of its plans can be committed.
    async fn commit_again(&self, again: &BeginAgain, parts: Vec<Part>) -> Result<WriteOutcome> {
        let attempt = rand::random();
        let plan = again.begin(&self.write.context, attempt).await?;
        self.attempt.store(attempt, Ordering::Relaxed);
        self.write.check_fits(&plan)?;
        self.commit_parts(parts).await
    }

    async fn stage(&self, stream: u64, parts: Vec<Part>) -> Result<Value> {
        let PlannedWrite { context, plan, table, write_id, schema, attempt, only_first, .. } = &self.write;
        let outcome = json!({
            "table": table.to_string(),
            "write_id": write_id,
            "staged": true,
            "rows": parts.iter().map(|p| p.rows).sum::<u64>(),
            "bytes": parts.iter().map(|p| p.bytes).sum::<u64>(),
            "parts": parts.len(),
        });
        let schema = schema_message(schema)?;
        let (write, attempt, only_first) = (write_id.clone(), *attempt, *only_first);
        let begun = plan.write.as_ref().map_or(0, |write| write.attempt);
        let request = StagePartsRequest { write, stream, parts, schema, attempt, only_first, begun };
        context.coordinators.stage(request).await?;
        Ok(outcome)
    }

    /// The parts of which this node is a holder in the catalog.
    fn held_here(&self, parts: &[Part]) -> Vec<PartId> {
        let this_node = self.write.context.store.node().0;
        parts.iter().filter(|part| part.holders.contains(&this_node)).map(Part::part_id).collect()
    }

    /// After the commit: waits for the remaining copies, then removes parts that this node need not keep.
    async fn finish(self: Arc<Self>, kept: Vec<PartId>) {
        self.replicator.wait().await;
        let surplus: Vec<PartId> = self.replicator.part_ids().into_iter().filter(|id| !kept.contains(id)).collect();
        let PlannedWrite { context, write_id, .. } = &self.write;
        for attempt in 0..SURPLUS_ATTEMPTS {
            // The last holders report their copies to the leader meanwhile.
            tokio::time::sleep(SURPLUS_PAUSE * attempt).await;
            match remove_unneeded(&context.store, &context.coordinators, write_id, &surplus).await {
                Ok(0) => return,
                Ok(_) => {}
                Err(error) => tracing::warn!(write = write_id, %error, "parts that may not be needed here stay"),
            }
        }
    }

    /// Rolls back a write whose parts no commit has named: this node alone knows them, so they are not needed. Removes them
    /// here, aborts the write at the coordinators, and then asks the other nodes to discard their copies.
    async fn rollback(&self, cause: &Error, mut events: mpsc::Receiver<Result<PartEvent>>) {
        self.log_failure(cause);
        let local = async {
            self.replicator.cancel().await;
            // The writer ends first. What it finishes meanwhile is durable nowhere, and goes with its event.
            while events.recv().await.is_some() {}
            self.remove(self.replicator.part_ids()).await;
        };
        tokio::join!(local, self.abort(cause));
        self.replicator.discard(&self.write.write_id).await;
    }

    /// After an error of the commit, which does not tell whether the parts are committed, whatever its code: they may be,
    /// by this call or by one whose reply was lost. Aborts the write if the catalog answers, and removes those parts for
    /// which the catalog proves that they are not needed. Returns the error for the client.
    async fn settle_failed_commit(&self, error: Error) -> Error {
        self.log_failure(&error);
        self.replicator.cancel().await;
        let PlannedWrite { context, write_id, .. } = &self.write;
        // No coordinator answered within the commit's deadline. They remove what is not needed when they are back.
        if matches!(error.code, Code::Unavailable | Code::DeadlineExceeded) {
            return error;
        }
        self.abort(&error).await;
        match remove_unneeded(&context.store, &context.coordinators, write_id, &self.replicator.part_ids()).await {
            Ok(0) => {
                self.replicator.discard(write_id).await;
                error
            }
            Ok(kept) => {
                tracing::warn!(
                    write = write_id,
                    kept,
                    "parts of a failed commit stay: the catalog needs them or cannot tell"
                );
                self.unknown_outcome(error)
            }
            Err(cause) => {
                tracing::warn!(write = write_id, error = %cause, "parts of a failed commit stay: the catalog does not answer");
                self.unknown_outcome(error)
            }
        }
    }

    /// The error for the client of a put that may be committed. A staged stream takes effect only with its write.
    fn unknown_outcome(&self, error: Error) -> Error {
        let PlannedWrite { write_id, stream, .. } = &self.write;
        match stream {
            Some(_) => error,
            None => error.at(format_args!(
                "it is unknown whether write {write_id} took effect; put again with this write id to find out"
            )),
        }
    }

    fn log_failure(&self, cause: &Error) {
        let PlannedWrite { table, write_id, request_id, .. } = &self.write;
        tracing::warn!(write = write_id, %table, code = ?cause.code, request_id, error = %cause, "a put failed");
    }

    async fn remove(&self, ids: Vec<PartId>) {
        let store = self.write.context.store.clone();
        let removed = tokio::task::spawn_blocking(move || store.remove(&ids)).await;
        if let Ok(Err(error)) = removed {
            tracing::warn!(write = self.write.write_id, %error, "parts that are not needed could not be removed");
        }
    }

    /// Aborts the write. A staged one stays open: its other streams may succeed.
    async fn abort(&self, cause: &Error) {
        let PlannedWrite { context, write_id, stream, .. } = &self.write;
        if stream.is_some() {
            return;
        }
        let attempt = self.attempt.load(Ordering::Relaxed);
        let request = AbortWriteRequest { write: write_id.clone(), reason: cause.message.clone(), attempt };
        if let Err(error) = context.coordinators.abort(request).await {
            tracing::warn!(write = write_id, %error, "a failed write was not aborted; if it is open, its lease will expire");
        }
    }
}
