//! `volley put`: writes files to a table as one write, so as one version.

use std::path::{Path, PathBuf};
use std::time::Instant;

use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use indicatif::ProgressBar;
use serde_json::Value;
use volley_common::client::{Client, PutOutcome};
use volley_common::clock;
use volley_common::ipc::conform::conform;
use volley_common::ipc::schema::check_appendable;
use volley_common::options::Options;
use volley_common::{Error, Result};

use super::versions;
use crate::args::{ModeArg, PutArgs, column_names};
use crate::formats::{self, Format};
use crate::threads::{self, Emit};
use crate::{output, progress};

/// The files of a put, after checking that they exist and that their schemas match.
struct InputFiles {
    files: Vec<(PathBuf, Format)>,
    schema: SchemaRef,
    bytes: u64,
}

/// Puts the files into the table.
pub async fn run(put: &PutArgs, connect: impl AsyncFnOnce() -> Result<Client>, json: bool) -> Result<()> {
    let (paths, format, infer_rows) = (put.files.clone(), put.format, put.infer_rows as usize);
    // The files first: their errors do not depend on the cluster.
    let files = tokio::task::spawn_blocking(move || InputFiles::check(&paths, format, infer_rows))
        .await
        .map_err(|_| Error::internal("the thread that checks the files panicked"))??;
    let client = connect().await?;
    let bar = progress::bytes(&put.table.to_string(), files.bytes);
    let started = Instant::now();
    let schema = files.schema.clone();
    let reader = bar.clone();
    let batches = threads::read(move |emit| files.read(&reader, emit));
    let outcome = client.put(&put.table, &options(put), schema, batches).await;
    bar.finish_and_clear();
    let outcome = outcome?;
    let seconds = started.elapsed().as_secs_f64();
    let replaced = match put.mode {
        ModeArg::Replace => versions::replaced_by(&client, &put.table, outcome.version).await,
        ModeArg::Create | ModeArg::Append => None,
    };
    report(&outcome, replaced.as_ref(), seconds, json)
}

/// Prints the outcome and the version that it replaced.
fn report(outcome: &PutOutcome, replaced: Option<&Value>, seconds: f64, json: bool) -> Result<()> {
    if json {
        let mut value = serde_json::to_value(outcome).map_err(|e| Error::internal(e.to_string()))?;
        if let Some(replaced) = replaced {
            value["replaced"] = replaced.clone();
        }
        return output::json(&value);
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

fn options(put: &PutArgs) -> Options {
    Options {
        mode: Some(put.mode.into()),
        shards: put.shards,
        shard_by: column_names(&put.shard_by),
        replicas: put.replicas,
        compression: put.compression.map(Into::into),
        write_id: put.write_id.clone(),
        retention_s: put.retention,
        ..Options::default()
    }
}

impl InputFiles {
    /// Infers or reads the schema of every file and compares them.
    fn check(paths: &[PathBuf], format: Option<Format>, infer_rows: usize) -> Result<InputFiles> {
        let mut files = Vec::with_capacity(paths.len());
        let mut bytes = 0;
        let mut first: Option<(&Path, SchemaRef)> = None;
        for path in paths {
            let format = match format {
                Some(format) => format,
                None => Format::of(path)?,
            };
            let schema = formats::schema(path, format, infer_rows)?;
            bytes += std::fs::metadata(path).map_err(|e| formats::io_error(path, &e))?.len();
            match &first {
                None => first = Some((path, schema)),
                Some((first, expected)) => check_schema(format, expected, &schema)
                    .map_err(|e| e.at(format!("{} does not match {}", path.display(), first.display())))?,
            }
            files.push((path.clone(), format));
        }
        let (_, schema) = first.ok_or_else(|| Error::invalid("no files are given"))?;
        Ok(InputFiles { files, schema, bytes })
    }

    /// Emits every batch of every file, in order.
    fn read(&self, bar: &ProgressBar, emit: &mut Emit<'_>) -> Result<()> {
        for (path, format) in &self.files {
            for batch in formats::open(path, *format, self.schema.clone(), bar.clone())? {
                let batch = batch.map_err(|e| read_error(path, *format, e))?;
                // The metadata may differ from the first file's, and types may be narrower.
                emit(conform(&batch, &self.schema).map_err(|e| e.at(path.display()))?)?;
            }
        }
        Ok(())
    }
}

/// An error of reading rows; for text formats with a note about the types.
fn read_error(path: &Path, format: Format, error: ArrowError) -> Error {
    let mut error = formats::file_error(path, error);
    if matches!(format, Format::Csv | Format::Tsv | Format::Jsonl) {
        error.message +=
            " (types are inferred from the first rows of the first file: use --infer-rows for more of them)";
    }
    error
}

/// Checks a file's schema against the first file's. Text is parsed with the first file's types, so only the column names
/// must agree.
fn check_schema(format: Format, expected: &SchemaRef, schema: &SchemaRef) -> Result<()> {
    match format {
        Format::Csv | Format::Tsv => check_same_names(expected, schema),
        Format::Jsonl => check_known_names(expected, schema),
        _ => check_appendable(expected, schema),
    }
}

fn check_same_names(expected: &SchemaRef, schema: &SchemaRef) -> Result<()> {
    for (index, field) in expected.fields().iter().enumerate() {
        match schema.fields().get(index) {
            Some(other) if other.name() == field.name() => {}
            Some(other) => {
                let (other, field) = (other.name(), field.name());
                return Err(Error::invalid(format!("column {} is {other:?} instead of {field:?}", index + 1)));
            }
            None => return Err(Error::invalid(format!("the column {:?} is missing", field.name()))),
        }
    }
    match schema.fields().get(expected.fields().len()) {
        Some(extra) => Err(Error::invalid(format!("the column {:?} is not in the first file", extra.name()))),
        None => Ok(()),
    }
}

fn check_known_names(expected: &SchemaRef, schema: &SchemaRef) -> Result<()> {
    match schema.fields().iter().find(|field| expected.field_with_name(field.name()).is_err()) {
        Some(extra) => Err(Error::invalid(format!("the key {:?} is not in the first file", extra.name()))),
        None => Ok(()),
    }
}
