//! The leader's work for users: keys that sign session tokens, and the newest users, grants and keys to the nodes.

#[cfg(test)]
mod tests;

use std::time::{Duration, Instant};

use volley_common::NodeId;
use volley_common::identity::{SIGNING_KEY_MS, new_signing_key};
use volley_common::wire::catalog::AddSigningKey;
use volley_common::wire::catalog::command::Op;
use volley_common::wire::cluster::IdentitySnapshot;
use volley_common::wire::cluster::node_order::What;

use super::NodeMembership;
use crate::directory_updates::{identity_snapshot, is_closed};

/// The least time between two broadcasts of users and grants, which are sent whole.
const MIN_INTERVAL: Duration = Duration::from_millis(500);

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
            Err(error) => tracing::warn!(%error, "a new key for session tokens was not added; trying again"),
        }
    }

    /// Sends users, grants and keys to the nodes whose session does not have the newest ones.
    pub(super) fn broadcast_identity(&self) {
        let epoch = self.raft.view().identity_epoch();
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
        let has_received_all = session.orders.capacity() == session.orders.max_capacity();
        if has_received_all && session.orders.try_send(Ok(order)).is_ok() {
            session.identity_epoch = epoch;
        }
    }
}
