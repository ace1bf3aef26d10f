//! How a part becomes durable and visible: fsync, rename into its shard's folder, fsync of the folders, inventory.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use volley_common::{Error, Result};

use super::fingerprint::FileFingerprint;
use super::inventory::{PartEntry, PartInventory};
use super::layout::PartFileName;
use super::open_part::OpenParts;
use super::part_cache::PartCache;
use super::shard_dirs::ShardDirs;
use super::verification_log::Verification;
use super::volume::{TempPath, Volume};

/// Commits parts to the data folder; part writers and receivers have one each.
#[derive(Clone)]
pub struct PartCommitter {
    /// Where parts are written.
    pub volume: Arc<Volume>,
    /// Where every committed part is added.
    pub inventory: Arc<PartInventory>,
    /// The cache, from which the file that a committed part replaces is removed.
    pub cache: Arc<PartCache>,
    /// Where parts are placed.
    pub dirs: Arc<ShardDirs>,
    /// The parts that are written and not durable.
    pub open: Arc<OpenParts>,
}

impl PartCommitter {
    /// Makes a complete file of this many bytes, whose checksum is in `name`, a part in the folder `dir`.
    ///
    /// # Errors
    /// As [`Volume::write_error`]. After an error nothing of the part is left.
    pub fn commit(&self, file: &File, temp: &mut TempPath, dir: PathBuf, name: PartFileName, bytes: u64) -> Result<()> {
        if let Some(reason) = self.volume.write_failure() {
            return Err(Error::unavailable(reason));
        }
        let synced = self.volume.sync(file, temp.path(), bytes);
        let _lock = self.inventory.lock_file(name.id);
        let placed = synced.and_then(|()| self.dirs.place(temp, &dir, &name)).and_then(|()| file.metadata());
        let metadata = placed.map_err(|e| self.volume.write_error("a part", &e))?;
        let verification = Some(Verification::now(FileFingerprint::of(&metadata)));
        let id = name.id;
        self.inventory.insert(PartEntry { name, dir, bytes, verification });
        self.cache.forget(id);
        Ok(())
    }
}
