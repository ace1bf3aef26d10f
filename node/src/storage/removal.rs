//! Removing parts from the store: for good, or to the orphans.

use std::io::ErrorKind;
use std::path::PathBuf;

use tracing::{info, warn};
use volley_common::wire::cluster::HeldPart;
use volley_common::{Error, PartId, Result, clock};

use super::fs_ops;
use super::inventory::PartEntry;
use super::part_store::PartStore;

impl PartStore {
    /// Those of these parts that the node holds, as reported to the coordinators.
    pub fn held(&self, ids: &[PartId]) -> Vec<HeldPart> {
        ids.iter().filter_map(|id| self.0.inventory.get(*id)).map(|entry| entry.to_held()).collect()
    }

    /// Removes parts; ids that the node does not hold are skipped. Readers keep what they have mapped.
    ///
    /// # Errors
    /// UNAVAILABLE: a file cannot be removed; the node still holds that part and the ones after it.
    pub fn remove(&self, ids: &[PartId]) -> Result<()> {
        self.take_out(ids, |entry| match fs_ops::remove(&entry.path()) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::unavailable(format!("{} cannot be removed: {e}", entry.path().display())))
            }
            _ => Ok(()),
        })
    }

    /// Moves parts to the orphans, durably; ids that the node does not hold are skipped.
    ///
    /// # Errors
    /// UNAVAILABLE: a file cannot be moved; the node still holds that part and the ones after it.
    pub fn move_to_orphans(&self, ids: &[PartId]) -> Result<()> {
        let (orphans, parts, now_s) = (&self.0.orphans, self.0.volume.layout().parts(), clock::now_ms() / 1000);
        let mut moved: Vec<PathBuf> = Vec::new();
        let outcome = self.take_out(ids, |entry| {
            let path = entry.path();
            let failed = |e| Error::unavailable(format!("{} cannot be moved to the orphans: {e}", path.display()));
            let relative = path.strip_prefix(&parts).unwrap_or(&path).to_path_buf();
            orphans.move_in(&path, &relative, entry.bytes, now_s).map_err(failed)?;
            moved.push(relative);
            Ok(())
        });
        if !moved.is_empty() {
            let dir = orphans.dir().display();
            warn!(parts = moved.len(), "parts that the catalog does not know were moved to {dir}");
            let failed = |e| Error::unavailable(format!("{dir} cannot be synced: {e}"));
            orphans.sync(&moved, now_s).map_err(failed)?;
        }
        outcome
    }

    /// Removes orphans that were moved there longer than `retention_ms` ago.
    ///
    /// # Errors
    /// UNAVAILABLE: one cannot be removed.
    pub fn remove_expired_orphans(&self, retention_ms: u64) -> Result<()> {
        let before_s = clock::now_ms().saturating_sub(retention_ms) / 1000;
        let orphans = &self.0.orphans;
        let failed = |e| Error::unavailable(format!("orphans in {} cannot be removed: {e}", orphans.dir().display()));
        let removed = orphans.remove_before(before_s).map_err(failed)?;
        if removed.files > 0 {
            info!(files = removed.files, bytes = removed.bytes, "orphaned parts whose time is over were removed");
        }
        Ok(())
    }

    /// Takes parts out of the inventory, and their files away by `take`. A part whose file stays is held again.
    pub(super) fn take_out(&self, ids: &[PartId], mut take: impl FnMut(&PartEntry) -> Result<()>) -> Result<()> {
        for &id in ids {
            let _lock = self.0.inventory.lock_file(id);
            let Some(entry) = self.0.inventory.remove(id) else { continue };
            self.0.cache.forget(id);
            match take(&entry) {
                Ok(()) => self.0.dirs.remove_if_empty(&entry.dir),
                Err(error) => {
                    self.0.inventory.insert(entry);
                    return Err(error);
                }
            }
        }
        Ok(())
    }
}
