//! Makes names in folders durable, for many parts at once.
//!
//! A sync of a folder commits everything that the file system has changed so far. So parts that become durable at the same time share one
//! round of syncs, in which each folder is synced once: small puts into one shard sync its folder once for all of them, and puts into new
//! tables sync the folder of all tables once.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use parking_lot::{Condvar, Mutex};

use super::fs_ops;

/// The rounds of syncs of one data folder.
#[derive(Default)]
pub struct DirSyncs {
    state: Mutex<SyncState>,
    round_ended: Condvar,
}

#[derive(Default)]
struct SyncState {
    /// The next round, to which folders are added.
    next: Arc<SyncRound>,
    is_running: bool,
}

/// Folders that are synced together.
#[derive(Default)]
struct SyncRound {
    /// In their order: parents first.
    dirs: Mutex<BTreeSet<PathBuf>>,
    /// The folders whose sync failed, and why, once the round has ended.
    outcome: OnceLock<Vec<(PathBuf, SyncFailure)>>,
}

/// An error of the operating system, for each part that it concerns.
struct SyncFailure {
    code: Option<i32>,
    kind: io::ErrorKind,
    text: String,
}

impl SyncFailure {
    fn new(error: &io::Error) -> Self {
        SyncFailure { code: error.raw_os_error(), kind: error.kind(), text: error.to_string() }
    }

    fn to_error(&self) -> io::Error {
        match self.code {
            Some(code) => io::Error::from_raw_os_error(code),
            None => io::Error::new(self.kind, self.text.clone()),
        }
    }
}

impl SyncRound {
    fn run(&self, sync: impl Fn(&Path) -> io::Result<()>) {
        let dirs = self.dirs.lock();
        let failure = |dir: &PathBuf| sync(dir).err().map(|error| (dir.clone(), SyncFailure::new(&error)));
        // A round runs once.
        let _ = self.outcome.set(dirs.iter().filter_map(failure).collect());
    }

    /// The outcome for one who needs these folders; none while the round has not ended.
    fn outcome_for(&self, dirs: &[PathBuf]) -> Option<io::Result<()>> {
        let failures = self.outcome.get()?;
        let failed = failures.iter().find(|(dir, _)| dirs.contains(dir));
        Some(failed.map_or(Ok(()), |(_, failure)| Err(failure.to_error())))
    }
}

impl DirSyncs {
    /// Makes the names that these folders have now durable. Blocks: runs a round, or waits for the one that another thread runs.
    ///
    /// # Errors
    /// Those of the sync of one of them.
    pub fn sync(&self, dirs: &[PathBuf]) -> io::Result<()> {
        self.sync_with(dirs, fs_ops::sync_dir)
    }

    fn sync_with(&self, dirs: &[PathBuf], sync: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        let mut state = self.state.lock();
        let round = state.next.clone();
        round.dirs.lock().extend(dirs.iter().cloned());
        loop {
            if let Some(outcome) = round.outcome_for(dirs) {
                return outcome;
            }
            if state.is_running {
                self.round_ended.wait(&mut state);
                continue;
            }
            // Rounds end in their order, so this thread's round is the next one. Who comes later takes part in another.
            (state.is_running, state.next) = (true, Arc::default());
            drop(state);
            round.run(&sync);
            state = self.state.lock();
            state.is_running = false;
            self.round_ended.notify_all();
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Barrier;

    use super::*;

    fn paths(names: &[&str]) -> Vec<PathBuf> {
        names.iter().map(PathBuf::from).collect()
    }

    #[test]
    fn folder_is_synced_once_for_all_that_wait_for_it() {
        let (syncs, synced) = (DirSyncs::default(), Mutex::new(Vec::new()));
        let (began, go_on) = (Barrier::new(2), Barrier::new(2));
        let blocking = |dir: &Path| {
            synced.lock().push(dir.to_path_buf());
            if dir == Path::new("first") {
                began.wait();
                go_on.wait();
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            scope.spawn(|| syncs.sync_with(&paths(&["first"]), blocking).unwrap());
            began.wait();
            for own in ["a", "b", "c"] {
                let (syncs, blocking) = (&syncs, &blocking);
                scope.spawn(move || syncs.sync_with(&paths(&["shared", own]), blocking).unwrap());
            }
            while syncs.state.lock().next.dirs.lock().len() < 4 {
                std::thread::yield_now();
            }
            go_on.wait();
        });
        assert_eq!(*synced.lock(), paths(&["first", "a", "b", "c", "shared"]));
    }

    #[test]
    fn failed_sync_concerns_those_who_need_the_folder() {
        let syncs = DirSyncs::default();
        let failing = |dir: &Path| match dir == Path::new("bad") {
            true => Err(io::Error::from_raw_os_error(libc::EIO)),
            false => Ok(()),
        };
        let error = syncs.sync_with(&paths(&["bad", "good"]), failing).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EIO));
        syncs.sync_with(&paths(&["good"]), failing).unwrap();
        let round = SyncRound::default();
        round.dirs.lock().extend(paths(&["bad", "good"]));
        assert!(round.outcome_for(&paths(&["good"])).is_none());
        round.run(failing);
        assert!(round.outcome_for(&paths(&["good"])).unwrap().is_ok());
        assert!(round.outcome_for(&paths(&["good", "bad"])).unwrap().is_err());
    }
}
