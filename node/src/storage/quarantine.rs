//! Damaged parts: their files move to `damaged/`, and their ids wait to be reported to the leader.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;
use tracing::warn;
use volley_common::PartId;

use super::fs_ops;

/// The folder of damaged files, and the lost parts that are not yet reported.
pub struct Quarantine {
    dir: PathBuf,
    files: AtomicU64,
    /// The parts, and why the last one was lost.
    unreported: Mutex<(Vec<PartId>, String)>,
    changed: Notify,
}

impl Quarantine {
    /// The quarantine in this folder, which need not exist.
    pub fn open(dir: PathBuf) -> Self {
        let files = fs::read_dir(&dir).map_or(0, |entries| entries.count() as u64);
        Quarantine { dir, files: files.into(), unreported: Mutex::default(), changed: Notify::new() }
    }

    /// The folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Files in the folder.
    pub fn files(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Moves a damaged file into the folder; a failure is logged.
    pub fn move_in(&self, path: &Path) {
        let moved = fs_ops::create_dirs(&self.dir)
            .and_then(|()| fs_ops::rename(path, &self.dir.join(path.file_name().unwrap_or_default())));
        match moved {
            Ok(()) => drop(self.files.fetch_add(1, Ordering::Relaxed)),
            Err(cause) => warn!("{} cannot be quarantined: {cause}", path.display()),
        }
    }

    /// Adds a lost part to the next report.
    pub fn add_lost(&self, id: PartId, reason: &str) {
        let mut unreported = self.unreported.lock();
        unreported.0.push(id);
        unreported.1 = reason.to_string();
        drop(unreported);
        self.changed.notify_one();
    }

    /// The parts that were lost since the last call, and why the last one was.
    pub fn take_lost(&self) -> (Vec<PartId>, String) {
        std::mem::take(&mut *self.unreported.lock())
    }

    /// Waits until there may be lost parts.
    pub async fn wait_for_lost(&self) {
        self.changed.notified().await;
    }
}
