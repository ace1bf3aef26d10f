//! The command line of the commands that look at tables, copy them, compare them, and measure a cluster with them.

use std::path::PathBuf;

use clap::Subcommand;
use volley_common::TableName;

use super::tables::{CodecArg, ModeArg};
use super::values::{byte_size, prefix, whole};
use crate::column_list::ColumnList;

/// Rows that are shown without -n.
const DEFAULT_ROWS: u32 = 10;
/// Most rows that are shown: they are held in memory.
const MAX_ROWS: i64 = 1_000_000;

#[derive(Debug, Subcommand)]
pub enum TableCommand {
    /// Show the first rows of a table.
    Head(HeadArgs),
    /// Show the last rows of a table whose rows have an order: one without key columns.
    Tail(HeadArgs),
    /// Count the rows of a table, or those for which a condition is true.
    Count(CountArgs),
    /// Show the columns of a table and their types.
    Schema(SchemaArgs),
    /// Show rows of a table that are chosen at random, each with the same probability.
    Sample(SampleArgs),
    /// Show a summary of each column: type, nulls, distinct values, minimum, maximum, mean.
    Describe(DescribeArgs),
    /// Copy a table, also from another cluster. The copy becomes visible as a whole, or not at all.
    Cp(CpArgs),
    /// Compare two tables, or two versions of one: columns, and which rows only one of them has.
    ///
    /// Exit code 0: equal; 1: different; 2: they could not be compared.
    Diff(DiffArgs),
}

#[derive(Debug, clap::Args)]
pub struct HeadArgs {
    /// The table.
    pub name: TableName,
    /// How many rows to show.
    #[arg(short = 'n', long, value_name = "N", default_value_t = DEFAULT_ROWS, value_parser = clap::value_parser!(u32).range(0..=MAX_ROWS))]
    pub rows: u32,
    /// Only these columns, in this order. Separated by commas, or repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub columns: Vec<ColumnList>,
    /// Only rows for which this expression of SQL is true, as in "price > 10 AND kind = 'x'".
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// This version instead of the newest.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub version: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct CountArgs {
    /// The table.
    pub name: TableName,
    /// Only rows for which this expression of SQL is true, as in "price > 10 AND kind = 'x'".
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// This version instead of the newest.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub version: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct SchemaArgs {
    /// The table.
    pub name: TableName,
    /// This version instead of the newest.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub version: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct SampleArgs {
    /// The table.
    pub name: TableName,
    /// How many rows to show.
    #[arg(short = 'n', long, value_name = "N", default_value_t = DEFAULT_ROWS, value_parser = clap::value_parser!(u32).range(0..=MAX_ROWS))]
    pub rows: u32,
    /// Choose the same rows of a version again, until it is compacted [default: another number each time, which is shown].
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub seed: Option<u64>,
    /// Only these columns, in this order. Separated by commas, or repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub columns: Vec<ColumnList>,
    /// This version instead of the newest.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub version: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct DescribeArgs {
    /// The table.
    pub name: TableName,
    /// Only these columns, in this order. Separated by commas, or repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub columns: Vec<ColumnList>,
    /// This version instead of the newest.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub version: Option<u64>,
}

#[derive(Debug, clap::Args)]
pub struct CpArgs {
    /// The table to copy: NAME, or grpc://HOST:PORT/NAME of another cluster.
    #[arg(value_name = "[OTHER_CLUSTER/]TABLE")]
    pub source: String,
    /// The copy, in the cluster of --cluster.
    #[arg(value_name = "TABLE")]
    pub target: TableName,
    /// What happens to the rows of the copy's table.
    #[arg(long, value_enum, default_value = "create")]
    pub mode: ModeArg,
    /// The cluster of the table to copy: the address of a member, or several separated by commas.
    #[arg(long, value_name = "ADDRESS")]
    pub from_cluster: Option<String>,
    /// Log in at the other cluster as this user, with the password in VOLLEY_FROM_PASSWORD or typed at a prompt. Without this and
    /// --from-token-file the token in VOLLEY_FROM_TOKEN, if there is one.
    #[arg(long, value_name = "NAME", conflicts_with = "from_token_file")]
    pub from_user: Option<String>,
    /// Log in at the other cluster with the token in this file.
    #[arg(long, value_name = "FILE")]
    pub from_token_file: Option<PathBuf>,
    /// The CAs that the other cluster's certificates must be signed by (PEM) [default: of grpc+tls:// those of --tls-ca].
    #[arg(long, value_name = "FILE")]
    pub from_tls_ca: Option<PathBuf>,
    /// Copy this version instead of the newest.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub version: Option<u64>,
    /// Only rows for which this expression of SQL is true, as in "price > 10 AND kind = 'x'".
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// Other key columns than those of the table. Separated by commas, or repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub shard_by: Vec<ColumnList>,
    /// Another number of shards than the table's.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub shards: Option<u32>,
    /// Another number of copies of every part than the table's.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub replicas: Option<u32>,
    /// Another compression than the table's.
    #[arg(long, value_enum)]
    pub compression: Option<CodecArg>,
    /// Copy a table that preserves its batches without that: neither its batches nor their app_metadata are kept.
    #[arg(long)]
    pub rows_only: bool,
    /// Streams at most, of the gets and of the puts.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub streams: u16,
}

#[derive(Debug, clap::Args)]
pub struct DiffArgs {
    /// The table.
    #[arg(value_name = "A")]
    pub first: TableName,
    /// The table to compare it with.
    #[arg(value_name = "B", required_unless_present = "versions")]
    pub second: Option<TableName>,
    /// Compare these two versions of one table.
    #[arg(long, num_args = 2, value_names = ["OLD", "NEW"], conflicts_with = "second", allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub versions: Vec<u64>,
    /// Columns that identify a row: rows of one key that differ count as changed [default: the columns of shard_by, if both have
    /// the same]. Separated by commas, or repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub key: Vec<ColumnList>,
    /// Compare only these columns. Separated by commas, or repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub columns: Vec<ColumnList>,
    /// Only rows for which this expression of SQL is true, as in "price > 10 AND kind = 'x'".
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// Endpoints of each table fetched at the same time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub streams: u16,
}

#[derive(Debug, clap::Args)]
pub struct BenchArgs {
    /// Bytes of each put and get: a whole number with a unit, as in 500MB or 2GiB.
    #[arg(long, default_value = "256MB", value_parser = byte_size)]
    pub bytes: u64,
    /// Streams of the parallel puts and gets.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub streams: u16,
    /// Copies of every part [default: the cluster's].
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub replicas: Option<u32>,
    /// The folder of the temporary tables.
    #[arg(long, default_value = "volley_bench", value_parser = prefix)]
    pub prefix: String,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, CliCommand};

    fn parsed(line: &str) -> Result<TableCommand, String> {
        match Args::try_parse_from(line.split(' ')).map_err(|e| e.to_string())?.command {
            CliCommand::Tables(command) => Ok(command),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn two_tables_or_two_versions_are_compared() {
        let TableCommand::Diff(diff) = parsed("volley diff t --versions 3 4").unwrap() else { panic!("not diff") };
        assert_eq!((diff.second, diff.versions), (None, vec![3, 4]));
        let TableCommand::Diff(diff) = parsed("volley diff a b --key x,y").unwrap() else { panic!("not diff") };
        assert_eq!((diff.second.map(|name| name.to_string()), diff.versions.len()), (Some("b".into()), 0));
        assert!(parsed("volley diff a").is_err_and(|e| e.contains("required")));
        assert!(parsed("volley diff a b --versions 3 4").is_err_and(|e| e.contains("--versions")));
        assert!(parsed("volley diff a --versions 3").is_err_and(|e| e.contains("--versions")));
    }

    #[test]
    fn numbers_of_rows_have_a_range() {
        let TableCommand::Tail(tail) = parsed("volley tail a/b -n 3 --version 7").unwrap() else { panic!("not tail") };
        assert_eq!((tail.rows, tail.version), (3, Some(7)));
        for line in ["volley head t -n 1000001", "volley sample t -n many", "volley head t --rows -1"] {
            assert!(parsed(line).is_err(), "{line}");
        }
    }

    #[test]
    fn aliases_are_what_people_type_first() {
        let command = |line: &str| Args::try_parse_from(line.split(' ')).unwrap().command;
        assert!(matches!(command("volley status"), CliCommand::Status));
        assert!(matches!(command("volley tables sales/"), CliCommand::Ls { prefix } if prefix == "sales/"));
    }
}
