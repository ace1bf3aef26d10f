//! Writes comma- and tab-separated values in which a null and an empty text differ: the null is written bare, any text
//! that could be taken for it is quoted.

use std::fmt::Write as _;
use std::io::Write;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

/// Writes a header line and one line a row.
pub struct DelimitedWriter<W> {
    out: W,
    delimiter: char,
    null: String,
    /// The line being built, and the value being formatted.
    line: String,
    value: String,
}

impl<W: Write> DelimitedWriter<W> {
    /// Writes the header immediately, so that a table without rows keeps its columns. `null` is the text for a null.
    ///
    /// # Errors
    /// The header cannot be written, or `null` has a quote, a delimiter or a line end.
    pub fn new(out: W, delimiter: char, null: &str, schema: &Schema) -> Result<Self, ArrowError> {
        let mut writer =
            DelimitedWriter { out, delimiter, null: null.to_string(), line: String::new(), value: String::new() };
        if null.contains(['"', '\n', '\r', delimiter]) {
            let text = format!("{null:?} cannot stand for null: it has a quote, a delimiter or a line end");
            return Err(ArrowError::InvalidArgumentError(text));
        }
        for (index, field) in schema.fields().iter().enumerate() {
            writer.separate(index);
            writer.push_quoted(field.name());
        }
        writer.end_line()?;
        Ok(writer)
    }

    /// Writes the rows. Their columns must have texts: no nested types.
    ///
    /// # Errors
    /// A value has no text, or the output cannot be written. A null in the only column would be an empty line, which
    /// readers skip, so it needs a text.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), ArrowError> {
        let options = FormatOptions::default().with_display_error(false);
        let columns = batch
            .columns()
            .iter()
            .map(|column| Ok((ArrayFormatter::try_new(column.as_ref(), &options)?, column.logical_nulls())));
        let columns: Vec<_> = columns.collect::<Result<_, ArrowError>>()?;
        let empty_line = columns.len() == 1 && self.null.is_empty();
        for row in 0..batch.num_rows() {
            for (index, (formatter, nulls)) in columns.iter().enumerate() {
                self.separate(index);
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    if empty_line {
                        return Err(only_column(batch.schema_ref()));
                    }
                    self.line.push_str(&self.null);
                    continue;
                }
                self.value.clear();
                formatter.value(row).write(&mut self.value)?;
                let value = std::mem::take(&mut self.value);
                self.push_quoted(&value);
                self.value = value;
            }
            self.end_line()?;
        }
        Ok(())
    }

    /// The output, not flushed.
    pub fn into_inner(self) -> W {
        self.out
    }

    fn separate(&mut self, index: usize) {
        if index > 0 {
            self.line.push(self.delimiter);
        }
    }

    /// A value, in quotes where it could be taken for something else.
    fn push_quoted(&mut self, value: &str) {
        let special = |c: char| c == self.delimiter || matches!(c, '"' | '\n' | '\r');
        // At the start of a file the last of these is the mark of its byte order.
        let blank = value.starts_with([' ', '\t', '\u{feff}']) || value.ends_with([' ', '\t']);
        if !value.is_empty() && value != self.null && !blank && !value.contains(special) {
            self.line.push_str(value);
            return;
        }
        self.line.push('"');
        for (index, piece) in value.split('"').enumerate() {
            let _ = write!(self.line, "{}{piece}", if index > 0 { "\"\"" } else { "" });
        }
        self.line.push('"');
    }

    fn end_line(&mut self) -> Result<(), ArrowError> {
        self.line.push('\n');
        self.out.write_all(self.line.as_bytes())?;
        self.line.clear();
        Ok(())
    }
}

fn only_column(schema: &Schema) -> ArrowError {
    let name = schema.fields().first().map(|field| field.name().as_str()).unwrap_or_default();
    ArrowError::InvalidArgumentError(format!(
        "the only column {name:?} has a null, which would be an empty line: give a text for it with --null, or use .parquet or .jsonl"
    ))
}
