//! The state machine: the catalog in memory, its rows in the [`Store`].

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures::{Stream, StreamExt};
use openraft::storage::{ApplyResponder, EntryResponder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use parking_lot::{Mutex, RwLock};
use prost::Message;
use redb::ReadTransaction;
use tokio::sync::watch;
use volley_common::wire::catalog::Row;
use volley_common::wire::raft as wire;

use super::convert::{log_id_in, log_id_out, membership_in, membership_out};
use super::files::Disk;
use super::log::{log_id_bytes, log_id_from};
use super::queue::{Applied, Job};
use super::runtime::blocking;
use super::snapshot::{self, Builder, Snapshot, SnapshotFile};
use super::store::{ROWS, Store, read_meta};
use super::types::{Answer, Entry, LogId, SnapshotMeta, StoredMembership, TypeConfig};
use crate::catalog::Catalog;

/// Entries applied under one lock.
const BATCH: usize = 256;

/// openraft's hold on the catalog.
pub struct Machine {
    store: Arc<Store>,
    shared: Arc<Shared>,
}

/// What readers see of the state machine.
pub struct Shared {
    /// The catalog.
    pub catalog: Arc<RwLock<Catalog>>,
    /// The index of the last entry applied.
    pub applied: watch::Sender<u64>,
    state: Mutex<SnapshotMeta>,
    witness: Option<Arc<dyn Witness>>,
}

/// Sees what a state machine does, as it does it: for simulations.
pub trait Witness: Send + Sync {
    /// The state is that after this entry: at the start, and after a snapshot.
    fn stands_at(&self, last: Option<LogId>);
    /// An entry is applied next.
    fn applies(&self, entry: &Entry);
}

type Item = EntryResponder<TypeConfig>;

impl Machine {
    /// The state that a store holds. Blocks.
    pub fn open(store: Arc<Store>) -> io::Result<Machine> {
        Machine::open_before(store, None)
    }

    /// The same before a witness.
    pub fn open_before(store: Arc<Store>, witness: Option<Arc<dyn Witness>>) -> io::Result<Machine> {
        let view = store.begin_read()?;
        let meta = applied_in(&view)?;
        let catalog = load(stored_rows(&view)?)?;
        let applied = watch::Sender::new(meta.last_log_id.map_or(0, |id| id.index));
        if let Some(witness) = &witness {
            witness.stands_at(meta.last_log_id);
        }
        let shared = Shared { catalog: Arc::new(RwLock::new(catalog)), applied, state: Mutex::new(meta), witness };
        Ok(Machine { store, shared: Arc::new(shared) })
    }

    /// What readers see.
    pub fn shared(&self) -> Arc<Shared> {
        self.shared.clone()
    }

    async fn apply_batch(&self, batch: Vec<Item>) -> io::Result<()> {
        let shared = self.shared.clone();
        let done = blocking(move || shared.apply(batch)).await?;
        // The entries are committed: their rows may become durable later, in the same order.
        self.store.push(Job::Apply(done.applied), Box::new(|_| ())).await?;
        self.shared.applied.send_replace(done.index);
        for (responder, answer) in done.answers {
            responder.send(answer);
        }
        Ok(())
    }
}

/// What a batch came to.
struct Done {
    index: u64,
    applied: Applied,
    answers: Vec<(ApplyResponder<TypeConfig>, Answer)>,
}

impl Shared {
    fn apply(&self, batch: Vec<Item>) -> Done {
        let mut state = self.state.lock();
        let mut catalog = self.catalog.write();
        let mut answers = Vec::new();
        let mut members = None;
        for (entry, responder) in batch {
            if let Some(witness) = &self.witness {
                witness.applies(&entry);
            }
            state.last_log_id = Some(entry.log_id);
            let answer = match entry.payload {
                EntryPayload::Blank => Answer::default(),
                EntryPayload::Normal(op) => Answer(catalog.apply(&op.0)),
                EntryPayload::Membership(membership) => {
                    members = Some(StoredMembership::new(Some(entry.log_id), membership));
                    Answer::default()
                }
            };
            answers.extend(responder.map(|responder| (responder, answer)));
        }
        let membership = members.as_ref().map(membership_bytes);
        if let Some(members) = members {
            state.last_membership = members;
        }
        let last = state.last_log_id.as_ref().map(log_id_bytes).unwrap_or_default();
        let applied = Applied { changes: catalog.take_changes(), last, membership };
        Done { index: state.last_log_id.map_or(0, |id| id.index), applied, answers }
    }

    /// Puts a snapshot's state in place; answers the old catalog.
    fn install(&self, meta: &SnapshotMeta, catalog: Catalog) -> Catalog {
        let mut state = self.state.lock();
        let mut current = self.catalog.write();
        *state = meta.clone();
        if let Some(witness) = &self.witness {
            witness.stands_at(meta.last_log_id);
        }
        std::mem::replace(&mut *current, catalog)
    }
}

/// A membership's bytes, as the store has them: a snapshot header without the rest.
fn membership_bytes(stored: &StoredMembership) -> Vec<u8> {
    let header = wire::SnapshotHeader {
        membership_log_id: stored.log_id().as_ref().map(log_id_out),
        membership: Some(membership_out(stored.membership())),
        ..Default::default()
    };
    header.encode_to_vec()
}

/// What was applied and who were members, as a transaction sees it.
pub fn applied_in(view: &ReadTransaction) -> io::Result<SnapshotMeta> {
    let last_log_id = log_id_from(read_meta(view, "applied")?)?;
    let Some(bytes) = read_meta(view, "membership")? else {
        return Ok(SnapshotMeta { last_log_id, last_membership: StoredMembership::default() });
    };
    let header = wire::SnapshotHeader::decode(bytes.as_slice()).map_err(io::Error::other)?;
    let membership = membership_in(header.membership.unwrap_or_default()).map_err(io::Error::other)?;
    let log_id = log_id_in(header.membership_log_id).map_err(io::Error::other)?;
    Ok(SnapshotMeta { last_log_id, last_membership: StoredMembership::new(log_id, membership) })
}

fn stored_rows(view: &ReadTransaction) -> io::Result<impl Iterator<Item = io::Result<Row>>> {
    let table = view.open_table(ROWS).map_err(io::Error::other)?;
    let rows = table.range::<&[u8]>(..).map_err(io::Error::other)?;
    Ok(rows.map(|row| {
        let (_, row) = row.map_err(io::Error::other)?;
        Row::decode(row.value()).map_err(io::Error::other)
    }))
}

/// A catalog of rows.
fn load(rows: impl Iterator<Item = io::Result<Row>>) -> io::Result<Catalog> {
    let mut catalog = Catalog::default();
    for row in rows {
        catalog.insert_row(row?);
    }
    catalog.take_changes();
    Ok(catalog)
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let state = self.shared.state.lock().clone();
        Ok((state.last_log_id, state.last_membership))
    }

    async fn apply<Strm>(&mut self, entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<Item>> + Unpin + OptionalSend,
    {
        let mut batches = entries.ready_chunks(BATCH);
        while let Some(batch) = batches.next().await {
            self.apply_batch(batch.into_iter().collect::<io::Result<_>>()?).await?;
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        // Once what was applied is durable, a transaction begun now sees that and nothing else.
        let flushed = self.store.write(Job::Flush).await;
        Builder::new(self.store.clone(), flushed.and_then(|()| self.store.begin_read()))
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let disk = self.store.disk().clone();
        let for_meta = meta.clone();
        let (catalog, path) = blocking(move || receive(&*disk, snapshot, &for_meta)).await??;
        let last = meta.last_log_id.as_ref().map(log_id_bytes).unwrap_or_default();
        let membership = Some(membership_bytes(&meta.last_membership));
        self.store.write(Job::Install(path, Applied { changes: Vec::new(), last, membership })).await?;
        let old = self.shared.install(meta, catalog);
        self.shared.applied.send_replace(meta.last_log_id.map_or(0, |id| id.index));
        // A large catalog takes a while to free.
        tokio::spawn(blocking(move || drop(old)));
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> io::Result<Option<Snapshot>> {
        let disk = self.store.disk().clone();
        blocking(move || snapshot::newest(&*disk)).await?
    }
}

/// Checks a snapshot file, loads its rows, and puts it in its place.
fn receive(disk: &dyn Disk, file: SnapshotFile, meta: &SnapshotMeta) -> io::Result<(Catalog, PathBuf)> {
    let found = snapshot::read_meta(disk, &file.path)?;
    if found.last_log_id != meta.last_log_id {
        return Err(io::Error::other(format!("the snapshot {} is not the one announced", file.path.display())));
    }
    let catalog = load(snapshot::rows(disk, &file.path)?)?;
    let kept = snapshot::keep(disk, &file.path, meta)?;
    Ok((catalog, kept.path))
}
