//! The redb database of a coordinator, and its one writer.
//!
//! Vote, log, catalog rows and the last applied entry share one database and one ordered queue. The writer commits
//! everything that is queued in one durable transaction, and only then completes those writes. After a failed commit
//! it accepts no more writes.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::Mutex;
use prost::Message;
use redb::{Database, ReadTransaction, Table};
use volley_common::wire::catalog::{Row, row};
use volley_common::{Error, Result};

use super::files::{self, DataDir, LocalDataDir};
use super::queue::{AppliedRows, Completion, QueuedWrite, StoreWrite, WriteQueue, WriteQueueReceiver, write_queue};
use super::snapshot;
use crate::catalog::RowKey;
use crate::catalog::rows::sort_key_of;
use crate::raft::runtime;
use crate::raft::tables::{LOG, META, ROWS, begin_durable_write, meta_key, meta_number, read_meta};

/// The layout that is written; a newer one is refused.
const FORMAT: u64 = 1;
/// redb's cache. It is small because the catalog and the end of the log are in memory.
const CACHE_BYTES: usize = 64 << 20;

/// Called once when a commit fails, with the reason; the default ends the process.
pub type OnFatalError = Arc<dyn Fn(&str) + Send + Sync>;

/// Starts a writer; returns its thread to join, if it has one.
pub type WriterDriver = Arc<dyn Fn(StoreWriter) -> io::Result<Option<JoinHandle<()>>> + Send + Sync>;

/// A coordinator's durable state.
pub struct RaftStore {
    data_dir: Arc<dyn DataDir>,
    id: u64,
    db: Mutex<Option<Arc<Database>>>,
    queue: WriteQueue,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl RaftStore {
    /// Opens or creates the database in `dir` for the coordinator `coordinator`. Blocks.
    ///
    /// # Errors
    /// FAILED_PRECONDITION: the folder is in use, belongs to another coordinator, has a newer format, or is not writable.
    /// INTERNAL: the database cannot be opened.
    pub fn open(dir: &Path, coordinator: u64, on_fatal_error: OnFatalError) -> Result<Arc<RaftStore>> {
        let data_dir = Arc::new(LocalDataDir(dir.to_path_buf()));
        RaftStore::open_in(data_dir, coordinator, on_fatal_error, &writer_thread())
    }

    /// [`RaftStore::open`] in another data folder, with another way to run the writer.
    pub fn open_in(
        data_dir: Arc<dyn DataDir>,
        coordinator: u64,
        on_fatal_error: OnFatalError,
        driver: &WriterDriver,
    ) -> Result<Arc<RaftStore>> {
        files::prepare(&*data_dir)?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let db = data_dir.database(&builder).map_err(|e| open_error(data_dir.dir(), e))?;
        RaftStore::with_database(db, data_dir, coordinator, on_fatal_error, driver)
    }

    /// [`RaftStore::open`] on a database that is already open.
    pub fn with_database(
        db: Database,
        data_dir: Arc<dyn DataDir>,
        coordinator: u64,
        on_fatal_error: OnFatalError,
        driver: &WriterDriver,
    ) -> Result<Arc<RaftStore>> {
        let dir = data_dir.dir();
        let internal = |e: &dyn std::fmt::Display| Error::internal(format!("the data folder {}: {e}", dir.display()));
        let id = claim(&db, coordinator)
            .map_err(|e| internal(&e))?
            .map_err(|why| Error::precondition(format!("the data folder {} {why}", dir.display())))?;
        let db = Arc::new(db);
        let (queue, receiver) = write_queue();
        let writer =
            StoreWriter { db: db.clone(), data_dir: data_dir.clone(), queue: receiver, on_fatal_error, failed: None };
        let writer = Mutex::new(driver(writer).map_err(|e| internal(&e))?);
        Ok(Arc::new(RaftStore { data_dir, id, db: Mutex::new(Some(db)), queue, writer }))
    }

    /// The random id that this folder got when it was created.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The path of the data folder.
    pub fn dir(&self) -> &Path {
        self.data_dir.dir()
    }

    /// The data folder.
    pub fn data_dir(&self) -> &Arc<dyn DataDir> {
        &self.data_dir
    }

    /// A consistent view of what is durable.
    pub fn begin_read(&self) -> io::Result<ReadTransaction> {
        let db = self.db.lock().clone().ok_or_else(|| io::Error::other("the catalog's store is closed"))?;
        redb::ReadableDatabase::begin_read(&*db).map_err(io::Error::other)
    }

    /// Reads a value of the table `meta`.
    pub fn meta(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        read_meta(&self.begin_read()?, key)
    }

    /// Queues a write; `completion` is called when it is durable.
    pub async fn push(&self, write: StoreWrite, completion: Completion) -> io::Result<()> {
        self.queue.push(write, completion).await
    }

    /// Queues a write and waits until it is durable.
    pub async fn write(&self, write: StoreWrite) -> io::Result<()> {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        self.push(write, Box::new(move |outcome| drop(sender.send(outcome)))).await?;
        receiver.await.unwrap_or_else(|_| Err(io::Error::other("the catalog's writer ended")))
    }

    /// Writes what is queued and closes the database. Blocks.
    pub fn close(&self) {
        self.queue.close();
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
        self.db.lock().take();
    }
}

fn open_error(dir: &Path, error: redb::DatabaseError) -> Error {
    let dir = dir.display();
    match error {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            Error::precondition(format!("the data folder {dir} is in use by another process"))
        }
        redb::DatabaseError::UpgradeRequired(version) => Error::precondition(format!(
            "the data folder {dir} has database format {version}, which this software does not read"
        )),
        other => Error::internal(format!("cannot open the database in the data folder {dir}: {other}")),
    }
}

/// Creates the tables of a new database, or checks that the database belongs to `coordinator`; returns the folder's id.
fn claim(db: &Database, coordinator: u64) -> Result<Result<u64, String>, redb::Error> {
    let txn = begin_durable_write(db)?;
    let id;
    {
        let mut meta = txn.open_table(META)?;
        txn.open_table(LOG)?;
        txn.open_table(ROWS)?;
        match meta_number(&meta, meta_key::FORMAT)? {
            None => {
                id = runtime::random().max(1);
                let rows = [(meta_key::FORMAT, FORMAT), (meta_key::COORDINATOR, coordinator), (meta_key::STORE, id)];
                for (key, value) in rows {
                    meta.insert(key, value.to_le_bytes().as_slice())?;
                }
            }
            Some(FORMAT) => {
                let owner = meta_number(&meta, meta_key::COORDINATOR)?.unwrap_or_default();
                if owner != coordinator {
                    return Ok(Err(format!(
                        "belongs to coordinator {owner}, not to {coordinator}: give its own --data-dir or --id"
                    )));
                }
                id = meta_number(&meta, meta_key::STORE)?.unwrap_or_default();
            }
            Some(format) => {
                return Ok(Err(format!(
                    "has format {format}, this software knows {FORMAT}: use the software that wrote it"
                )));
            }
        }
    }
    txn.commit()?;
    Ok(Ok(id))
}

/// Runs the writer on a thread of its own.
pub fn writer_thread() -> WriterDriver {
    Arc::new(|mut writer| {
        // For the timer of the queue. It must outlive the runtime whose tasks write.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let thread = std::thread::Builder::new().name("catalog-writer".into());
        let run = move || {
            while let Some(batch) = runtime.block_on(writer.next_batch()) {
                writer.commit(batch).complete();
            }
        };
        thread.spawn(run).map(Some)
    })
}

/// The one writer of a database: one commit for each batch.
pub struct StoreWriter {
    db: Arc<Database>,
    data_dir: Arc<dyn DataDir>,
    queue: WriteQueueReceiver,
    on_fatal_error: OnFatalError,
    failed: Option<String>,
}

impl StoreWriter {
    /// The next batch for [`StoreWriter::commit`]; none when the store is closed.
    pub async fn next_batch(&mut self) -> Option<Vec<QueuedWrite>> {
        self.queue.next_batch().await
    }

    /// Commits a batch; after a failure, none. The result must be completed. Blocks.
    pub fn commit(&mut self, batch: Vec<QueuedWrite>) -> CommitOutcome {
        let (writes, completions): (Vec<StoreWrite>, Vec<Completion>) =
            batch.into_iter().map(|QueuedWrite { write, completion, .. }| (write, completion)).unzip();
        if self.failed.is_none()
            && let Err(error) = commit(&self.db, &*self.data_dir, writes)
        {
            let text = format!("the catalog cannot be written, so this coordinator stops: {error}");
            self.queue.close();
            (self.on_fatal_error)(&text);
            self.failed = Some(text);
        }
        CommitOutcome { completions, failed: self.failed.clone() }
    }
}

/// The outcome of a commit, before the writes are completed.
pub struct CommitOutcome {
    completions: Vec<Completion>,
    failed: Option<String>,
}

impl CommitOutcome {
    /// Completes the writes.
    pub fn complete(self) {
        for completion in self.completions {
            completion(self.failed.as_ref().map_or(Ok(()), |text| Err(io::Error::other(text.clone()))));
        }
    }
}

fn commit(db: &Database, data_dir: &dyn DataDir, writes: Vec<StoreWrite>) -> Result<(), redb::Error> {
    if writes.iter().all(|write| matches!(write, StoreWrite::Flush)) {
        return Ok(());
    }
    let txn = begin_durable_write(db)?;
    {
        let mut tables =
            OpenTables { meta: txn.open_table(META)?, log: txn.open_table(LOG)?, rows: txn.open_table(ROWS)? };
        for write in writes {
            tables.write(data_dir, write)?;
        }
    }
    let began = Instant::now();
    txn.commit()?;
    metrics::histogram!("volley_catalog_commit_duration_seconds").record(began.elapsed());
    Ok(())
}

struct OpenTables<'t> {
    meta: Table<'t, &'static str, &'static [u8]>,
    log: Table<'t, u64, &'static [u8]>,
    rows: Table<'t, &'static [u8], &'static [u8]>,
}

impl OpenTables<'_> {
    fn write(&mut self, data_dir: &dyn DataDir, write: StoreWrite) -> Result<(), redb::Error> {
        match write {
            StoreWrite::AppendLog(records) => {
                for (index, record) in records {
                    self.log.insert(index, record.as_slice())?;
                }
            }
            StoreWrite::SaveVote(bytes) => {
                self.meta.insert(meta_key::VOTE, bytes.as_slice())?;
            }
            StoreWrite::TruncateLog(from) => self.log.retain_in(from.., |_, _| false)?,
            StoreWrite::PurgeLog(upto, id) => {
                self.log.retain_in(..=upto, |_, _| false)?;
                self.meta.insert(meta_key::PURGED, id.as_slice())?;
            }
            StoreWrite::ApplyRows(applied) => self.apply(applied)?,
            StoreWrite::InstallSnapshot(file, applied) => self.install(data_dir, &file, applied)?,
            StoreWrite::Flush => {}
        }
        Ok(())
    }

    fn apply(&mut self, applied: AppliedRows) -> Result<(), redb::Error> {
        for change in applied.changes {
            let key = change.key.to_bytes();
            match change.row {
                Some(row) => drop(self.rows.insert(key.as_slice(), row.encode_to_vec().as_slice())?),
                None => drop(self.rows.remove(key.as_slice())?),
            }
        }
        self.meta.insert(meta_key::APPLIED, applied.last_log_id.as_slice())?;
        if let Some(membership) = applied.membership {
            self.meta.insert(meta_key::MEMBERSHIP, membership.as_slice())?;
        }
        Ok(())
    }

    fn install(&mut self, data_dir: &dyn DataDir, file: &Path, applied: AppliedRows) -> Result<(), redb::Error> {
        self.rows.retain(|_, _| false)?;
        for row in snapshot::read_rows(data_dir, file).map_err(redb::Error::Io)? {
            let row = row.map_err(redb::Error::Io)?;
            let Some(key) = key_of(&row) else { continue };
            self.rows.insert(key.to_bytes().as_slice(), row.encode_to_vec().as_slice())?;
        }
        self.apply(applied)
    }
}

/// The key of a row; none for a row of a kind that this software does not know.
fn key_of(row: &Row) -> Option<RowKey> {
    Some(match row.row.as_ref()? {
        row::Row::Cluster(_) => RowKey::Cluster,
        row::Row::Node(node) => RowKey::Node(node.id),
        row::Row::Table(table) => RowKey::Table(table.id),
        row::Row::Part(part) => RowKey::Part { table: part.table, sort_key: sort_key_of(part) },
        row::Row::Write(write) => RowKey::Write(write.id.clone()),
        row::Row::Cancelled(cancelled) => RowKey::Cancelled(cancelled.flight),
        row::Row::Staged(staged) => RowKey::StagedStream { write: staged.write.clone(), index: staged.index },
        row::Row::Layout(layout) => RowKey::Layout { table: layout.table, id: layout.id },
        row::Row::Clock(_) => RowKey::Clock,
        row::Row::User(user) => RowKey::User(user.name.clone()),
        row::Row::Token(token) => RowKey::Token(token.id.clone()),
        row::Row::Grant(grant) => {
            let (to, prefix) = (grant.to.clone(), grant.prefix.clone());
            RowKey::Grant { to, role: grant.role as u32, prefix }
        }
        row::Row::SigningKey(key) => RowKey::SigningKey(key.id.clone()),
        row::Row::Quota(quota) => RowKey::Quota(quota.prefix.clone()),
        row::Row::Identity(_) => RowKey::Identity,
        row::Row::Transaction(transaction) => RowKey::Transaction(transaction.id.clone()),
    })
}
