//! DataFusion, DuckDB and clusters, behind one function that runs a query.

use std::sync::Arc;
use std::time::Instant;

use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};

use super::cluster::SqlCluster;
use super::duckdb::DuckDb;
use super::query_result::QueryResult;
use crate::measure::cpu_seconds;
use crate::tpch::TpchTable;

/// A system with the tables.
pub enum BenchEngine {
    /// DataFusion in this process, over the tables in memory.
    DataFusion(DataFusionEngine),
    /// DuckDB in its own process, over Parquet files.
    DuckDb(Box<DuckDb>),
    /// A cluster.
    Volley(Box<SqlCluster>),
}

impl BenchEngine {
    /// The name of its line in the report.
    pub fn label(&self) -> String {
        match self {
            BenchEngine::DataFusion(_) => "datafusion".into(),
            BenchEngine::DuckDb(_) => "duckdb".into(),
            BenchEngine::Volley(cluster) => format!("volley{}", cluster.nodes()),
        }
    }

    /// Runs a query and takes all its rows.
    ///
    /// # Errors
    /// The system's.
    pub async fn run(&mut self, sql: &str) -> Result<QueryResult, String> {
        match self {
            BenchEngine::DataFusion(engine) => engine.run(sql).await,
            BenchEngine::DuckDb(duckdb) => duckdb.run(sql).await,
            BenchEngine::Volley(cluster) => cluster.run(sql).await,
        }
    }
}

/// DataFusion over tables in memory, with as many partitions as there are processors.
pub struct DataFusionEngine {
    context: SessionContext,
}

impl DataFusionEngine {
    /// An engine with these tables, whose batches it shares.
    ///
    /// # Errors
    /// DataFusion's.
    pub fn new(tables: &[TpchTable]) -> Result<DataFusionEngine, String> {
        let partitions = std::thread::available_parallelism().map_or(1, usize::from);
        let config = SessionConfig::new()
            .with_target_partitions(partitions)
            .set_bool("datafusion.sql_parser.map_string_types_to_utf8view", false);
        let context = SessionContext::new_with_config(config);
        for table in tables {
            let failed = |e: datafusion::error::DataFusionError| format!("{}: {e}", table.name);
            let mut spread = vec![Vec::new(); partitions];
            for (at, batch) in table.batches.iter().enumerate() {
                spread[at % partitions].push(batch.clone());
            }
            let rows = MemTable::try_new(table.schema.clone(), spread).map_err(failed)?;
            context.register_table(table.name, Arc::new(rows)).map_err(failed)?;
        }
        Ok(DataFusionEngine { context })
    }

    async fn run(&self, sql: &str) -> Result<QueryResult, String> {
        let used = || cpu_seconds(std::process::id()).map_err(|e| e.to_string());
        let (begin, before) = (Instant::now(), used()?);
        let frame = self.context.sql(sql).await.map_err(|e| e.to_string())?;
        let batches = frame.collect().await.map_err(|e| e.to_string())?;
        let seconds = begin.elapsed().as_secs_f64();
        Ok(QueryResult { batches: Some(batches), seconds, cpu: used()? - before })
    }
}
