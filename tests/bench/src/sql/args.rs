//! The command line of `cargo bench-sql`.

use std::path::PathBuf;

use clap::Parser;

/// Runs the queries of TPC-H on clusters of Volley, on DataFusion and on DuckDB, in turn in one run: times and CPU. Every result
/// of a cluster must have the rows that DataFusion has.
#[derive(Parser)]
#[command(name = "cargo bench-sql")]
pub struct SqlFlags {
    /// The scale factor: at 1 the tables have about a GB.
    #[arg(long, default_value_t = 1.0)]
    pub scale: f64,
    /// Queries to run, 1 to 22 [default: all].
    #[arg(long, value_delimiter = ',')]
    pub queries: Vec<usize>,
    /// Measured rounds of each query.
    #[arg(long, default_value_t = 3)]
    pub runs: usize,
    /// Clusters to compare, by their number of nodes; each has one coordinator.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 4])]
    pub nodes: Vec<usize>,
    /// Without DuckDB. It runs if `.venv` has its Python package.
    #[arg(long)]
    pub no_duckdb: bool,
    /// The folder for data [default: the target folder].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The file for the figures, as JSON [default: target/bench/sql-TIME.json, TIME in seconds since 1970].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the tables as Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Use the binaries and `.venv` as they are, without building or installing.
    #[arg(long)]
    pub no_build: bool,
}
