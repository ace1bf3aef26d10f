//! Columns of lists, structs and maps, which only JSON has.

use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::{OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{Field, FieldRef, Fields};
use arrow::error::ArrowError;

use super::cells::Cells;
use super::cut;
use super::json::{JsonFault, elements, members};
use super::object_fields::ObjectFields;

/// Appends a value or a null to a column.
fn add(cells: &mut dyn Cells, field: &FieldRef, value: &str) -> Result<(), JsonFault> {
    if value != "null" {
        return cells.add_json(value);
    }
    if !field.is_nullable() {
        return Err(JsonFault::new(value, "null where the type allows none"));
    }
    cells.add_null();
    Ok(())
}

/// The column so far; an error names it.
pub fn finish_column(cells: &mut dyn Cells, field: &Field) -> Result<ArrayRef, ArrowError> {
    cells.finish().map_err(|e| {
        let text = match e {
            ArrowError::CastError(text) => text,
            other => other.to_string(),
        };
        ArrowError::CastError(format!("column {:?}: {text}", cut(field.name())))
    })
}

fn only_json() -> String {
    "nested values are read from JSON only".to_string()
}

/// Lists. A value that is not an array is a list of one.
pub struct ListCells {
    item: FieldRef,
    items: Box<dyn Cells>,
    /// Items of each list; any number without.
    size: Option<i32>,
    length: i32,
    offsets: Vec<i32>,
    validity: NullBufferBuilder,
}

impl ListCells {
    /// Starts a column.
    pub fn new(item: FieldRef, items: Box<dyn Cells>) -> Self {
        ListCells { item, items, size: None, length: 0, offsets: vec![0], validity: NullBufferBuilder::new(0) }
    }

    /// Each list must have this many items.
    pub fn with_size(self, size: i32) -> Self {
        ListCells { size: Some(size), ..self }
    }
}

impl Cells for ListCells {
    fn add_null(&mut self) {
        self.offsets.push(self.length);
        self.validity.append_null();
    }

    fn add_text(&mut self, _: &str) -> Result<(), String> {
        Err(only_json())
    }

    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        if value.starts_with('[') {
            elements(value, &mut |item| {
                self.length += 1;
                add(&mut *self.items, &self.item, item)
            })?;
        } else {
            self.length += 1;
            add(&mut *self.items, &self.item, value)?;
        }
        let items = self.length - self.offsets.last().copied().unwrap_or(0);
        if let Some(size) = self.size.filter(|size| *size != items) {
            return Err(JsonFault::new(value, format!("{} has the length {items} instead of {size}", cut(value))));
        }
        self.offsets.push(self.length);
        self.validity.append_non_null();
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let offsets = std::mem::replace(&mut self.offsets, vec![0]);
        self.length = 0;
        let offsets = OffsetBuffer::new(ScalarBuffer::from(offsets));
        Ok(Arc::new(ListArray::try_new(self.item.clone(), offsets, self.items.finish()?, self.validity.finish())?))
    }
}

/// Structs; also the rows of a table.
pub struct StructCells {
    fields: Fields,
    columns: Vec<Box<dyn Cells>>,
    names: ObjectFields,
    validity: NullBufferBuilder,
}

impl StructCells {
    /// Starts a column.
    pub fn new(fields: Fields, columns: Vec<Box<dyn Cells>>) -> Self {
        let mut names = ObjectFields::default();
        for field in &fields {
            names.add(field.name());
        }
        StructCells { fields, columns, names, validity: NullBufferBuilder::new(0) }
    }

    /// The columns; the next ones begin.
    pub fn finish_columns(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.validity = NullBufferBuilder::new(0);
        let columns = self.columns.iter_mut().zip(&self.fields);
        columns.map(|(column, field)| finish_column(&mut **column, field)).collect()
    }
}

impl Cells for StructCells {
    fn add_null(&mut self) {
        self.columns.iter_mut().for_each(|column| column.add_null());
        self.validity.append_null();
    }

    fn add_text(&mut self, _: &str) -> Result<(), String> {
        Err(only_json())
    }

    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        if !value.starts_with('{') {
            return Err(JsonFault::new(value, format!("{} where an object belongs", cut(value))));
        }
        self.names.begin_object();
        let mut expected = 0;
        members(value, &mut |(name, value)| {
            let Some(index) = self.names.find(&name, expected) else {
                let message = format!("the key {:?} is not one of the columns, whose types are known", cut(&name));
                return Err(JsonFault::new(value, message));
            };
            expected = index + 1;
            self.names.enter(index, value)?;
            add(&mut *self.columns[index], &self.fields[index], value).map_err(|fault| fault.within(&name))
        })?;
        for (index, field) in self.fields.iter().enumerate() {
            if !self.names.is_entered(index) {
                add(&mut *self.columns[index], field, "null").map_err(|_| {
                    JsonFault::new(value, "it is missing, and the type allows no null").within(field.name())
                })?;
            }
        }
        self.validity.append_non_null();
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        // Without fields nothing else says how many there are.
        let length = self.validity.len();
        let validity = self.validity.finish();
        let columns = self.finish_columns()?;
        Ok(Arc::new(StructArray::try_new_with_length(self.fields.clone(), columns, validity, length)?))
    }
}

/// Maps, which are objects.
pub struct MapCells {
    entries: FieldRef,
    sorted: bool,
    fields: Fields,
    keys: Box<dyn Cells>,
    values: Box<dyn Cells>,
    length: i32,
    offsets: Vec<i32>,
    validity: NullBufferBuilder,
}

impl MapCells {
    /// Starts a column.
    pub fn new(entries: FieldRef, sorted: bool, fields: Fields, [keys, values]: [Box<dyn Cells>; 2]) -> Self {
        let validity = NullBufferBuilder::new(0);
        MapCells { entries, sorted, fields, keys, values, length: 0, offsets: vec![0], validity }
    }
}

impl Cells for MapCells {
    fn add_null(&mut self) {
        self.offsets.push(self.length);
        self.validity.append_null();
    }

    fn add_text(&mut self, _: &str) -> Result<(), String> {
        Err(only_json())
    }

    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        if !value.starts_with('{') {
            return Err(JsonFault::new(value, format!("{} where an object belongs", cut(value))));
        }
        members(value, &mut |(name, value)| {
            self.length += 1;
            self.keys.add_text(&name).map_err(|message| JsonFault::new(value, message))?;
            add(&mut *self.values, &self.fields[1], value).map_err(|fault| fault.within(&name))
        })?;
        self.offsets.push(self.length);
        self.validity.append_non_null();
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let offsets = OffsetBuffer::new(ScalarBuffer::from(std::mem::replace(&mut self.offsets, vec![0])));
        self.length = 0;
        let columns = vec![self.keys.finish()?, self.values.finish()?];
        let entries = StructArray::try_new(self.fields.clone(), columns, None)?;
        Ok(Arc::new(MapArray::try_new(self.entries.clone(), offsets, entries, self.validity.finish(), self.sorted)?))
    }
}
