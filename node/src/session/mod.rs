//! The node's session with the leading coordinator: sends reports, receives orders.

mod connect;
mod report;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::watch;
use tokio::time::{Instant, Interval, MissedTickBehavior};
use tonic::Streaming;
use volley_common::http2::SilenceWatch;
use volley_common::server::ExposureKind;
use volley_common::telemetry::GaugeGuard;
use volley_common::wire::cluster;
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::{DeleteParts, InventoryReconciled, NodeOrder, QuarantineParts, Welcome};
use volley_common::{Error, PartId, Result};

use self::connect::{LeaderConnection, is_fatal};
use self::report::ReportSender;
use crate::cluster_view::ClusterMembers;
use crate::compaction::compact;
use crate::context::NodeContext;
use crate::storage::CatalogPosition;

/// After a session this long the next attempt does not back off.
const STABLE_SESSION: Duration = Duration::from_secs(30);

/// Keeps a session with the current leader until the shutdown; `ready` becomes true with the first one.
///
/// # Errors
/// FAILED_PRECONDITION, PERMISSION_DENIED and the like: the cluster rejects this node, so the process should end.
pub async fn run(state: Arc<NodeContext>, ready: watch::Sender<bool>) -> Result<()> {
    let mut backoff = backoff();
    let mut logged = String::new();
    loop {
        let began = Instant::now();
        let error = match one_session(&state, &ready).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if is_fatal(&error) {
            return Err(error.at(format_args!("data folder {}", state.config.server.data_dir.display())));
        }
        if began.elapsed() > STABLE_SESSION {
            backoff = self::backoff();
        }
        if logged != error.message {
            tracing::warn!(%error, "no session with the leading coordinator; retrying");
            logged.clone_from(&error.message);
        }
        tokio::select! {
            () = state.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(backoff.next().unwrap_or(Duration::from_secs(1))) => {}
        }
    }
}

/// Pauses between attempts: 50 ms growing to 1 s, with jitter.
fn backoff() -> Box<dyn Iterator<Item = Duration> + Send> {
    Box::new(
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .with_jitter()
            .without_max_times()
            .build(),
    )
}

/// Finds the leader and serves one session with it; returns without an error only at the shutdown.
async fn one_session(state: &Arc<NodeContext>, ready: &watch::Sender<bool>) -> Result<()> {
    // Coordinators that do not answer must not delay the shutdown.
    let Some(connection) = state.shutdown.run_until_cancelled(connect::connect(state)).await else { return Ok(()) };
    let LeaderConnection { leader, reports, orders, welcome } = connection?;
    let heartbeat = Duration::from_millis(welcome.heartbeat_ms.clamp(50, 60_000));
    apply_welcome(state, welcome).await?;
    state.coordinators.prefer(&leader);
    tracing::info!(leader, "in session with the leading coordinator");
    ready.send_replace(true);
    metrics::counter!("volley_sessions_total").increment(1);
    let _in_session = GaugeGuard::count(metrics::gauge!("volley_in_session"));
    let reporter = ReportSender::new(state.store.clone(), state.tls.clone(), reports)
        .with_exposures(ExposureKind::names_of(&state.config.server));
    let silence = state.pool.silence(&leader);
    LeaderSession { state: state.clone(), reporter, orphans_left: Arc::default() }
        .serve(orders, heartbeat, silence)
        .await
}

/// Joins the cluster (durably, the first time) and adopts its ticket keys, members, cancelled flights, users and grants.
async fn apply_welcome(state: &Arc<NodeContext>, welcome: Welcome) -> Result<()> {
    let (store, cluster) = (state.store.clone(), welcome.cluster.clone());
    tokio::task::spawn_blocking(move || store.join(&cluster))
        .await
        .map_err(|e| Error::internal(format!("joining the cluster: {e}")))??;
    if welcome.identity.as_ref().is_none_or(|identity| identity.ticket_keys.is_empty()) {
        // A coordinator of an earlier version, which knows one key.
        state.cluster.set_ticket_keys(std::slice::from_ref(&welcome.ticket_key));
    }
    state.cluster.cancelled.add(&welcome.cancelled);
    state.cluster.lease_ms.store(welcome.lease_ms, Ordering::Relaxed);
    state.cluster.set_identity(welcome.identity).await?;
    if let Some(members) = welcome.members {
        apply_members(state, members);
    }
    Ok(())
}

fn apply_members(state: &NodeContext, members: cluster::Members) {
    state.coordinators.refresh(&members.coordinator_peer);
    state.cluster.members.store(Arc::new(ClusterMembers::from(members)));
}

#[derive(Clone)]
struct LeaderSession {
    state: Arc<NodeContext>,
    reporter: ReportSender,
    /// A part that the leader ordered to quarantine is still held.
    orphans_left: Arc<AtomicBool>,
}

impl LeaderSession {
    /// `silence`: completes when the leader hangs; its successor may then have been elected already.
    async fn serve(
        &self,
        mut orders: Streaming<NodeOrder>,
        heartbeat: Duration,
        mut silence: SilenceWatch,
    ) -> Result<()> {
        let NodeContext { shutdown, copier, store, .. } = &*self.state;
        let mut ticks = tokio::time::interval(heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                error = &mut silence => return Err(error.at("the leading coordinator")),
                order = orders.message() => match order? {
                    Some(order) => self.handle_order(order, &mut ticks).await?,
                    None => return Err(Error::unavailable("the leading coordinator ended the session")),
                },
                () = copier.received().changed() => self.reporter.received(copier.received()).await?,
                () = store.wait_for_lost() => self.reporter.lost().await?,
                _ = ticks.tick() => self.reporter.heartbeat().await?,
            }
        }
    }

    /// Long work runs in a task or beside `ticks`, so that heartbeats continue.
    async fn handle_order(&self, order: NodeOrder, ticks: &mut Interval) -> Result<()> {
        let state = self.state.clone();
        let NodeOrder { order: number, catalog_index, catalog_epoch, what } = order;
        let position = CatalogPosition { index: catalog_index, epoch: catalog_epoch };
        state.store.seen_catalog().note(position);
        match what {
            Some(What::Welcome(welcome)) => apply_welcome(&state, welcome).await?,
            Some(What::Members(members)) => apply_members(&state, members),
            Some(What::Cancelled(cancelled)) => state.cluster.cancelled.add(&cancelled.flights),
            Some(What::Identity(identity)) => {
                let adopted = state.cluster.set_identity(Some(identity));
                self.reporter.with_heartbeats(ticks, adopted).await??;
            }
            Some(What::SendInventory(_)) => self.reporter.inventory().await?,
            Some(What::Copy(copy)) => self.spawn(number, async move { state.copier.copy(copy).await }),
            Some(What::Delete(delete)) => self.spawn(number, delete_parts(state, delete)),
            Some(What::Compact(parts)) => self.spawn(number, compact(state, parts)),
            // Not in tasks: the order that says that the inventory is reconciled comes after those that this requires.
            Some(What::Quarantine(parts)) => {
                let moved = self.reporter.with_heartbeats(ticks, move_to_orphans(state, parts)).await?;
                self.orphans_left.fetch_or(moved.is_err(), Ordering::Relaxed);
                self.report_done(number, moved).await;
            }
            Some(What::Reconciled(reconciled)) => {
                let recorded = match self.orphans_left.load(Ordering::Relaxed) {
                    true => Err(Error::unavailable("parts that the catalog does not know could not be set aside")),
                    false => {
                        let recorded = record_reconciled(state, reconciled, position);
                        self.reporter.with_heartbeats(ticks, recorded).await?
                    }
                };
                self.report_done(number, recorded).await;
            }
            None => {
                tracing::warn!(order = number, "an order of an unknown kind");
                self.reporter.done(number, &Err(Error::unimplemented("unknown order"))).await?;
            }
        }
        Ok(())
    }

    /// Executes an order in the background, and reports its result.
    fn spawn(&self, order: u64, work: impl Future<Output = Result<()>> + Send + 'static) {
        let session = self.clone();
        tokio::spawn(async move { session.report_done(order, work.await).await });
    }

    async fn report_done(&self, order: u64, result: Result<()>) {
        if let Err(error) = &result {
            tracing::warn!(order, %error, "an order failed");
        }
        // If the session has ended, the next one begins with the inventory's digest.
        let _ = self.reporter.done(order, &result).await;
    }
}

async fn delete_parts(state: Arc<NodeContext>, delete: DeleteParts) -> Result<()> {
    let ids: Vec<PartId> = delete.parts.iter().map(PartId::from).collect();
    tokio::task::spawn_blocking(move || state.store.remove(&ids))
        .await
        .map_err(|e| Error::internal(format!("removing parts: {e}")))?
}

async fn move_to_orphans(state: Arc<NodeContext>, quarantine: QuarantineParts) -> Result<()> {
    let ids: Vec<PartId> = quarantine.parts.iter().map(PartId::from).collect();
    tokio::task::spawn_blocking(move || state.store.move_to_orphans(&ids))
        .await
        .map_err(|e| Error::internal(format!("moving parts to the orphans: {e}")))?
}

async fn record_reconciled(
    state: Arc<NodeContext>,
    reconciled: InventoryReconciled,
    position: CatalogPosition,
) -> Result<()> {
    tokio::task::spawn_blocking(move || state.store.set_reconciled(&reconciled.cluster, position))
        .await
        .map_err(|e| Error::internal(format!("recording the reconciliation: {e}")))?
}
