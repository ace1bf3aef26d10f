//! openraft's own storage test suite on this storage, and tests of what the suite does not cover.

use std::sync::Arc;

use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};
use tempfile::TempDir;
use volley_common::Code;
use volley_coordinator::raft::storage::log::RaftLog;
use volley_coordinator::raft::storage::state_machine::CatalogStateMachine;
use volley_coordinator::raft::storage::store::RaftStore;
use volley_coordinator::raft::types::TypeConfig;

struct TempStorageBuilder;

impl StoreBuilder<TypeConfig, RaftLog, CatalogStateMachine, TempDir> for TempStorageBuilder {
    async fn build(&self) -> Result<(TempDir, RaftLog, CatalogStateMachine), StorageError<TypeConfig>> {
        let dir = TempDir::new().unwrap();
        let store = RaftStore::open(dir.path(), 1, Arc::new(|why: &str| panic!("{why}"))).unwrap();
        Ok((dir, RaftLog::open(store.clone()).unwrap(), CatalogStateMachine::open(store).unwrap()))
    }
}

#[test]
fn storage_passes_openrafts_suite() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(Suite::test_all(TempStorageBuilder)).unwrap();
}

#[test]
fn folder_of_another_coordinator_is_refused() {
    let dir = TempDir::new().unwrap();
    let open = |id| RaftStore::open(dir.path(), id, Arc::new(|why: &str| panic!("{why}")));
    let store = open(1).unwrap();
    let folder = store.id();
    let in_use = open(1).err().unwrap();
    assert!(in_use.message.contains("in use"), "{in_use}");
    store.close();
    let other = open(2).err().unwrap();
    assert_eq!(other.code, Code::FailedPrecondition);
    assert!(
        other.message.contains(&dir.path().display().to_string()) && other.message.contains("coordinator 1"),
        "{other}"
    );
    assert_eq!(open(1).unwrap().id(), folder, "the folder keeps its id");
}

#[test]
fn folder_of_a_newer_format_is_refused() {
    let dir = TempDir::new().unwrap();
    let open = || RaftStore::open(dir.path(), 1, Arc::new(|why: &str| panic!("{why}")));
    open().unwrap().close();
    let db = redb::Database::create(dir.path().join("catalog.redb")).unwrap();
    let txn = db.begin_write().unwrap();
    txn.open_table(volley_coordinator::raft::tables::META)
        .unwrap()
        .insert("format", 2u64.to_le_bytes().as_slice())
        .unwrap();
    txn.commit().unwrap();
    drop(db);
    let error = open().err().unwrap();
    assert!(error.message.contains(&dir.path().display().to_string()) && error.message.contains("format 2"), "{error}");
}
