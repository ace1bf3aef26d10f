//! Taking parts in: whether there is room, how a part becomes durable, what a failed write means.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::time::Instant;

use rustix::fs::statvfs;
use tracing::{error, info, warn};
use volley_common::{Error, PartId, Result, clock};

use super::checked::Stamp;
use super::disk;
use super::layout::PartFile;
use super::opened::Opened;
use super::receive::Temp;
use super::space::Space;
use super::store::{Entry, Store};

/// While a part is being written, the space is looked at after so many bytes.
const LOOK_BYTES: u64 = 64 << 20;

/// How a node's disk is, for whoever plans.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Condition {
    /// The file system.
    pub space: Space,
    /// Bytes of the node's parts.
    pub used: u64,
    /// Why no new parts are taken; empty: they are.
    pub read_only_reason: String,
    /// What else is wrong; empty: nothing.
    pub degraded_reason: String,
    /// Files that were put aside as damaged.
    pub damaged: u64,
    /// When the scrub last came to its end, milliseconds since 1970; 0: never.
    pub scrubbed_ms: u64,
}

impl Store {
    /// How the disk is now.
    pub fn condition(&self) -> Condition {
        let space = self.look();
        let used = self.0.index.lock().values().map(|entry| entry.bytes).sum();
        let health = self.0.health.lock();
        Condition {
            space,
            used,
            read_only_reason: health.read_only_reason(space),
            degraded_reason: health.degraded_reason(clock::now_ms()),
            damaged: self.0.damaged.load(Ordering::Relaxed),
            scrubbed_ms: self.0.scrubbed_ms.load(Ordering::Relaxed),
        }
    }

    /// Bytes free on the file system (0 if it does not say), bytes used by parts.
    pub fn space(&self) -> (u64, u64) {
        let condition = self.condition();
        (condition.space.free, condition.used)
    }

    /// Why the store no longer takes writes, after a write or fsync failed.
    pub fn stopped(&self) -> Option<String> {
        self.0.health.lock().stopped.clone()
    }

    /// Whether the node takes so many new bytes (0 where they are not known) now.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED: the disk is too full. UNAVAILABLE: a write failed before, and none is tried any more.
    pub fn accepts(&self, bytes: u64) -> Result<()> {
        let space = self.look();
        let (stopped, why) = {
            let health = self.0.health.lock();
            (health.stopped.is_some(), health.read_only_reason_for(space, bytes))
        };
        match why.is_empty() {
            true => Ok(()),
            false if stopped => Err(Error::unavailable(format!("node {}: {why}", self.node()))),
            false => Err(self.no_room(&why)),
        }
    }

    fn no_room(&self, why: &str) -> Error {
        Error::exhausted(format!(
            "node {} takes no new parts in {}: {why}; free space there, or add a node",
            self.node(),
            self.layout().root().display()
        ))
    }

    /// Looks at the file system, and notes whether it is too full.
    pub(super) fn look(&self) -> Space {
        let space = self.probe();
        let mut health = self.0.health.lock();
        if health.look(space) {
            let folder = self.layout().root().display().to_string();
            match health.full {
                true => warn!("no new parts are taken in {folder}: {}", health.read_only_reason(space)),
                false => info!("new parts are taken in {folder} again: its disk is {space}"),
            }
        }
        space
    }

    /// Has the file system say something else than it is.
    #[cfg(test)]
    pub(crate) fn pretend(&self, space: Option<Space>) {
        *self.0.pretended.lock() = space;
    }

    fn probe(&self) -> Space {
        #[cfg(test)]
        if let Some(space) = *self.0.pretended.lock() {
            return space;
        }
        statvfs(self.layout().root()).map_or(Space::default(), |fs| {
            let used = fs.f_blocks.saturating_sub(fs.f_bfree);
            let bytes = |blocks: u64| blocks.saturating_mul(fs.f_frsize);
            Space { total: bytes(used.saturating_add(fs.f_bavail)), free: bytes(fs.f_bavail) }
        })
    }

    /// To be called as a part grows from `before` to `now` bytes: looks at the space now and then.
    pub(super) fn growing(&self, before: u64, now: u64) -> Result<()> {
        if before / LOOK_BYTES == now / LOOK_BYTES { Ok(()) } else { self.accepts(0) }
    }

    /// A new file in `tmp/`, for a part of so many bytes (0: not known).
    pub(super) fn temporary(&self, id: PartId, bytes: u64) -> Result<(File, PathBuf)> {
        self.accepts(bytes)?;
        let path = self.layout().temporary(id);
        disk::create(&path).map(|file| (file, path)).map_err(|e| self.failed("a new part", &e))
    }

    /// What a failed write means: a full disk refuses this write, anything else all writes from now on.
    pub(super) fn failed(&self, what: &str, cause: &io::Error) -> Error {
        if matches!(cause.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) {
            let space = self.look();
            return self.no_room(&format!("there was no space for {what} ({cause}): its disk is {space}"));
        }
        let folder = self.layout().root().display();
        let why = format!("the node stopped accepting parts: {what} could not be written in {folder}: {cause}");
        error!("{why}");
        self.0.health.lock().stopped.get_or_insert_with(|| why.clone());
        Error::unavailable(why)
    }

    /// fsync, rename to its place, fsync of the folder; the part is in the inventory afterwards.
    pub(super) fn seal(&self, file: &File, temp: &mut Temp, dir: PathBuf, name: PartFile, bytes: u64) -> Result<()> {
        if let Some(why) = self.stopped() {
            return Err(Error::unavailable(why));
        }
        let began = Instant::now();
        let synced = disk::sync(file, temp.path());
        let took = began.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        self.0.health.lock().synced(clock::now_ms(), took, bytes);
        let placed = synced.and_then(|()| self.place(temp, &dir, &name)).and_then(|()| file.metadata());
        let placed = placed.map_err(|e| self.failed("a part", &e))?;
        let mut entry = Entry { dir, bytes, check: None, opened: Opened::default(), name };
        entry.verified(Stamp::of(&placed));
        self.0.index.lock().insert(entry.name.id, entry);
        Ok(())
    }

    fn place(&self, temp: &mut Temp, dir: &Path, name: &PartFile) -> io::Result<()> {
        let mut durable = self.0.folders.lock();
        disk::make_dirs(dir)?;
        let path = dir.join(name.name());
        disk::rename(temp.path(), &path)?;
        temp.keep();
        // That a folder exists says nothing: whoever made it may have died before its name was safe.
        let above = dir.ancestors().skip(1).take(if durable.contains(dir) { 0 } else { 2 });
        let synced = above.into_iter().try_for_each(disk::sync_dir);
        if synced.is_ok() {
            durable.insert(dir.to_path_buf());
        }
        drop(durable);
        let synced = synced.and_then(|()| disk::sync_dir(dir));
        if synced.is_err() {
            // The part is in no inventory, and must not turn up in one after a restart.
            let _ = disk::remove(&path);
        }
        synced
    }
}
