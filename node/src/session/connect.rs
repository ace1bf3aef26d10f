//! Finds the leading coordinator and opens a session with it.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use volley_common::net::Failover;
use volley_common::net::member_health::HealthRank;
use volley_common::wire::PROTOCOL;
use volley_common::wire::catalog::{Node, NodeState};
use volley_common::wire::cluster::node_order::What;
use volley_common::wire::cluster::node_report::Report;
use volley_common::wire::cluster::{Hello, NodeOrder, NodeReport, Welcome};
use volley_common::{Code, Error, Result};

use crate::context::NodeContext;
use crate::storage::CatalogPosition;

/// The metadata key with which a follower returns the leader's peer address.
const LEADER: &str = "x-volley-leader";
/// Reports that may wait for the connection.
const MAX_QUEUED_REPORTS: usize = 64;
/// How long a coordinator may take to accept the session, and then to send the welcome.
const WELCOME_TIMEOUT: Duration = Duration::from_secs(10);

/// A session that the leader has accepted.
pub struct LeaderConnection {
    /// The leader's peer address.
    pub leader: String,
    /// Sends reports.
    pub reports: mpsc::Sender<NodeReport>,
    /// Receives orders.
    pub orders: Streaming<NodeOrder>,
    /// The first order.
    pub welcome: Welcome,
}

/// Whether a retry cannot help: the cluster rejects this node.
pub fn is_fatal(error: &Error) -> bool {
    matches!(
        error.code,
        Code::FailedPrecondition | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented
    )
}

/// Opens a session with the leader, following the redirections of other coordinators.
///
/// # Errors
/// Those of the last coordinator that was tried. UNAVAILABLE: no welcome in time.
pub async fn connect(state: &Arc<NodeContext>) -> Result<LeaderConnection> {
    let (leader, reports, mut orders) = find_leader(state).await?;
    let welcome = async { Ok::<_, Error>(orders.message().await?) };
    let welcome = timeout(WELCOME_TIMEOUT, state.pool.while_answering(&leader, welcome))
        .await
        .map_err(|_| Error::unavailable("the leading coordinator did not welcome this node in time"))??;
    let Some(NodeOrder { what: Some(What::Welcome(welcome)), catalog_index, catalog_epoch, .. }) = welcome else {
        return Err(Error::unavailable("the leading coordinator ended the session before it began"));
    };
    state.store.seen_catalog().freeze(welcome.recovered);
    state.store.seen_catalog().note(CatalogPosition { index: catalog_index, epoch: catalog_epoch });
    Ok(LeaderConnection { leader, reports, orders, welcome })
}

async fn find_leader(state: &Arc<NodeContext>) -> Result<(String, mpsc::Sender<NodeReport>, Streaming<NodeOrder>)> {
    let mut failover = Failover::new(state.coordinators.addrs());
    while let Some(addr) = failover.next_candidate() {
        let opened = open(state, &addr).await;
        if let Some(leader) = opened.as_ref().err().and_then(leader_addr).filter(|leader| *leader != addr) {
            // The followers do not know yet that their leader hangs.
            if state.pool.health(&leader).rank() != HealthRank::Silent {
                failover.redirect(leader);
            }
        }
        let opened = opened.map_err(|status| Error::from(status).at(format_args!("coordinator {addr}")));
        if let Some((reports, orders)) = failover.record_if(opened, |error| !is_fatal(error))? {
            return Ok((addr, reports, orders));
        }
    }
    Err(failover.into_error().unwrap_or_else(|| Error::unavailable("no coordinator is configured")))
}

async fn open(state: &NodeContext, addr: &str) -> Result<(mpsc::Sender<NodeReport>, Streaming<NodeOrder>), Status> {
    let (reports, queued) = mpsc::channel(MAX_QUEUED_REPORTS);
    let hello = NodeReport { report: Some(Report::Hello(hello(state))) };
    reports.try_send(hello).map_err(|_| Status::internal("a new queue is full"))?;
    let mut client = state.coordinators.stub(addr)?;
    let call = client.session(ReceiverStream::new(queued));
    let call = timeout(WELCOME_TIMEOUT, state.pool.while_answering(addr, call));
    let orders = call.await.map_err(|_| Status::unavailable("no answer in time"))??;
    Ok((reports, orders.into_inner()))
}

fn leader_addr(status: &Status) -> Option<String> {
    let leader = status.metadata().get(LEADER)?.to_str().ok()?;
    (!leader.is_empty()).then(|| leader.to_string())
}

fn hello(state: &NodeContext) -> Hello {
    let seen = state.store.seen_catalog().position();
    Hello {
        node: Some(Node {
            id: state.store.node().0,
            boot: state.store.boot(),
            zone: state.config.zone.clone(),
            capacity: state.config.capacity,
            flight_uri: state.addresses.flight_uri.clone(),
            listeners: state.addresses.listeners.clone(),
            peer_addr: state.addresses.peer_addr.clone(),
            local_socket: state.addresses.local_socket.clone(),
            state: NodeState::Alive.into(),
            software: concat!("volley-node ", env!("CARGO_PKG_VERSION")).into(),
            ..Node::default()
        }),
        cluster: state.store.cluster().unwrap_or_default(),
        protocol: PROTOCOL,
        reconciled: state.store.reconciled().unwrap_or_default(),
        catalog_index: seen.index,
        catalog_epoch: seen.epoch,
    }
}
