//! The command line of `volley put` and `volley get`.

use std::path::PathBuf;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use volley_common::TableName;
use volley_common::options::{Codec, Mode};

use super::values::{time_to_live, whole};
use crate::column_list::ColumnList;
use crate::formats::text::{ColumnType, OnBadRow};
use crate::formats::{CsvOptions, Format, ascii_character};

#[derive(Debug, clap::Args)]
pub struct PutArgs {
    /// Files, folders with all their files, or quoted patterns as 'data/**/*.parquet', also compressed (.gz, .zst), and URLs (s3://,
    /// gs://, az://, https://); all of them are one write. - is the standard input. Folders named column=value add that column.
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// The table: components joined by /.
    #[arg(long)]
    pub table: TableName,
    /// Columns whose hash determines a row's shard; without them rows keep their order. Separated by commas, or
    /// repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub shard_by: Vec<ColumnList>,
    /// What happens to the table's present rows.
    #[arg(long, value_enum, default_value = "replace")]
    pub mode: ModeArg,
    /// Shards of a new table.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub shards: Option<u32>,
    /// Copies of every part.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u32>)]
    pub replicas: Option<u32>,
    /// Compression at rest and on the wire.
    #[arg(long, value_enum)]
    pub compression: Option<CodecArg>,
    /// How long replaced rows stay readable, in seconds; kept with the table [default: the cluster's].
    #[arg(long, value_name = "SECONDS", allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub retention: Option<u64>,
    /// Drop the table so long after its last write: a whole number with a unit, as in 12h or 30d, or never; kept with the
    /// table.
    #[arg(long, value_name = "DURATION", value_parser = time_to_live)]
    pub ttl: Option<u64>,
    /// Columns of which parts have statistics, by which filters leave out parts and batches; kept with the table [default: the
    /// first 64 with an order].
    #[arg(long, value_name = "COLUMN,...")]
    pub stats_columns: Vec<ColumnList>,
    /// An id for this write: repeated with the same id, it takes effect once.
    #[arg(long)]
    pub write_id: Option<String>,
    /// Streams at most, each to another node, if the table has key columns; with --write-id and --resume there is one [default: 8 for
    /// files of 64 MiB together, else 1].
    #[arg(long, value_name = "N", conflicts_with_all = ["write_id", "resume"], value_parser = clap::value_parser!(u16).range(1..=64))]
    pub streams: Option<u16>,
    /// Put many files in several writes, of which this file keeps a record: started again with the same files, and others, the
    /// put continues where it was interrupted. --mode holds for the first write, the others append.
    #[arg(long, value_name = "MANIFEST", conflicts_with = "write_id")]
    pub resume: Option<PathBuf>,
    /// The files' format, if their extensions do not name it.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The type of a column of CSV or JSON: int64, float64, utf8, bool, date32, decimal(P, S), timestamp(us),
    /// timestamp(us, ZONE), or a type as `volley info` shows it. Repeatable.
    #[arg(long = "type", value_name = "COLUMN=TYPE")]
    pub types: Vec<ColumnType>,
    /// The columns of CSV and JSON: a .json file with "fields" as of create_table or "columns" as of `volley info --json`,
    /// or a Parquet or Arrow file. Without it types are inferred from all rows; an append uses the table's.
    #[arg(long, value_name = "FILE")]
    pub schema: Option<PathBuf>,
    /// Every column of CSV and JSON is text.
    #[arg(long, conflicts_with = "infer_rows")]
    pub all_text: bool,
    /// A cell of CSV that is null, as it is written: '""' is a quoted empty cell. Repeatable [default: an empty cell that
    /// is not quoted].
    #[arg(long = "null", value_name = "CELL", allow_hyphen_values = true)]
    pub nulls: Vec<String>,
    /// Infer types from the first N rows of each file only. The put fails at a later row that does not fit.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub infer_rows: Option<u64>,
    #[command(flatten)]
    pub csv: CsvOptions,
    /// A line of CSV that begins with this character is no row.
    #[arg(long, value_name = "CHARACTER", value_parser = ascii_character, allow_hyphen_values = true)]
    pub comment: Option<u8>,
    /// What happens to a row of CSV or JSON lines that cannot be read: a wrong number of cells, invalid text, or a value that
    /// does not fit a type that is given. Skipped rows are counted, and the first ones shown.
    #[arg(long, value_enum, default_value = "fail")]
    pub on_bad_row: OnBadRow,
}

#[derive(Debug, clap::Args)]
pub struct GetArgs {
    /// The table.
    pub name: TableName,
    /// The file to write; its extension determines the format and the compression, as of .csv.gz. A pipe or a device is written
    /// into, an object of s3://, gs:// or az:// uploaded; - is the standard output. Without it the first rows are shown.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Only these columns, in this order. Separated by commas, or repeated; a name with a comma is quoted: '"a,b",c'.
    #[arg(long, value_name = "COLUMN,...")]
    pub columns: Vec<ColumnList>,
    /// Only rows for which this expression of SQL is true, as in "price > 10 AND kind = 'x'".
    #[arg(long = "where", value_name = "EXPRESSION", allow_hyphen_values = true)]
    pub filter: Option<String>,
    /// Maximum number of rows to fetch [default: all into a file, 20 on the screen].
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub limit: Option<u64>,
    /// This version instead of the newest.
    #[arg(long, allow_negative_numbers = true, value_parser = whole::<u64>)]
    pub version: Option<u64>,
    /// The file's format, if its extension does not name it.
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The text for a null in CSV and TSV; an equal text is quoted [default: empty].
    #[arg(long, value_name = "TEXT")]
    pub null: Option<String>,
    #[command(flatten)]
    pub csv: CsvOptions,
    /// Endpoints fetched at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub streams: u16,
}

/// What a put does to the table's present rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeArg {
    /// The table must not exist.
    Create,
    /// The rows are added after the present ones.
    Append,
    /// The rows replace all present ones.
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
    /// Uncompressed: served without a copy.
    None,
    /// LZ4 frames.
    Lz4,
    /// Zstandard.
    Zstd,
    /// LZ4 for parts that it makes much smaller, none for others.
    Auto,
}

impl From<CodecArg> for Codec {
    fn from(codec: CodecArg) -> Self {
        match codec {
            CodecArg::None => Codec::None,
            CodecArg::Lz4 => Codec::Lz4,
            CodecArg::Zstd => Codec::Zstd,
            CodecArg::Auto => Codec::Auto,
        }
    }
}
