//! Which catalog the parts of the store were last reconciled with, recorded in the control file.

use tracing::warn;
use volley_common::Result;

use super::part_store::PartStore;
use super::seen_catalog::{CatalogPosition, SeenCatalog};

impl PartStore {
    /// The cluster with whose catalog all parts were last reconciled.
    pub fn reconciled(&self) -> Option<String> {
        self.0.control.lock().reconciled.clone()
    }

    /// Records durably that all parts are reconciled with the catalog of this cluster, which is at `position`.
    ///
    /// # Errors
    /// UNAVAILABLE: the control file cannot be written.
    pub fn set_reconciled(&self, cluster: &str, position: CatalogPosition) -> Result<()> {
        self.save_control(&mut self.0.control.lock(), |control| {
            control.reconciled = Some(cluster.into());
            control.seen = position;
        })?;
        self.0.seen.reset(position);
        Ok(())
    }

    /// How far the catalog was that this node has last seen.
    pub fn seen_catalog(&self) -> &SeenCatalog {
        &self.0.seen
    }

    /// Records how far the catalog was, if it is time or `force` is set. A failure is logged: a later call tries again.
    pub fn record_seen_catalog(&self, force: bool) {
        let Some(position) = self.0.seen.due(force) else { return };
        let mut control = self.0.control.lock();
        if position == control.seen || position.index < control.seen.index {
            return;
        }
        if let Err(error) = self.save_control(&mut control, |control| control.seen = position) {
            warn!(%error, "how far the catalog was could not be recorded");
        }
    }
}
