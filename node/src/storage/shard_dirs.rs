//! The folders of shards: created and made durable when a part needs them, removed when empty.

use std::collections::HashSet;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::dir_syncs::DirSyncs;
use super::fs_ops;
use super::layout::PartFileName;
use super::volume::TempPath;

/// Serializes the creation and removal of folders, not their syncs.
#[derive(Default)]
pub struct ShardDirs {
    /// Folders whose names this run has made durable.
    durable: Mutex<HashSet<PathBuf>>,
    syncs: DirSyncs,
}

impl ShardDirs {
    /// Renames a synced file into its shard's folder, durably. On an error the file is gone.
    pub fn place(&self, temp: &mut TempPath, dir: &Path, name: &PartFileName) -> io::Result<()> {
        let path = dir.join(name.to_string());
        let mut unsynced = vec![dir.to_path_buf()];
        {
            let durable = self.durable.lock();
            fs_ops::create_dirs(dir)?;
            fs_ops::rename(temp.path(), &path)?;
            temp.disarm();
            // An existing folder may not be durable: the process that created it may have crashed before it synced the
            // parent, or another part that is placed now has created it.
            let parents = dir.ancestors().skip(1).take(if durable.contains(dir) { 0 } else { 2 });
            unsynced.extend(parents.map(Path::to_path_buf));
        }
        let synced = self.syncs.sync(&unsynced);
        if synced.is_err() {
            // The part is not in the inventory, and must not appear there after a restart.
            let _ = fs_ops::remove(&path);
        } else if unsynced.len() > 1 {
            // The folder was not removed meanwhile: it has this file.
            self.durable.lock().insert(dir.to_path_buf());
        }
        synced
    }

    /// Removes a shard's folder, and then its table's, if they are empty.
    pub fn remove_if_empty(&self, shard: &Path) {
        let mut durable = self.durable.lock();
        for dir in shard.ancestors().take(2) {
            // Fails if the folder is not empty.
            if fs_ops::remove_dir(dir).is_err() {
                return;
            }
            durable.remove(dir);
        }
    }
}
