//! Columns that are built from the texts of cells or from JSON values. A value that the type cannot hold as it is, is
//! refused.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::*;
use arrow::error::ArrowError;

use super::json::{JsonFault, string};
use super::{boolean, cut};
use volley_common::counts::plural;

/// A column that is being built.
pub trait Cells: Send {
    /// Appends a null.
    fn add_null(&mut self);
    /// Appends the value of a text, or says why not.
    fn add_text(&mut self, text: &str) -> Result<(), String>;
    /// Appends a JSON value that is not null. A string is what its text is.
    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        match value.as_bytes()[0] {
            b'"' => self.add_text(&string(value)?),
            b'[' | b'{' => Err(format!("{} where a single value belongs", cut(value))),
            _ => self.add_text(value),
        }
        .map_err(|message| JsonFault::new(value, message))
    }
    /// The column so far; the next one begins.
    fn finish(&mut self) -> Result<ArrayRef, ArrowError>;
}

/// What parses a text.
pub type ParseCell<N> = Box<dyn Fn(&str) -> Option<N> + Send>;

/// Values of one width.
pub struct PrimitiveCells<T: ArrowPrimitiveType> {
    /// The values.
    pub builder: PrimitiveBuilder<T>,
    /// The type, for errors.
    pub data_type: DataType,
    /// What makes a value of a text.
    pub parse: ParseCell<T::Native>,
}

/// Booleans.
#[derive(Default)]
pub struct BooleanCells(BooleanBuilder);
/// Texts.
#[derive(Default)]
pub struct TextCells(StringBuilder);
/// Binary values as hexadecimal digits, as they are written to text.
#[derive(Default)]
pub struct HexCells {
    builder: BinaryBuilder,
    /// Bytes of each value; any number without.
    width: Option<usize>,
}
/// Only nulls.
#[derive(Default)]
pub struct NullCells(usize);

/// Values that are built as another type and cast, which keeps them.
pub struct CastCells {
    /// The values.
    pub inner: Box<dyn Cells>,
    /// Their type.
    pub to: DataType,
}

/// A dictionary whose values arrow's cast does not gather: each text is one value, however often it occurs.
pub struct DictionaryCells {
    values: Box<dyn Cells>,
    key_type: DataType,
    /// The type of the column.
    to: DataType,
    keys: Int64Builder,
    /// The key of each text.
    known: HashMap<String, i64>,
}

fn refused(text: &str, data_type: &DataType) -> String {
    format!("{:?} does not fit the type {data_type} without a change", cut(text))
}

impl<T: ArrowPrimitiveType> Cells for PrimitiveCells<T> {
    fn add_null(&mut self) {
        self.builder.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.builder.append_value((self.parse)(text).ok_or_else(|| refused(text, &self.data_type))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.builder.finish()))
    }
}

impl Cells for BooleanCells {
    fn add_null(&mut self) {
        self.0.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.0.append_value(boolean(text).ok_or_else(|| refused(text, &DataType::Boolean))?);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.0.finish()))
    }
}

impl Cells for TextCells {
    fn add_null(&mut self) {
        self.0.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.0.append_value(text);
        Ok(())
    }

    /// What is not a string is kept as its JSON.
    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        let text = if value.starts_with('"') { string(value)? } else { value.into() };
        self.0.append_value(text);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.0.finish()))
    }
}

impl HexCells {
    /// Each value must have this many bytes.
    pub fn of_width(width: i32) -> Self {
        HexCells { builder: BinaryBuilder::new(), width: usize::try_from(width).ok() }
    }
}

impl Cells for HexCells {
    fn add_null(&mut self) {
        self.builder.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        let digit = |byte: &u8| char::from(*byte).to_digit(16).map(|digit| digit as u8);
        let pairs = text.as_bytes().chunks(2);
        let bytes = pairs.map(|pair| match pair {
            [high, low] => Some(digit(high)? << 4 | digit(low)?),
            _ => None,
        });
        let bytes: Option<Vec<u8>> = bytes.collect();
        let bytes = bytes.ok_or_else(|| format!("{:?} is not hexadecimal", cut(text)))?;
        if let Some(width) = self.width.filter(|width| *width != bytes.len()) {
            return Err(format!("{:?} has {} instead of {width}", cut(text), plural(bytes.len() as i64, "byte")));
        }
        self.builder.append_value(bytes);
        Ok(())
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(self.builder.finish()))
    }
}

impl Cells for NullCells {
    fn add_null(&mut self) {
        self.0 += 1;
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        Err(refused(text, &DataType::Null))
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        Ok(Arc::new(NullArray::new(std::mem::take(&mut self.0))))
    }
}

impl DictionaryCells {
    /// Starts a column with keys of a type. `values` builds its values, which have the type `value_type`.
    pub fn new(key_type: &DataType, value_type: &DataType, values: Box<dyn Cells>) -> Self {
        let to = DataType::Dictionary(Box::new(key_type.clone()), Box::new(value_type.clone()));
        let (keys, known) = (Int64Builder::new(), HashMap::new());
        DictionaryCells { values, key_type: key_type.clone(), to, keys, known }
    }

    /// Appends the key of a text. If it is new, `add` appends its value.
    fn add_key<E>(&mut self, text: &str, add: impl FnOnce(&mut dyn Cells) -> Result<(), E>) -> Result<(), E> {
        let key = match self.known.get(text).copied() {
            Some(key) => key,
            None => {
                add(&mut *self.values)?;
                let key = self.known.len() as i64;
                self.known.insert(text.to_string(), key);
                key
            }
        };
        self.keys.append_value(key);
        Ok(())
    }
}

impl Cells for DictionaryCells {
    fn add_null(&mut self) {
        self.keys.append_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.add_key(text, |values| values.add_text(text))
    }

    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        self.add_key(value, |values| values.add_json(value))
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        self.known.clear();
        let values = self.values.finish()?;
        let keys: ArrayRef = Arc::new(self.keys.finish());
        let options = CastOptions { safe: false, ..CastOptions::default() };
        let keys = cast_with_options(&keys, &self.key_type, &options).map_err(|_| too_many_values(&self.key_type))?;
        let builder = keys.to_data().into_builder().data_type(self.to.clone());
        builder.child_data(vec![values.to_data()]).build().map(make_array)
    }
}

fn too_many_values(key_type: &DataType) -> ArrowError {
    ArrowError::CastError(format!(
        "more different values than keys of the type {key_type}: name the type of the values instead of a dictionary"
    ))
}

impl Cells for CastCells {
    fn add_null(&mut self) {
        self.inner.add_null();
    }

    fn add_text(&mut self, text: &str) -> Result<(), String> {
        self.inner.add_text(text)
    }

    fn add_json(&mut self, value: &str) -> Result<(), JsonFault> {
        self.inner.add_json(value)
    }

    fn finish(&mut self) -> Result<ArrayRef, ArrowError> {
        let options = CastOptions { safe: false, ..CastOptions::default() };
        cast_with_options(&self.inner.finish()?, &self.to, &options).map_err(|e| match &self.to {
            DataType::Dictionary(keys, _) => too_many_values(keys),
            _ => e,
        })
    }
}
