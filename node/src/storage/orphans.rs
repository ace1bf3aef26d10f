//! Orphaned parts: those that the catalog did not know after a recovery, and that may be the only copy of a lost commit.
//!
//! Their files move to `orphaned/`, below the time of the move in seconds since 1970, with the path that they had below
//! `parts/`. They take the space that they took before, and are removed when their time is over, never earlier.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use super::fs_ops;

/// The number of orphaned files, and their bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OrphanCount {
    /// Files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// The folder of orphaned parts.
pub struct OrphanFolder {
    dir: PathBuf,
    count: Mutex<OrphanCount>,
}

impl OrphanFolder {
    /// The orphans in this folder, which need not exist.
    pub fn open(dir: PathBuf) -> Self {
        let count = Mutex::new(count(&dir));
        OrphanFolder { dir, count }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the folder contains.
    pub fn count(&self) -> OrphanCount {
        *self.count.lock()
    }

    /// Moves a file of this many bytes, which is at `relative` below `parts/`. The move is durable after
    /// [`OrphanFolder::sync`].
    pub fn move_in(&self, path: &Path, relative: &Path, bytes: u64, now_s: u64) -> io::Result<()> {
        let to = self.dir.join(now_s.to_string()).join(relative);
        fs_ops::create_dirs(to.parent().unwrap_or(&self.dir))?;
        fs_ops::rename(path, &to)?;
        let mut count = self.count.lock();
        count.files += 1;
        count.bytes += bytes;
        Ok(())
    }

    /// Makes the moves of these files (below `parts/`) at `now_s` durable, in the orphans' folders.
    pub fn sync(&self, relative: &[PathBuf], now_s: u64) -> io::Result<()> {
        let batch = self.dir.join(now_s.to_string());
        let files = relative.iter().map(|file| batch.join(file));
        let root = self.dir.parent().unwrap_or(&self.dir).to_path_buf();
        let dirs: BTreeSet<PathBuf> = files
            .flat_map(|file| file.ancestors().skip(1).take(5).map(Path::to_path_buf).collect::<Vec<_>>())
            .collect();
        dirs.iter().filter(|dir| dir.starts_with(&root)).try_for_each(|dir| fs_ops::sync_dir(dir))
    }

    /// Removes what was moved in before `before_s`; returns how much that was.
    ///
    /// # Errors
    /// The first file or folder that cannot be removed; the others stay until the next call.
    pub fn remove_before(&self, before_s: u64) -> io::Result<OrphanCount> {
        let mut removed = OrphanCount::default();
        for batch in subfolders(&self.dir)? {
            let moved_s = batch.file_name().and_then(|name| name.to_str()?.parse::<u64>().ok());
            if moved_s.is_some_and(|moved_s| moved_s < before_s) {
                let gone = count(&batch);
                fs_ops::remove_tree(&batch)?;
                removed.files += gone.files;
                removed.bytes += gone.bytes;
            }
        }
        // Counted again: an operator may have removed or restored some.
        *self.count.lock() = count(&self.dir);
        Ok(removed)
    }
}

fn subfolders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(dir) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(e),
    }
}

/// Files below a folder; what cannot be read is not counted.
fn count(dir: &Path) -> OrphanCount {
    let mut found = OrphanCount::default();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => {
                let below = count(&entry.path());
                found.files += below.files;
                found.bytes += below.bytes;
            }
            Ok(metadata) => {
                found.files += 1;
                found.bytes += metadata.len();
            }
            Err(_) => {}
        }
    }
    found
}
