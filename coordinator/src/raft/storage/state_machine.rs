//! The state machine: the catalog in memory, its rows in the [`RaftStore`].

use std::io;
use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{ArcRwLockReadGuard, Mutex, RawRwLock, RwLock};
use prost::Message;
use redb::ReadTransaction;
use tokio::sync::watch;
use volley_common::wire::catalog::Row;

use super::files::DataDir;
use super::queue::{AppliedRows, StoreWrite};
use super::snapshot::{self, Snapshot, SnapshotBuilder, SnapshotFile};
use super::store::RaftStore;
use crate::catalog::Catalog;
use crate::raft::runtime::blocking;
use crate::raft::tables::{ROWS, encode_log_id, encode_membership, read_applied};
use crate::raft::types::{LogId, LogReply, RaftLogEntry, SnapshotMeta, StoredMembership, TypeConfig};

/// Maximum number of entries that are applied under one lock.
const BATCH: usize = 256;

/// openraft's state machine: applies log entries to the catalog.
pub struct CatalogStateMachine {
    store: Arc<RaftStore>,
    applied: Arc<AppliedState>,
}

/// The state after the last applied entry, which readers share with the state machine.
pub struct AppliedState {
    /// The catalog.
    pub catalog: Arc<RwLock<Catalog>>,
    /// The index of the last entry applied.
    pub index: watch::Sender<u64>,
    meta: Mutex<SnapshotMeta>,
    observer: Option<Arc<dyn ApplyObserver>>,
}

/// The catalog, locked for reading. Do not hold it across an await: nothing is applied meanwhile.
pub struct CatalogView(ArcRwLockReadGuard<RawRwLock, Catalog>);

impl Deref for CatalogView {
    type Target = Catalog;

    fn deref(&self) -> &Catalog {
        &self.0
    }
}

/// Observes a state machine, for simulations.
pub trait ApplyObserver: Send + Sync {
    /// Called with the last applied entry when the state was loaded: at the start, and from a snapshot.
    fn restored(&self, last: Option<LogId>);
    /// Called before an entry is applied.
    fn applying(&self, entry: &RaftLogEntry);
}

type PendingEntry = EntryResponder<TypeConfig>;

impl CatalogStateMachine {
    /// Loads the state that a store holds. Blocks.
    pub fn open(store: Arc<RaftStore>) -> io::Result<CatalogStateMachine> {
        CatalogStateMachine::open_observed(store, None)
    }

    /// [`CatalogStateMachine::open`] with an observer.
    pub fn open_observed(
        store: Arc<RaftStore>,
        observer: Option<Arc<dyn ApplyObserver>>,
    ) -> io::Result<CatalogStateMachine> {
        let view = store.begin_read()?;
        let meta = read_applied(&view)?;
        let catalog = Arc::new(RwLock::new(load(stored_rows(&view)?)?));
        if let Some(observer) = &observer {
            observer.restored(meta.last_log_id);
        }
        let index = watch::Sender::new(index_of(&meta));
        Ok(CatalogStateMachine {
            store,
            applied: Arc::new(AppliedState { catalog, index, meta: Mutex::new(meta), observer }),
        })
    }

    /// The state for readers.
    pub fn applied(&self) -> Arc<AppliedState> {
        self.applied.clone()
    }

    async fn apply_batch(&self, batch: Vec<PendingEntry>) -> io::Result<()> {
        let applied = self.applied.clone();
        let AppliedBatch { index, rows, replies } = blocking(move || applied.apply(batch)).await?;
        // The entries are committed: their rows may become durable later, in the same order.
        self.store.push(StoreWrite::ApplyRows(rows), Box::new(|_| ())).await?;
        self.applied.index.send_replace(index);
        for (responder, reply) in replies {
            responder.send(reply);
        }
        Ok(())
    }
}

fn index_of(meta: &SnapshotMeta) -> u64 {
    meta.last_log_id.map_or(0, |id| id.index)
}

/// The result of applying a batch.
struct AppliedBatch {
    index: u64,
    rows: AppliedRows,
    replies: Vec<(ApplyResponder<TypeConfig>, LogReply)>,
}

impl AppliedState {
    /// Locks the catalog for reading.
    pub fn view(&self) -> CatalogView {
        CatalogView(self.catalog.read_arc_recursive())
    }

    fn apply(&self, batch: Vec<PendingEntry>) -> AppliedBatch {
        let mut meta = self.meta.lock();
        let mut catalog = self.catalog.write();
        let mut replies = Vec::new();
        let mut new_membership = None;
        for (entry, responder) in batch {
            if let Some(observer) = &self.observer {
                observer.applying(&entry);
            }
            meta.last_log_id = Some(entry.log_id);
            let reply = match entry.payload {
                EntryPayload::Blank => LogReply::default(),
                EntryPayload::Normal(command) => LogReply(catalog.apply(&command.0)),
                EntryPayload::Membership(membership) => {
                    new_membership = Some(StoredMembership::new(Some(entry.log_id), membership));
                    LogReply::default()
                }
            };
            replies.extend(responder.map(|responder| (responder, reply)));
        }
        let membership = new_membership.as_ref().map(encode_membership);
        if let Some(new_membership) = new_membership {
            meta.last_membership = new_membership;
        }
        let last_log_id = meta.last_log_id.as_ref().map(encode_log_id).unwrap_or_default();
        let rows = AppliedRows { changes: catalog.take_changes(), last_log_id, membership };
        AppliedBatch { index: index_of(&meta), rows, replies }
    }

    /// Replaces the state by a snapshot's; returns the old catalog.
    fn install(&self, meta: &SnapshotMeta, catalog: Catalog) -> Catalog {
        let mut current_meta = self.meta.lock();
        let mut current = self.catalog.write();
        *current_meta = meta.clone();
        if let Some(observer) = &self.observer {
            observer.restored(meta.last_log_id);
        }
        std::mem::replace(&mut *current, catalog)
    }
}

fn stored_rows(view: &ReadTransaction) -> io::Result<impl Iterator<Item = io::Result<Row>>> {
    let table = view.open_table(ROWS).map_err(io::Error::other)?;
    let rows = table.range::<&[u8]>(..).map_err(io::Error::other)?;
    Ok(rows.map(|row| {
        let (_, row) = row.map_err(io::Error::other)?;
        Row::decode(row.value()).map_err(io::Error::other)
    }))
}

/// Builds a catalog from its rows.
fn load(rows: impl Iterator<Item = io::Result<Row>>) -> io::Result<Catalog> {
    let mut catalog = Catalog::default();
    for row in rows {
        catalog.insert_row(row?);
    }
    catalog.take_changes();
    Ok(catalog)
}

impl RaftStateMachine<TypeConfig> for CatalogStateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuilder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let meta = self.applied.meta.lock().clone();
        Ok((meta.last_log_id, meta.last_membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<PendingEntry>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch.into_iter().collect::<io::Result<_>>()?).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuilder {
        // Once the applied rows are durable, a transaction that begins now sees exactly them.
        let flushed = self.store.write(StoreWrite::Flush).await;
        SnapshotBuilder::new(self.store.data_dir().clone(), flushed.and_then(|()| self.store.begin_read()))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let data_dir = self.store.data_dir().clone();
        let expected = meta.clone();
        let (catalog, path) = blocking(move || receive(&*data_dir, snapshot, &expected)).await??;
        let rows = AppliedRows {
            changes: Vec::new(),
            last_log_id: meta.last_log_id.as_ref().map(encode_log_id).unwrap_or_default(),
            membership: Some(encode_membership(&meta.last_membership)),
        };
        self.store.write(StoreWrite::InstallSnapshot(path, rows)).await?;
        let old = self.applied.install(meta, catalog);
        self.applied.index.send_replace(index_of(meta));
        // Freeing a large catalog takes a while.
        tokio::spawn(blocking(move || drop(old)));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let data_dir = self.store.data_dir().clone();
        blocking(move || snapshot::newest(&*data_dir)).await?
    }
}

/// Verifies a received snapshot file, loads its rows, and publishes it among the snapshots.
fn receive(data_dir: &dyn DataDir, file: SnapshotFile, meta: &SnapshotMeta) -> io::Result<(Catalog, PathBuf)> {
    let found = snapshot::read_meta(data_dir, &file.path)?;
    if found.last_log_id != meta.last_log_id {
        return Err(io::Error::other(format!("the snapshot {} is not the one announced", file.path.display())));
    }
    let catalog = load(snapshot::read_rows(data_dir, &file.path)?)?;
    let published = snapshot::publish(data_dir, &file.path, meta)?;
    Ok((catalog, published.path))
}
