//! A disk that fails: nothing is acknowledged afterwards, and the failure handler is called.

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
use volley_coordinator::raft::storage::files::LocalDataDir;
use volley_coordinator::raft::storage::log::RaftLog;
use volley_coordinator::raft::storage::store::{RaftStore, writer_thread};
use volley_coordinator::raft::types::{TypeConfig, Vote};

/// A disk whose syncs can be made to fail.
#[derive(Debug)]
struct FailingDisk {
    memory: InMemoryBackend,
    broken: Arc<AtomicBool>,
}

impl StorageBackend for FailingDisk {
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
async fn failed_sync_ends_the_store_for_good() {
    let broken = Arc::new(AtomicBool::new(false));
    let disk = FailingDisk { memory: InMemoryBackend::new(), broken: broken.clone() };
    let db = Database::builder().create_with_backend(disk).unwrap();
    let dir = TempDir::new().unwrap();
    let failures = Arc::new(Mutex::new(Vec::new()));
    let calls = failures.clone();
    let store = RaftStore::with_database(
        db,
        Arc::new(LocalDataDir(dir.path().to_path_buf())),
        1,
        Arc::new(move |why: &str| calls.lock().push(why.to_string())),
        &writer_thread(),
    )
    .unwrap();
    let mut log = RaftLog::open(store).unwrap();
    log.blocking_append([blank_ent::<TypeConfig>(1, 1, 0)]).await.unwrap();
    assert!(failures.lock().is_empty());

    broken.store(true, Ordering::SeqCst);
    log.blocking_append([blank_ent::<TypeConfig>(1, 1, 1)]).await.unwrap_err();
    assert_eq!(failures.lock().len(), 1);
    assert!(failures.lock()[0].contains("the disk is gone"), "{:?}", failures.lock());

    // The disk works again, but its contents are unknown.
    broken.store(false, Ordering::SeqCst);
    log.save_vote(&Vote::new(9, 1)).await.unwrap_err();
    log.blocking_append([blank_ent::<TypeConfig>(1, 1, 2)]).await.unwrap_err();
    assert_eq!(log.read_vote().await.unwrap(), None);
    assert_eq!(failures.lock().len(), 1, "called once");
}
