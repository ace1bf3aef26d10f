//! What inference remembers of a column, in constant space for each, and the type that holds every value without changing it.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arrow::datatypes::{DataType, Field, Fields};

use super::json::{JsonFault, elements, members};
use super::number::{NumberStats, NumberText, NumberType, special};
use super::object_fields::ObjectFields;
use super::time::{TimeStats, TimestampText, date};
use super::{MAX_NESTING, boolean};

/// What inference remembers of a column, without twice its name.
const COLUMN_BYTES: usize = 512;

/// What is known of the values of a column, or of the items or fields within it. Nulls leave no trace.
#[derive(Clone, Debug, Default)]
pub struct ColumnStats {
    /// Whether the type is known, so that nothing is to be learned.
    known: bool,
    text: bool,
    booleans: bool,
    numbers: NumberStats,
    times: TimeStats,
    items: Option<Box<ColumnStats>>,
    fields: Option<Box<FieldStats>>,
    room: ColumnRoom,
}

/// What is known of the columns of a table or the fields of an object, in the order in which they appeared.
#[derive(Clone, Debug, Default)]
pub struct FieldStats {
    fields: ObjectFields,
    columns: Vec<ColumnStats>,
    /// Columns whose types are known.
    known: HashSet<String>,
    all_known: bool,
    room: ColumnRoom,
}

/// Bytes for columns of JSON that are not known yet, those within others included; none: any number.
#[derive(Clone, Debug, Default)]
struct ColumnRoom(Option<Arc<AtomicUsize>>);

impl ColumnRoom {
    /// For so many columns with short names.
    fn of(columns: usize) -> Self {
        let bytes = columns.checked_mul(COLUMN_BYTES);
        ColumnRoom(bytes.map(|bytes| Arc::new(AtomicUsize::new(bytes))))
    }

    /// Takes the room of a column; whether there is some.
    fn take(&self, name: &str) -> bool {
        let Some(left) = &self.0 else { return true };
        let bytes = COLUMN_BYTES.saturating_add(name.len().saturating_mul(2));
        left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(bytes)).is_ok()
    }
}

impl ColumnStats {
    fn within(room: &ColumnRoom) -> Self {
        ColumnStats { room: room.clone(), ..ColumnStats::default() }
    }

    /// Adds a cell that is not null.
    pub fn add_cell(&mut self, text: &str) {
        // Text holds everything: nothing more to learn.
        if self.text || self.known {
            return;
        }
        match text.as_bytes().first() {
            Some(b'0'..=b'9' | b'-') => self.add_digits(text),
            // The sign of a year beyond 9999; a number with it is text.
            Some(b'+') => self.add_time(text),
            Some(b't' | b'T' | b'f' | b'F') if boolean(text).is_some() => self.booleans = true,
            Some(b'N' | b'i') if special(text).is_some() => self.numbers.specials = true,
            _ => self.text = true,
        }
    }

    fn add_digits(&mut self, text: &str) {
        if let Some(number) = NumberText::parse(text) {
            self.numbers.add(&number);
        } else if special(text).is_some() {
            self.numbers.specials = true;
        } else {
            self.add_time(text);
        }
    }

    /// Adds a date or a timestamp, or else a text.
    fn add_time(&mut self, text: &str) {
        if let Some(days) = date(text.as_bytes()) {
            self.times.add_date(days);
        } else if let Some(time) = TimestampText::parse(text) {
            self.times.add(&time);
        } else {
            self.text = true;
        }
    }

    /// Adds a JSON value. Strings are text, whatever they say.
    pub fn add_json(&mut self, value: &str, depth: usize) -> Result<(), JsonFault> {
        match value.as_bytes()[0] {
            _ if self.known => {}
            b'"' => self.text = true,
            b't' | b'f' => self.booleans = true,
            b'n' => {}
            b'[' => {
                check_depth(value, depth)?;
                let room = &self.room;
                let items = self.items.get_or_insert_with(|| Box::new(ColumnStats::within(room)));
                elements(value, &mut |item| items.add_json(item, depth + 1))?;
            }
            b'{' => {
                check_depth(value, depth)?;
                let room = &self.room;
                let fields = self.fields.get_or_insert_with(|| Box::new(FieldStats::within(room)));
                fields.add_object(value, depth + 1)?;
            }
            _ => match NumberText::parse(value) {
                Some(number) => self.numbers.add(&number),
                None => self.text = true,
            },
        }
        Ok(())
    }

    /// Adds what is known of other values.
    pub fn merge(&mut self, other: &ColumnStats) {
        self.text |= other.text;
        self.booleans |= other.booleans;
        self.numbers.merge(&other.numbers);
        self.times.merge(&other.times);
        if let Some(items) = &other.items {
            self.items.get_or_insert_default().merge(items);
        }
        if let Some(fields) = &other.fields {
            self.fields.get_or_insert_default().merge(fields);
        }
    }

    /// The type that holds every value. A value beside lists is a list of one; other mixtures are text.
    pub fn data_type(&self) -> DataType {
        let Some(items) = &self.items else { return self.without_lists() };
        if self.fields.is_some() {
            return DataType::Utf8;
        }
        let mut item = items.as_ref().clone();
        item.merge(&ColumnStats { items: None, ..self.clone() });
        DataType::List(Arc::new(Field::new_list_field(item.data_type(), true)))
    }

    fn without_lists(&self) -> DataType {
        let numbers = self.numbers.numbers || self.numbers.specials;
        match (&self.fields, self.booleans, numbers, self.times.any()) {
            _ if self.text => DataType::Utf8,
            (Some(fields), false, false, false) => fields.data_type(),
            (None, true, false, false) => DataType::Boolean,
            (None, false, true, false) => match self.numbers.number_type() {
                NumberType::Int64 => DataType::Int64,
                NumberType::Float64 => DataType::Float64,
                NumberType::Decimal(precision, scale) => DataType::Decimal128(precision, scale),
                NumberType::Text => DataType::Utf8,
            },
            (None, false, false, true) => self.times.data_type(),
            // Only nulls, or values of several kinds.
            _ => DataType::Utf8,
        }
    }
}

fn check_depth(value: &str, depth: usize) -> Result<(), JsonFault> {
    let message = || format!("nested more than {MAX_NESTING} levels deep: --type COLUMN=utf8 keeps it as text");
    if depth < MAX_NESTING { Ok(()) } else { Err(JsonFault::new(value, message())) }
}

impl FieldStats {
    /// Learns nothing of the columns whose types are known, or of any.
    pub fn without(known: HashSet<String>, all_known: bool) -> Self {
        FieldStats { known, all_known, ..FieldStats::default() }
    }

    fn within(room: &ColumnRoom) -> Self {
        FieldStats { room: room.clone(), ..FieldStats::default() }
    }

    /// The same, which learns of so many columns of JSON at most, those within others included.
    pub fn limited(self, columns: usize) -> Self {
        FieldStats { room: ColumnRoom::of(columns), ..self }
    }

    /// The names and what is known of each.
    pub fn columns(&self) -> impl Iterator<Item = (&str, &ColumnStats)> {
        self.fields.names().zip(&self.columns)
    }

    /// What is known of a column, which may be new.
    pub fn column(&mut self, name: &str) -> &mut ColumnStats {
        let index = self.index_of(name, 0);
        &mut self.columns[index]
    }

    /// The index of a field, which is `expected` if objects have their fields in one order.
    fn index_of(&mut self, name: &str, expected: usize) -> usize {
        self.fields.find(name, expected).unwrap_or_else(|| self.add(name))
    }

    fn add(&mut self, name: &str) -> usize {
        let known = self.all_known || self.known.contains(name);
        self.columns.push(ColumnStats { known, ..ColumnStats::within(&self.room) });
        self.fields.add(name)
    }

    /// Adds an object.
    pub fn add_object(&mut self, object: &str, depth: usize) -> Result<(), JsonFault> {
        self.fields.begin_object();
        let mut expected = 0;
        members(object, &mut |(name, value)| {
            let index = match self.fields.find(&name, expected) {
                Some(index) => index,
                None if self.room.take(&name) => self.add(&name),
                None => {
                    return Err(JsonFault::new(value, "the rows have too many columns, those within others included"));
                }
            };
            expected = index + 1;
            self.fields.enter(index, value)?;
            self.columns[index].add_json(value, depth).map_err(|fault| fault.within(&name))
        })
    }

    /// Adds what is known of others.
    pub fn merge(&mut self, other: &FieldStats) {
        for (name, column) in other.columns() {
            self.column(name).merge(column);
        }
    }

    /// A struct; text if no object has a field.
    fn data_type(&self) -> DataType {
        let fields: Fields = self.columns().map(|(name, stats)| Field::new(name, stats.data_type(), true)).collect();
        if fields.is_empty() { DataType::Utf8 } else { DataType::Struct(fields) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::datatypes::TimeUnit;

    fn cells(texts: &[&str]) -> DataType {
        let mut stats = ColumnStats::default();
        texts.iter().for_each(|text| stats.add_cell(text));
        stats.data_type()
    }

    fn json(values: &[&str]) -> DataType {
        let mut stats = ColumnStats::default();
        values.iter().for_each(|value| stats.add_json(value, 1).unwrap());
        stats.data_type()
    }

    #[test]
    fn cells_of_several_kinds_are_text() {
        assert_eq!(cells(&["7", "007"]), DataType::Utf8);
        assert_eq!(cells(&["00501"]), DataType::Utf8);
        assert_eq!(cells(&["1", "true"]), DataType::Utf8);
        assert_eq!(cells(&["2024-01-01", "0000-00-00"]), DataType::Utf8);
        assert_eq!(cells(&["2024-01-01", "20240101"]), DataType::Utf8);
        assert_eq!(cells(&["1", ""]), DataType::Utf8);
        assert_eq!(cells(&["NaN", "inf"]), DataType::Utf8);
        assert_eq!(cells(&[]), DataType::Utf8);
        assert_eq!(cells(&["1", "NaN", "-inf"]), DataType::Float64);
        assert_eq!(cells(&["TRUE", "false"]), DataType::Boolean);
        assert_eq!(cells(&["2024-01-01", "2024-01-01T10:00:00"]), DataType::Timestamp(TimeUnit::Second, None));
    }

    #[test]
    fn json_values_of_several_kinds_are_text_or_lists() {
        let list = |item| DataType::List(Arc::new(Field::new_list_field(item, true)));
        assert_eq!(json(&["7", "\"007\""]), DataType::Utf8);
        assert_eq!(json(&["7", "\"B7\""]), DataType::Utf8);
        assert_eq!(json(&["\"x\"", "[\"y\"]"]), list(DataType::Utf8));
        assert_eq!(json(&["1", "[2.5, null]", "null"]), list(DataType::Float64));
        assert_eq!(json(&["[]"]), list(DataType::Utf8));
        assert_eq!(json(&["{\"a\":1}", "7"]), DataType::Utf8);
        assert_eq!(json(&["{\"a\":1}", "[7]"]), DataType::Utf8);
        assert_eq!(json(&["{}"]), DataType::Utf8);
        assert_eq!(json(&["\"2024-01-01\""]), DataType::Utf8);
        let fields = vec![Field::new("z", DataType::Int64, true), Field::new("a", DataType::Boolean, true)];
        assert_eq!(json(&["{\"z\":1}", "{\"a\":true,\"z\":null}"]), DataType::Struct(fields.into()));
    }

    #[test]
    fn columns_within_others_count_in_the_limit() {
        let mut stats = FieldStats::default().limited(4);
        stats.add_object("{\"a\":1,\"b\":[{\"c\":1}]}", 1).unwrap();
        stats.add_object("{\"b\":[{\"c\":2}],\"a\":null}", 1).unwrap();
        let fault = stats.add_object("{\"b\":[{\"c\":2},{\"d\":1,\"e\":1}]}", 1).unwrap_err();
        assert!(fault.to_string().contains("too many columns"), "{fault}");
        let long = format!("{{\"{}\":1}}", "x".repeat(10_000));
        assert!(FieldStats::default().limited(4).add_object(&long, 1).is_err());
        FieldStats::default().limited(usize::MAX).add_object(&long, 1).unwrap();
    }

    #[test]
    fn json_that_is_too_deep_or_ambiguous_is_refused() {
        let mut stats = ColumnStats::default();
        let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
        assert!(stats.add_json(&deep, 1).unwrap_err().to_string().contains("nested more than"));
        let fault = FieldStats::default().add_object("{\"o\":{\"k\":1,\"k\":1}}", 1).unwrap_err();
        assert_eq!(fault.to_string(), "column \"o\": the object has the key \"k\" twice");
    }
}
