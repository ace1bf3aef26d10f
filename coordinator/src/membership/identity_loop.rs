//! The leader's work for users: keys that sign session tokens, and the newest users, grants and keys to the nodes.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use volley_common::identity::{SIGNING_KEY_MS, new_signing_key};
use volley_common::wire::catalog::AddSigningKey;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::cluster::IdentitySnapshot;
use volley_common::wire::cluster::node_order::What;
use volley_common::{Code, NodeId};

use super::NodeMembership;
use crate::directory_updates::{identity_snapshot, is_closed};

/// The least time between two broadcasts of users and grants, which are sent whole.
const MIN_INTERVAL: Duration = Duration::from_millis(500);

/// A session whose node has not received users and grants for this long is closed: it would go on with rights that are
/// revoked.
const MAX_DELAY: Duration = Duration::from_secs(30);

impl NodeMembership {
    /// Adds a signing key if session tokens may be needed, and the newest key is too old, or there is none.
    ///
    /// A cluster that everybody may use needs none. It also does not get one while its coordinators are upgraded from a
    /// version that does not know the command.
    pub(super) async fn renew_signing_key(&self) {
        // Before the catalog is locked: it reads it.
        let now_ms = self.raft.now_ms();
        let is_due = {
            let catalog = self.raft.view();
            let is_needed = catalog.has_identities() || is_closed(&catalog, &self.config);
            let is_old = |created_ms: u64| now_ms.saturating_sub(created_ms) >= SIGNING_KEY_MS;
            let newest = catalog.newest_signing_key();
            catalog.cluster().is_some() && is_needed && newest.is_none_or(|key| is_old(key.created_ms))
        };
        if !is_due {
            return;
        }
        let key = match new_signing_key(now_ms) {
            Ok(key) => key,
            Err(error) => return tracing::error!(%error, "no key for session tokens can be made; trying again"),
        };
        let add = AddSigningKey { key: Some(key), older_than_ms: SIGNING_KEY_MS, revoke_others: false };
        match self.raft.propose_if_leader(Op::AddSigningKey(add)).await {
            Ok(_) => tracing::info!("a new key signs session tokens"),
            // A coordinator must be upgraded first, for which the first administrator waits too.
            Err(error) if error.code == Code::FailedPrecondition => {
                tracing::debug!(%error, "a key for session tokens is not added yet");
            }
            Err(error) => tracing::warn!(%error, "a new key for session tokens was not added; trying again"),
        }
    }

    /// Sends users, grants and keys to the nodes whose session does not have the newest ones.
    pub(super) fn broadcast_identity(&self) {
        let epoch = self.raft.view().identity_epoch();
        self.close_delayed_sessions(epoch, Instant::now());
        let nodes: Vec<NodeId> = {
            let (mut state, now) = (self.state.lock(), Instant::now());
            if state.identity_sent.is_some_and(|at| now.duration_since(at) < MIN_INTERVAL) {
                return;
            }
            let outdated = state.sessions.iter().filter(|(_, session)| session.identity_epoch != epoch);
            let nodes: Vec<NodeId> = outdated.map(|(node, _)| *node).collect();
            if nodes.is_empty() {
                return;
            }
            state.identity_sent = Some(now);
            nodes
        };
        let snapshot = identity_snapshot(&self.raft.view(), &self.config);
        for node in nodes {
            self.send_identity(node, snapshot.clone());
        }
    }

    /// Sends a snapshot unless the node has not yet received its earlier orders: snapshots may be large, so that at most
    /// one waits for a node that reads slowly. The next broadcast tries again.
    fn send_identity(&self, node: NodeId, snapshot: IdentitySnapshot) {
        let epoch = snapshot.epoch;
        let order = self.new_order(What::Identity(snapshot));
        let mut state = self.state.lock();
        let Some(session) = state.sessions.get_mut(&node) else { return };
        if session.has_received_all() && session.orders.try_send(Ok(order)).is_ok() {
            session.identity_epoch = epoch;
            session.identity_waits_since = Some(Instant::now());
        }
    }

    /// Closes the sessions of nodes that have not taken a snapshot for long, or cannot be sent one because they have not taken
    /// earlier orders. `epoch`: the newest.
    pub(super) fn close_delayed_sessions(&self, epoch: u64, now: Instant) {
        for (node, session) in &mut self.state.lock().sessions {
            if session.has_received_all() {
                session.identity_waits_since = None;
            } else if session.identity_epoch != epoch || session.identity_waits_since.is_some() {
                let since = *session.identity_waits_since.get_or_insert(now);
                if now.saturating_duration_since(since) >= MAX_DELAY && !session.close.is_cancelled() {
                    tracing::warn!(%node, "the node has not received users and grants for 30 s: its session is closed");
                    session.close.cancel();
                }
            }
        }
    }
}
