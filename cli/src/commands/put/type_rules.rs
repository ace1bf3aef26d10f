//! Where the types of a put's columns come from.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use volley_common::ipc::schema::check_appendable;
use volley_common::{Error, Result};

use super::MAX_SHOWN;
use super::partitions::Partitions;
use crate::args::PutArgs;
use crate::formats;
use crate::formats::text::{BadRows, ColumnType, OnBadRow, TextLimits, TextOptions};

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
    /// All columns, of a load that was interrupted. They are what its options have made.
    ResumedLoad(SchemaRef),
}

/// Where the types of text come from.
pub struct TypeRules {
    /// Types that are known.
    pub known: KnownTypes,
    /// The table that files with types are appended to: they get its order of columns, and its units for INT96.
    pub appended: Option<SchemaRef>,
    /// Types of single columns, before all others.
    pub types: Vec<ColumnType>,
    /// How text is read.
    pub text: TextOptions,
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
            Some(path) => KnownTypes::Schema(formats::schema_file(path)?),
            None => KnownTypes::None,
        };
        let text = TextOptions {
            nulls: put.nulls.clone(),
            infer_rows: put.infer_rows,
            typed: put.types.iter().map(|named| named.column.clone()).collect(),
            all_text: put.all_text,
            csv: put.csv.clone(),
            comment: put.comment,
            names: None,
            bad_rows: (put.on_bad_row == OnBadRow::Skip).then(BadRows::default),
            limits: TextLimits::default(),
        };
        Ok(TypeRules { known, appended: None, types: put.types.clone(), text })
    }

    /// The schema, if no type is to be inferred.
    pub fn all_columns(&self) -> Option<&SchemaRef> {
        match &self.known {
            KnownTypes::Schema(schema)
            | KnownTypes::AppendedTable(schema)
            | KnownTypes::OtherFiles(schema)
            | KnownTypes::ResumedLoad(schema) => Some(schema),
            KnownTypes::None | KnownTypes::ReplacedTable(_) => None,
        }
    }

    /// The columns of CSV without a header, if they are known.
    ///
    /// # Errors
    /// INVALID_ARGUMENT: other files have the columns, and nothing says in which order those of CSV are.
    pub fn name_columns(&mut self, partitions: &Partitions) -> Result<()> {
        if !self.text.csv.no_header {
            return Ok(());
        }
        if matches!(self.known, KnownTypes::OtherFiles(_)) {
            let text = "with --no-header nothing says which columns of the other files those of CSV are: give --schema";
            return Err(Error::invalid(text));
        }
        let names = |schema: &SchemaRef| {
            let schema = partitions.without(schema);
            schema.fields().iter().map(|field| field.name().clone()).collect()
        };
        self.text.names = self.all_columns().map(names);
        Ok(())
    }

    /// Refuses columns of files with types that the table they are appended to cannot take.
    ///
    /// # Errors
    /// INVALID_ARGUMENT names the first such column, and what helps.
    pub fn check_appended(&self, typed: &Schema) -> Result<()> {
        let Some(table) = &self.appended else { return Ok(()) };
        check_appendable(table, typed).map_err(|error| {
            let remedy = "convert the file, or replace the table with --mode replace";
            Error { message: format!("{}: {remedy}", error.message), ..error }
        })
    }

    /// Refuses options of inference where nothing is inferred.
    pub fn check_inference_options(&self) -> Result<()> {
        if matches!(self.known, KnownTypes::ResumedLoad(_)) {
            return Ok(());
        }
        let given = [("--all-text", self.text.all_text), ("--infer-rows", self.text.infer_rows.is_some())];
        match given.into_iter().find(|(_, given)| *given && self.all_columns().is_some()) {
            Some((option, _)) => Err(Error::invalid(format!("{option} has no effect here{}", self.hint()))),
            None => Ok(()),
        }
    }

    /// A note if no column of text is inferred, because the table that is replaced has them all.
    pub fn inference_note(&self, columns: &[&str]) -> Option<String> {
        let KnownTypes::ReplacedTable(table) = &self.known else { return None };
        let is_known = |name: &&str| table.fields().find(name).is_some() || self.text.typed.iter().any(|it| it == name);
        let has_effect = self.text.infer_rows.is_none() || self.text.all_text || !columns.iter().all(is_known);
        (!has_effect).then(|| format!("--infer-rows has no effect here{}", self.hint()))
    }

    /// A column, with its inferred type unless another rule names one.
    pub fn field(&self, name: &str, inferred: DataType) -> FieldRef {
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

    /// A column that is not in the files, with its inferred type unless another rule names one.
    pub fn added_field(&self, name: &str, inferred: DataType) -> FieldRef {
        let known = self.all_columns().or(self.appended.as_ref());
        match known.and_then(|schema| schema.fields().find(name)) {
            Some((_, field)) => field.clone(),
            None => self.field(name, inferred),
        }
    }

    /// The schema with the types that `--type` names.
    pub fn with_named_types(&self, schema: Schema) -> Result<SchemaRef> {
        let mut fields: Vec<FieldRef> = schema.fields().iter().cloned().collect();
        for ColumnType { column, data_type } in &self.types {
            let index = schema.index_of(column).map_err(|_| unknown_column(&schema, column))?;
            fields[index] = Arc::new(fields[index].as_ref().clone().with_data_type(data_type.clone()));
        }
        Ok(Arc::new(Schema::new_with_metadata(fields, schema.metadata)))
    }

    /// What to do about a value that does not fit its type.
    pub fn hint(&self) -> &'static str {
        match &self.known {
            KnownTypes::AppendedTable(_) => " (the types are the table's)",
            KnownTypes::ReplacedTable(_) => {
                " (columns keep the types of the table that is replaced: --type COLUMN=TYPE changes one, --all-text all)"
            }
            KnownTypes::OtherFiles(_) => " (the types are those of the files that have types)",
            KnownTypes::ResumedLoad(_) => " (the types are those with which the load began)",
            KnownTypes::Schema(_) => " (the types are those of --schema)",
            KnownTypes::None => self.inference_hint(),
        }
    }

    /// What to do about a value that does not fit its inferred type.
    fn inference_hint(&self) -> &'static str {
        match self.text.infer_rows {
            Some(_) => " (types were inferred from the first rows only: without --infer-rows from all)",
            None => "",
        }
    }

    /// What to do about values that do not fit the types of these columns.
    pub fn value_hints(&self, schema: &Schema) -> ValueHints {
        let others = match &self.known {
            KnownTypes::ReplacedTable(_) => self.inference_hint(),
            _ => self.hint(),
        };
        let hint = |name: &String| match &self.known {
            _ if self.types.iter().any(|named| named.column == *name) => "",
            KnownTypes::ReplacedTable(table) if !self.text.all_text && table.fields().find(name).is_some() => {
                self.hint()
            }
            _ => others,
        };
        let columns = schema.fields().iter().map(|field| (field.name().clone(), hint(field.name()))).collect();
        ValueHints { columns, others }
    }
}

/// `--type` names what is no column, but perhaps part of one: errors name that too.
fn unknown_column(schema: &Schema, named: &str) -> Error {
    let fields = schema.fields().iter().map(|field| field.name().as_str());
    let contains = |column: &&str| named.strip_prefix(column).is_some_and(|rest| rest.starts_with('.'));
    match fields.clone().find(contains) {
        Some(column) => Error::invalid(format!(
            "--type names {named:?}, which is part of the column {column:?}: give the type of the whole column, as `volley info` shows one"
        )),
        None => {
            let columns = fields.take(MAX_SHOWN).collect::<Vec<_>>().join(", ");
            Error::invalid(format!("--type names the column {named:?}: the columns are {columns}"))
        }
    }
}

/// What to do about a value that does not fit its type: that depends on where the type of its column comes from.
#[derive(Default)]
pub struct ValueHints {
    columns: Vec<(String, &'static str)>,
    /// For errors that name none of these columns.
    others: &'static str,
}

impl ValueHints {
    /// The hint for an error of reading text, which names its column only in its message.
    pub fn of(&self, message: &str) -> &'static str {
        let named = self.columns.iter().filter(|(column, _)| names_column(message, column));
        // The longest name: "a.b" is a column, or a field of the column "a".
        named.max_by_key(|(column, _)| column.len()).map_or(self.others, |(_, hint)| *hint)
    }
}

/// Whether an error is about a value of this column, or of one of its fields.
fn names_column(message: &str, column: &str) -> bool {
    let quoted = format!("column {column:?}");
    let Some(name) = quoted.strip_suffix('"') else { return false };
    message.match_indices(name).any(|(at, _)| {
        let rest = &message[at + name.len()..];
        rest.starts_with("\": ") || rest.starts_with('.')
    })
}
