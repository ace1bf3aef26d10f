//! Measures the catalog of a large cluster: memory, snapshots, commits, FlightInfos, heartbeats, rebalancing and repair.
//!
//! `cargo run --release -p volley-coordinator --example catalog_scale`
//!
//! Each stage runs in a process of its own, so that each begins with fresh memory, and works on the data folder that the first one
//! fills by ordinary commands. The figures are printed as a table in Markdown for docs/scale.md, or as JSON (`--json`).
//!
//! | module | what it holds |
//! |---|---|
//! | `model` | nodes, tables and parts of the cluster |
//! | `storage` | stages `fill`, `load`, `install`: the data folder and its snapshots |
//! | `serving` | stage `serve`: FlightInfos, appends, heartbeats |
//! | `scheduling` | stage `schedule`: scans, nodes that join, the loss of a zone |
//! | `finished_writes` | stage `writes`, only by request: what finished writes cost |
//! | `figures` | what is measured, and how it is printed |
#![allow(clippy::print_stdout, clippy::unwrap_used)]

mod figures;
mod finished_writes;
mod model;
mod scheduling;
mod serving;
mod storage;
#[cfg(test)]
mod tests;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use clap::{Parser, ValueEnum};

use figures::{ScaleFigure, markdown};
use model::ScaleModel;

/// Measures the catalog of a large cluster.
#[derive(Clone, Debug, Parser)]
struct ScaleOptions {
    /// Nodes of the cluster, at least 6.
    #[arg(long, default_value_t = 10_000)]
    nodes: u64,
    /// Shards of all tables.
    #[arg(long, default_value_t = 1_000_000)]
    shards: u64,
    /// Parts of all tables.
    #[arg(long, default_value_t = 10_000_000)]
    parts: u64,
    /// Tables; 0: one for each 1,000 shards.
    #[arg(long, default_value_t = 0)]
    tables: u64,
    /// Bytes of the statistics of each part.
    #[arg(long, default_value_t = 0)]
    statistics_bytes: usize,
    /// Selects the ids of the parts.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Prints JSON in place of a table.
    #[arg(long)]
    json: bool,
    /// An empty folder for the catalog, which is kept; else a temporary one.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Runs only this stage in this process, on the folder as the stages before left it.
    #[arg(long, requires = "folder")]
    stage: Option<ScaleStage>,
}

/// A part of the measurement. All but the last one run by default, in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ScaleStage {
    Fill,
    Load,
    Install,
    Serve,
    Schedule,
    Writes,
}

/// The stages that run by default.
const STAGES: [ScaleStage; 5] =
    [ScaleStage::Fill, ScaleStage::Load, ScaleStage::Install, ScaleStage::Serve, ScaleStage::Schedule];

impl fmt::Display for ScaleStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScaleStage::Fill => "fill",
            ScaleStage::Load => "load",
            ScaleStage::Install => "install",
            ScaleStage::Serve => "serve",
            ScaleStage::Schedule => "schedule",
            ScaleStage::Writes => "writes",
        })
    }
}

impl ScaleOptions {
    fn model(&self) -> Result<ScaleModel, String> {
        let model = ScaleModel::new(self.nodes, self.shards, self.parts, self.tables)?;
        Ok(ScaleModel { statistics_bytes: self.statistics_bytes, seed: self.seed, ..model })
    }

    /// The command line of one stage.
    fn arguments(&self, stage: ScaleStage, folder: &Path) -> Vec<String> {
        let numbers = [
            ("--nodes", self.nodes),
            ("--shards", self.shards),
            ("--parts", self.parts),
            ("--tables", self.tables),
            ("--statistics-bytes", self.statistics_bytes as u64),
            ("--seed", self.seed),
        ];
        let numbers = numbers.into_iter().flat_map(|(name, value)| [name.to_string(), value.to_string()]);
        let folder = ["--stage".into(), stage.to_string(), "--folder".into(), folder.display().to_string()];
        numbers.chain(folder).collect()
    }
}

fn main() -> ExitCode {
    let options = ScaleOptions::parse();
    let model = match options.model() {
        Ok(model) => model,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    match (options.stage, &options.folder) {
        (Some(stage), Some(folder)) => {
            for figure in run_here(stage, &model, folder) {
                println!("{}", serde_json::to_string(&figure).unwrap());
            }
            ExitCode::SUCCESS
        }
        _ => run_all(&options),
    }
}

/// Runs a stage in this process.
fn run_here(stage: ScaleStage, model: &ScaleModel, folder: &Path) -> Vec<ScaleFigure> {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    match stage {
        ScaleStage::Fill => runtime.block_on(storage::fill(model, folder)),
        ScaleStage::Load => runtime.block_on(storage::load(model, folder)),
        ScaleStage::Install => runtime.block_on(storage::install(model, folder)),
        ScaleStage::Serve => runtime.block_on(serving::serve(model, folder)),
        ScaleStage::Schedule => scheduling::schedule(model, folder),
        ScaleStage::Writes => runtime.block_on(finished_writes::replace_often(model, folder)),
    }
}

/// Runs all stages, each in a process of its own, and prints their figures. Those before a stage that fails are printed too: what
/// does not work at a size is a result.
fn run_all(options: &ScaleOptions) -> ExitCode {
    let temp = tempfile::TempDir::new().unwrap();
    let folder = options.folder.clone().unwrap_or_else(|| temp.path().to_path_buf());
    std::fs::create_dir_all(&folder).unwrap();
    let (mut figures, mut code) = (Vec::new(), ExitCode::SUCCESS);
    for stage in STAGES {
        eprintln!("stage {stage}");
        let mut program = Command::new(std::env::current_exe().unwrap());
        let output = program.args(options.arguments(stage, &folder)).stderr(Stdio::inherit()).output().unwrap();
        let lines = String::from_utf8(output.stdout).unwrap();
        figures.extend(lines.lines().map(|line| serde_json::from_str::<ScaleFigure>(line).unwrap()));
        if !output.status.success() {
            eprintln!("stage {stage} failed ({}): the stages after it are left out", output.status);
            code = ExitCode::FAILURE;
            break;
        }
    }
    match options.json {
        true => println!("{}", serde_json::to_string_pretty(&figures).unwrap()),
        false => print!("{}", markdown(&figures)),
    }
    code
}
