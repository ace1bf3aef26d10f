//! The files of a put: which schema all of them have, and their rows under it.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use indicatif::ProgressBar;
use volley_common::ipc::conform::conform_split;
use volley_common::ipc::schema::{check_appendable, project};
use volley_common::{Error, Result};

use crate::args::PutArgs;
use crate::formats::text::{self, ColumnType, FieldStats, TextOptions};
use crate::formats::{self, Format, InputFile, Int96Needs};
use crate::threads::Emit;

/// Columns whose types are shown.
const MAX_SHOWN: usize = 50;

/// Types of text that are known, so not inferred.
pub enum KnownTypes {
    /// None.
    None,
    /// All columns, from `--schema`.
    Schema(SchemaRef),
    /// All columns, of a table that is appended to.
    AppendedTable(SchemaRef),
    /// The types of the columns that a replaced table has too.
    ReplacedTable(SchemaRef),
    /// All columns, of the Parquet or Arrow files of the same put.
    OtherFiles(SchemaRef),
}

/// Where the types of text come from.
pub struct TypeRules {
    /// Types that are known.
    pub known: KnownTypes,
    /// The table that files with types are appended to: they get its order of columns, and its units for INT96.
    pub appended: Option<SchemaRef>,
    /// Types of single columns, before all others.
    types: Vec<ColumnType>,
    text: TextOptions,
}

impl TypeRules {
    /// The rules of a command line.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the file of the schema has none, or `--type` names a column twice.
    pub fn of(put: &PutArgs) -> Result<TypeRules> {
        let names: Vec<&str> = put.types.iter().map(|named| named.column.as_str()).collect();
        if let Some(twice) = (1..names.len()).find(|&at| names[..at].contains(&names[at])) {
            return Err(Error::invalid(format!(
                "--type names the column {:?} twice: a column has one type",
                names[twice]
            )));
        }
        let known = match &put.schema {
            Some(path) => KnownTypes::Schema(text::schema_file(path)?),
            None => KnownTypes::None,
        };
        let text = TextOptions {
            nulls: put.nulls.clone(),
            infer_rows: put.infer_rows,
            typed: put.types.iter().map(|named| named.column.clone()).collect(),
            all_text: put.all_text,
        };
        Ok(TypeRules { known, appended: None, types: put.types.clone(), text })
    }

    /// The schema, if no type is to be inferred.
    fn all_columns(&self) -> Option<&SchemaRef> {
        match &self.known {
            KnownTypes::Schema(schema) | KnownTypes::AppendedTable(schema) | KnownTypes::OtherFiles(schema) => {
                Some(schema)
            }
            KnownTypes::None | KnownTypes::ReplacedTable(_) => None,
        }
    }

    /// Refuses options of inference where nothing is inferred.
    fn check_inference_options(&self) -> Result<()> {
        let given = [("--all-text", self.text.all_text), ("--infer-rows", self.text.infer_rows.is_some())];
        match given.into_iter().find(|(_, given)| *given && self.all_columns().is_some()) {
            Some((option, _)) => Err(Error::invalid(format!("{option} has no effect here{}", self.hint()))),
            None => Ok(()),
        }
    }

    /// A column, with its inferred type unless another rule names one.
    fn field(&self, name: &str, inferred: DataType) -> FieldRef {
        match &self.known {
            KnownTypes::ReplacedTable(table) if !self.text.all_text => {
                if let Some((_, field)) = table.fields().find(name) {
                    return field.clone();
                }
            }
            _ => {}
        }
        Arc::new(Field::new(name, if self.text.all_text { DataType::Utf8 } else { inferred }, true))
    }

    /// The schema with the types that `--type` names.
    fn with_named_types(&self, schema: Schema) -> Result<SchemaRef> {
        let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        for ColumnType { column, data_type } in &self.types {
            let index = schema.index_of(column).map_err(|_| {
                let names: Vec<&str> =
                    schema.fields().iter().take(MAX_SHOWN).map(|field| field.name().as_str()).collect();
                Error::invalid(format!("--type names the column {column:?}: the columns are {}", names.join(", ")))
            })?;
            fields[index] = Arc::new(fields[index].as_ref().clone().with_data_type(data_type.clone()));
        }
        Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata)))
    }

    /// What to do about a value that does not fit its type.
    fn hint(&self) -> &'static str {
        match &self.known {
            KnownTypes::AppendedTable(_) => " (the types are the table's)",
            KnownTypes::ReplacedTable(_) => {
                " (columns keep the types of the table that is replaced: --type COLUMN=TYPE changes one, --all-text all)"
            }
            KnownTypes::OtherFiles(_) => " (the types are those of the files that have types)",
            KnownTypes::Schema(_) => " (the types are those of --schema)",
            KnownTypes::None if self.text.infer_rows.is_some() => {
                " (types were inferred from the first rows only: without --infer-rows from all)"
            }
            KnownTypes::None => "",
        }
    }
}

/// The files of a put.
pub struct InputFiles {
    files: Vec<InputFile>,
    schema: SchemaRef,
    options: TextOptions,
    hint: &'static str,
    /// Whether a type of the schema was inferred.
    inferred: bool,
}

impl InputFiles {
    /// Opens the files; what cannot be read twice is copied.
    pub fn open(paths: &[PathBuf], format: Option<Format>) -> Result<InputFiles> {
        let files = paths.iter().map(|path| InputFile::new(path, format)).collect::<Result<Vec<_>>>()?;
        let (schema, options) = (Arc::new(Schema::empty()), TextOptions::default());
        Ok(InputFiles { files, schema, options, hint: "", inferred: false })
    }

    /// Whether types of text are needed.
    pub fn have_text(&self) -> bool {
        self.files.iter().any(|file| file.format.is_text())
    }

    /// Refuses options that have no effect on these files.
    pub fn check_options(&self, put: &PutArgs) -> Result<()> {
        let given = [
            ("--type", !put.types.is_empty()),
            ("--schema", put.schema.is_some()),
            ("--all-text", put.all_text),
            ("--infer-rows", put.infer_rows.is_some()),
            ("--null", !put.nulls.is_empty()),
        ];
        let is_csv = |file: &InputFile| matches!(file.format, Format::Csv | Format::Tsv);
        let has_csv = self.files.iter().any(is_csv);
        for (option, given) in given {
            let (formats, usable) =
                if option == "--null" { ("CSV", has_csv) } else { ("CSV and JSON", self.have_text()) };
            if given && !usable {
                return Err(Error::invalid(format!("{option} is for {formats}, and no file is that")));
            }
        }
        Ok(())
    }

    /// Determines the one schema of all files.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the file whose columns differ, or the line that is no row.
    pub fn with_types(mut self, mut rules: TypeRules) -> Result<InputFiles> {
        self.share_int96(rules.all_columns().or(rules.appended.as_ref()))?;
        if let Some((file, typed)) = self.typed_schema()? {
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
                None => rules.known = KnownTypes::OtherFiles(typed),
            }
        }
        rules.check_inference_options()?;
        self.schema = match rules.all_columns() {
            Some(schema) => rules.with_named_types(schema.as_ref().clone())?,
            None => {
                self.inferred = true;
                let stats = self.infer(&rules.text)?;
                let fields: Vec<FieldRef> =
                    stats.columns().map(|(name, column)| rules.field(name, column.data_type())).collect();
                rules.with_named_types(Schema::new(fields))?
            }
        };
        for file in self.files.iter().filter(|file| file.format.is_text()) {
            text::check(file, &self.schema)?;
        }
        self.hint = rules.hint();
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

    /// Infers from all files, several at a time.
    fn infer(&self, options: &TextOptions) -> Result<FieldStats> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = self.files.len().div_ceil(threads).max(1);
        let results: Vec<Result<FieldStats>> = std::thread::scope(|scope| {
            let infer = |files: &[InputFile]| files.iter().map(|file| text::infer(file, options)).collect::<Vec<_>>();
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
                    Some(header) => text::check(file, header)?,
                }
            }
            all.merge(&stats);
        }
        Ok(all)
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
    pub fn read(&self, bar: &ProgressBar, emit: &mut Emit<'_>) -> Result<()> {
        for file in &self.files {
            for batch in formats::open(file, self.schema.clone(), &self.options, bar.clone())? {
                let batch = batch.and_then(|batch| reordered(batch, &self.schema));
                let batch = batch.map_err(|e| self.read_error(file, e))?;
                // The metadata may differ from the first file's, and types may be narrower.
                for batch in conform_split(&batch, &self.schema) {
                    emit(batch.map_err(|e| e.at(file.path.display()))?)?;
                }
            }
        }
        Ok(())
    }

    /// An error of reading rows; for text with a note about the types.
    fn read_error(&self, file: &InputFile, error: ArrowError) -> Error {
        let mut error = formats::file_error(&file.path, error);
        if file.format.is_text() {
            error.message += self.hint;
        }
        error
    }
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
