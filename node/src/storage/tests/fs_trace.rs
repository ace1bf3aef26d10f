//! Records the operations of [`super::super::fs_ops`] below watched folders.

use std::fs;
use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use volley_common::PartId;

/// One change of the folder, or a promise of the store; paths are relative to the folder.
#[derive(Clone, Debug)]
pub enum TraceStep {
    Create(PathBuf),
    /// With the contents.
    Sync(PathBuf, Vec<u8>),
    Rename(PathBuf, PathBuf),
    Remove(PathBuf),
    CreateDir(PathBuf),
    SyncDir(PathBuf),
    /// The store opened, with this node id.
    Opened(u64),
    /// It joined a cluster durably.
    Joined(&'static str),
    /// It holds this part durably.
    Holds(PartId),
    /// A part is about to be removed.
    Removes(PartId),
}

static WATCHED: Mutex<Vec<(PathBuf, Vec<TraceStep>)>> = Mutex::new(Vec::new());

pub fn watch(root: &Path) {
    WATCHED.lock().push((root.to_path_buf(), Vec::new()));
}

pub fn steps(root: &Path) -> Vec<TraceStep> {
    let mut watched = WATCHED.lock();
    let at = watched.iter().position(|(watched, _)| watched == root).unwrap();
    watched.swap_remove(at).1
}

pub fn step(path: &Path, step: impl FnOnce(&dyn Fn(&Path) -> PathBuf) -> TraceStep) {
    let mut watched = WATCHED.lock();
    if let Some((root, steps)) = watched.iter_mut().find(|(root, _)| path.starts_with(root)) {
        let relative = |path: &Path| path.strip_prefix(&*root).unwrap().to_path_buf();
        steps.push(step(&relative));
    }
}

pub fn created(path: &Path) {
    step(path, |relative| TraceStep::Create(relative(path)));
}

pub fn synced(path: &Path) {
    let bytes = fs::read(path).unwrap_or_default();
    step(path, |relative| TraceStep::Sync(relative(path), bytes));
}

pub fn renamed(from: &Path, to: &Path) {
    step(from, |relative| TraceStep::Rename(relative(from), relative(to)));
}

pub fn removed(path: &Path) {
    step(path, |relative| TraceStep::Remove(relative(path)));
}

pub fn created_dir(dir: &Path) {
    step(dir, |relative| TraceStep::CreateDir(relative(dir)));
}

pub fn synced_dir(dir: &Path) {
    step(dir, |relative| TraceStep::SyncDir(relative(dir)));
}
