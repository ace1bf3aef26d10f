//! `volley put`: writes files to a table as one write, so as one version.

use std::sync::Arc;
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use serde_json::Value;
use volley_client::{Client, ParallelPut, PutOutcome};
use volley_common::clock;
use volley_common::escape::escape_invisible;
use volley_common::ipc::schema::parse_schema;
use volley_common::options::Options;
use volley_common::{Code, Error, Result, TableName};

use super::versions;
use crate::args::{ModeArg, PutArgs};
use crate::column_list::column_names;
use crate::formats::text::BadRowReport;
use crate::{output, progress, threads};
use inputs::InputFiles;
use type_rules::{KnownTypes, TypeRules};

mod find_files;
mod inputs;
mod manifest;
mod partitions;
mod resume;
mod time_units;
mod type_rules;

/// Columns that a message shows.
const MAX_SHOWN: usize = 50;

/// Bytes of files from which on a put has several streams if the command line does not say it: below, the two calls more cost more
/// than they save.
const PARALLEL_BYTES: u64 = 64 << 20;

/// Puts the files into the table.
pub async fn run(put: &PutArgs, connect: impl AsyncFnOnce() -> Result<Client>, json: bool) -> Result<()> {
    if let Some(manifest) = &put.resume {
        return resume::run(put, manifest, connect, json).await;
    }
    // The files first: these errors do not depend on the cluster.
    let (paths, format, mut rules) = (put.files.clone(), put.format, TypeRules::of(put)?);
    let mut files = on_thread(move || InputFiles::open(&paths, format)).await?;
    files.check_options(put)?;
    let client = connect().await?;
    find_types(put, &client, &files, &mut rules).await?;
    files = on_thread(move || files.with_types(rules)).await?;
    warn_of_notes(&files);
    let types = files.inferred_types();
    let bar = progress::bytes(&put.table.to_string(), files.bytes());
    let started = Instant::now();
    let schema = files.schema();
    let (reader, files) = (bar.clone(), Arc::new(files));
    let read = files.clone();
    let parallel = ParallelPut { streams: streams(put, files.bytes()) };
    let batches = threads::read(move |emit| read.read(&reader, emit));
    let outcome = client.put_parallel(&put.table, &options(put), schema, batches, parallel).await;
    bar.finish_and_clear();
    let outcome = outcome?;
    if let Some(types) = types.filter(|_| !outcome.repeated) {
        eprintln!("{}", escape_invisible(&types));
    }
    if let Some(replicas) = put.replicas {
        warn_of_missing_nodes(replicas, &put.table, &client).await;
    }
    let bad_rows = files.bad_rows();
    warn_of_bad_rows(&bad_rows);
    let seconds = started.elapsed().as_secs_f64();
    let replaced = match put.mode {
        ModeArg::Replace if !outcome.repeated => versions::replaced_by(&client, &put.table, outcome.version).await,
        ModeArg::Replace | ModeArg::Create | ModeArg::Append => None,
    };
    report(&outcome, replaced.as_ref(), &bad_rows, seconds, json)
}

/// Says what looks like a mistake in the files.
fn warn_of_notes(files: &InputFiles) {
    for note in files.notes() {
        eprintln!("volley: {}", escape_invisible(note));
    }
}

/// Says how many rows were skipped, and why the first ones.
fn warn_of_bad_rows(bad_rows: &BadRowReport) {
    if bad_rows.skipped == 0 {
        return;
    }
    let skipped = output::plural(i64::try_from(bad_rows.skipped).unwrap_or(i64::MAX), "bad row");
    eprintln!("volley: skipped {skipped}; the first:");
    for row in &bad_rows.first {
        eprintln!("volley: {}", escape_invisible(&row.error));
    }
}

/// Runs a blocking function. Its thread may wait for a pipe, so the process does not wait for it at its end.
async fn on_thread<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    let (send, result) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || send.send(work()));
    result.await.unwrap_or_else(|_| Err(Error::internal("the thread that reads the files panicked")))
}

/// Completes the rules by the types of the table.
async fn find_types(put: &PutArgs, client: &Client, files: &InputFiles, rules: &mut TypeRules) -> Result<()> {
    if files.have_text() && matches!(rules.known, KnownTypes::None) {
        rules.known = known_types(put, client).await?;
    } else if matches!(put.mode, ModeArg::Append) {
        rules.appended = appended_schema(put, client).await;
    }
    Ok(())
}

/// The types of the table's columns, if it exists and they matter.
async fn known_types(put: &PutArgs, client: &Client) -> Result<KnownTypes> {
    if matches!(put.mode, ModeArg::Create) {
        return Ok(KnownTypes::None);
    }
    match client.info(&put.table, &Options::default()).await {
        Ok(info) if matches!(put.mode, ModeArg::Append) => Ok(KnownTypes::AppendedTable(parse_schema(&info.schema)?)),
        Ok(info) => Ok(KnownTypes::ReplacedTable(parse_schema(&info.schema)?)),
        Err(e) if e.code == Code::NotFound && matches!(put.mode, ModeArg::Replace) => Ok(KnownTypes::None),
        Err(e) if e.code == Code::NotFound => Err(with_mode_remedy(e)),
        Err(e) => Err(e),
    }
}

/// An error about a table to append to that does not exist, with what helps.
fn with_mode_remedy(error: Error) -> Error {
    let remedy = "to put the first rows into a table, give --mode create or --mode replace";
    Error { message: format!("{}; {remedy}", error.message), ..error }
}

/// The schema of the table that is appended to. `None` if it cannot be had: the put itself says why.
async fn appended_schema(put: &PutArgs, client: &Client) -> Option<SchemaRef> {
    let info = client.info(&put.table, &Options::default()).await.ok()?;
    parse_schema(&info.schema).ok()
}

/// Warns if the cluster has fewer nodes than a put requested copies. Best effort: the put itself has succeeded.
pub async fn warn_of_missing_nodes(replicas: u32, table: &TableName, client: &Client) {
    let Ok(status) = client.status().await else { return };
    if let Some(warning) = missing_nodes(replicas, &status) {
        eprintln!("{}", escape_invisible(&format!("volley: table {table}: {warning}")));
    }
}

/// A warning if the cluster has fewer nodes than a table has replicas.
fn missing_nodes(replicas: u32, status: &Value) -> Option<String> {
    let nodes = status["nodes"].as_array()?.len();
    (nodes < replicas as usize).then(|| {
        format!(
            "{replicas} replicas were requested, and the cluster has {}: its health is yellow until more nodes join, or the table is replaced with fewer --replicas",
            output::plural(nodes as i64, "node")
        )
    })
}

/// What a put says whose write an earlier put has committed.
fn repeated_text(outcome: &PutOutcome) -> String {
    format!(
        "{}: already committed: write {} created version {} with {}; nothing was stored now",
        outcome.table,
        outcome.write_id,
        outcome.version,
        output::plural(outcome.rows as i64, "row"),
    )
}

/// What a put says that belongs to a write of several puts.
fn staged_text(outcome: &PutOutcome) -> String {
    let rows = output::plural(outcome.rows as i64, "row");
    format!("{}: {rows} staged; they become visible when write {} is committed", outcome.table, outcome.write_id)
}

/// Prints the outcome, the version that it replaced, and in JSON the rows that were skipped.
fn report(
    outcome: &PutOutcome,
    replaced: Option<&Value>,
    bad_rows: &BadRowReport,
    seconds: f64,
    json: bool,
) -> Result<()> {
    if json {
        let mut value = serde_json::to_value(outcome).map_err(|e| Error::internal(e.to_string()))?;
        if let Some(replaced) = replaced {
            value["replaced"] = replaced.clone();
        }
        if bad_rows.skipped > 0 {
            value["bad_rows"] = serde_json::to_value(bad_rows).map_err(|e| Error::internal(e.to_string()))?;
        }
        return output::json(&value);
    }
    if outcome.repeated {
        return output::line(repeated_text(outcome));
    }
    if outcome.staged {
        return output::line(staged_text(outcome));
    }
    if let Some(replaced) = replaced {
        output::line(versions::replaced_text(&outcome.table, replaced, clock::now_ms()))?;
    }
    output::line(format!(
        "{}: version {}, {}, {} in {}, {seconds:.1} s",
        outcome.table,
        outcome.version,
        output::plural(outcome.rows as i64, "row"),
        output::size(outcome.bytes as i64),
        output::plural(outcome.parts.into(), "part"),
    ))
}

/// How many streams the put has at most. A table without key columns, and a put with a write id, have one in any case.
fn streams(put: &PutArgs, bytes: u64) -> usize {
    match put.streams {
        Some(streams) => streams.into(),
        None if bytes >= PARALLEL_BYTES => ParallelPut::default().streams,
        None => 1,
    }
}

fn options(put: &PutArgs) -> Options {
    Options {
        mode: Some(put.mode.into()),
        shards: put.shards,
        shard_by: column_names(&put.shard_by),
        replicas: put.replicas,
        compression: put.compression.map(Into::into),
        write_id: put.write_id.clone(),
        retention_s: put.retention,
        ttl_s: put.ttl,
        stats_columns: column_names(&put.stats_columns),
        ..Options::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn repeated_put_says_that_it_stored_nothing() {
        let json = json!({ "table": "t", "version": 1, "rows": 1, "bytes": 9, "parts": 1, "write_id": "w1", "repeated": true });
        let outcome: PutOutcome = serde_json::from_value(json).unwrap_or_else(|e| panic!("{e}"));
        let text = repeated_text(&outcome);
        assert_eq!(text, "t: already committed: write w1 created version 1 with 1 row; nothing was stored now");
    }

    #[test]
    fn large_files_are_put_by_several_streams() {
        use clap::Parser;

        let of = |line: &str, bytes: u64| {
            let crate::args::CliCommand::Put(put) = crate::args::Args::parse_from(line.split(' ')).command else {
                panic!("no put")
            };
            streams(&put, bytes)
        };
        assert_eq!(of("volley put a.csv --table t", PARALLEL_BYTES - 1), 1);
        assert_eq!(of("volley put a.csv --table t", PARALLEL_BYTES), 8);
        assert_eq!(of("volley put a.csv --table t --streams 3", 0), 3);
        let resumed = "volley put a.csv --table t --streams 3 --resume m".split(' ');
        assert!(crate::args::Args::try_parse_from(resumed).is_err(), "it has one stream");
    }

    #[test]
    fn append_to_a_missing_table_names_the_other_modes() {
        let error = with_mode_remedy(Error::not_found("there is no table \"t\""));
        assert_eq!(error.code, Code::NotFound);
        assert!(error.message.starts_with("there is no table \"t\"; "), "{error}");
        assert!(error.message.ends_with("give --mode create or --mode replace"), "{error}");
    }

    #[test]
    fn staged_put_says_when_its_rows_become_visible() {
        let json = json!({ "table": "t", "rows": 1, "bytes": 9, "parts": 1, "write_id": "w1", "staged": true });
        let outcome: PutOutcome = serde_json::from_value(json).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(staged_text(&outcome), "t: 1 row staged; they become visible when write w1 is committed");
    }

    #[test]
    fn more_replicas_than_nodes_are_reported() {
        let status = json!({ "nodes": [{}, {}, {}] });
        assert_eq!(missing_nodes(3, &status), None);
        let warning = missing_nodes(4, &status).unwrap_or_default();
        assert!(warning.starts_with("4 replicas were requested, and the cluster has 3 nodes"), "{warning}");
        assert_eq!(missing_nodes(4, &json!({})), None);
    }
}
