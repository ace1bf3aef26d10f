//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use volley_common::TableName;
use volley_common::options::{Codec, Mode};

use crate::formats::Format;

/// Arrow tables in a cluster: put with one call, fetched in parallel.
#[derive(Debug, Parser)]
#[command(name = "volley", version, about)]
pub struct Args {
    /// A member of the cluster: grpc://HOST:PORT.
    #[arg(long, env = "VOLLEY_CLUSTER", global = true, default_value = "grpc://127.0.0.1:8815")]
    pub cluster: String,
    /// Print JSON for machines instead of tables for people.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a whole cluster in this process, for development.
    Dev(Dev),
    /// Put real data into a cluster of three nodes, fetch it in parallel, stop a node, fetch it again.
    Demo(Demo),
    /// Put files into a table: Parquet, CSV, Arrow IPC, JSON lines.
    Put(Put),
    /// Fetch a table into a file, or show its first rows.
    Get(Get),
    /// List the tables.
    Ls {
        /// Only those whose names begin so.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Show a table's schema, size and endpoints, or its versions.
    Info {
        /// The table.
        name: TableName,
        /// List the versions that can be read now.
        #[arg(long)]
        versions: bool,
    },
    /// Show where a table's shards are, where they should be, and why not yet.
    Explain {
        /// The table.
        name: TableName,
        /// All shards, not only those that lack something.
        #[arg(long)]
        all: bool,
    },
    /// Drop a table.
    Drop {
        /// The table.
        name: TableName,
    },
    /// Show the cluster's figures.
    Stats,
    /// Show how the cluster is.
    #[command(subcommand)]
    Cluster(Cluster),
    /// List the nodes.
    Nodes,
    /// Dial every address that a client from here would be sent to, and say what is wrong and what to set.
    ///
    /// Ends with 0 if all is well, 3 if something is wrong, 1 if the cluster cannot be asked.
    Doctor,
    /// Say whether the server beside this process is ready; ends with 0 if it is.
    Health {
        /// Its HTTP port, HOST:PORT [default: VOLLEY_HTTP_LISTEN, else 127.0.0.1:8835 or 8836].
        #[arg(long)]
        http: Option<String>,
    },
    /// Have a node's parts copied elsewhere, and wait until it can leave. Readers and writers notice nothing.
    Drain(Drain),
    /// Forget a node that is drained or dead; refused while something would be lost.
    Remove {
        /// Its id, at least 4 of its first digits, or its HOST:PORT.
        node: String,
    },
    /// List the coordinators, or change who they are while they run.
    Coordinators {
        #[command(subcommand)]
        change: Option<CoordinatorChange>,
    },
}

#[derive(Debug, Subcommand)]
pub enum Cluster {
    /// Show the members and whether every part has its copies: green (all), yellow (fewer), red (something cannot be
    /// read, or there is no leader). Ends with 0 if green or yellow, 3 if red, 1 if nobody could say.
    Status,
}

#[derive(Debug, clap::Args)]
pub struct Drain {
    /// Its id, at least 4 of its first digits, or its HOST:PORT.
    pub node: String,
    /// Take the drain back: the node takes parts again.
    #[arg(long, conflicts_with = "no_wait")]
    pub cancel: bool,
    /// Only begin it.
    #[arg(long)]
    pub no_wait: bool,
}

#[derive(Debug, Subcommand)]
pub enum CoordinatorChange {
    /// Take in a coordinator that was started to join.
    Add {
        /// Its id and its peer port.
        #[arg(value_name = "ID=HOST:PORT", value_parser = new_coordinator)]
        coordinator: NewCoordinator,
    },
    /// Take one out; a majority of the others must be up.
    Remove {
        /// Its id.
        id: u64,
    },
}

/// A coordinator that is to join.
#[derive(Clone, Debug)]
pub struct NewCoordinator {
    /// Its id.
    pub id: u64,
    /// HOST:PORT of its peer port.
    pub peer: String,
}

#[derive(Debug, clap::Args)]
pub struct Dev {
    /// Nodes to run.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub nodes: u16,
    /// Coordinators to run: 1, 3 or 5.
    #[arg(long, default_value_t = 1, value_parser = odd)]
    pub coordinators: u16,
    /// The Flight port of the first coordinator; 0 picks a free one.
    #[arg(long, default_value_t = 8815)]
    pub port: u16,
    /// Keep the tables here; without it they go to a temporary folder that is removed at the end.
    #[arg(long)]
    pub data_dir: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub struct Demo {
    /// TPC-H scale factor: 1 is 6 million rows.
    #[arg(long, default_value_t = 1.0, value_parser = scale)]
    pub scale: f64,
    /// Leave the cluster running at the end, until Ctrl-C.
    #[arg(long)]
    pub keep: bool,
}

#[derive(Debug, clap::Args)]
pub struct Put {
    /// Files; all of them together are one write.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The table: components joined by /.
    #[arg(long)]
    pub table: TableName,
    /// Columns whose hash decides a row's shard; without them rows stay in order.
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    pub shard_by: Option<Vec<String>>,
    /// What becomes of the rows that are there.
    #[arg(long, value_enum, default_value = "replace")]
    pub mode: ModeArg,
    /// Shards of a new table.
    #[arg(long)]
    pub shards: Option<u32>,
    /// Copies of every part.
    #[arg(long)]
    pub replicas: Option<u32>,
    /// Compression at rest and on the wire.
    #[arg(long, value_enum)]
    pub compression: Option<CodecArg>,
    /// A name for this write: repeated under it, it takes effect once.
    #[arg(long)]
    pub write_id: Option<String>,
    /// The files' format, where their extensions do not say it.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Rows of CSV and JSON from which the columns' types are inferred.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..))]
    pub infer_rows: u32,
}

#[derive(Debug, clap::Args)]
pub struct Get {
    /// The table.
    pub name: TableName,
    /// Where to write it; the extension decides the format. Without it the first rows are shown.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only these columns, in this order.
    #[arg(long, value_delimiter = ',', value_name = "COLUMN")]
    pub columns: Option<Vec<String>>,
    /// At most so many rows [default: all into a file, 20 on the screen].
    #[arg(long)]
    pub limit: Option<u64>,
    /// This version instead of the newest.
    #[arg(long)]
    pub version: Option<u64>,
    /// The file's format, where its extension does not say it.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// Endpoints fetched at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub streams: u16,
}

/// What a put does to the rows that are there.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum ModeArg {
    /// The table must not exist.
    Create,
    /// The rows come after those that are there.
    Append,
    /// The table is afterwards just what is put.
    Replace,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Create => Mode::Create,
            ModeArg::Append => Mode::Append,
            ModeArg::Replace => Mode::Replace,
        }
    }
}

/// Compression of record batches.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum CodecArg {
    /// As they are: served without a copy.
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
}

impl From<CodecArg> for Codec {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::None => Codec::None,
            CodecArg::Lz4 => Codec::Lz4,
            CodecArg::Zstd => Codec::Zstd,
        }
    }
}

fn new_coordinator(text: &str) -> Result<NewCoordinator, String> {
    let pair = text.split_once('=').and_then(|(id, peer)| Some((id.parse().ok()?, peer)));
    match pair {
        Some((id, peer)) if peer.contains(':') => Ok(NewCoordinator { id, peer: peer.to_string() }),
        _ => Err("must be ID=HOST:PORT, as in 4=10.0.0.4:8825".into()),
    }
}

fn odd(text: &str) -> Result<u16, String> {
    match text.parse() {
        Ok(n @ (1 | 3 | 5)) => Ok(n),
        _ => Err("must be 1, 3 or 5, so that a majority can be had".into()),
    }
}

fn scale(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(n) if (0.001..=1000.0).contains(&n) => Ok(n),
        _ => Err("must be a number from 0.001 to 1000".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn error(line: &str) -> String {
        Args::try_parse_from(line.split(' ')).expect_err(line).to_string()
    }

    #[test]
    fn the_definitions_are_sound() {
        Args::command().debug_assert();
    }

    #[test]
    fn mistakes_name_the_argument() {
        assert!(error("volley put --table t").contains("<FILE>"));
        assert!(error("volley put a.csv").contains("--table"));
        assert!(error("volley put a.csv --table a//b").contains("empty component"));
        assert!(error("volley put a.csv --table t --mode upsert").contains("--mode"));
        assert!(error("volley get").contains("<NAME>"));
        assert!(error("volley dev --coordinators 2").contains("1, 3 or 5"));
        assert!(error("volley dev --nodes 0").contains("--nodes"));
        assert!(error("volley demo --scale 0").contains("--scale"));
        assert!(error("volley frobnicate").contains("frobnicate"));
        assert!(error("volley drain").contains("<NODE>"));
        assert!(error("volley drain abcd --cancel --no-wait").contains("--no-wait"));
        assert!(error("volley coordinators add h:8825").contains("ID=HOST:PORT"));
        assert!(error("volley coordinators remove four").contains("four"));
    }

    #[test]
    fn lists_are_split_at_commas() {
        let args = Args::try_parse_from(["volley", "put", "a", "b", "--table", "t", "--shard-by", "x,y"]).unwrap();
        let Command::Put(put) = args.command else { panic!("not put") };
        assert_eq!(put.shard_by, Some(vec!["x".into(), "y".into()]));
        assert_eq!(put.files.len(), 2);
    }
}
