//! What this node knows about its cluster from the leading coordinator: members, ticket key, cancelled flights, users and
//! grants.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;
use volley_common::identity::{Directory, DirectoryHandle};
use volley_common::listen::host_port;
use volley_common::ticket::TicketKey;
use volley_common::wire::{catalog, cluster};
use volley_common::{Error, NodeId, Result, clock};

/// The cluster as the leader last described it. The session writes it; gets, puts and the router read it.
pub struct ClusterView {
    /// The cluster's ticket key; `None` until the node's first session.
    pub ticket_key: ArcSwapOption<TicketKey>,
    /// Nodes and coordinators.
    pub members: ArcSwap<ClusterMembers>,
    /// Flights whose tickets are refused.
    pub cancelled: CancelledFlights,
    /// Users, grants and signing keys; unknown until the node's first session. It stays when a session ends.
    pub directory: DirectoryHandle,
    /// That a leader sent no users and grants to a node that knows some is logged.
    was_identity_missing: AtomicBool,
}

impl Default for ClusterView {
    fn default() -> Self {
        ClusterView {
            ticket_key: ArcSwapOption::default(),
            members: ArcSwap::default(),
            cancelled: CancelledFlights::default(),
            directory: DirectoryHandle::new(),
            was_identity_missing: AtomicBool::new(false),
        }
    }
}

impl ClusterView {
    /// The ticket key.
    ///
    /// # Errors
    /// UNAVAILABLE before the node's first session with a leader.
    pub fn ticket_key(&self) -> Result<Arc<TicketKey>> {
        self.ticket_key.load_full().ok_or_else(|| {
            Error::unavailable("this node has not yet reached its coordinators and cannot verify tickets: try again")
        })
    }

    /// Adopts the ticket keys: the first one signs, all are accepted. None: those of before stay.
    pub fn set_ticket_keys(&self, keys: &[Bytes]) {
        if let Some((signing, others)) = keys.split_first() {
            let key = TicketKey::new(signing).accepting(others.iter().map(|other| &other[..]));
            self.ticket_key.store(Some(Arc::new(key)));
        }
    }

    /// Adopts the leader's users, grants, signing keys and ticket keys. `None`: the leader's version knows none, so that
    /// everybody may do everything, as in a cluster without users. But known users and grants stay: a leader of an earlier
    /// version must not open the cluster.
    ///
    /// # Errors
    /// INTERNAL: the work was not done; what was known stays.
    pub async fn set_identity(&self, snapshot: Option<cluster::IdentitySnapshot>) -> Result<()> {
        let Some(snapshot) = snapshot else {
            if self.directory.load().is_none_or(|known| known.is_open()) {
                self.directory.store(Directory::open());
            } else if !self.was_identity_missing.swap(true, Ordering::Relaxed) {
                tracing::error!(
                    "the leading coordinator knows no users and grants, because it is of an earlier version: those that are known stay in force; upgrade all coordinators"
                );
            }
            return Ok(());
        };
        self.set_ticket_keys(&snapshot.ticket_keys);
        // Many users take a while.
        let built = tokio::task::spawn_blocking(move || Directory::new(&snapshot)).await;
        self.directory.store(built.map_err(|e| Error::internal(format!("users and grants: {e}")))?);
        self.was_identity_missing.store(false, Ordering::Relaxed);
        Ok(())
    }

    /// Checks that the ticket's FlightInfo was not cancelled.
    ///
    /// # Errors
    /// CANCELLED: it was.
    pub fn check_not_cancelled(&self, ticket: &cluster::Ticket) -> Result<()> {
        if !self.cancelled.contains(ticket.flight) {
            return Ok(());
        }
        let subject = ticket.subject();
        Err(Error::cancelled(format!("this FlightInfo of {subject} was cancelled: call get_flight_info again")))
    }
}

/// The members of the cluster.
#[derive(Clone, Debug, Default)]
pub struct ClusterMembers {
    /// Every known node, reachable or not.
    pub nodes: BTreeMap<NodeId, catalog::Node>,
    /// Flight addresses (HOST:PORT) of the coordinators.
    pub coordinator_flight: Vec<String>,
    /// Peer addresses (HOST:PORT) of the coordinators, in the same order.
    pub coordinator_peer: Vec<String>,
}

impl ClusterMembers {
    /// A node by its id.
    pub fn node(&self, id: NodeId) -> Option<&catalog::Node> {
        self.nodes.get(&id)
    }

    /// A node's Flight address for clients and members, HOST:PORT.
    pub fn flight_addr(&self, id: NodeId) -> Option<String> {
        self.node(id).map(|node| host_port(&node.flight_uri).to_string())
    }
}

impl From<cluster::Members> for ClusterMembers {
    fn from(members: cluster::Members) -> Self {
        ClusterMembers {
            nodes: members.nodes.into_iter().map(|node| (NodeId(node.id), node)).collect(),
            coordinator_flight: members.coordinator_flight,
            coordinator_peer: members.coordinator_peer,
        }
    }
}

/// Cancelled flights (FlightInfos) and when their tickets expire, in milliseconds since 1970.
#[derive(Default)]
pub struct CancelledFlights {
    until_ms: Mutex<HashMap<u64, u64>>,
    /// Notified when flights are added.
    added: watch::Sender<()>,
}

impl CancelledFlights {
    /// Whether tickets of this flight are refused.
    pub fn contains(&self, flight: u64) -> bool {
        self.until_ms.lock().contains_key(&flight)
    }

    /// Waits until tickets of this flight are refused.
    pub async fn cancelled(&self, flight: u64) {
        let mut added = self.added.subscribe();
        while !self.contains(flight) {
            if added.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// Adds cancelled flights and removes those whose tickets have expired.
    pub fn add(&self, flights: &[catalog::Cancelled]) {
        let now = clock::now_ms();
        {
            let mut map = self.until_ms.lock();
            map.retain(|_, until| *until > now);
            map.extend(flights.iter().map(|c| (c.flight, c.until_ms)));
        }
        self.added.send_replace(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_user(epoch: u64) -> cluster::IdentitySnapshot {
        let user = catalog::User { name: "ann".into(), ..catalog::User::default() };
        cluster::IdentitySnapshot { epoch, users: vec![user], ..Default::default() }
    }

    #[tokio::test]
    async fn directory_is_unknown_until_the_leader_describes_it() {
        let view = ClusterView::default();
        assert!(view.directory.load().is_none());
        view.set_identity(None).await.unwrap();
        assert!(view.directory.load().unwrap().is_open(), "a leader of an earlier version");
        view.set_identity(Some(with_user(3))).await.unwrap();
        let known = view.directory.load().unwrap();
        assert!(known.epoch() == 3 && !known.is_open() && known.user("ann").is_some() && known.user("bob").is_none());
        view.set_identity(Some(cluster::IdentitySnapshot { closed: true, ..Default::default() })).await.unwrap();
        assert!(!view.directory.load().unwrap().is_open(), "waits for its first administrator");
    }

    #[tokio::test]
    async fn leader_of_an_earlier_version_does_not_open_a_cluster_with_users() {
        let view = ClusterView::default();
        view.set_identity(Some(with_user(3))).await.unwrap();
        view.set_identity(None).await.unwrap();
        let known = view.directory.load().unwrap();
        assert!(known.epoch() == 3 && !known.is_open() && known.user("ann").is_some());
        view.set_identity(Some(cluster::IdentitySnapshot { epoch: 4, ..Default::default() })).await.unwrap();
        assert!(view.directory.load().unwrap().is_open(), "users were removed");
    }

    #[tokio::test]
    async fn ticket_keys_are_replaced_by_the_leader_and_stay_if_it_names_none() {
        let view = ClusterView::default();
        let [old, new] = [[1; 32], [2; 32]].map(|key| Bytes::copy_from_slice(&key));
        let set = async |keys: Vec<Bytes>| {
            let snapshot = cluster::IdentitySnapshot { ticket_keys: keys, ..Default::default() };
            view.set_identity(Some(snapshot)).await.unwrap();
        };
        let ticket = cluster::Ticket { expires_ms: 1_000, ..cluster::Ticket::default() };
        let accepts = |key: &Bytes| {
            let signed = TicketKey::new(key).sign(&ticket);
            view.ticket_key.load_full().is_some_and(|own| own.verify(&signed, 0).is_ok())
        };
        let signs = |key: &Bytes| {
            let signed = view.ticket_key.load_full().map(|own| own.sign(&ticket));
            signed.is_some_and(|signed| TicketKey::new(key).verify(&signed, 0).is_ok())
        };
        view.set_ticket_keys(std::slice::from_ref(&old));
        assert!(accepts(&old) && signs(&old) && !accepts(&new));
        set(vec![old.clone(), new.clone()]).await;
        assert!(accepts(&old) && accepts(&new) && signs(&old), "the next one does not sign yet");
        set(Vec::new()).await;
        assert!(accepts(&new), "a leader of an earlier version");
        set(vec![new.clone(), old.clone()]).await;
        assert!(accepts(&old) && signs(&new));
        set(vec![new.clone()]).await;
        assert!(!accepts(&old) && accepts(&new));
    }

    #[test]
    fn cancelled_flight_is_removed_after_its_expiry() {
        let cancelled = CancelledFlights::default();
        let until_ms = clock::now_ms() + 60_000;
        cancelled.add(&[catalog::Cancelled { flight: 1, until_ms }, catalog::Cancelled { flight: 2, until_ms: 1 }]);
        assert!(cancelled.contains(1));
        cancelled.add(&[]);
        assert!(cancelled.contains(1) && !cancelled.contains(2));
    }

    #[tokio::test]
    async fn cancellation_of_a_flight_is_waited_for() {
        let cancelled = Arc::new(CancelledFlights::default());
        let waiting = tokio::spawn({
            let cancelled = cancelled.clone();
            async move { cancelled.cancelled(1).await }
        });
        let until_ms = clock::now_ms() + 60_000;
        cancelled.add(&[catalog::Cancelled { flight: 2, until_ms }]);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        cancelled.add(&[catalog::Cancelled { flight: 1, until_ms }]);
        waiting.await.unwrap();
        cancelled.cancelled(1).await;
    }
}
