//! The redb database of a coordinator, and its one writer.
//!
//! Vote, log, rows and what was applied share one database and one ordered queue; the writer commits
//! everything that waits in one transaction, durably, and only then says so. After a failed commit
//! nothing is accepted any more.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;
use prost::Message;
use redb::{Database, Durability, ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};
use volley_common::wire::catalog::{Row, row};
use volley_common::{Error, Result};

use super::files::{self, Disk, Folder};
use super::queue::{Applied, Done, Job, Queue, Waiting};
use super::{runtime, snapshot};
use crate::catalog::RowKey;
use crate::catalog::parts::sort_key_of;

/// The layout that is written; a newer one is refused.
const FORMAT: u64 = 1;
/// redb's cache: the catalog and the log's end are in memory as they are.
const CACHE_BYTES: usize = 64 << 20;
/// Facts about this coordinator, by name.
pub const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
/// Log records by index.
pub const LOG: TableDefinition<u64, &[u8]> = TableDefinition::new("log");
/// The catalog's rows by key.
pub const ROWS: TableDefinition<&[u8], &[u8]> = TableDefinition::new("rows");

/// Told once what went wrong when a commit failed; the default ends the process.
pub type OnFailure = Arc<dyn Fn(&str) + Send + Sync>;

/// Sets a writer going: a thread to wait for at the end, if it is on one.
pub type Drive = Arc<dyn Fn(Writer) -> io::Result<Option<JoinHandle<()>>> + Send + Sync>;

/// A coordinator's durable state.
pub struct Store {
    disk: Arc<dyn Disk>,
    id: u64,
    db: Mutex<Option<Arc<Database>>>,
    queue: Arc<Queue>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

impl Store {
    /// Opens or makes the database in `dir` for the coordinator `coordinator`. Blocks.
    ///
    /// # Errors
    /// If the folder is in use, of another coordinator, of a newer format, or not readable.
    pub fn open(dir: &Path, coordinator: u64, on_failure: OnFailure) -> Result<Arc<Store>> {
        Store::open_on(Arc::new(Folder(dir.to_path_buf())), coordinator, on_failure, &writer_thread())
    }

    /// The same on another disk, with another way to drive the writer.
    pub fn open_on(disk: Arc<dyn Disk>, coordinator: u64, on_failure: OnFailure, drive: &Drive) -> Result<Arc<Store>> {
        files::prepare(&*disk)?;
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        let db = disk.database(&builder).map_err(|e| open_error(disk.dir(), e))?;
        Store::assemble(db, disk, coordinator, on_failure, drive)
    }

    /// On a database that is open already, beside a folder.
    pub fn over(db: Database, dir: &Path, coordinator: u64, on_failure: OnFailure) -> Result<Arc<Store>> {
        Store::assemble(db, Arc::new(Folder(dir.to_path_buf())), coordinator, on_failure, &writer_thread())
    }

    fn assemble(
        db: Database,
        disk: Arc<dyn Disk>,
        coordinator: u64,
        on_failure: OnFailure,
        drive: &Drive,
    ) -> Result<Arc<Store>> {
        let dir = disk.dir();
        let at = |e: redb::Error| Error::internal(format!("the data folder {}: {e}", dir.display()));
        let id = claim(&db, coordinator)
            .map_err(at)?
            .map_err(|why| Error::precondition(format!("the data folder {} {why}", dir.display())))?;
        let db = Arc::new(db);
        let queue = Arc::new(Queue::new());
        let writer = Writer { db: db.clone(), disk: disk.clone(), queue: queue.clone(), on_failure, failed: None };
        let writer = Mutex::new(drive(writer).map_err(|e| io_error(dir, e))?);
        Ok(Arc::new(Store { disk, id, db: Mutex::new(Some(db)), queue, writer }))
    }

    /// The random id that this folder was given when it was made.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The data folder.
    pub fn dir(&self) -> &Path {
        self.disk.dir()
    }

    /// Where the data folder is.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// A consistent view of what is durable.
    pub fn begin_read(&self) -> io::Result<ReadTransaction> {
        let db = self.db.lock().clone().ok_or_else(|| io::Error::other("the catalog's store is closed"))?;
        redb::ReadableDatabase::begin_read(&*db).map_err(io::Error::other)
    }

    /// A fact about this coordinator.
    pub fn meta(&self, key: &str) -> io::Result<Option<Vec<u8>>> {
        read_meta(&self.begin_read()?, key)
    }

    /// Queues a job; `done` is told when it is durable.
    pub async fn push(&self, job: Job, done: Done) -> io::Result<()> {
        self.queue.push(job, done).await
    }

    /// Queues a job and waits until it is durable.
    pub async fn write(&self, job: Job) -> io::Result<()> {
        let (tell, told) = tokio::sync::oneshot::channel();
        self.push(job, Box::new(move |outcome| drop(tell.send(outcome)))).await?;
        told.await.unwrap_or_else(|_| Err(io::Error::other("the catalog's writer ended")))
    }

    /// Writes what waits and closes the database. Blocks.
    pub fn close(&self) {
        self.queue.close("the catalog's store is closed");
        if let Some(writer) = self.writer.lock().take() {
            let _ = writer.join();
        }
        self.db.lock().take();
    }
}

/// A fact about this coordinator, as a transaction sees it.
pub fn read_meta(txn: &ReadTransaction, key: &str) -> io::Result<Option<Vec<u8>>> {
    let table = txn.open_table(META).map_err(io::Error::other)?;
    let value = table.get(key).map_err(io::Error::other)?;
    Ok(value.map(|guard| guard.value().to_vec()))
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

fn io_error(dir: &Path, error: io::Error) -> Error {
    Error::internal(format!("the data folder {}: {error}", dir.display()))
}

/// Makes the tables of a new database, or checks whose it is; answers the folder's id.
fn claim(db: &Database, coordinator: u64) -> Result<Result<u64, String>, redb::Error> {
    let txn = begin(db)?;
    let id;
    {
        let mut meta = txn.open_table(META)?;
        txn.open_table(LOG)?;
        txn.open_table(ROWS)?;
        let number = |table: &Table<&str, &[u8]>, key: &str| -> Result<Option<u64>, redb::Error> {
            let value = table.get(key)?;
            Ok(value.and_then(|v| v.value().try_into().ok().map(u64::from_le_bytes)))
        };
        match number(&meta, "format")? {
            None => {
                id = runtime::random().max(1);
                for (key, value) in [("format", FORMAT), ("coordinator", coordinator), ("store", id)] {
                    meta.insert(key, value.to_le_bytes().as_slice())?;
                }
            }
            Some(FORMAT) => {
                let owner = number(&meta, "coordinator")?.unwrap_or_default();
                if owner != coordinator {
                    return Ok(Err(format!(
                        "belongs to coordinator {owner}, not to {coordinator}: give its own --data-dir or --id"
                    )));
                }
                id = number(&meta, "store")?.unwrap_or_default();
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

fn begin(db: &Database) -> Result<WriteTransaction, redb::Error> {
    let mut txn = db.begin_write()?;
    txn.set_durability(Durability::Immediate)?;
    txn.set_quick_repair(true);
    Ok(txn)
}

/// How a process drives the writer.
pub fn writer_thread() -> Drive {
    Arc::new(|writer| {
        let thread = std::thread::Builder::new().name("catalog-writer".into());
        thread.spawn(move || writer.run()).map(Some)
    })
}

/// The one writer of a database: one commit for everything that waits.
pub struct Writer {
    db: Arc<Database>,
    disk: Arc<dyn Disk>,
    queue: Arc<Queue>,
    on_failure: OnFailure,
    failed: Option<String>,
}

impl Writer {
    /// Writes until the queue is closed. Blocks.
    fn run(mut self) {
        while let Some(batch) = self.queue.take() {
            self.commit(batch).tell();
        }
    }

    /// What [`Writer::commit`] is to write next; none when there will be no more.
    pub async fn next(&self) -> Option<Vec<Waiting>> {
        self.queue.taken().await
    }

    /// Commits jobs together; after a failure none. Who waits is told afterwards. Blocks.
    pub fn commit(&mut self, batch: Vec<Waiting>) -> Committed {
        let (jobs, dones): (Vec<Job>, Vec<Done>) =
            batch.into_iter().map(|Waiting { job, done, .. }| (job, done)).unzip();
        if self.failed.is_none()
            && let Err(error) = commit(&self.db, &*self.disk, jobs)
        {
            let text = format!("the catalog cannot be written, so this coordinator stops: {error}");
            self.queue.close("an earlier write of the catalog failed");
            (self.on_failure)(&text);
            self.failed = Some(text);
        }
        Committed { dones, failed: self.failed.clone() }
    }
}

/// Jobs that were committed, or not.
pub struct Committed {
    dones: Vec<Done>,
    failed: Option<String>,
}

impl Committed {
    /// Tells who waits.
    pub fn tell(self) {
        for done in self.dones {
            done(self.failed.as_ref().map_or(Ok(()), |text| Err(io::Error::other(text.clone()))));
        }
    }
}

fn commit(db: &Database, disk: &dyn Disk, jobs: Vec<Job>) -> Result<(), redb::Error> {
    if jobs.iter().all(|job| matches!(job, Job::Flush)) {
        return Ok(());
    }
    let txn = begin(db)?;
    {
        let mut tables = Tables { meta: txn.open_table(META)?, log: txn.open_table(LOG)?, rows: txn.open_table(ROWS)? };
        for job in jobs {
            tables.write(disk, job)?;
        }
    }
    txn.commit()?;
    Ok(())
}

struct Tables<'t> {
    meta: Table<'t, &'static str, &'static [u8]>,
    log: Table<'t, u64, &'static [u8]>,
    rows: Table<'t, &'static [u8], &'static [u8]>,
}

impl Tables<'_> {
    fn write(&mut self, disk: &dyn Disk, job: Job) -> Result<(), redb::Error> {
        match job {
            Job::Append(records) => {
                for (index, record) in records {
                    self.log.insert(index, record.as_slice())?;
                }
            }
            Job::Vote(bytes) => {
                self.meta.insert("vote", bytes.as_slice())?;
            }
            Job::Truncate(from) => self.log.retain_in(from.., |_, _| false)?,
            Job::Purge(upto, id) => {
                self.log.retain_in(..=upto, |_, _| false)?;
                self.meta.insert("purged", id.as_slice())?;
            }
            Job::Apply(applied) => self.apply(applied)?,
            Job::Install(file, applied) => self.install(disk, &file, applied)?,
            Job::Flush => {}
        }
        Ok(())
    }

    fn apply(&mut self, applied: Applied) -> Result<(), redb::Error> {
        for change in applied.changes {
            let key = change.key.to_bytes();
            match change.row {
                Some(row) => drop(self.rows.insert(key.as_slice(), row.encode_to_vec().as_slice())?),
                None => drop(self.rows.remove(key.as_slice())?),
            }
        }
        self.meta.insert("applied", applied.last.as_slice())?;
        if let Some(membership) = applied.membership {
            self.meta.insert("membership", membership.as_slice())?;
        }
        Ok(())
    }

    fn install(&mut self, disk: &dyn Disk, file: &Path, applied: Applied) -> Result<(), redb::Error> {
        self.rows.retain(|_, _| false)?;
        for row in snapshot::rows(disk, file).map_err(redb::Error::Io)? {
            let row = row.map_err(redb::Error::Io)?;
            let Some(key) = key_of(&row) else { continue };
            self.rows.insert(key.to_bytes().as_slice(), row.encode_to_vec().as_slice())?;
        }
        self.apply(applied)
    }
}

/// Under which key a row stands; none for a row of a kind that this software does not know.
fn key_of(row: &Row) -> Option<RowKey> {
    Some(match row.row.as_ref()? {
        row::Row::Cluster(_) => RowKey::Cluster,
        row::Row::Node(node) => RowKey::Node(node.id),
        row::Row::Table(table) => RowKey::Table(table.id),
        row::Row::Part(part) => RowKey::Part { table: part.table, sort_key: sort_key_of(part) },
        row::Row::Write(write) => RowKey::Write(write.id.clone()),
        row::Row::Cancelled(cancelled) => RowKey::Cancelled(cancelled.flight),
    })
}
