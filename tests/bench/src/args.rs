//! The command line.

use std::path::PathBuf;

use clap::Parser;

use crate::systems::SystemKind;

/// Compares Volley with other Flight servers on this machine, in turn in one run: rates, CPU and memory.
#[derive(Parser)]
#[command(name = "cargo bench-flight")]
pub struct BenchFlags {
    /// Cases to run; all if none is named.
    #[arg(value_name = "CASE")]
    pub cases: Vec<String>,
    /// List the cases, and exit.
    #[arg(long)]
    pub list: bool,
    /// GiB of the reference table (64 float64 columns); other tables are smaller.
    #[arg(long, default_value_t = 2.0)]
    pub gib: f64,
    /// Measured rounds of each case.
    #[arg(long, default_value_t = 5)]
    pub runs: usize,
    /// The systems to compare.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = SystemKind::ALL)]
    pub systems: Vec<SystemKind>,
    /// The folder for data [default: the target folder, and for puts also /dev/shm if it has space].
    #[arg(long)]
    pub data: Option<PathBuf>,
    /// The file for the figures, as JSON [default: target/bench/flight-TIME.json, TIME in seconds since 1970].
    #[arg(long)]
    pub out: Option<PathBuf>,
    /// Print the tables as Markdown.
    #[arg(long)]
    pub markdown: bool,
    /// Use the binaries and `.venv` as they are, without building or installing.
    #[arg(long)]
    pub no_build: bool,
    /// Tables of the case `small`.
    #[arg(long, default_value_t = 10_000)]
    pub small: usize,
    /// GB of the table of the case `memory`.
    #[arg(long, default_value_t = 8.0)]
    pub memory_gb: f64,
    /// Flags for every node of Volley, as "--message-bytes 524288".
    #[arg(long, default_value = "", allow_hyphen_values = true)]
    pub node_flags: String,
}
