//! A disk that fails: nothing is acknowledged, and the process is told to end.
#![allow(clippy::unwrap_used)]

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use openraft::RaftLogReader;
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::testing::blank_ent;
use parking_lot::Mutex;
use redb::backends::InMemoryBackend;
use redb::{Database, StorageBackend};
use tempfile::TempDir;
use volley_coordinator::raft::log::Log;
use volley_coordinator::raft::store::Store;
use volley_coordinator::raft::types::{TypeConfig, Vote};

/// A disk whose syncs can be made to fail.
#[derive(Debug)]
struct Disk {
    memory: InMemoryBackend,
    broken: Arc<AtomicBool>,
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.memory.set_len(len)
    }
    fn sync_data(&self) -> io::Result<()> {
        match self.broken.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the disk is gone")),
            false => self.memory.sync_data(),
        }
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_failed_sync_nothing_is_accepted_and_the_process_ends() {
    let broken = Arc::new(AtomicBool::new(false));
    let disk = Disk { memory: InMemoryBackend::new(), broken: broken.clone() };
    let db = Database::builder().create_with_backend(disk).unwrap();
    let dir = TempDir::new().unwrap();
    let exits = Arc::new(Mutex::new(Vec::new()));
    let told = exits.clone();
    let store = Store::over(db, dir.path(), 1, Arc::new(move |why: &str| told.lock().push(why.to_string()))).unwrap();
    let mut log = Log::open(store).unwrap();
    log.blocking_append([blank_ent::<TypeConfig>(1, 1, 0)]).await.unwrap();
    assert!(exits.lock().is_empty());

    broken.store(true, Ordering::SeqCst);
    log.blocking_append([blank_ent::<TypeConfig>(1, 1, 1)]).await.unwrap_err();
    assert_eq!(exits.lock().len(), 1);
    assert!(exits.lock()[0].contains("the disk is gone"), "{:?}", exits.lock());

    // The disk works again, but what it holds is not known any more.
    broken.store(false, Ordering::SeqCst);
    log.save_vote(&Vote::new(9, 1)).await.unwrap_err();
    log.blocking_append([blank_ent::<TypeConfig>(1, 1, 2)]).await.unwrap_err();
    assert_eq!(log.read_vote().await.unwrap(), None);
    assert_eq!(exits.lock().len(), 1, "said once");
}
