//! Which coordinators the cluster is to have. The leader makes the Raft group so: what is wanted stands here, so that
//! the next leader goes on where one died in the middle of a change.

use std::collections::BTreeMap;

use volley_common::wire::catalog::{
    AddCoordinator, Cluster, CoordinatorPeer, NameCoordinators, RecoverCluster, RemoveCoordinator, RetireStore, reply,
};
use volley_common::{Error, Result};

use super::apply::done;
use super::{Catalog, RowKey};

/// So many folders of removed coordinators are remembered, the newest.
const RETIRED: usize = 1000;

impl Catalog {
    /// The peer addresses of the coordinators that are wanted, by id; empty before the first leader named them.
    pub fn coordinators(&self) -> BTreeMap<u64, String> {
        let listed = self.cluster.iter().flat_map(|cluster| &cluster.coordinators);
        listed.map(|one| (one.id, one.peer.clone())).collect()
    }

    /// Whether a data folder is that of a coordinator that was removed.
    pub fn is_retired(&self, store: u64) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.removed_stores.contains(&store))
    }

    fn formed(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().ok_or_else(unformed)
    }

    /// The cluster once its coordinators are named: before that a change would make the list of one.
    fn named(&mut self) -> Result<&mut Cluster> {
        self.cluster.as_mut().filter(|cluster| !cluster.coordinators.is_empty()).ok_or_else(unformed)
    }

    pub(super) fn name_coordinators(&mut self, op: &NameCoordinators) -> Result<reply::Reply> {
        let cluster = self.formed()?;
        if cluster.coordinators.is_empty() {
            cluster.coordinators.clone_from(&op.coordinators);
            self.touched.insert(RowKey::Cluster);
        }
        Ok(done())
    }

    /// Whether a coordinator may be added.
    ///
    /// # Errors
    /// ALREADY_EXISTS: the id has another address, or the address another id.
    pub fn check_new_coordinator(&self, id: u64, peer: &str) -> Result<()> {
        for (there, at) in self.coordinators() {
            if there == id && at != peer {
                return Err(Error::exists(format!(
                    "coordinator {id} is at {at} already: remove it first, or give the new one another id"
                )));
            }
            if there != id && at == peer {
                return Err(Error::exists(format!("{peer} is the address of coordinator {there} already")));
            }
        }
        Ok(())
    }

    /// Whether the cluster can be without a coordinator.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: it is the last one.
    pub fn check_without_coordinator(&self, id: u64) -> Result<()> {
        if self.coordinators().keys().any(|other| *other != id) {
            return Ok(());
        }
        Err(Error::precondition(format!("coordinator {id} is the last one: without it there is no catalog")))
    }

    pub(super) fn add_coordinator(&mut self, op: &AddCoordinator) -> Result<reply::Reply> {
        self.check_new_coordinator(op.id, &op.peer)?;
        let cluster = self.named()?;
        cluster.coordinators.retain(|one| one.id != op.id);
        cluster.coordinators.push(CoordinatorPeer { id: op.id, peer: op.peer.clone() });
        cluster.coordinators.sort_by_key(|one| one.id);
        self.touched.insert(RowKey::Cluster);
        Ok(done())
    }

    pub(super) fn remove_coordinator(&mut self, op: RemoveCoordinator) -> Result<reply::Reply> {
        self.named()?;
        self.check_without_coordinator(op.id)?;
        self.formed()?.coordinators.retain(|one| one.id != op.id);
        self.touched.insert(RowKey::Cluster);
        Ok(done())
    }

    pub(super) fn retire_store(&mut self, op: RetireStore) -> Result<reply::Reply> {
        let cluster = self.formed()?;
        if !cluster.removed_stores.contains(&op.store) {
            cluster.removed_stores.push(op.store);
            let spare = cluster.removed_stores.len().saturating_sub(RETIRED);
            cluster.removed_stores.drain(..spare);
        }
        self.touched.insert(RowKey::Cluster);
        Ok(done())
    }

    pub(super) fn recover_cluster(&mut self, op: &RecoverCluster) -> Result<reply::Reply> {
        let cluster = self.formed()?;
        cluster.id.clone_from(&op.id);
        cluster.coordinators = op.coordinator.iter().cloned().collect();
        self.touched.insert(RowKey::Cluster);
        Ok(done())
    }
}

fn unformed() -> Error {
    Error::unavailable("the cluster is still being formed: try again in a moment")
}
