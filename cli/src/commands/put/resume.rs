//! `volley put --resume MANIFEST`: many files in several writes, of which those that are committed are not repeated when the
//! load is started again.

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde::Serialize;
use volley_client::Client;
use volley_common::clock;
use volley_common::escape::escape_invisible;
use volley_common::options::Options;
use volley_common::{Error, Result};

use super::find_files::find_files;
use super::inputs::InputFiles;
use super::manifest::{LoadManifest, NextWrite};
use super::type_rules::{KnownTypes, TypeRules};
use crate::args::{ModeArg, PutArgs};
use crate::formats::text::BadRowReport;
use crate::{output, progress, threads};

/// What a load has done.
#[derive(Debug, Default, Serialize)]
struct LoadReport {
    table: String,
    /// Files that earlier runs have loaded.
    already_loaded: usize,
    files: usize,
    writes: usize,
    rows: u64,
    bytes: u64,
    /// The newest version.
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bad_rows: Option<BadRowReport>,
}

/// Loads the files that the manifest does not have as committed.
pub async fn run(
    put: &PutArgs,
    manifest: &Path,
    connect: impl AsyncFnOnce() -> Result<Client>,
    json: bool,
) -> Result<()> {
    let started = Instant::now();
    let (path, table, paths, format) = (manifest.to_path_buf(), put.table.to_string(), put.files.clone(), put.format);
    let (mode, mut rules) = (put.mode, TypeRules::of(put)?);
    let opened = super::on_thread(move || {
        let manifest = LoadManifest::open(&path, &table)?;
        manifest.check_mode(mode)?;
        let (groups, loaded) = manifest.plan(find_files(&paths)?, clock::now_ms())?;
        let files = groups.iter().flat_map(|group| group.files.iter().cloned()).collect();
        Ok((manifest, groups, loaded, InputFiles::of(files, format)?))
    });
    let (mut manifest, groups, loaded, mut files) = opened.await?;
    let mut report = LoadReport { table: put.table.to_string(), already_loaded: loaded, ..LoadReport::default() };
    if groups.is_empty() {
        return print(&report, started, json);
    }
    files.check_options(put)?;
    let client = connect().await?;
    let known = manifest.schema()?;
    let has_begun = known.is_some();
    match known {
        Some(schema) => rules.known = KnownTypes::ResumedLoad(schema),
        None => super::find_types(put, &client, &files, &mut rules).await?,
    }
    files = super::on_thread(move || files.with_types(rules)).await?;
    super::warn_of_notes(&files);
    if !has_begun {
        manifest.start(put.table.to_string(), put.mode, &files.schema())?;
    }
    if let Some(types) = files.inferred_types() {
        eprintln!("{}", escape_invisible(&types));
    }
    let bar = progress::bytes(&put.table.to_string(), files.bytes());
    let files = Arc::new(files);
    let mut next = 0;
    for group in &groups {
        let range = next..next + group.files.len();
        next = range.end;
        let write = manifest.begin(group)?;
        let (read, reader) = (files.clone(), bar.clone());
        let batches = threads::read(move |emit| read.read_files(range, &reader, emit));
        let outcome = client.put(&put.table, &options(put, &write), files.schema(), batches).await;
        let outcome = outcome.inspect_err(|_| bar.finish_and_clear())?;
        manifest.commit(&write.id)?;
        if outcome.repeated && group.is_changed {
            bar.finish_and_clear();
            return Err(Error::invalid(format!(
                "a file has changed since its write {} was begun, and the table has its former rows: {}",
                write.id,
                group.files.iter().map(|file| file.path.display().to_string()).collect::<Vec<_>>().join(", ")
            )));
        }
        report.files += group.files.len();
        report.writes += 1;
        report.rows += outcome.rows;
        report.bytes += outcome.bytes;
        report.version = Some(outcome.version);
    }
    bar.finish_and_clear();
    let bad_rows = files.bad_rows();
    super::warn_of_bad_rows(&bad_rows);
    if let Some(replicas) = put.replicas {
        super::warn_of_missing_nodes(replicas, &put.table, &client).await;
    }
    report.bad_rows = Some(bad_rows).filter(|bad_rows| bad_rows.skipped > 0);
    print(&report, started, json)
}

/// The options of one write. What belongs to the table is given when it is made.
fn options(put: &PutArgs, write: &NextWrite) -> Options {
    let all = super::options(put);
    let (mode, write_id) = (Some(write.mode.into()), Some(write.id.clone()));
    if write.is_first || matches!(put.mode, ModeArg::Append) {
        return Options { mode, write_id, ..all };
    }
    Options { mode, write_id, ..Options::default() }
}

fn print(report: &LoadReport, started: Instant, json: bool) -> Result<()> {
    if json {
        return output::json(&serde_json::to_value(report).map_err(|e| Error::internal(e.to_string()))?);
    }
    let files = |count: usize| output::plural(count as i64, "file");
    let already = match report.already_loaded {
        0 => String::new(),
        count => format!("; {} loaded before", files(count)),
    };
    let Some(version) = report.version else {
        return output::line(format!("{}: nothing to load{already}", report.table));
    };
    output::line(format!(
        "{}: version {version}, {} with {} in {}, {}, {:.1} s{already}",
        report.table,
        files(report.files),
        output::plural(report.rows as i64, "row"),
        output::plural(report.writes as i64, "write"),
        output::size(report.bytes as i64),
        started.elapsed().as_secs_f64(),
    ))
}
