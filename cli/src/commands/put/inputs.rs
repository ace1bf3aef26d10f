//! The files of a put: which schema all of them have, and their rows under it.

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use indicatif::ProgressBar;
use volley_common::ipc::conform::conform_split;
use volley_common::ipc::schema::{check_appendable, project};
use volley_common::{Error, Result};

use super::MAX_SHOWN;
use super::find_files::{PartitionedFile, find_files};
use super::partitions::Partitions;
use super::time_units::check_times;
use super::type_rules::{KnownTypes, TypeRules, ValueHints};
use crate::args::PutArgs;
use crate::formats::text::{self, BadRowReport, BadRows, FieldStats, OnBadRow, TextOptions};
use crate::formats::{self, Format, InputFile, Int96Needs, ReadProgress};
use crate::threads::Emit;

/// The files of a put.
pub struct InputFiles {
    files: Vec<InputFile>,
    /// The columns that their folders add.
    partitions: Partitions,
    schema: SchemaRef,
    /// The columns that the files have themselves.
    file_schema: SchemaRef,
    options: TextOptions,
    hints: ValueHints,
    /// Whether a type of the schema was inferred.
    inferred: bool,
    /// What looks like a mistake and may be none.
    notes: Vec<String>,
    /// The table that files with types are appended to.
    appended: Option<SchemaRef>,
}

impl InputFiles {
    /// Opens the files that paths, folders and patterns name; what cannot be read twice is copied.
    pub fn open(paths: &[PathBuf], format: Option<Format>) -> Result<InputFiles> {
        InputFiles::of(find_files(paths)?, format)
    }

    /// Opens files.
    pub fn of(found: Vec<PartitionedFile>, format: Option<Format>) -> Result<InputFiles> {
        let files = found.iter().map(|file| formats::input_file(&file.path, format)).collect::<Result<Vec<_>>>()?;
        let partitions = Partitions::of(found)?;
        let (schema, options) = (Arc::new(Schema::empty()), TextOptions::default());
        let (file_schema, notes) = (schema.clone(), Vec::new());
        let (hints, inferred, appended) = (ValueHints::default(), false, None);
        Ok(InputFiles { files, partitions, schema, file_schema, options, hints, inferred, notes, appended })
    }

    /// Whether types of text are needed.
    pub fn have_text(&self) -> bool {
        self.files.iter().any(|file| file.format.is_text())
    }

    /// Refuses options that have no effect on these files.
    pub fn check_options(&self, put: &PutArgs) -> Result<()> {
        let types = [("--type", !put.types.is_empty()), ("--schema", put.schema.is_some())];
        let text = [
            ("--all-text", put.all_text),
            ("--infer-rows", put.infer_rows.is_some()),
            ("--on-bad-row", put.on_bad_row == OnBadRow::Skip),
        ];
        let csv = [("--null", !put.nulls.is_empty()), ("--comment", put.comment.is_some())];
        let given = |options: &[(&'static str, bool)]| options.iter().find(|(_, given)| *given).map(|(name, _)| *name);
        let is_csv = |file: &&InputFile| matches!(file.format, Format::Csv | Format::Tsv);
        let mut csv_files = self.files.iter().filter(is_csv).peekable();
        let has_csv = csv_files.peek().is_some();
        let has_text = self.have_text();
        for (option, formats, usable) in [
            (given(&types), "CSV and JSON", has_text || !self.partitions.is_empty()),
            (given(&text), "CSV and JSON", has_text),
            (given(&csv).or(put.csv.given()), "CSV", has_csv),
        ] {
            if let Some(option) = option.filter(|_| !usable) {
                return Err(Error::invalid(format!("{option} is for {formats}, and no file is that")));
            }
        }
        csv_files.try_for_each(|file| put.csv.check(file.format, put.comment).map_err(Error::invalid))
    }

    /// Determines the one schema of all files.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the file whose columns differ, or the line that is no row.
    pub fn with_types(mut self, mut rules: TypeRules) -> Result<InputFiles> {
        self.share_int96(rules.all_columns().or(rules.appended.as_ref()))?;
        let added = self.partitions.fields(|name, inferred| rules.added_field(name, inferred));
        if rules.all_columns().is_none() {
            self.appended = rules.appended.clone();
        }
        if let Some((file, typed)) = self.typed_schema()? {
            let typed = self.partitions.extend(&typed, &added).map_err(|e| e.at(file.path.display()))?;
            let typed = match &rules.appended {
                Some(table) => Arc::new(in_order_of(&typed, table)),
                None => typed,
            };
            match rules.all_columns() {
                Some(known) => check_appendable(known, &in_order_of(&typed, known)).map_err(|e| {
                    let mut error = e.at(file.path.display());
                    error.message += rules.hint();
                    error
                })?,
                None => {
                    rules.check_appended(&typed).map_err(|e| e.at(file.path.display()))?;
                    rules.known = KnownTypes::OtherFiles(typed);
                }
            }
        }
        rules.name_columns(&self.partitions)?;
        rules.check_inference_options()?;
        self.schema = match rules.all_columns() {
            Some(schema) => rules.with_named_types(schema.as_ref().clone())?,
            None => {
                self.inferred = true;
                let stats = self.infer(&rules.text)?;
                let columns: Vec<&str> = stats.columns().map(|(name, _)| name).collect();
                let notes = [self.delimiter_note(&columns, &rules.text), rules.inference_note(&columns)];
                self.notes = notes.into_iter().flatten().collect();
                let fields: Vec<FieldRef> =
                    stats.columns().map(|(name, column)| rules.field(name, column.data_type())).collect();
                let schema = self.partitions.extend(&Schema::new(fields), &added)?;
                rules.with_named_types(schema.as_ref().clone())?
            }
        };
        self.partitions.resolve(&self.schema)?;
        self.file_schema = self.partitions.without(&self.schema);
        for file in self.files.iter().filter(|file| file.format.is_text()) {
            text::check(file, &self.file_schema, &rules.text)?;
        }
        self.hints = rules.value_hints(&self.schema);
        self.options = rules.text;
        Ok(self)
    }

    /// Decides the units of INT96 columns by the values of all files and by the table that they are appended to.
    fn share_int96(&mut self, table: Option<&SchemaRef>) -> Result<()> {
        let mut needs = Int96Needs::default();
        for file in &self.files {
            needs.merge(&formats::int96_needs(file)?);
        }
        if let Some(table) = table {
            needs.prefer(table);
        }
        let needs = Arc::new(needs);
        self.files.iter_mut().for_each(|file| file.int96 = Some(needs.clone()));
        Ok(())
    }

    /// The first file that has a schema, with it. Those of all such files must agree, with their columns in any order.
    fn typed_schema(&self) -> Result<Option<(&InputFile, SchemaRef)>> {
        let mut first: Option<(&InputFile, SchemaRef)> = None;
        for file in self.files.iter().filter(|file| !file.format.is_text()) {
            let schema = formats::schema(file)?;
            match &first {
                None => first = Some((file, schema)),
                Some((first, expected)) => check_appendable(expected, &in_order_of(&schema, expected))
                    .map_err(|e| e.at(format!("{} does not match {}", file.path.display(), first.path.display())))?,
            }
        }
        Ok(first)
    }

    /// Infers from all files, several at a time; each large one by its share of the processors.
    fn infer(&self, options: &TextOptions) -> Result<FieldStats> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.files.len().div_ceil(threads).max(1);
        let large = self.files.iter().filter(|file| text::is_large(file)).count();
        let of_each = threads.div_ceil(large.max(1));
        let results: Vec<Result<FieldStats>> = std::thread::scope(|scope| {
            let infer = |files: &[InputFile]| {
                files.iter().map(|file| text::infer_parallel(file, options, of_each)).collect::<Vec<_>>()
            };
            let threads: Vec<_> = self.files.chunks(share).map(|files| scope.spawn(move || infer(files))).collect();
            let panicked = |_| vec![Err(Error::internal("the thread that infers types panicked"))];
            threads.into_iter().flat_map(|thread| thread.join().unwrap_or_else(panicked)).collect()
        });
        let mut all = FieldStats::default();
        let mut header: Option<Schema> = None;
        for (file, stats) in self.files.iter().zip(results) {
            let stats = stats?;
            if file.format != Format::Jsonl {
                match &header {
                    None => header = Some(names(&stats)),
                    Some(header) => text::check(file, header, options)?,
                }
            }
            all.merge(&stats);
        }
        Ok(all)
    }

    /// A note if the only column of CSV is named as several are in CSV with another delimiter.
    fn delimiter_note(&self, columns: &[&str], options: &TextOptions) -> Option<String> {
        let file = self.files.iter().find(|file| file.format == Format::Csv)?;
        let ([name], None) = (columns, options.csv.delimiter) else { return None };
        let (shown, given) = match name {
            name if name.contains(';') => (";", "';'"),
            name if name.contains('\t') => ("a tab", "tab"),
            _ => return None,
        };
        Some(format!(
            "{}: its only column is {name:?}: if {shown} separates its columns, give --delimiter {given}",
            file.path.display()
        ))
    }

    /// What looks like a mistake and may be none.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// The schema of all rows.
    pub fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    /// The bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files.iter().map(|file| file.bytes).sum()
    }

    /// The columns and types in one line, if they were inferred.
    pub fn inferred_types(&self) -> Option<String> {
        let fields = self.schema.fields();
        let shown = fields.iter().take(MAX_SHOWN).map(|field| format!("{} {}", field.name(), field.data_type()));
        let mut text = format!("types: {}", shown.collect::<Vec<_>>().join(", "));
        if fields.len() > MAX_SHOWN {
            text += &format!(", and {} more columns", fields.len() - MAX_SHOWN);
        }
        self.inferred.then_some(text)
    }

    /// Emits every batch of every file, in order.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names file and line of a row that cannot be read, unless such rows are skipped; or there is no other row.
    pub fn read(&self, bar: &ProgressBar, emit: &mut Emit<'_>) -> Result<()> {
        self.read_files(0..self.files.len(), bar, emit)
    }

    /// As [`InputFiles::read`], of some of the files.
    pub fn read_files(&self, files: Range<usize>, bar: &ProgressBar, emit: &mut Emit<'_>) -> Result<()> {
        let (mut rows, skipped) = (0, self.bad_rows().skipped);
        for index in files {
            let (file, mut row) = (&self.files[index], 1);
            for batch in formats::open(file, self.file_schema.clone(), &self.options, progress(bar))? {
                let batch = batch.and_then(|batch| self.partitions.append(index, batch));
                let batch = batch.and_then(|batch| reordered(batch, &self.schema));
                let batch = batch.map_err(|e| self.read_error(file, e))?;
                if let Some(table) = &self.appended {
                    check_times(&batch, table, row).map_err(|e| e.at(file.path.display()))?;
                }
                rows += batch.num_rows();
                row += batch.num_rows();
                // The metadata may differ from the first file's, and types may be narrower.
                for batch in conform_split(&batch, &self.schema) {
                    emit(batch.map_err(|e| e.at(file.path.display()))?)?;
                }
            }
        }
        let bad_rows = self.bad_rows();
        match bad_rows.first.first() {
            // More likely a wrong option than a table without rows.
            Some(bad) if rows == 0 && bad_rows.skipped > skipped => {
                Err(Error::invalid(format!("no row can be read; the first: {}", bad.error)))
            }
            _ => Ok(()),
        }
    }

    /// The rows that were skipped.
    pub fn bad_rows(&self) -> BadRowReport {
        self.options.bad_rows.as_ref().map(BadRows::report).unwrap_or_default()
    }

    /// An error of reading rows; for text with a note about the types.
    fn read_error(&self, file: &InputFile, error: ArrowError) -> Error {
        let mut error = formats::file_error(&file.path, error);
        if file.format.is_text() {
            let hint = self.hints.of(&error.message);
            error.message += hint;
        }
        error
    }
}

/// Advances a bar.
fn progress(bar: &ProgressBar) -> ReadProgress {
    let bar = bar.clone();
    ReadProgress::new(move |bytes| bar.inc(bytes))
}

/// The index in `schema` of each column of `like`, if both have the same names, each once, in different orders.
fn places(schema: &Schema, like: &Schema) -> Option<Vec<usize>> {
    let (have, wanted) = (schema.fields(), like.fields());
    let same = have.iter().map(|field| field.name()).eq(wanted.iter().map(|field| field.name()));
    if same || have.len() != wanted.len() {
        return None;
    }
    let index: HashMap<&str, usize> = have.iter().enumerate().map(|(at, field)| (field.name().as_str(), at)).collect();
    let places = wanted.iter().map(|field| index.get(field.name().as_str()).copied());
    let places: Vec<usize> = places.collect::<Option<_>>()?;
    let distinct = places.iter().collect::<HashSet<_>>().len() == have.len();
    distinct.then_some(places)
}

/// The schema with its columns in the order of those of `like`, if they have the same names.
fn in_order_of(schema: &Schema, like: &Schema) -> Schema {
    places(schema, like).map_or_else(|| schema.clone(), |places| project(schema, &places))
}

/// The batch with its columns in the order of those of `like`, if they have the same names.
fn reordered(batch: RecordBatch, like: &Schema) -> Result<RecordBatch, ArrowError> {
    match places(batch.schema_ref(), like) {
        Some(places) => batch.project(&places),
        None => Ok(batch),
    }
}

/// The columns without their types.
fn names(stats: &FieldStats) -> Schema {
    Schema::new(stats.columns().map(|(name, _)| Field::new(name, DataType::Null, true)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests;
