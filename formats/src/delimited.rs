//! Writes comma- and tab-separated values in which a null and an empty text differ: the null is written bare, any text
//! that could be taken for it is quoted.

use std::collections::HashMap;
use std::io::Write;

use arrow::array::{Array, RecordBatch};
use arrow::datatypes::Schema;
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};

use super::csv_options::CsvOptions;
use super::encoding::TextEncoding;

/// Writes a header line and one line a row.
pub struct DelimitedWriter<W> {
    out: W,
    delimiter: char,
    quote: Option<char>,
    encoding: TextEncoding,
    null: String,
    /// The line being built, and the value being formatted.
    line: String,
    value: String,
    encoded: Vec<u8>,
}

impl<W: Write> DelimitedWriter<W> {
    /// Writes the header immediately, so that a table without rows keeps its columns. `null` is the text for a null.
    ///
    /// # Errors
    /// The header cannot be written, it would not tell the columns apart, or `null` has a quote, a delimiter or a line end.
    pub fn new(out: W, delimiter: u8, options: &CsvOptions, null: &str, schema: &Schema) -> Result<Self, ArrowError> {
        let (delimiter, quote) = (char::from(delimiter), options.quote().map(char::from));
        let (encoding, null) = (options.encoding.unwrap_or_default(), null.to_string());
        let (line, value, encoded) = Default::default();
        let mut writer = DelimitedWriter { out, delimiter, quote, encoding, null, line, value, encoded };
        let null = &writer.null;
        if null.contains(['\n', '\r', delimiter]) || quote.is_some_and(|quote| null.contains(quote)) {
            let text = format!("{null:?} cannot stand for null: it has a quote, a delimiter or a line end");
            return Err(ArrowError::InvalidArgumentError(text));
        }
        if let Some(c) = encoding.missing(null) {
            let text = format!("{null:?} cannot stand for null: {encoding} has no {c:?}");
            return Err(ArrowError::InvalidArgumentError(text));
        }
        if !options.no_header {
            check_names(schema)?;
        }
        writer.out.write_all(encoding.mark())?;
        if options.no_header {
            return Ok(writer);
        }
        for (index, field) in schema.fields().iter().enumerate() {
            writer.separate(index);
            writer.push_quoted(field.name(), field.name())?;
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
        let only = columns.len() == 1;
        let (schema, empty_line) = (batch.schema_ref(), only && self.null.is_empty());
        for row in 0..batch.num_rows() {
            for (index, (formatter, nulls)) in columns.iter().enumerate() {
                self.separate(index);
                if nulls.as_ref().is_some_and(|nulls| nulls.is_null(row)) {
                    if empty_line {
                        return Err(only_column(schema));
                    }
                    self.line.push_str(&self.null);
                    continue;
                }
                self.value.clear();
                formatter.value(row).write(&mut self.value)?;
                let value = std::mem::take(&mut self.value);
                self.push_quoted(schema.field(index).name(), &value)?;
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

    /// A value of a column, in quotes where it could be taken for something else.
    fn push_quoted(&mut self, column: &str, value: &str) -> Result<(), ArrowError> {
        if let Some(c) = self.encoding.missing(value) {
            let text = format!("column {column:?}: {} has no {c:?}: use --encoding utf-8", self.encoding);
            return Err(ArrowError::InvalidArgumentError(text));
        }
        let special = |c: char| c == self.delimiter || Some(c) == self.quote || matches!(c, '\n' | '\r');
        // At the start of a file the last of these is the mark of its byte order.
        let blank = value.starts_with([' ', '\t', '\u{feff}']) || value.ends_with([' ', '\t']);
        if !value.is_empty() && value != self.null && !blank && !value.contains(special) {
            self.line.push_str(value);
            return Ok(());
        }
        let Some(quote) = self.quote else { return self.push_unquoted(column, value) };
        self.line.push(quote);
        for (index, piece) in value.split(quote).enumerate() {
            if index > 0 {
                self.line.extend([quote, quote]);
            }
            self.line.push_str(piece);
        }
        self.line.push(quote);
        Ok(())
    }

    /// A value that would be quoted, where there are no quotes. Blanks need none.
    fn push_unquoted(&mut self, column: &str, value: &str) -> Result<(), ArrowError> {
        let special = |c: char| c == self.delimiter || matches!(c, '\n' | '\r');
        if value.is_empty() || value == self.null || value.starts_with('\u{feff}') || value.contains(special) {
            let shown: String = value.chars().take(60).collect();
            let text =
                format!("column {column:?}: {shown:?} could not be read back without quotes: leave out --quote none");
            return Err(ArrowError::InvalidArgumentError(text));
        }
        self.line.push_str(value);
        Ok(())
    }

    fn end_line(&mut self) -> Result<(), ArrowError> {
        self.line.push('\n');
        if self.encoding == TextEncoding::Utf8 {
            self.out.write_all(self.line.as_bytes())?;
        } else {
            self.encoded.clear();
            self.encoding.encode(&self.line, &mut self.encoded)?;
            self.out.write_all(&self.encoded)?;
        }
        self.line.clear();
        Ok(())
    }
}

/// Readers find columns by the names of the header: each needs one of its own.
fn check_names(schema: &Schema) -> Result<(), ArrowError> {
    let mut seen = HashMap::new();
    for (index, field) in schema.fields().iter().enumerate() {
        let (name, number) = (field.name(), index + 1);
        let text = if name.is_empty() {
            format!("the column {number} has no name")
        } else if let Some(first) = seen.insert(name.as_str(), number) {
            format!("the columns {first} and {number} are both named {name:?}")
        } else {
            continue;
        };
        let text = format!("{text}, so that CSV could not be read back: rename the column, or use .parquet or .arrow");
        return Err(ArrowError::InvalidArgumentError(text));
    }
    Ok(())
}

fn only_column(schema: &Schema) -> ArrowError {
    let name = schema.fields().first().map(|field| field.name().as_str()).unwrap_or_default();
    ArrowError::InvalidArgumentError(format!(
        "the only column {name:?} has a null, which would be an empty line: give a text for it with --null, or use .arrow"
    ))
}

#[cfg(test)]
mod tests;
