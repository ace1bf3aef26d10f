//! The file system under the data folder: whether it accepts new bytes, temporary files, and what a failed write means.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use parking_lot::Mutex;
use rustix::fs::statvfs;
use tracing::{error, info, warn};
use volley_common::server::data_folder::FolderLock;
use volley_common::{Error, NodeId, PartId, Result, clock};

use super::disk_health::DiskHealth;
use super::disk_space::{DiskSpace, Watermarks};
use super::fs_ops;
use super::io_failure::{IoFailure, remedy};
use super::layout::Layout;

/// While a part grows, the free space is checked each time it crosses a multiple of this many bytes.
const SPACE_CHECK_BYTES: u64 = 64 << 20;

/// A node's data folder as a place to write to.
pub struct Volume {
    layout: Layout,
    /// Held by writers and receivers too: the folder stays locked until the last of them is done.
    _lock: FolderLock,
    /// For error messages.
    node: NodeId,
    health: Mutex<DiskHealth>,
    /// What the tests say about the file system: they pass however full the disk is on which they run.
    #[cfg(test)]
    space_override: Mutex<Option<DiskSpace>>,
}

/// A file in `tmp/` that is removed on drop unless it was renamed.
pub struct TempPath(Option<PathBuf>);

impl TempPath {
    /// The file's path.
    pub fn path(&self) -> &Path {
        self.0.as_deref().unwrap_or(Path::new(""))
    }

    /// The file was renamed: nothing is left to remove.
    pub fn disarm(&mut self) {
        self.0 = None;
    }
}

impl Drop for TempPath {
    fn drop(&mut self) {
        if let Some(path) = self.0.take() {
            // If this fails, the next start removes the file.
            let _ = fs_ops::remove(&path);
        }
    }
}

impl Volume {
    /// The data folder of `layout`, which belongs to `node` and is locked by `lock`.
    pub fn new(layout: Layout, lock: FolderLock, node: NodeId, watermarks: Watermarks) -> Self {
        Volume {
            layout,
            _lock: lock,
            node,
            health: Mutex::new(DiskHealth::new(watermarks)),
            #[cfg(test)]
            space_override: Mutex::new(Some(DiskSpace { total: 1 << 40, free: 1 << 39 })),
        }
    }

    /// The folder's paths.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// When the node stops accepting parts, and when it accepts them again.
    pub fn watermarks(&self) -> Watermarks {
        self.health.lock().watermarks
    }

    /// Why no further write is tried, after a write or fsync failed.
    pub fn write_failure(&self) -> Option<String> {
        self.health.lock().write_failure.clone()
    }

    /// Why the node accepts no new parts with this much space, and why its disk is degraded. Empty: it accepts them; it
    /// is not degraded.
    pub fn reasons(&self, space: DiskSpace) -> (String, String) {
        let health = self.health.lock();
        (health.read_only_reason(space), health.degraded_reason(clock::now_ms()))
    }

    /// Records a part that was damaged or unreadable.
    pub fn record_read_error(&self, error: &str) {
        self.health.lock().record_read_error(clock::now_ms(), error);
    }

    /// Whether this many new bytes (0: unknown) are accepted now.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the disk is too full. UNAVAILABLE: a write failed before, and no further one is tried.
    pub fn check_writable(&self, bytes: u64) -> Result<()> {
        let space = self.refresh_space();
        let (failed, reason) = {
            let health = self.health.lock();
            (health.write_failure.is_some(), health.read_only_reason_for(space, bytes))
        };
        match reason.is_empty() {
            true => Ok(()),
            false if failed => Err(Error::unavailable(format!("node {}: {reason}", self.node))),
            false => Err(self.no_space(&reason)),
        }
    }

    /// Checks the free space now and then while a part grows from `before` to `now` bytes.
    ///
    /// # Errors
    /// As [`Volume::check_writable`].
    pub fn check_growth(&self, before: u64, now: u64) -> Result<()> {
        if before / SPACE_CHECK_BYTES == now / SPACE_CHECK_BYTES { Ok(()) } else { self.check_writable(0) }
    }

    /// Creates a file in `tmp/` for a part of this many bytes (0: unknown).
    ///
    /// # Errors
    /// As [`Volume::check_writable`] and [`Volume::write_error`].
    pub fn create_temp(&self, id: PartId, bytes: u64) -> Result<(File, TempPath)> {
        self.check_writable(bytes)?;
        let path = self.layout.new_temp(id);
        let file = fs_ops::create(&path).map_err(|e| self.write_error("a new part", &e))?;
        Ok((file, TempPath(Some(path))))
    }

    /// Makes a file of this many bytes durable, and records how long that took.
    pub fn sync(&self, file: &File, path: &Path, bytes: u64) -> io::Result<()> {
        let began = Instant::now();
        let synced = fs_ops::sync(file, path);
        let took = began.elapsed();
        metrics::histogram!("volley_fsync_duration_seconds").record(took);
        let took_ms = took.as_millis().try_into().unwrap_or(u64::MAX);
        self.health.lock().record_fsync(clock::now_ms(), took_ms, bytes);
        synced
    }

    /// The error for a failed write of `what`. On a full disk (RESOURCE_EXHAUSTED), and if the process lacks files or memory
    /// (UNAVAILABLE), only this write fails; after any other cause (UNAVAILABLE) the node stops writing, because what is on
    /// the disk is unknown.
    pub fn write_error(&self, what: &str, cause: &io::Error) -> Error {
        let folder = self.layout.root().display();
        match IoFailure::of(cause) {
            IoFailure::Space => {
                let space = self.refresh_space();
                self.no_space(&format!("there was no space for {what} ({cause}): its disk is {space}"))
            }
            IoFailure::Transient => {
                let reason = format!("{what} could not be written in {folder} just now: {cause}{}", remedy(cause));
                warn!("{reason}");
                Error::unavailable(format!("node {}: {reason}", self.node))
            }
            IoFailure::Missing | IoFailure::Disk | IoFailure::Other => {
                let reason =
                    format!("the node stopped accepting parts: {what} could not be written in {folder}: {cause}");
                error!("{reason}");
                self.health.lock().write_failure.get_or_insert_with(|| reason.clone());
                Error::unavailable(reason)
            }
        }
    }

    /// Asks the file system for its space, and applies the watermarks.
    pub fn refresh_space(&self) -> DiskSpace {
        let space = self.query_space();
        let mut health = self.health.lock();
        if health.update_space(space) {
            let folder = self.layout.root().display().to_string();
            match health.full {
                true => warn!("new parts are refused in {folder}: {}", health.read_only_reason(space)),
                false => info!("new parts are accepted in {folder} again: its disk is {space}"),
            }
        }
        space
    }

    fn query_space(&self) -> DiskSpace {
        #[cfg(test)]
        if let Some(space) = *self.space_override.lock() {
            return space;
        }
        statvfs(self.layout.root()).map_or(DiskSpace::default(), |fs| {
            let used = fs.f_blocks.saturating_sub(fs.f_bfree);
            let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
            DiskSpace { total: bytes(used.saturating_add(fs.f_bavail)), free: bytes(fs.f_bavail) }
        })
    }

    fn no_space(&self, reason: &str) -> Error {
        Error::exhausted(format!(
            "node {} accepts no new parts in {}: {reason}; free space there, or add a node",
            self.node,
            self.layout.root().display()
        ))
    }

    /// Overrides what the file system reports; `None`: what it reports is used.
    #[cfg(test)]
    pub fn override_space(&self, space: Option<DiskSpace>) {
        *self.space_override.lock() = space;
    }
}
