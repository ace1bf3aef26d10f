//! The columns of two tables that differ.

use arrow::datatypes::{Field, Schema};
use serde_json::{Value, json};

/// A column that differs, and what each table has: none if it does not have the column.
#[derive(Debug, PartialEq, Eq)]
pub struct ColumnDifference {
    /// The name.
    pub column: String,
    /// What the tables have.
    pub sides: [Option<String>; 2],
}

impl ColumnDifference {
    /// As JSON.
    pub fn json(&self) -> Value {
        json!({ "column": self.column, "a": self.sides[0], "b": self.sides[1] })
    }

    /// The cells of a row.
    pub fn cells(&self) -> [String; 3] {
        let [a, b] = self.sides.clone().map(|side| side.unwrap_or_else(|| "-".into()));
        [self.column.clone(), a, b]
    }
}

/// The columns that one table lacks, or that differ in type, nullability, metadata or place.
pub fn column_differences(first: &Schema, second: &Schema) -> Vec<ColumnDifference> {
    let mut differences = Vec::new();
    for field in first.fields() {
        let other = second.field_with_name(field.name()).ok();
        if other.is_none_or(|other| differs(field, other)) {
            let sides = texts(Some(field), other);
            differences.push(ColumnDifference { column: field.name().clone(), sides });
        }
    }
    for field in second.fields().iter().filter(|field| first.field_with_name(field.name()).is_err()) {
        let sides = texts(None, Some(field));
        differences.push(ColumnDifference { column: field.name().clone(), sides });
    }
    if differences.is_empty() {
        differences.extend(first_moved(first, second));
    }
    differences
}

/// The first column whose place differs, of tables with the same columns.
fn first_moved(first: &Schema, second: &Schema) -> Option<ColumnDifference> {
    let (at, (field, _)) =
        first.fields().iter().zip(second.fields()).enumerate().find(|(_, (a, b))| a.name() != b.name())?;
    let other = second.index_of(field.name()).ok()?;
    let sides = [at, other].map(|place| Some(format!("column {}", place + 1)));
    Some(ColumnDifference { column: field.name().clone(), sides })
}

fn differs(field: &Field, other: &Field) -> bool {
    field.data_type() != other.data_type()
        || field.is_nullable() != other.is_nullable()
        || field.metadata() != other.metadata()
}

/// The types; with the metadata if only that differs.
fn texts(first: Option<&Field>, second: Option<&Field>) -> [Option<String>; 2] {
    let text = |field: &Field| {
        let null = if field.is_nullable() { "" } else { " not null" };
        format!("{}{null}", field.data_type())
    };
    let sides = [first, second].map(|field| field.map(text));
    match (first, second) {
        (Some(a), Some(b)) if sides[0] == sides[1] => [a, b].map(|field| {
            let mut metadata: Vec<_> = field.metadata().iter().collect();
            metadata.sort_unstable();
            Some(format!("{} {metadata:?}", text(field)))
        }),
        _ => sides,
    }
}

/// The columns that both tables have with the same type, in the order of the first one.
pub fn common_columns(first: &Schema, second: &Schema) -> Vec<String> {
    let is_common =
        |field: &Field| second.field_with_name(field.name()).is_ok_and(|other| other.data_type() == field.data_type());
    first.fields().iter().filter(|field| is_common(field)).map(|field| field.name().clone()).collect()
}
