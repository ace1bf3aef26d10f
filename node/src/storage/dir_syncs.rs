//! Makes names in folders durable, for many parts at once.
//!
//! A sync of a folder commits everything that the file system has changed so far. So parts that become durable at the same time share one
//! round of syncs, in which each folder is synced once: small puts into one shard sync its folder once for all of them, and puts into new
//! tables sync the folder of all tables once. The threads that wait for a round share its work, because a disk merges syncs that it gets at
//! the same time.

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
    changed: Condvar,
}

#[derive(Default)]
struct SyncState {
    /// The next round, to which folders are added.
    next: Arc<SyncRound>,
    /// The round whose folders are synced now.
    running: Option<Arc<SyncRound>>,
}

/// Folders that are synced together.
#[derive(Default)]
struct SyncRound {
    work: Mutex<SyncWork>,
    /// The folders whose sync failed, and why, once all were synced.
    outcome: OnceLock<Vec<(PathBuf, SyncFailure)>>,
}

#[derive(Default)]
struct SyncWork {
    /// Folders that no thread syncs yet.
    waiting: BTreeSet<PathBuf>,
    /// How many are being synced.
    running: usize,
    failures: Vec<(PathBuf, SyncFailure)>,
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
    /// Syncs folders until no other one waits. Threads that call this at the same time share the work.
    fn help(&self, sync: impl Fn(&Path) -> io::Result<()>) {
        while let Some(dir) = self.take() {
            let failure = sync(&dir).err().map(|error| (dir, SyncFailure::new(&error)));
            let mut work = self.work.lock();
            work.running -= 1;
            work.failures.extend(failure);
            if work.running == 0 && work.waiting.is_empty() {
                // Set once: nothing is added to a round that runs.
                let _ = self.outcome.set(std::mem::take(&mut work.failures));
            }
        }
    }

    fn take(&self) -> Option<PathBuf> {
        let mut work = self.work.lock();
        let dir = work.waiting.pop_first()?;
        work.running += 1;
        Some(dir)
    }

    /// The outcome for one who needs these folders; none while the round has not ended.
    fn outcome_for(&self, dirs: &[PathBuf]) -> Option<io::Result<()>> {
        let failures = self.outcome.get()?;
        let failed = failures.iter().find(|(dir, _)| dirs.contains(dir));
        Some(failed.map_or(Ok(()), |(_, failure)| Err(failure.to_error())))
    }
}

impl DirSyncs {
    /// Makes the names that these folders have now durable. Blocks: takes part in the next round.
    ///
    /// # Errors
    /// Those of the sync of one of them.
    pub fn sync(&self, dirs: &[PathBuf]) -> io::Result<()> {
        self.sync_with(dirs, fs_ops::sync_dir)
    }

    fn sync_with(&self, dirs: &[PathBuf], sync: impl Fn(&Path) -> io::Result<()>) -> io::Result<()> {
        if dirs.is_empty() {
            return Ok(());
        }
        let mut state = self.state.lock();
        let round = state.next.clone();
        round.work.lock().waiting.extend(dirs.iter().cloned());
        loop {
            let is_running = state.running.as_ref().is_some_and(|running| Arc::ptr_eq(running, &round));
            if let Some(outcome) = round.outcome_for(dirs) {
                if is_running {
                    state.running = None;
                    self.changed.notify_all();
                }
                return outcome;
            }
            if state.running.is_none() {
                // Rounds end in their order, so this thread's round is the next one. Who comes later takes part in another.
                (state.running, state.next) = (Some(round.clone()), Arc::default());
                self.changed.notify_all();
            } else if !is_running || round.work.lock().waiting.is_empty() {
                self.changed.wait(&mut state);
                continue;
            }
            drop(state);
            round.help(&sync);
            state = self.state.lock();
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
            while syncs.state.lock().next.work.lock().waiting.len() < 4 {
                std::thread::yield_now();
            }
            go_on.wait();
        });
        let mut synced = synced.into_inner();
        synced.sort();
        assert_eq!(synced, paths(&["a", "b", "c", "first", "shared"]), "each once");
    }

    #[test]
    fn threads_that_wait_share_the_syncs_of_a_round() {
        let syncs = DirSyncs::default();
        let (began, go_on) = (Barrier::new(2), Barrier::new(2));
        // Both folders of the second round are synced at the same time, or this blocks for ever.
        let both = Barrier::new(2);
        let blocking = |dir: &Path| {
            if dir == Path::new("first") {
                began.wait();
                go_on.wait();
            } else {
                both.wait();
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let (syncs, blocking) = (&syncs, &blocking);
            scope.spawn(move || syncs.sync_with(&paths(&["first"]), blocking).unwrap());
            began.wait();
            for own in ["a", "b"] {
                scope.spawn(move || syncs.sync_with(&paths(&[own]), blocking).unwrap());
            }
            while syncs.state.lock().next.work.lock().waiting.len() < 2 {
                std::thread::yield_now();
            }
            go_on.wait();
        });
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
        round.work.lock().waiting.extend(paths(&["bad", "good"]));
        assert!(round.outcome_for(&paths(&["good"])).is_none());
        round.help(failing);
        assert!(round.outcome_for(&paths(&["good"])).unwrap().is_ok());
        assert!(round.outcome_for(&paths(&["good", "bad"])).unwrap().is_err());
    }
}
