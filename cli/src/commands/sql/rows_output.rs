//! Where the rows of a query go: a table of the first ones on the screen, or a file with all.

use std::path::{Path, PathBuf};

use futures::StreamExt;
use volley_client::FetchStream;
use volley_common::{Error, Result};

use super::super::get;
use crate::args::sql::SqlArgs;
use crate::formats::{Format, is_stdout, output_format};
use crate::{output, progress};

/// Rows that a table has at most, if the command line does not say it.
const DEFAULT_ROWS: usize = 100;
const STDOUT: &str = "-";

/// Where rows go.
#[derive(Debug, PartialEq)]
pub enum RowsOutput {
    /// To the screen.
    Table {
        /// The most rows.
        max_rows: usize,
    },
    /// To a file, all of them.
    File {
        /// The file; `-` is the standard output.
        path: PathBuf,
        /// Its format.
        format: Format,
        /// The text for a null in CSV and TSV.
        null: Option<String>,
        /// Whether a line says what was written.
        is_reported: bool,
    },
}

impl RowsOutput {
    /// What the command line selects. `is_terminal`: the standard output is one.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the format is not known, or it is not text and would go to a terminal.
    pub fn new(sql: &SqlArgs, json: bool, is_terminal: bool) -> Result<Self> {
        let file = |path: &Path, format, is_reported| RowsOutput::File {
            path: path.to_path_buf(),
            format,
            null: sql.null.clone(),
            is_reported,
        };
        let found = match (&sql.output, sql.format) {
            (Some(path), format) => file(path, output_format(path, format)?, true),
            (None, Some(format)) => file(Path::new(STDOUT), format, false),
            (None, None) if json => file(Path::new(STDOUT), Format::Jsonl, false),
            (None, None) if sql.rows.is_some() || is_terminal => {
                RowsOutput::Table { max_rows: sql.rows.map_or(DEFAULT_ROWS, |rows| rows as usize) }
            }
            (None, None) => file(Path::new(STDOUT), Format::Csv, false),
        };
        match &found {
            RowsOutput::Table { .. } if sql.null.is_some() => {
                Err(Error::invalid("--null is for CSV and TSV: give --format csv, or a file with -o FILE"))
            }
            RowsOutput::File { path, format, .. } if is_terminal && is_stdout(path) && !format.is_text() => {
                Err(Error::invalid(
                    "this format is not text, and the standard output is a terminal: give a file with -o FILE",
                ))
            }
            RowsOutput::Table { .. } | RowsOutput::File { .. } => Ok(found),
        }
    }
}

/// Shows the first rows as a table, and how many there are. Further ones are not fetched.
///
/// # Errors
/// Those of the fetch. UNIMPLEMENTED: a value has no text.
pub async fn show(mut fetch: FetchStream, max_rows: usize) -> Result<()> {
    let (schema, total) = (fetch.schema.clone(), fetch.info.total_records);
    let (mut batches, mut rows, mut has_more) = (Vec::new(), 0, false);
    while let Some(fetched) = fetch.next().await {
        let batch = fetched?.batch;
        let left = max_rows - rows;
        has_more = batch.num_rows() > left;
        rows += batch.num_rows().min(left);
        batches.push(batch.slice(0, batch.num_rows().min(left)));
        if has_more {
            break;
        }
    }
    drop(fetch);
    get::show(&schema, &batches)?;
    output::line(count_text(rows as i64, has_more, total))
}

/// How many rows there are. `total`: the rows of the FlightInfo; negative if it did not know.
fn count_text(shown: i64, has_more: bool, total: i64) -> String {
    let rows = output::plural(shown, "row");
    match (has_more, total) {
        (false, _) => rows,
        (true, total) if total > shown => {
            format!("the first {rows} of {}; --rows N shows more, -o FILE writes all", output::count(total))
        }
        (true, _) => format!("the first {rows}, and there are more; --rows N shows more, -o FILE writes all"),
    }
}

/// Writes all rows; returns the numbers of rows and bytes. The file is kept only if all arrive.
///
/// # Errors
/// Those of the fetch and of the file.
pub async fn write(fetch: FetchStream, path: &Path, format: Format, null: Option<&str>) -> Result<(u64, u64)> {
    let bar = progress::rows("rows", fetch.info.total_records.max(0) as u64);
    let written = get::write_all(fetch, path, format, null, &bar).await;
    bar.finish_and_clear();
    written
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Args, CliCommand};

    fn selected(line: &str, json: bool, is_terminal: bool) -> Result<RowsOutput> {
        let CliCommand::Sql(sql) = Args::parse_from(line.split(' ')).command else { panic!("not sql") };
        RowsOutput::new(&sql, json, is_terminal)
    }

    fn file(path: &str, format: Format, is_reported: bool) -> RowsOutput {
        RowsOutput::File { path: path.into(), format, null: None, is_reported }
    }

    #[test]
    fn rows_go_to_a_table_on_a_terminal_only() {
        let plain = "volley sql SHOW";
        assert_eq!(selected(plain, false, true), Ok(RowsOutput::Table { max_rows: DEFAULT_ROWS }));
        assert_eq!(selected(plain, false, false), Ok(file("-", Format::Csv, false)));
        assert_eq!(selected(plain, true, true), Ok(file("-", Format::Jsonl, false)));
        assert_eq!(selected("volley sql SHOW --rows 3", false, false), Ok(RowsOutput::Table { max_rows: 3 }));
    }

    #[test]
    fn format_is_that_of_the_flag_or_the_extension() {
        for (words, expected) in [
            ("--format json", file("-", Format::Jsonl, false)),
            ("-o a.parquet", file("a.parquet", Format::Parquet, true)),
            ("-o a.rows --format csv", file("a.rows", Format::Csv, true)),
            ("-o - --format arrow", file("-", Format::Arrow, true)),
        ] {
            assert_eq!(selected(&format!("volley sql SHOW {words}"), false, false), Ok(expected), "{words}");
        }
        for (words, why) in [
            ("--format parquet", "terminal"),
            ("-o - --format arrow", "terminal"),
            ("-o a.x", "--format"),
            ("-o a.parquet --format csv", "another format"),
        ] {
            let error = selected(&format!("volley sql SHOW {words}"), false, true).unwrap_err();
            assert!(error.message.contains(why), "{words}: {error}");
        }
        assert!(selected("volley sql SHOW --null x", false, true).unwrap_err().message.contains("--null"));
    }

    #[test]
    fn count_says_whether_there_are_more() {
        assert_eq!(count_text(1, false, -1), "1 row");
        assert_eq!(count_text(0, false, 0), "0 rows");
        assert!(count_text(100, true, 1_000_000).starts_with("the first 100 rows of 1,000,000; "));
        assert!(count_text(100, true, -1).starts_with("the first 100 rows, and there are more; "));
    }
}
