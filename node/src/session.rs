//! The node's session with the leading coordinator: reports out, orders back.

use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use volley_common::ticket::TicketKey;
use volley_common::wire::catalog::{Node, NodeState};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{
    DeleteParts, Heartbeat, HeldPart, HeldParts, Hello, Inventory, LostParts, NodeOrder, NodeReport, OrderDone, Welcome,
};
use volley_common::wire::{PROTOCOL, cluster};
use volley_common::{Code, Error, PartId, Result};

use crate::cluster_view::ClusterMembers;
use crate::context::NodeContext;

/// The metadata by which a coordinator names the leader's peer address.
const LEADER: &str = "x-volley-leader";
/// Parts in one page of the inventory.
const PAGE: usize = 10_000;
/// Reports that may wait for the connection.
const WAITING: usize = 64;
/// A leader that does not welcome in so long is given up.
const WELCOME_TIME: Duration = Duration::from_secs(10);
/// How often a coordinator may point to another before all are asked again.
const MAX_HINTS: usize = 8;

/// Keeps a session with whoever leads, for ever; `ready` becomes true with the first welcome.
///
/// # Errors
/// FAILED_PRECONDITION and the like: the cluster does not take this node, so the process should end.
pub async fn run(state: Arc<NodeContext>, ready: watch::Sender<bool>) -> Result<()> {
    let mut pauses = pauses();
    let mut reported = String::new();
    loop {
        let began = Instant::now();
        let error = match one_session(&state, &ready).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if is_fatal(&error) {
            return Err(error.at(format_args!("data folder {}", state.config.data_dir.display())));
        }
        if began.elapsed() > Duration::from_secs(30) {
            pauses = self::pauses();
        }
        if reported != error.message {
            tracing::warn!(%error, "no session with a leading coordinator; trying again");
            reported.clone_from(&error.message);
        }
        tokio::select! {
            () = state.shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(pauses.next().unwrap_or(Duration::from_secs(1))) => {}
        }
    }
}

/// Pauses between attempts: 50 ms growing to 1 s, with jitter.
fn pauses() -> Box<dyn Iterator<Item = Duration> + Send> {
    Box::new(
        ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .with_jitter()
            .without_max_times()
            .build(),
    )
}

fn is_fatal(error: &Error) -> bool {
    matches!(
        error.code,
        Code::FailedPrecondition | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented
    )
}

/// Looks for the leader and serves one session with it; returns without an error only at the shutdown.
async fn one_session(state: &Arc<NodeContext>, ready: &watch::Sender<bool>) -> Result<()> {
    let found = async {
        let (leader, reports, mut orders) = connect(state).await?;
        let welcome = tokio::time::timeout(WELCOME_TIME, orders.message())
            .await
            .map_err(|_| Error::unavailable("the leading coordinator did not welcome this node in time"))??;
        let Some(NodeOrder { what: Some(What::Welcome(welcome)), .. }) = welcome else {
            return Err(Error::unavailable("the leading coordinator ended the session before it began"));
        };
        Ok((leader, reports, orders, welcome))
    };
    // Coordinators that do not answer must not hold up the stop.
    let Some(found) = state.shutdown.run_until_cancelled(found).await else { return Ok(()) };
    let (leader, reports, orders, welcome) = found?;
    let heartbeat = Duration::from_millis(welcome.heartbeat_ms.clamp(50, 60_000));
    accept(state, welcome).await?;
    state.coordinators.prefer(&leader);
    tracing::info!("in session with the leading coordinator");
    ready.send_replace(true);
    let session = Session { state: state.clone(), reports };
    session.serve(orders, heartbeat).await
}

type Reports = mpsc::Sender<NodeReport>;

/// Opens the stream with the leader, as the coordinators name it.
async fn connect(state: &Arc<NodeContext>) -> Result<(String, Reports, Streaming<NodeOrder>)> {
    let mut last = Error::unavailable("no coordinator is configured");
    for addr in state.coordinators.addrs() {
        let mut addr = addr;
        for _ in 0..MAX_HINTS {
            match open(state, &addr).await {
                Ok((reports, orders)) => return Ok((addr, reports, orders)),
                Err(status) => {
                    let hint = leader_hint(&status);
                    last = Error::from(status).at(format_args!("coordinator {addr}"));
                    if is_fatal(&last) {
                        return Err(last);
                    }
                    match hint {
                        Some(leader) if leader != addr => addr = leader,
                        _ => break,
                    }
                }
            }
        }
    }
    Err(last)
}

async fn open(state: &Arc<NodeContext>, addr: &str) -> Result<(Reports, Streaming<NodeOrder>), Status> {
    let (reports, waiting) = mpsc::channel(WAITING);
    let hello = NodeReport { report: Some(Report::Hello(hello(state))) };
    reports.try_send(hello).map_err(|_| Status::internal("a new queue has room"))?;
    let mut client = state.coordinators.client(addr)?;
    let call = client.session(ReceiverStream::new(waiting));
    let orders =
        tokio::time::timeout(WELCOME_TIME, call).await.map_err(|_| Status::unavailable("no answer in time"))??;
    Ok((reports, orders.into_inner()))
}

fn leader_hint(status: &Status) -> Option<String> {
    let leader = status.metadata().get(LEADER)?.to_str().ok()?;
    (!leader.is_empty()).then(|| leader.to_string())
}

fn hello(state: &NodeContext) -> Hello {
    Hello {
        node: Some(Node {
            id: state.store.node().0,
            boot: state.store.boot(),
            zone: state.config.zone.clone(),
            capacity: state.config.capacity,
            flight_uri: state.addresses.flight_uri.clone(),
            listeners: state.addresses.listeners.clone(),
            peer_addr: state.addresses.peer_addr.clone(),
            state: NodeState::Alive.into(),
            software: concat!("volley-node ", env!("CARGO_PKG_VERSION")).into(),
            ..Node::default()
        }),
        cluster: state.store.cluster().unwrap_or_default(),
        protocol: PROTOCOL,
    }
}

/// Joins the cluster (for good, at the first time) and takes over what the leader says.
async fn accept(state: &Arc<NodeContext>, welcome: Welcome) -> Result<()> {
    let (store, cluster) = (state.store.clone(), welcome.cluster.clone());
    tokio::task::spawn_blocking(move || store.join(&cluster))
        .await
        .map_err(|e| Error::internal(format!("joining the cluster: {e}")))??;
    state.cluster.ticket_key.store(Some(Arc::new(TicketKey::new(&welcome.ticket_key))));
    state.cluster.cancelled.add(&welcome.cancelled);
    if let Some(members) = welcome.members {
        take_members(state, members);
    }
    Ok(())
}

fn take_members(state: &NodeContext, members: cluster::Members) {
    state.coordinators.refresh(&members.coordinator_peer);
    state.cluster.members.store(Arc::new(ClusterMembers::from(members)));
}

struct Session {
    state: Arc<NodeContext>,
    reports: Reports,
}

impl Session {
    async fn serve(&self, mut orders: Streaming<NodeOrder>, heartbeat: Duration) -> Result<()> {
        let mut ticks = tokio::time::interval(heartbeat);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.state.shutdown.cancelled() => return Ok(()),
                order = orders.message() => match order? {
                    Some(order) => self.obey(order).await?,
                    None => return Err(Error::unavailable("the leading coordinator ended the session")),
                },
                () = self.state.copier.received().changed() => self.report_received().await?,
                () = self.state.store.lost_something() => self.report_lost().await?,
                _ = ticks.tick() => self.heartbeat().await?,
            }
        }
    }

    async fn report(&self, report: Report) -> Result<()> {
        let sent = self.reports.send(NodeReport { report: Some(report) }).await;
        sent.map_err(|_| Error::unavailable("the session with the leading coordinator broke"))
    }

    async fn heartbeat(&self) -> Result<()> {
        let store = self.state.store.clone();
        let ((digest, parts), disk) = tokio::task::spawn_blocking(move || (store.digest(), store.condition()))
            .await
            .map_err(|e| Error::internal(format!("reading the inventory: {e}")))?;
        self.report(Report::Heartbeat(Heartbeat {
            digest,
            parts,
            bytes_free: disk.space.free,
            bytes_used: disk.used,
            bytes_total: disk.space.total,
            read_only_reason: disk.read_only_reason,
            degraded_reason: disk.degraded_reason,
            damaged: disk.damaged,
            scrubbed_ms: disk.scrubbed_ms,
        }))
        .await
    }

    /// Parts that were found damaged: the others are to make them good at once.
    async fn report_lost(&self) -> Result<()> {
        let (parts, reason) = self.state.store.take_lost();
        for page in parts.chunks(PAGE) {
            let parts = page.iter().map(|id| (*id).into()).collect();
            self.report(Report::Lost(LostParts { parts, reason: reason.clone() })).await?;
        }
        Ok(())
    }

    async fn report_received(&self) -> Result<()> {
        loop {
            let parts = self.state.copier.received().take(PAGE);
            if parts.is_empty() {
                return Ok(());
            }
            self.report(Report::Held(HeldParts { parts })).await?;
        }
    }

    /// What takes long becomes a task, so that heartbeats go on.
    async fn obey(&self, order: NodeOrder) -> Result<()> {
        match order.what {
            Some(What::Welcome(welcome)) => accept(&self.state, welcome).await,
            Some(What::Members(members)) => {
                take_members(&self.state, members);
                Ok(())
            }
            Some(What::Cancelled(cancelled)) => {
                self.state.cluster.cancelled.add(&cancelled.flights);
                Ok(())
            }
            Some(What::SendInventory(_)) => self.send_inventory().await,
            Some(What::Copy(copy)) => {
                let state = self.state.clone();
                self.carry_out(order.order, async move { state.copier.copy(copy).await });
                Ok(())
            }
            Some(What::Delete(delete)) => {
                self.carry_out(order.order, delete_parts(self.state.clone(), delete));
                Ok(())
            }
            Some(What::Compact(merge)) => {
                self.carry_out(order.order, crate::merge::merge(self.state.clone(), merge));
                Ok(())
            }
            None => {
                tracing::warn!(order = order.order, "an order of a kind that this node does not know");
                self.report(done(order.order, &Err(Error::unimplemented("unknown order")))).await
            }
        }
    }

    fn carry_out(&self, order: u64, work: impl Future<Output = Result<()>> + Send + 'static) {
        let reports = self.reports.clone();
        tokio::spawn(async move {
            let result = work.await;
            if let Err(error) = &result {
                tracing::warn!(order, %error, "an order could not be carried out");
            }
            // If the session is over, the next one begins with the inventory's digest.
            let _ = reports.send(NodeReport { report: Some(done(order, &result)) }).await;
        });
    }

    async fn send_inventory(&self) -> Result<()> {
        let store = self.state.store.clone();
        let parts: Vec<HeldPart> = tokio::task::spawn_blocking(move || store.inventory())
            .await
            .map_err(|e| Error::internal(format!("reading the inventory: {e}")))?;
        let pages = parts.len().div_ceil(PAGE).max(1);
        let mut parts = parts.into_iter();
        for page in 1..=pages {
            let parts = parts.by_ref().take(PAGE).collect();
            self.report(Report::Inventory(Inventory { parts, last: page == pages })).await?;
        }
        Ok(())
    }
}

fn done(order: u64, result: &Result<()>) -> Report {
    let error = result.as_ref().err().map_or_else(String::new, |e| e.message.clone());
    Report::Done(OrderDone { order, error })
}

async fn delete_parts(state: Arc<NodeContext>, delete: DeleteParts) -> Result<()> {
    let ids: Vec<PartId> = delete.parts.iter().map(PartId::from).collect();
    tokio::task::spawn_blocking(move || state.store.remove(&ids))
        .await
        .map_err(|e| Error::internal(format!("removing parts: {e}")))?
}
