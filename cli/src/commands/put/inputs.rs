//! The files of a put: which schema all of them have, and their rows under it.

use std::path::PathBuf;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use indicatif::ProgressBar;
use volley_common::ipc::conform::conform_split;
use volley_common::ipc::schema::check_appendable;
use volley_common::{Error, Result};

use crate::args::PutArgs;
use crate::formats::text::{self, ColumnType, FieldStats, TextOptions};
use crate::formats::{self, Format, InputFile};
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
        Ok(TypeRules { known, types: put.types.clone(), text })
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
        if let Some((file, typed)) = self.typed_schema()? {
            match rules.all_columns() {
                Some(known) => check_appendable(known, &typed).map_err(|e| {
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

    /// The first file that has a schema, with it. Those of all such files must agree.
    fn typed_schema(&self) -> Result<Option<(&InputFile, SchemaRef)>> {
        let mut first: Option<(&InputFile, SchemaRef)> = None;
        for file in self.files.iter().filter(|file| !file.format.is_text()) {
            let schema = formats::schema(file)?;
            match &first {
                None => first = Some((file, schema)),
                Some((first, expected)) => check_appendable(expected, &schema)
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

/// The columns without their types.
fn names(stats: &FieldStats) -> Schema {
    Schema::new(stats.columns().map(|(name, _)| Field::new(name, DataType::Null, true)).collect::<Vec<_>>())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use arrow::array::{ArrayRef, Float64Array, Int32Array, Int64Array, RecordBatch, StringArray};
    use clap::Parser;
    use tempfile::TempDir;

    use super::*;

    /// A folder with `a.csv`, and `b.parquet` with the column `zip`.
    fn files(csv: &str, typed: ArrayRef) -> TempDir {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("a.csv"), csv).unwrap();
        let batch = RecordBatch::try_from_iter_with_nullable([("zip", typed, true)]).unwrap();
        let path = folder.path().join("b.parquet");
        let mut file = formats::create(&path, Format::Parquet, &batch.schema(), None).unwrap();
        file.write(&batch).unwrap();
        file.finish().unwrap();
        folder
    }

    fn read(folder: &TempDir, known: KnownTypes) -> Result<Vec<ArrayRef>> {
        let rules = TypeRules { known, types: Vec::new(), text: TextOptions::default() };
        let paths = ["a.csv", "b.parquet"].map(|name| folder.path().join(name));
        let inputs = InputFiles::open(&paths, None)?.with_types(rules)?;
        let mut columns = Vec::new();
        inputs.read(&ProgressBar::hidden(), &mut |batch: RecordBatch| {
            columns.push(batch.column(0).clone());
            Ok(())
        })?;
        Ok(columns)
    }

    fn schema(data_type: DataType) -> SchemaRef {
        Arc::new(Schema::new(vec![Field::new("zip", data_type, true)]))
    }

    #[test]
    fn given_schema_is_before_the_types_of_other_files() {
        let folder = files("zip\n00501\n", Arc::new(StringArray::from(vec!["x"])));
        let columns = read(&folder, KnownTypes::Schema(schema(DataType::LargeUtf8))).unwrap();
        assert!(columns.iter().all(|column| *column.data_type() == DataType::LargeUtf8));
        // A file that does not fit is refused instead of changing the type of the others.
        let folder = files("zip\n00501\n", Arc::new(Int64Array::from(vec![501])));
        let error = read(&folder, KnownTypes::Schema(schema(DataType::Utf8))).unwrap_err().message;
        assert!(error.contains("b.parquet") && error.contains("zip") && error.contains("--schema"), "{error}");
        let error = read(&folder, KnownTypes::None).unwrap_err().message;
        assert!(error.contains("00501"), "{error}");
    }

    #[test]
    fn appended_types_are_before_those_of_other_files() {
        let folder = files("zip\n1.5\n", Arc::new(Int32Array::from(vec![7])));
        let columns = read(&folder, KnownTypes::AppendedTable(schema(DataType::Float64))).unwrap();
        let expected: Vec<ArrayRef> =
            vec![Arc::new(Float64Array::from(vec![1.5])), Arc::new(Float64Array::from(vec![7.0]))];
        assert_eq!(columns, expected);
    }

    #[test]
    fn column_with_two_types_is_refused() {
        let put = |types: &[&str]| {
            let args = ["volley", "put", "a.csv", "--table", "t"]
                .into_iter()
                .chain(types.iter().flat_map(|text| ["--type", *text]));
            let crate::args::CliCommand::Put(put) = crate::args::Args::parse_from(args).command else {
                panic!("no put")
            };
            TypeRules::of(&put)
        };
        put(&["a=int64", "b=int64"]).unwrap();
        let error = put(&["a=int64", "b=utf8", "a=utf8"]).err().unwrap();
        assert!(error.message.contains("\"a\" twice"), "{error}");
    }
}
