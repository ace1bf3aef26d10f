//! The command line of `volley sql`.

use std::path::PathBuf;

use crate::formats::Format;

#[derive(Debug, clap::Args)]
pub struct SqlArgs {
    /// The statement; several are separated by semicolons. - reads it from the standard input. Without it, on a terminal,
    /// statements are asked for.
    #[arg(value_name = "TEXT")]
    pub text: Option<String>,
    /// Read the statement from this file; - is the standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with = "text")]
    pub file: Option<PathBuf>,
    /// The file to write the rows to; its extension determines the format. A pipe or a device is written into; - is the
    /// standard output.
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// The rows' format, if the file's extension does not name it; without a file for the standard output [default there: a
    /// table on a terminal, else csv].
    #[arg(long, value_enum)]
    pub format: Option<Format>,
    /// The text for a null in CSV and TSV; an equal text is quoted [default: empty].
    #[arg(long, value_name = "TEXT")]
    pub null: Option<String>,
    /// Show a table of at most this many rows, also if the standard output is no terminal [default on a terminal: 100].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with_all = ["output", "format"])]
    pub rows: Option<u32>,
    /// Endpoints fetched at the same time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=256))]
    pub streams: u16,
}
