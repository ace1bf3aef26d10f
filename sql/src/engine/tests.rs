//! The engine over tables in memory.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use futures::TryStreamExt;
use tempfile::TempDir;

use self::memory_source::{MemorySource, MemoryTable, order_tables};
use super::*;
use crate::source::PartScan;
use crate::statement::{QueryKind, TableAt};

mod casts;
mod colocation;
mod large_values;
mod limits;
mod memory_network;
mod memory_source;
mod metadata;
mod plan_size;
mod queries;
mod result_size;
mod stages;
mod unsound;

/// An engine, and the tables of one caller.
struct EngineRig {
    engine: SqlEngine,
    source: Arc<MemorySource>,
    _spill: TempDir,
}

fn config() -> EngineConfig {
    EngineConfig {
        memory_bytes: 64 << 20,
        spill_dir: PathBuf::new(),
        spill_bytes: 64 << 20,
        max_queries: 8,
        max_queries_per_principal: 8,
        partitions: 2,
        timeout: Duration::from_secs(300),
        batch_rows: 1024,
    }
}

/// A statement that reads these tables, each as `NAME` or `NAME@VERSION`.
fn statement(sql: &str, tables: &[&str]) -> QueryStatement {
    let at = |name: &&str| match name.split_once('@') {
        Some((name, version)) => TableAt { name: name.parse().unwrap(), version: Some(version.parse().unwrap()) },
        None => TableAt { name: name.parse().unwrap(), version: None },
    };
    QueryStatement { sql: sql.to_string(), tables: tables.iter().map(at).collect(), kind: QueryKind::Select }
}

impl EngineRig {
    fn new() -> Self {
        Self::with(config(), order_tables())
    }

    fn with(mut config: EngineConfig, tables: Vec<MemoryTable>) -> Self {
        let spill = tempfile::tempdir().unwrap();
        config.spill_dir = spill.path().join("spill");
        let engine = SqlEngine::new(config).unwrap();
        EngineRig { engine, source: Arc::new(MemorySource::new(tables)), _spill: spill }
    }

    async fn prepare(&self, sql: &str, tables: &[&str]) -> Result<PlannedQuery> {
        self.engine.prepare(self.source.clone(), &statement(sql, tables), None, CallerKey::Cluster).await
    }

    async fn start(&self, sql: &str, tables: &[&str]) -> Result<QueryStream> {
        let caller = CallerKey::Principal("alice".into());
        self.engine.start(self.source.clone(), &statement(sql, tables), None, caller).await
    }

    async fn batches(&self, sql: &str, tables: &[&str]) -> Result<Vec<RecordBatch>> {
        self.start(sql, tables).await?.try_collect().await
    }

    /// Each row as text: `1|a|null`.
    async fn rows(&self, sql: &str, tables: &[&str]) -> Vec<String> {
        text(&self.batches(sql, tables).await.unwrap())
    }

    async fn error(&self, sql: &str, tables: &[&str]) -> Error {
        self.batches(sql, tables).await.unwrap_err()
    }

    fn scans(&self) -> Vec<PartScan> {
        std::mem::take(&mut *self.source.scans.lock())
    }
}

fn text(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("null");
    let mut rows = Vec::new();
    for batch in batches {
        let columns = batch.columns().iter().map(|column| ArrayFormatter::try_new(column.as_ref(), &options).unwrap());
        let columns: Vec<ArrayFormatter> = columns.collect();
        rows.extend((0..batch.num_rows()).map(|row| {
            let values: Vec<String> = columns.iter().map(|column| column.value(row).to_string()).collect();
            values.join("|")
        }));
    }
    rows
}
