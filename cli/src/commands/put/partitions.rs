//! The columns that folders give their files.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use arrow::error::ArrowError;
use volley_common::{Error, Result};

use super::find_files::PartitionedFile;
use crate::formats::text::{self, FieldStats};
use crate::formats::{file_error, message_path};

/// The columns that the folders of all files have, with their values in each file. They follow the columns of the file.
#[derive(Default)]
pub struct Partitions {
    names: Vec<String>,
    files: Vec<PartitionedFile>,
    /// The columns of each file, with one row.
    values: Vec<Vec<ArrayRef>>,
}

impl Partitions {
    /// The columns of files.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names a file whose folders have others than those of the first one, or one twice.
    pub fn of(files: Vec<PartitionedFile>) -> Result<Partitions> {
        let names = |file: &PartitionedFile| file.partitions.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        let first = files.first().map(names).unwrap_or_default();
        if let Some(other) = files.iter().find(|file| names(file) != first) {
            return Err(Error::invalid(format!(
                "{}: its folders have {}, and those of {} {}: put them one after the other",
                message_path(&other.path).display(),
                columns_text(&names(other)),
                message_path(&files[0].path).display(),
                columns_text(&first),
            )));
        }
        if let Some(twice) = (1..first.len()).find(|&at| first[..at].contains(&first[at])) {
            let text = format!("two folders give the column {:?}", first[twice]);
            return Err(Error::invalid(format!("{}: {text}", message_path(&files[0].path).display())));
        }
        Ok(Partitions { names: first, files, values: Vec::new() })
    }

    /// Whether there is no column.
    pub fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// The columns: `field` makes one of its name and of the type that holds all its values.
    pub fn fields(&self, field: impl Fn(&str, DataType) -> FieldRef) -> Vec<FieldRef> {
        let columns = self.names.iter().enumerate().map(|(index, name)| {
            let mut stats = FieldStats::default();
            let column = stats.column(name);
            for (_, value) in self.files.iter().map(|file| &file.partitions[index]) {
                if let Some(text) = value {
                    column.add_cell(text);
                }
            }
            field(name, column.data_type())
        });
        columns.collect()
    }

    /// A file's columns and those of its folders.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the file has one of that name.
    pub fn extend(&self, schema: &Schema, fields: &[FieldRef]) -> Result<SchemaRef> {
        if let Some(both) = self.names.iter().find(|name| schema.fields().find(name).is_some()) {
            return Err(Error::invalid(format!(
                "the column {both:?} is in the file and in the name of its folder: put the files themselves, or rename the folders"
            )));
        }
        let fields = schema.fields().iter().chain(fields).cloned().collect::<Vec<_>>();
        Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata().clone())))
    }

    /// The columns that the files themselves have.
    pub fn without(&self, schema: &SchemaRef) -> SchemaRef {
        if self.is_empty() {
            return schema.clone();
        }
        let fields = schema.fields().iter().filter(|field| !self.names.contains(field.name())).cloned();
        Arc::new(Schema::new_with_metadata(fields.collect::<Vec<_>>(), schema.metadata().clone()))
    }

    /// Makes the values of their types in the schema of all rows.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: the schema lacks a column, or a value does not fit its type; names the file.
    pub fn resolve(&mut self, schema: &Schema) -> Result<()> {
        for file in self.files.iter().filter(|_| !self.names.is_empty()) {
            let value = |(name, value): &(String, Option<String>)| match schema.fields().find(name) {
                Some((_, field)) => text::one_value(field, value.as_deref()),
                None => Err(ArrowError::SchemaError(format!(
                    "its folder gives the column {name:?}, which the table or --schema does not have"
                ))),
            };
            let values = file.partitions.iter().map(value).collect::<Result<_, _>>();
            self.values.push(values.map_err(|e| file_error(&file.path, e))?);
        }
        Ok(())
    }

    /// Adds the columns of a file to its rows.
    pub fn append(&self, file: usize, batch: RecordBatch) -> Result<RecordBatch, ArrowError> {
        let Some(values) = self.values.get(file) else { return Ok(batch) };
        let rows = batch.num_rows();
        let first = UInt32Array::from_value(0, rows);
        let (mut fields, mut columns) = (batch.schema().fields().to_vec(), batch.columns().to_vec());
        for (name, value) in self.names.iter().zip(values) {
            columns.push(take(value, &first, None)?);
            fields.push(Arc::new(Field::new(name, value.data_type().clone(), true)));
        }
        let schema = Arc::new(Schema::new_with_metadata(fields, batch.schema().metadata().clone()));
        RecordBatch::try_new_with_options(schema, columns, &RecordBatchOptions::new().with_row_count(Some(rows)))
    }
}

fn columns_text(names: &[String]) -> String {
    match names {
        [] => "no columns in their names".into(),
        names => format!("the columns {}", names.join(", ")),
    }
}
