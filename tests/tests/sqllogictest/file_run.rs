//! The statements of one file of DataFusion, each run by one process and by the cluster.
//!
//! Tables are made by one process. The cluster makes them by the same statement, if it supports it, and must have the same rows
//! then. Afterwards it gets the rows of one process by puts, in several parts, so that all nodes take part in queries; that also
//! makes the tables whose statement the cluster refuses, such as those of CSV files.
//!
//! SQL does not determine every answer: which rows a `LIMIT` selects, the order within `array_agg`, which row of equal ones is first.
//! Where the answers differ, one process is asked once more, with the rows of its tables in the reversed order; if that changes its
//! answer, the query says nothing about the cluster.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use datafusion::common::TableReference;
use datafusion::logical_expr::{DdlStatement, LogicalPlan};
use futures::stream;
use volley_client::Client;
use volley_common::options::{Mode, Options};
use volley_common::partition::is_hashable;
use volley_common::{Code, Error, TableName};

use crate::query_answer::{QueryAnswer, guarded};
use crate::session;
use crate::single_process::SingleProcess;
use crate::statement_text::{first_word, is_ordered, lower_name, quoted, table_text};

const SHARDS: u32 = 4;
/// First words of what is compared. `EXPLAIN`, `SET`, `SHOW`, `DESCRIBE`, `COPY` and the like tell of the engine.
const READS: [&str; 3] = ["SELECT", "VALUES", "WITH"];
const CHANGES: [&str; 3] = ["CREATE", "DROP", "INSERT"];

/// Parts of statements, in lower case, that are left out, and why.
const EXCEPTIONS: [(&str, &str); 13] = [
    ("information_schema", "the catalog is another one"),
    ("datafusion.", "the catalog is another one"),
    ("public.", "the catalog is another one"),
    ("version()", "it names the program"),
    ("input_file_name", "the rows are in other files"),
    ("approx_", "an estimate depends on how rows are divided"),
    ("now()", "the clock goes on"),
    ("create unbounded", "the table has no end"),
    ("/scratch/", "a file that another statement writes"),
    ("first_value(x)", "the first of rows without an order"),
    ("limit 1 offset 1", "some of the rows of a join without an order"),
    ("1 / y", "whether a row is divided by depends on the other rows of its batch"),
    ("grouping sets ((a, b), (a), (b)) order by a, b;", "groups with equal keys have no order"),
];
const REFUSED: &str = "a change that one process refuses";

/// What became of a statement.
pub enum RecordOutcome {
    /// One process and the cluster have the same.
    Compared,
    RefusedByBoth,
    /// The cluster says that it does not support this, and why.
    NotApplicable(String),
    LeftOut(&'static str),
    Different(String),
}

/// One file: its tables here and in the cluster.
pub struct FileRun {
    clients: Vec<Client>,
    calls: usize,
    one: Arc<SingleProcess>,
    /// One process with the rows of each table in the reversed order.
    reversed: Arc<SingleProcess>,
    /// What the locations of files are relative to.
    folder: PathBuf,
    stored: BTreeMap<String, TableName>,
    /// Tables and views that only one process has, in lower case.
    missing: BTreeSet<String>,
    /// Tables of files, which no statement may change.
    external: BTreeSet<String>,
}

impl FileRun {
    pub fn start(clients: &[Client], folder: &Path) -> FileRun {
        FileRun {
            clients: clients.to_vec(),
            calls: 0,
            one: Arc::new(SingleProcess::start()),
            reversed: Arc::new(SingleProcess::start()),
            folder: folder.into(),
            stored: BTreeMap::new(),
            missing: BTreeSet::new(),
            external: BTreeSet::new(),
        }
    }

    pub async fn run(&mut self, sql: &str) -> RecordOutcome {
        let (word, lower) = (first_word(sql), sql.to_lowercase());
        let is_read = READS.contains(&word.as_str());
        if !is_read && !CHANGES.contains(&word.as_str()) {
            return RecordOutcome::LeftOut("settings, plans, descriptions, files, and other changes");
        }
        if let Some(&(_, reason)) = EXCEPTIONS.iter().find(|(part, _)| lower.contains(part)) {
            return RecordOutcome::LeftOut(reason);
        }
        let sql = self.with_folder(sql);
        let (one, text) = (self.one.clone(), sql.clone());
        match guarded(async move { one.plan(&text).await }).await {
            Ok(Ok(LogicalPlan::Ddl(definition))) => self.define(&sql, definition).await,
            Ok(Ok(LogicalPlan::Dml(change))) => self.insert(&sql, &change.table_name).await,
            _ if is_read => self.compare(&sql).await,
            _ => RecordOutcome::LeftOut(REFUSED),
        }
    }

    /// Drops what the cluster has of this file.
    pub async fn end(mut self) {
        for table in std::mem::take(&mut self.stored).into_values() {
            self.drop_stored(&table).await.unwrap();
        }
    }

    async fn define(&mut self, sql: &str, definition: DdlStatement) -> RecordOutcome {
        match definition {
            DdlStatement::CreateMemoryTable(table) => self.make(sql, &table.name, false).await,
            DdlStatement::CreateExternalTable(table) => self.make(sql, &table.name, true).await,
            DdlStatement::DropTable(dropped) => self.drop_table(sql, &dropped.name).await,
            other => {
                let is_done = self.one_process(sql).await.is_ok() && answer(&self.reversed, sql).await.is_ok();
                match other {
                    DdlStatement::CreateView(view) if is_done => self.missing.insert(lower_name(&view.name)),
                    DdlStatement::DropView(view) if is_done => self.missing.remove(&lower_name(&view.name)),
                    _ => false,
                };
                RecordOutcome::LeftOut("views, schemas, catalogs, indexes and functions")
            }
        }
    }

    async fn make(&mut self, sql: &str, name: &TableReference, is_external: bool) -> RecordOutcome {
        if self.one_process(sql).await.is_err() {
            return RecordOutcome::LeftOut(REFUSED);
        }
        self.external.remove(&table_text(name));
        let outcome = if is_external {
            self.external.insert(table_text(name));
            RecordOutcome::LeftOut("a table of files: its rows are put")
        } else if self.reads_missing(sql) {
            RecordOutcome::LeftOut("a table of rows of a view: they are put")
        } else {
            self.change(sql, name).await
        };
        self.store_after(outcome, name).await
    }

    async fn insert(&mut self, sql: &str, name: &TableReference) -> RecordOutcome {
        let table = table_text(name);
        if self.external.contains(&table) || !self.stored.contains_key(&table) || self.reads_missing(sql) {
            return RecordOutcome::LeftOut("a change of a table of files, or with tables that one process alone has");
        }
        if self.one_process(sql).await.is_err() {
            return RecordOutcome::LeftOut(REFUSED);
        }
        let outcome = self.change(sql, name).await;
        self.store_after(outcome, name).await
    }

    async fn drop_table(&mut self, sql: &str, name: &TableReference) -> RecordOutcome {
        if self.one_process(sql).await.is_err() {
            return RecordOutcome::LeftOut(REFUSED);
        }
        // It has the table if the rows could be read.
        let _ = answer(&self.reversed, sql).await;
        self.external.remove(&table_text(name));
        let stored = self.stored.remove(&table_text(name));
        if self.missing.remove(&lower_name(name)) || stored.is_none() {
            // A part of its rows may be there.
            if let Some(table) = stored
                && let Err(error) = self.drop_stored(&table).await
            {
                return refusal(&error);
            }
            return RecordOutcome::LeftOut("a table that one process alone has is dropped");
        }
        match self.update(sql).await {
            Ok(()) => RecordOutcome::Compared,
            Err(error) => {
                self.stored.extend(stored.map(|table| (table_text(name), table)));
                refusal(&error)
            }
        }
    }

    /// Drops a table, if the cluster has it.
    async fn drop_stored(&mut self, table: &TableName) -> Result<(), Error> {
        match self.client().drop_table(table).await {
            Err(error) if error.code != Code::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The cluster carries out what one process has done to a table, and must have the same rows in it.
    async fn change(&mut self, sql: &str, name: &TableReference) -> RecordOutcome {
        match self.update(sql).await {
            Ok(()) => match self.both(&format!("SELECT * FROM {}", quoted(name))).await {
                Err(outcome) => outcome,
                Ok((expected, found)) => {
                    let difference = expected.columns_differ(&found).or_else(|| expected.rows_differ(&found, false));
                    difference.map_or(RecordOutcome::Compared, RecordOutcome::Different)
                }
            },
            Err(error) => refusal(&error),
        }
    }

    async fn compare(&mut self, sql: &str) -> RecordOutcome {
        if self.reads_missing(sql) {
            return RecordOutcome::LeftOut("a view, or a table that the cluster cannot have, is read");
        }
        let (expected, found) = match self.both(sql).await {
            Ok(answers) => answers,
            Err(outcome) => return outcome,
        };
        if let Some(difference) = expected.columns_differ(&found) {
            return RecordOutcome::Different(difference);
        }
        let is_ordered = is_ordered(sql);
        let Some(difference) = expected.rows_differ(&found, is_ordered) else { return RecordOutcome::Compared };
        let Ok(other) = answer(&self.reversed, sql).await else { return RecordOutcome::Different(difference) };
        let has_one_answer = expected.rows_differ(&other, is_ordered).is_none();
        let has_one_count = expected.row_count() == other.row_count();
        if has_one_answer || (has_one_count && expected.row_count() != found.row_count()) {
            return RecordOutcome::Different(difference);
        }
        // `ORDER BY` leaves the order of equal rows open.
        match expected.rows_differ(&other, false).or_else(|| expected.rows_differ(&found, false)) {
            None => RecordOutcome::Compared,
            Some(difference) if expected.rows_differ(&other, false).is_none() => RecordOutcome::Different(difference),
            Some(_) => RecordOutcome::LeftOut("the answer depends on the order of the rows of a table"),
        }
    }

    /// The answers of one process and of the cluster, or what it means that there are not both.
    async fn both(&mut self, sql: &str) -> Result<(QueryAnswer, QueryAnswer), RecordOutcome> {
        let (expected, found) = (self.one_process(sql).await, self.cluster(sql).await);
        Err(match (expected, found) {
            (Ok(expected), Ok(found)) => return Ok((expected, found)),
            (Ok(_), Err(error)) => refusal(&error),
            (Err(_), Err(error)) if !is_fault(error.code) => RecordOutcome::RefusedByBoth,
            (Err(why), _) if why.contains(" panicked") => {
                RecordOutcome::LeftOut("one process panics, or its values have no text")
            }
            (Err(why), found) => {
                let found = found.err().map(|error| format!("{:?} {error}", error.code));
                let found = found.unwrap_or_else(|| "rows".into());
                RecordOutcome::Different(format!("one process: {why}\nthe cluster: {found}"))
            }
        })
    }

    async fn store_after(&mut self, outcome: RecordOutcome, name: &TableReference) -> RecordOutcome {
        match (outcome, self.store(name).await) {
            (different @ RecordOutcome::Different(_), _) => different,
            (outcome, stored) => stored.err().unwrap_or(outcome),
        }
    }

    /// Gives the cluster the rows that one process has, in several parts, and the other process the same in the reversed order.
    async fn store(&mut self, name: &TableReference) -> Result<(), RecordOutcome> {
        let unread = |_: String| RecordOutcome::LeftOut("rows that one process cannot read");
        // Until all rows are stored.
        self.missing.insert(lower_name(name));
        let table = table_text(name).parse::<TableName>().map_err(|error| refusal(&error))?;
        self.stored.insert(table_text(name), table.clone());
        let (rows, turned) = self.rows(name).await.map_err(unread)?;
        let schema = rows.schema();
        self.reversed.replace(name, schema.clone(), vec![turned]).map_err(|error| unread(error.to_string()))?;
        self.drop_stored(&table).await.map_err(|error| refusal(&error))?;
        let key = schema.fields().first().filter(|field| is_hashable(field.data_type()));
        let shard_by = key.map(|field| vec![field.name().clone()]);
        let first = Options { shards: Some(SHARDS), shard_by, ..Options::default() };
        let half = rows.num_rows().div_ceil(2);
        self.put(&table, first, rows.slice(0, half)).await.map_err(|error| refusal(&error))?;
        if half < rows.num_rows() {
            let second = Options { mode: Some(Mode::Append), ..Options::default() };
            let rest = rows.slice(half, rows.num_rows() - half);
            self.put(&table, second, rest).await.map_err(|error| refusal(&error))?;
        }
        self.missing.remove(&lower_name(name));
        Ok(())
    }

    /// The rows of a table, and the same in the reversed order.
    async fn rows(&self, name: &TableReference) -> Result<(RecordBatch, RecordBatch), String> {
        let (one, sql) = (self.one.clone(), format!("SELECT * FROM {}", quoted(name)));
        guarded(async move {
            let (schema, rows) = one.query(&sql).await.map_err(|error| error.to_string())?;
            let rows = concat_batches(&schema, &rows).map_err(|error| error.to_string())?;
            let last_first = UInt64Array::from_iter_values((0..rows.num_rows() as u64).rev());
            let turned = take_record_batch(&rows, &last_first).map_err(|error| error.to_string())?;
            Ok::<_, String>((rows, turned))
        })
        .await?
    }

    async fn put(&mut self, table: &TableName, options: Options, rows: RecordBatch) -> Result<(), Error> {
        let (client, table) = (self.client(), table.clone());
        let put = guarded(async move {
            let schema = rows.schema();
            client.put(&table, &options, schema, stream::iter([Ok(rows)])).await.map(|_| ())
        });
        put.await.unwrap_or_else(|why| Err(Error::internal(why)))
    }

    async fn update(&mut self, sql: &str) -> Result<(), Error> {
        let (client, sql) = (self.client(), sql.to_string());
        let update = guarded(async move { client.execute_update(&sql).await.map(|_| ()) });
        update.await.unwrap_or_else(|why| Err(Error::internal(why)))
    }

    async fn cluster(&mut self, sql: &str) -> Result<QueryAnswer, Error> {
        let (client, sql) = (self.client(), sql.to_string());
        let query = guarded(async move {
            let (schema, rows) = session::query(&client, &sql).await?;
            Ok::<_, Error>(QueryAnswer::new(&schema, &rows))
        });
        query.await.unwrap_or_else(|why| Err(Error::internal(why)))
    }

    async fn one_process(&self, sql: &str) -> Result<QueryAnswer, String> {
        answer(&self.one, sql).await
    }

    /// That of the next member.
    fn client(&mut self) -> Client {
        self.calls += 1;
        self.clients[self.calls % self.clients.len()].clone()
    }

    fn reads_missing(&self, sql: &str) -> bool {
        let mut words = sql.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.any(|word| self.missing.contains(&word.to_lowercase()))
    }

    /// With the location of files independent of the folder of this process.
    fn with_folder(&self, sql: &str) -> String {
        const LOCATION: &str = "LOCATION '";
        let Some((before, mut after)) = sql.split_once(LOCATION) else { return sql.into() };
        if after.starts_with('/') || after.contains("://") {
            return sql.into();
        }
        let mut folder = self.folder.clone();
        while let Some(above) = after.strip_prefix("../") {
            folder.pop();
            after = above;
        }
        format!("{before}{LOCATION}{}/{after}", folder.display())
    }
}

async fn answer(process: &Arc<SingleProcess>, sql: &str) -> Result<QueryAnswer, String> {
    let (process, sql) = (process.clone(), sql.to_string());
    guarded(async move {
        let (schema, rows) = process.query(&sql).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(QueryAnswer::new(&schema, &rows))
    })
    .await?
}

/// What the error of the cluster to a statement means that one process carries out.
fn refusal(error: &Error) -> RecordOutcome {
    if !matches!(error.code, Code::InvalidArgument | Code::Unimplemented) {
        return RecordOutcome::Different(format!("one process has an answer, the cluster: {:?} {error}", error.code));
    }
    let mut is_quoted = false;
    let shown = |c: char| {
        is_quoted ^= c == '"';
        (!is_quoted && !c.is_ascii_digit()).then_some(c)
    };
    // Without names and numbers, so that the same reason has one text.
    let text: String = error.message.chars().filter_map(shown).take(100).collect();
    RecordOutcome::NotApplicable(format!("{:?} {text}", error.code))
}

/// Whether an error is no answer to a wrong statement.
fn is_fault(code: Code) -> bool {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown};
    matches!(code, Aborted | Cancelled | DataLoss | DeadlineExceeded | Internal | Unavailable | Unknown)
}
