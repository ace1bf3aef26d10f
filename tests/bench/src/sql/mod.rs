//! `cargo bench-sql`: the queries of TPC-H on clusters of several sizes, beside DataFusion and DuckDB in one process.
//!
//! | module | what it holds |
//! |---|---|
//! | [`args`] | the command line |
//! | [`queries`], `queries/*.sql` | the queries, with the specification's values for validation |
//! | [`engines`](mod@engines) | DataFusion, DuckDB and clusters, behind one function that runs a query |
//! | [`duckdb`], `python/duckdb_queries.py` | DuckDB over Parquet files, in a process of its own |
//! | [`cluster`] | a cluster with the tables |
//! | [`figures`], [`query_result`] | times, CPU and ratios, as tables and JSON |
//!
//! Every result of a cluster is compared with DataFusion's, row by row.

mod args;
mod cluster;
mod duckdb;
mod engines;
mod figures;
mod queries;
mod query_result;

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use volley_common::clock;
use volley_tests::text_rows::{TextRow, difference, text_rows};
use volley_verify::Project;

pub use self::args::SqlFlags;
use self::cluster::SqlCluster;
use self::duckdb::DuckDb;
use self::engines::{BenchEngine, DataFusionEngine};
use self::figures::{QueryFigures, QuerySeries, SqlReport};
use self::query_result::QueryResult;
use crate::machine::MachineInfo;
use crate::report::write_json;
use crate::tpch::{self, TpchTable};
use crate::{machine, programs};

/// The argument with which this program runs `cargo bench-sql`.
pub const SQL: &str = "sql";
/// Memory to touch before the measurements, for each byte of the tables: the tables here, and in the page cache for each system.
const TOUCH_FACTOR: u64 = 6;

/// Runs the queries of the command line.
///
/// # Errors
/// The build, a system that does not start, or queries that failed or had wrong rows.
pub async fn run(flags: SqlFlags) -> Result<(), String> {
    let queries = queries::chosen(&flags.queries)?;
    let project = Project::find()?;
    let python = programs::build(&project, flags.no_build, false)?;
    let machine = MachineInfo::describe(&project.root);
    println!("{machine}");
    let tables = tpch::tables(flags.scale)?;
    let bytes: u64 = tables.iter().map(TpchTable::bytes).sum();
    println!("TPC-H at scale {}: {:.2} GB", flags.scale, bytes as f64 / 1e9);
    machine::touch((bytes * TOUCH_FACTOR).min(machine::available() / 2));
    let data = flags.data.clone().unwrap_or_else(|| project.target.clone());
    let data = TempDir::with_prefix_in("bench-sql-", &data).map_err(|e| format!("{}: {e}", data.display()))?;
    let mut engines = engines(&flags, &tables, &python, &project, data.path()).await?;

    let out = flags.out.clone().unwrap_or_else(|| default_out(&project));
    let command = std::env::args().skip(1).collect();
    let mut report = SqlReport::new(machine, command, flags.scale, bytes, flags.markdown);
    let mut failures = Vec::new();
    for number in queries {
        let sql = queries::text(number, flags.scale);
        match measure(number, &sql, &mut engines, flags.runs, &mut failures).await {
            Some(figures) => report.add(figures),
            None => println!("\n{}: not measured", queries::name(number)),
        }
        write_json(&report, &out)?;
    }
    println!("\n{}\n\nall figures: {}", report.summary(), out.display());
    match failures.is_empty() {
        true => Ok(()),
        false => Err(format!("{} queries failed:\n{}", failures.len(), failures.join("\n"))),
    }
}

/// The systems of the command line with their tables. DataFusion is the first.
async fn engines(
    flags: &SqlFlags,
    tables: &[TpchTable],
    python: &Path,
    project: &Project,
    data: &Path,
) -> Result<Vec<BenchEngine>, String> {
    let mut engines = vec![BenchEngine::DataFusion(DataFusionEngine::new(tables)?)];
    if !flags.no_duckdb {
        match DuckDb::start(python, &project.root.join("tests/bench/python/duckdb_queries.py"), tables, data).await {
            Ok(duckdb) => engines.push(BenchEngine::DuckDb(Box::new(duckdb))),
            Err(why) => println!("without DuckDB: {why}"),
        }
    }
    for nodes in &flags.nodes {
        let cluster = SqlCluster::start(*nodes, &[], data).await?;
        for table in tables {
            cluster.put(table).await?;
        }
        engines.push(BenchEngine::Volley(Box::new(cluster)));
    }
    Ok(engines)
}

/// The systems take turns in each round; the first round is not measured. None if one of them failed.
async fn measure(
    number: usize,
    sql: &str,
    engines: &mut [BenchEngine],
    runs: usize,
    failures: &mut Vec<String>,
) -> Option<QueryFigures> {
    let mut series: Vec<QuerySeries> = engines.iter().map(|engine| QuerySeries::new(engine.label())).collect();
    let mut expected: Option<Vec<TextRow>> = None;
    for round in 0..=runs {
        for (engine, series) in engines.iter_mut().zip(&mut series) {
            let checked = match engine.run(sql).await {
                Ok(result) => check(&result, &mut expected).map(|()| result),
                Err(why) => Err(why),
            };
            match checked {
                Ok(result) if round > 0 => series.add(&result),
                Ok(_) => {}
                Err(why) => {
                    failures.push(format!("{}, {}: {why}", queries::name(number), engine.label()));
                    return None;
                }
            }
        }
    }
    let rows = expected.map_or(0, |rows| rows.len());
    Some(QueryFigures { query: queries::name(number), rows, series })
}

/// The first result is what those of the clusters are compared with. DuckDB computes decimals by other rules, and is only measured.
fn check(result: &QueryResult, expected: &mut Option<Vec<TextRow>>) -> Result<(), String> {
    let Some(batches) = &result.batches else { return Ok(()) };
    let found = text_rows(batches);
    match expected {
        None => *expected = Some(found),
        Some(expected) => {
            if let Some(difference) = difference(expected, &found) {
                return Err(difference);
            }
        }
    }
    Ok(())
}

fn default_out(project: &Project) -> PathBuf {
    project.target.join(format!("bench/sql-{}.json", clock::now_ms() / 1000))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use volley_tests::wait_for;

    use super::*;

    /// Some 60,000 lines of orders: enough for rows in nearly all results.
    const SCALE: f64 = 0.01;
    const NODES: usize = 4;
    /// Results that may be empty at this scale: those of queries for a few rows of large tables.
    const MAX_EMPTY: usize = 4;
    const SOON: Duration = Duration::from_secs(30);

    /// All nodes share every query, however small its tables are.
    async fn sharing_cluster(tables: &[TpchTable], folder: &Path) -> SqlCluster {
        let flags = ["--sql-distribute-bytes", "0", "--sql-partitions", "2"];
        let cluster = SqlCluster::start(NODES, &flags, folder).await.unwrap();
        for table in tables {
            cluster.put(table).await.unwrap();
        }
        let explain = "EXPLAIN SELECT count(*) FROM orders JOIN lineitem ON o_orderkey = l_orderkey";
        // A node whose engine still starts takes no part.
        wait_for(SOON, "all nodes take part", async || {
            let plan = cluster.run(explain).await.unwrap().batches.unwrap();
            text_rows(&plan).concat().join("\n").contains("t3 on node").then_some(())
        })
        .await;
        cluster
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn tpch_queries_on_all_nodes_have_the_rows_of_datafusion() {
        let (folder, tables) = (tempfile::tempdir().unwrap(), tpch::tables(SCALE).unwrap());
        let cluster = sharing_cluster(&tables, folder.path()).await;
        let single = DataFusionEngine::new(&tables).unwrap();
        let mut engines = [BenchEngine::DataFusion(single), BenchEngine::Volley(Box::new(cluster))];
        let (mut failures, mut empty) = (Vec::new(), 0);
        for number in queries::chosen(&[]).unwrap() {
            let figures = measure(number, &queries::text(number, SCALE), &mut engines, 0, &mut failures).await;
            empty += usize::from(figures.is_some_and(|figures| figures.rows == 0));
        }
        assert!(failures.is_empty(), "{} queries differ:\n{}", failures.len(), failures.join("\n"));
        assert!(empty <= MAX_EMPTY, "{empty} results have no rows");
    }
}
