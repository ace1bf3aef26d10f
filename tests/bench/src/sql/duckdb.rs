//! DuckDB, by its Python package in a process of its own, over Parquet files of the tables.

use std::fs::File;
use std::path::Path;

use parquet::arrow::ArrowWriter;
use parquet::basic::Compression;
use parquet::file::properties::WriterProperties;
use serde_json::json;
use tokio::process::Command;

use super::query_result::QueryResult;
use crate::clients::ClientPipe;
use crate::tpch::TpchTable;

/// A process that runs queries with DuckDB.
pub struct DuckDb {
    pipe: ClientPipe,
}

impl DuckDb {
    /// Writes the tables as Parquet files into a folder below `data`, and starts the process.
    ///
    /// # Errors
    /// The files cannot be written, or Python has no package duckdb.
    pub async fn start(python: &Path, program: &Path, tables: &[TpchTable], data: &Path) -> Result<DuckDb, String> {
        let mut command = Command::new(python);
        command.arg(program);
        let mut pipe = ClientPipe::start(command)?;
        // Before the files are written for nothing.
        pipe.ask(&json!({ "do": "import" }).to_string()).await?;
        let folder = data.join("parquet");
        std::fs::create_dir_all(&folder).map_err(|e| format!("{}: {e}", folder.display()))?;
        for table in tables {
            let path = folder.join(format!("{}.parquet", table.name));
            write(table, &path).map_err(|e| format!("{}: {e}", path.display()))?;
            pipe.ask(&json!({ "do": "table", "name": table.name, "path": path }).to_string()).await?;
        }
        Ok(DuckDb { pipe })
    }

    /// Runs a query. Its rows stay in the process of DuckDB.
    ///
    /// # Errors
    /// DuckDB's.
    pub async fn run(&mut self, sql: &str) -> Result<QueryResult, String> {
        let answer = self.pipe.ask(&json!({ "do": "query", "sql": sql }).to_string()).await?;
        match (answer["seconds"].as_f64(), answer["cpu"].as_f64()) {
            (Some(seconds), Some(cpu)) => Ok(QueryResult { batches: None, seconds, cpu }),
            _ => Err(format!("an answer of DuckDB's process that cannot be read: {answer}")),
        }
    }
}

fn write(table: &TpchTable, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let mut writer = ArrowWriter::try_new(File::create(path)?, table.schema.clone(), Some(properties))?;
    for batch in &table.batches {
        writer.write(batch)?;
    }
    writer.close()?;
    Ok(())
}
