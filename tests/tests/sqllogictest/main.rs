//! SQL on a cluster of four nodes: the files of `tests/sqllogictest/`, and queries that must have the rows that one process has.
//!
//! | module | what it holds |
//! |---|---|
//! | [`session`] | how the runner of sqllogictest sends statements |
//! | [`single_process`] | DataFusion over the same rows in memory |
//! | [`join_matrix`] | queries over tables of each key type and kind of sharding |
//! | [`key_types`] | the types, and columns of them |
//! | [`datafusion_files`] | DataFusion's own files, compared on request |
//! | [`file_run`] | the statements of one of them, by one process and by the cluster |
//! | [`statement_text`] | what their texts tell before they run |
//! | [`query_answer`] | answers as text, and what differs between two |
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod datafusion_files;
mod file_run;
mod join_matrix;
mod key_types;
mod query_answer;
mod session;
mod single_process;
mod statement_text;

use std::path::{Path, PathBuf};

use session::{RotatingSession, ValueType};
use sqllogictest::{Runner, parse_file, strict_column_validator};
use volley_tests::{ClusterOptions, TestCluster};

/// Beside the manifest of this crate.
const FOLDER: &str = "sqllogictest";

/// Which nodes run a query.
#[derive(Clone, Copy)]
enum QueryNodes {
    /// The one that gets it.
    One,
    /// All, in stages.
    All,
}

/// Four nodes that run each query in several partitions, however few processors there are.
async fn sql_cluster(nodes: QueryNodes) -> TestCluster {
    let distribute_bytes = match nodes {
        QueryNodes::One => u64::MAX,
        QueryNodes::All => 0,
    };
    let distribute_bytes = distribute_bytes.to_string();
    let node_flags = ["--sql-partitions", "3", "--sql-distribute-bytes", &distribute_bytes].map(String::from).to_vec();
    TestCluster::start_with(ClusterOptions { node_flags, ..ClusterOptions::default() }).await
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_statements_have_the_expected_results() {
    run_files(QueryNodes::One).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_statements_have_the_same_results_on_all_nodes() {
    run_files(QueryNodes::All).await;
}

async fn run_files(nodes: QueryNodes) {
    let files = files();
    assert!(!files.is_empty(), "there are files in tests/{FOLDER}");
    let cluster = sql_cluster(nodes).await;
    let mut failures = Vec::new();
    for file in &files {
        failures.extend(run_file(file, &cluster.addresses()).await);
    }
    assert!(failures.is_empty(), "{} records failed:\n\n{}", failures.len(), failures.join("\n\n"));
}

fn files() -> Vec<PathBuf> {
    let entries = Path::new(env!("CARGO_MANIFEST_DIR")).join(FOLDER).read_dir().unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = paths.filter(|path| path.extension().is_some_and(|end| end == "slt")).collect();
    files.sort();
    files
}

/// Runs all records of a file, also after one that failed. Returns what failed.
async fn run_file(file: &Path, addresses: &[String]) -> Vec<String> {
    let mut runner = Runner::new(|| RotatingSession::connect(addresses.to_vec()));
    runner.with_column_validator(strict_column_validator);
    let records = parse_file::<ValueType>(file).unwrap_or_else(|e| panic!("{e}"));
    let mut failures = Vec::new();
    for record in records {
        if let Err(failure) = runner.run_async(record).await {
            failures.push(failure.to_string());
        }
    }
    failures
}
