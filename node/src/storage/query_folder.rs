//! The folder of what running queries have no memory for: `spill/`. The query engine makes and removes the files in it.

use std::path::PathBuf;

use volley_common::{Error, Result};

use super::part_store::PartStore;
use super::{fs_ops, scan};

impl PartStore {
    /// Makes the empty folder for what queries have no memory for. Blocks.
    ///
    /// # Errors
    /// UNAVAILABLE: the folder cannot be emptied or made.
    pub fn create_spill_folder(&self) -> Result<PathBuf> {
        let folder = self.0.volume.layout().spill();
        scan::clear_spill(&folder).and_then(|()| fs_ops::create_dirs(&folder)).map_err(|e| {
            Error::unavailable(format!("the folder {} of queries cannot be used: {e}", folder.display()))
        })?;
        Ok(folder)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;

    #[test]
    fn spilled_files_are_removed_at_the_next_start() {
        let dir = TempDir::new().unwrap();
        drop(PartStore::open(dir.path()).unwrap());
        let spill = dir.path().join("spill");
        fs::create_dir_all(spill.join("of-a-query")).unwrap();
        fs::write(spill.join("of-a-query/rows"), b"rows").unwrap();
        let store = PartStore::open(dir.path()).unwrap();
        assert!(!spill.exists());
        assert_eq!(store.create_spill_folder().unwrap(), spill);
        assert_eq!(fs::read_dir(&spill).unwrap().count(), 0);
    }
}
