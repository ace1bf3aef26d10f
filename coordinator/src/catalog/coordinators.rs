//! Commands that change the desired set of coordinators. The leader reconciles the Raft group with it. Because the desired
//! set is in the catalog, a new leader can finish a change that the previous one began.

use std::collections::BTreeMap;

use volley_common::wire::catalog::{
    AddCoordinator, Cluster, CoordinatorPeer, NameCoordinators, RecoverCluster, RemoveCoordinator, RetireStore, reply,
};
use volley_common::{Error, Result};

use super::apply::done;
use super::query::not_formed;
use super::{Catalog, RowKey};

/// The number of removed coordinators that are remembered, the newest: their ids and their stores.
const MAX_RETIRED: usize = 1000;

impl Catalog {
    /// The peer addresses of the desired coordinators, by id; empty until the first leader has named them.
    pub fn coordinators(&self) -> BTreeMap<u64, String> {
        let listed = self.cluster.iter().flat_map(|cluster| &cluster.coordinators);
        listed.map(|one| (one.id, one.peer.clone())).collect()
    }

    /// Whether a store (a data folder) belongs to a removed coordinator.
    pub fn is_retired(&self, store: u64) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.removed_stores.contains(&store))
    }

    fn cluster_mut(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().ok_or_else(not_formed)
    }

    /// The cluster's row, once its coordinators are named: a change before that would start the list with one entry.
    fn named_cluster(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().filter(|cluster| !cluster.coordinators.is_empty()).ok_or_else(not_formed)
    }

    pub(super) fn name_coordinators(&mut self, op: &NameCoordinators) -> Result<reply::Reply> {
        let cluster = self.cluster_mut()?;
        if cluster.coordinators.is_empty() {
            cluster.coordinators.clone_from(&op.coordinators);
            self.touched.insert(RowKey::Cluster);
        }
        Ok(done())
    }

    /// Checks that a coordinator can be added.
    ///
    /// # Errors
    /// ALREADY_EXISTS: the id has another address, or the address another id.
    pub fn check_new_coordinator(&self, id: u64, peer: &str) -> Result<()> {
        for (known_id, known_peer) in self.coordinators() {
            if known_id == id && known_peer != peer {
                return Err(Error::exists(format!(
                    "coordinator {id} is at {known_peer} already: remove it first, or give the new one another id"
                )));
            }
            if known_id != id && known_peer == peer {
                return Err(Error::exists(format!("{peer} is the address of coordinator {known_id} already")));
            }
        }
        Ok(())
    }

    /// Checks that a coordinator can be removed.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: it is the last one.
    pub fn check_without_coordinator(&self, id: u64) -> Result<()> {
        if self.coordinators().keys().any(|other| *other != id) {
            return Ok(());
        }
        Err(Error::precondition(format!("coordinator {id} is the last one: the catalog would be lost without it")))
    }

    /// Checks that a coordinator exists, or existed: its removal may be repeated.
    ///
    /// # Errors
    /// NOT_FOUND: it never was one, as far as the catalog knows.
    pub fn check_known_coordinator(&self, id: u64) -> Result<()> {
        let was_removed = self.cluster.as_ref().is_some_and(|cluster| cluster.removed_coordinators.contains(&id));
        let known: Vec<String> = self.coordinators().keys().map(u64::to_string).collect();
        if was_removed || self.coordinators().contains_key(&id) {
            return Ok(());
        }
        Err(Error::not_found(format!("there is no coordinator {id}: the coordinators are {}", known.join(", "))))
    }

    pub(super) fn add_coordinator(&mut self, op: &AddCoordinator) -> Result<reply::Reply> {
        self.check_new_coordinator(op.id, &op.peer)?;
        let cluster = self.named_cluster()?;
        cluster.removed_coordinators.retain(|id| *id != op.id);
        cluster.coordinators.retain(|one| one.id != op.id);
        cluster.coordinators.push(CoordinatorPeer { id: op.id, peer: op.peer.clone() });
        cluster.coordinators.sort_by_key(|one| one.id);
        self.touched.insert(RowKey::Cluster);
        Ok(done())
    }

    pub(super) fn remove_coordinator(&mut self, op: RemoveCoordinator) -> Result<reply::Reply> {
        self.named_cluster()?;
        self.check_without_coordinator(op.id)?;
        let cluster = self.cluster_mut()?;
        let before = cluster.coordinators.len();
        cluster.coordinators.retain(|one| one.id != op.id);
        if cluster.coordinators.len() < before {
            cluster.removed_coordinators.push(op.id);
            let excess = cluster.removed_coordinators.len().saturating_sub(MAX_RETIRED);
            cluster.removed_coordinators.drain(..excess);
        }
        self.touched.insert(RowKey::Cluster);
        Ok(done())
    }

    pub(super) fn retire_store(&mut self, op: RetireStore) -> Result<reply::Reply> {
        let cluster = self.cluster_mut()?;
        if !cluster.removed_stores.contains(&op.store) {
            cluster.removed_stores.push(op.store);
            let excess = cluster.removed_stores.len().saturating_sub(MAX_RETIRED);
            cluster.removed_stores.drain(..excess);
        }
        self.touched.insert(RowKey::Cluster);
        Ok(done())
    }

    pub(super) fn recover_cluster(&mut self, op: &RecoverCluster, now: u64) -> Result<reply::Reply> {
        let cluster = self.cluster_mut()?;
        cluster.id.clone_from(&op.id);
        cluster.coordinators = op.coordinator.iter().cloned().collect();
        self.touched.insert(RowKey::Cluster);
        self.skip_identity_epochs();
        for id in self.open.keys().cloned().collect::<Vec<_>>() {
            self.end_in_recovery(&id, now);
        }
        self.drop_open_transactions(now);
        Ok(done())
    }
}
