//! `volley get`: writes a table to a file, which appears when it is complete, or shows its first rows.

use std::path::Path;
use std::time::Instant;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::util::pretty::pretty_format_batches_with_schema;
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use serde_json::json;
use volley_client::{Client, FetchOptions, FetchStream};
use volley_common::escape::escape_invisible;
use volley_common::options::Options;
use volley_common::{Error, Result};

use crate::args::GetArgs;
use crate::column_list::{ColumnList, column_names};
use crate::formats::{self, Format, OutputOptions};
use crate::threads::WriterThread;
use crate::{output, progress};

/// Rows shown without --limit.
const DEFAULT_ROWS: u64 = 20;

/// Fetches the table into the file, or shows its first rows.
pub async fn run(get: &GetArgs, connect: impl AsyncFnOnce() -> Result<Client>, json: bool) -> Result<()> {
    check_file_options(get)?;
    match &get.output {
        Some(path) => {
            let format = formats::output_format(path, get.format)?;
            to_file(&connect().await?, get, path, format, json).await
        }
        None => to_screen(&connect().await?, get, json).await,
    }
}

/// Refuses options that have no effect without a file.
fn check_file_options(get: &GetArgs) -> Result<()> {
    let given = [("--null", get.null.is_some()), ("--format", get.format.is_some())];
    let given = given.into_iter().find(|(_, given)| *given).map(|(option, _)| option);
    match given.or(get.csv.given()).filter(|_| get.output.is_none()) {
        Some(option) => {
            Err(Error::invalid(format!("{option} is for files: give one with -o FILE; -o - is the standard output")))
        }
        None => Ok(()),
    }
}

fn options(get: &GetArgs, limit: Option<u64>) -> Options {
    Options {
        columns: column_names(&get.columns),
        version: get.version,
        filter: get.filter.clone(),
        limit,
        ..Options::default()
    }
}

fn fetch_options(get: &GetArgs) -> FetchOptions {
    FetchOptions { streams: get.streams.into(), ..FetchOptions::default() }
}

/// An error about a missing column, with a hint if two names of `--columns` are one with a comma.
fn with_quote_hint(error: Error, columns: &[ColumnList]) -> Error {
    let lists = columns.iter().filter(|list| list.0.len() > 1).map(|list| list.0.join(","));
    let meant = lists.filter(|_| error.message.contains("has no column")).find(|name| error.message.contains(name));
    match meant {
        Some(name) => {
            let quoted = name.replace('"', "\"\"");
            let hint = format!("a name with a comma is in quotes: --columns '\"{quoted}\"'");
            Error { message: format!("{}; {hint}", error.message), ..error }
        }
        None => error,
    }
}

async fn to_file(client: &Client, get: &GetArgs, path: &Path, format: Format, json: bool) -> Result<()> {
    let started = Instant::now();
    let fetch = client.get(&get.name, &options(get, get.limit), fetch_options(get)).await;
    let fetch = fetch.map_err(|e| with_quote_hint(e, &get.columns))?;
    let bar = progress::rows(&get.name.to_string(), fetch.info.total_records.max(0) as u64);
    let options = OutputOptions { null: get.null.clone(), csv: get.csv.clone(), ..OutputOptions::default() };
    let written = write_file(fetch, path, format, options, &bar).await;
    bar.finish_and_clear();
    let ((rows, bytes), seconds) = (written?, started.elapsed().as_secs_f64());
    let report = if json {
        let table = get.name.to_string();
        json!({ "table": table, "file": path, "rows": rows, "bytes": bytes, "seconds": seconds }).to_string()
    } else {
        let (rows, size) = (output::plural(rows as i64, "row"), output::size(bytes as i64));
        escape_invisible(&format!("{}: {rows} into {} ({size}), {seconds:.1} s", get.name, path.display())).into()
    };
    if formats::is_stdout(path) {
        // The standard output has the table, and nothing else.
        eprintln!("{report}");
        return Ok(());
    }
    output::exact_line(report)
}

/// Writes all batches to the file; returns the numbers of rows and bytes. The file is kept only if the fetch succeeds.
pub async fn write_all(
    fetch: FetchStream,
    path: &Path,
    format: Format,
    null: Option<&str>,
    bar: &ProgressBar,
) -> Result<(u64, u64)> {
    let options = OutputOptions { null: null.map(str::to_string), ..OutputOptions::default() };
    write_file(fetch, path, format, options, bar).await
}

/// As [`write_all`], with all options of the format.
async fn write_file(
    mut fetch: FetchStream,
    path: &Path,
    format: Format,
    options: OutputOptions,
    bar: &ProgressBar,
) -> Result<(u64, u64)> {
    let (target, schema) = (path.to_path_buf(), fetch.schema.clone());
    let writer = WriterThread::start(move || formats::create(&target, format, &schema, &options));
    let mut rows = 0;
    while let Some(fetched) = fetch.next().await {
        let batch = fetched?.batch;
        rows += batch.num_rows() as u64;
        bar.inc(batch.num_rows() as u64);
        if !writer.write(batch).await {
            break;
        }
    }
    Ok((rows, writer.finish().await?))
}

async fn to_screen(client: &Client, get: &GetArgs, json: bool) -> Result<()> {
    let limit = get.limit.unwrap_or(DEFAULT_ROWS);
    let fetch = client.get(&get.name, &options(get, Some(limit)), fetch_options(get)).await;
    let fetch = fetch.map_err(|e| with_quote_hint(e, &get.columns))?;
    let schema = fetch.schema.clone();
    let batches: Vec<RecordBatch> = fetch.map_ok(|fetched| fetched.batch).try_collect().await?;
    print(&schema, &batches, json)?;
    if json {
        return Ok(());
    }
    let shown: u64 = batches.iter().map(|b| b.num_rows() as u64).sum();
    if shown == limit && get.limit.is_none() {
        output::line(format!("the first {shown} rows; --limit N shows more, -o FILE writes all"))?;
    }
    Ok(())
}

/// Prints rows: as a table, or as JSON lines.
///
/// # Errors
/// UNIMPLEMENTED: a value cannot be shown so.
pub fn print(schema: &SchemaRef, batches: &[RecordBatch], json: bool) -> Result<()> {
    if json { rows_as_json(schema, batches) } else { show(schema, batches) }
}

/// Shows rows as a table.
///
/// # Errors
/// UNIMPLEMENTED: a value has no text.
pub fn show(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    let text = pretty_format_batches_with_schema(schema.clone(), batches)
        .map_err(|e| Error::unimplemented(format!("the rows cannot be shown ({e}): use -o FILE")))?;
    output::line(text)
}

fn rows_as_json(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<()> {
    let text = formats::json_lines(schema, batches)
        .map_err(|e| Error::unimplemented(format!("the rows cannot be shown as JSON ({e}): use -o FILE")))?;
    if text.is_empty() { Ok(()) } else { output::exact_line(text.trim_end()) }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[test]
    fn name_with_a_comma_is_shown_in_quotes() {
        let error = || Error::invalid("table \"t\" has no column \"a\"; it has a,b, c");
        let hinted = |columns: &str| with_quote_hint(error(), &[columns.parse().unwrap()]).message;
        assert!(hinted("a,b").ends_with("; a name with a comma is in quotes: --columns '\"a,b\"'"));
        for other in ["a", "a,c", "\"a,b\""] {
            assert_eq!(hinted(other), error().message, "{other}");
        }
    }

    #[test]
    fn options_of_files_need_a_file() {
        let check = |line: &str| {
            let crate::args::CliCommand::Get(get) = crate::args::Args::parse_from(line.split(' ')).command else {
                panic!("no get")
            };
            check_file_options(&get).map_err(|e| e.message)
        };
        assert_eq!(check("volley get t --format csv -o -"), Ok(()));
        for option in ["--format csv", "--null NA", "--delimiter ;", "--no-header", "--encoding utf-16"] {
            let error = check(&format!("volley get t {option}")).unwrap_err();
            assert!(error.starts_with(&option[..6]) && error.contains("-o FILE"), "{error}");
        }
    }
}
