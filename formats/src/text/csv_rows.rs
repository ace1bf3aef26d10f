//! The rows of delimited text (RFC 4180), with the line of each cell and whether it was quoted.

use std::io::{BufRead, Read};

use arrow::error::ArrowError;

use super::blocks::read_block;
use super::{TextLimits, cut, not_utf8};
use volley_common::counts::plural;

const BOM: &[u8] = b"\xef\xbb\xbf";

/// Where the names of the columns come from.
#[derive(Clone, Debug, PartialEq)]
pub enum ColumnNames {
    /// The first record.
    Header,
    /// No record: c0, c1 and so on.
    Numbered,
    /// No record: they are known.
    Known(Vec<String>),
}

/// How records are written.
#[derive(Clone, Debug)]
pub struct CsvDialect {
    /// What is between cells.
    pub delimiter: u8,
    /// What is around cells, if they may have it.
    pub quote: Option<u8>,
    /// What a line begins with that is no record.
    pub comment: Option<u8>,
    /// The names of the columns.
    pub names: ColumnNames,
    /// How much of it is held.
    pub limits: TextLimits,
}

/// Where a cell is in its record.
#[derive(Clone, Copy, Debug)]
struct CellSpan {
    start: usize,
    end: usize,
    quoted: bool,
    line: u64,
}

/// One cell.
#[derive(Clone, Copy, Debug)]
pub struct CsvCell<'a> {
    /// The text, without quotes.
    pub text: &'a str,
    /// Whether it was quoted.
    pub quoted: bool,
    /// Its first line in the file, from 1.
    pub line: u64,
}

/// Reads records one at a time, into one buffer.
pub struct CsvRows<R> {
    input: R,
    dialect: CsvDialect,
    /// The bytes of a record while it is read.
    bytes: Vec<u8>,
    record: String,
    cells: Vec<CellSpan>,
    /// Lines read.
    lines: u64,
    header: Vec<String>,
    /// Whether the current record is a row that was not returned.
    has_row: bool,
    /// Whether an empty line was skipped.
    has_gap: bool,
    /// Whether nothing can be read after an error.
    is_broken: bool,
}

impl CsvDialect {
    /// Whether a quoted cell goes on after a line; `in_quotes`: whether one went on before it.
    fn ends_in_quotes(&self, line: &[u8], mut in_quotes: bool) -> bool {
        let Some(quote) = self.quote.filter(|quote| line.contains(quote)) else { return in_quotes };
        if !in_quotes && self.comment.is_some_and(|comment| line.first() == Some(&comment)) {
            return false;
        }
        let mut rest = line;
        loop {
            if !in_quotes && rest.first() == Some(&quote) {
                (in_quotes, rest) = (true, &rest[1..]);
            }
            let end = if in_quotes { quote } else { self.delimiter };
            let Some(length) = rest.iter().position(|byte| *byte == end) else { return in_quotes };
            rest = &rest[length + 1..];
            if !in_quotes {
                continue;
            }
            match rest.first() {
                Some(byte) if *byte == quote => {}
                Some(byte) if *byte == self.delimiter => in_quotes = false,
                // The end of the record, or text after the quote: then the row is bad, and the next line begins another one.
                _ => return false,
            }
            rest = &rest[1..];
        }
    }
}

fn error(line: u64, text: impl std::fmt::Display) -> ArrowError {
    ArrowError::CsvError(format!("line {line}: {text}"))
}

impl<R: BufRead> CsvRows<R> {
    /// Reads the header, if there is one.
    ///
    /// # Errors
    /// An empty file, a column without a name, or two of one name.
    pub fn new(input: R, mut dialect: CsvDialect) -> Result<Self, ArrowError> {
        let (bytes, record, cells, header) = Default::default();
        let names = std::mem::replace(&mut dialect.names, ColumnNames::Header);
        let (lines, has_row, has_gap, is_broken) = (0, false, false, false);
        let mut rows = CsvRows { input, dialect, bytes, record, cells, lines, header, has_row, has_gap, is_broken };
        let header = match names {
            ColumnNames::Header => rows.read_header()?,
            ColumnNames::Numbered => rows.number_columns()?,
            ColumnNames::Known(names) => names,
        };
        let line = rows.cells.first().map_or(1, |cell| cell.line);
        let mut seen = std::collections::HashMap::new();
        for (index, name) in header.iter().enumerate() {
            if name.is_empty() {
                return Err(error(line, format!("column {} has no name: name it in the first line", index + 1)));
            }
            if let Some(first) = seen.insert(name, index) {
                let (first, second) = (first + 1, index + 1);
                let text = format!("the columns {first} and {second} are both named {:?}: rename one", cut(name));
                return Err(error(line, text));
            }
        }
        rows.header = header;
        Ok(rows)
    }

    fn read_header(&mut self) -> Result<Vec<String>, ArrowError> {
        if !self.read()? {
            let text = "the file is empty: its first line must name the columns";
            return Err(ArrowError::CsvError(text.into()));
        }
        Ok((0..self.cells.len()).map(|index| self.cell(index).text.to_string()).collect())
    }

    /// Names for as many columns as the first row has.
    fn number_columns(&mut self) -> Result<Vec<String>, ArrowError> {
        if !self.read()? {
            let text =
                "the file is empty: with --no-header its first row tells the number of columns, unless --schema does";
            return Err(ArrowError::CsvError(text.into()));
        }
        if self.cells.len() == 1 && self.has_gap {
            let text =
                "an empty line before the first row: with one column it may be a null; --schema tells the columns";
            return Err(error(1, text));
        }
        self.has_row = true;
        Ok((0..self.cells.len()).map(|index| format!("c{index}")).collect())
    }

    /// The rows of a block that [`CsvRows::next_block`] read.
    pub fn of_block<'a>(&self, block: &'a [u8]) -> CsvRows<&'a [u8]> {
        let (dialect, header) = (self.dialect.clone(), self.header.clone());
        let (bytes, record, cells) = Default::default();
        // It does not begin with the first line, where a byte-order mark may be.
        let (lines, has_row, has_gap, is_broken) = (1, false, false, false);
        CsvRows { input: block, dialect, bytes, record, cells, lines, header, has_row, has_gap, is_broken }
    }

    /// Reads a block of rows, which begins after the first line of the text, without looking into them; `false` at the end.
    /// Returns `None` as [`read_block`].
    pub fn next_block(&mut self, bytes: usize, block: &mut Vec<u8>) -> Option<bool> {
        let (dialect, mut in_quotes) = (&self.dialect, false);
        read_block(&mut self.input, bytes, block, |line| {
            in_quotes = dialect.ends_in_quotes(line, in_quotes);
            !in_quotes
        })
    }

    /// The names of the columns.
    pub fn header(&self) -> &[String] {
        &self.header
    }

    /// The bytes of the current row.
    pub fn row_bytes(&self) -> usize {
        self.record.len()
    }

    /// A cell of the current row.
    pub fn cell(&self, index: usize) -> CsvCell<'_> {
        let CellSpan { start, end, quoted, line } = self.cells[index];
        CsvCell { text: &self.record[start..end], quoted, line }
    }

    /// Whether the last error was that of one row, after which the next one begins a line.
    pub fn can_continue(&self) -> bool {
        !self.is_broken
    }

    /// Goes to the next row; `false` at the end. It has as many cells as the header.
    pub fn next_row(&mut self) -> Result<bool, ArrowError> {
        if std::mem::take(&mut self.has_row) {
            return Ok(true);
        }
        if !self.read()? {
            return Ok(false);
        }
        let (cells, columns) = (self.cells.len(), self.header.len());
        if cells != columns {
            let (line, text) = (self.cells[0].line, cut(&self.record));
            return Err(error(line, format!("{} instead of {columns}: {text:?}", plural(cells as i64, "cell"))));
        }
        Ok(true)
    }

    /// Appends a line to the record; `false` at the end of the file.
    fn read_line(&mut self) -> Result<bool, ArrowError> {
        let read = self.try_read_line();
        self.is_broken |= read.is_err();
        read
    }

    fn try_read_line(&mut self) -> Result<bool, ArrowError> {
        let max = self.dialect.limits.row_bytes;
        let room = max.saturating_sub(self.bytes.len()) as u64;
        let read = (&mut self.input).take(room).read_until(b'\n', &mut self.bytes)?;
        if read as u64 == room && self.bytes.last() != Some(&b'\n') {
            let text = format!("a row of more than {} MiB: is a quote not closed?", max >> 20);
            return Err(error(self.lines + 1, text));
        }
        if self.lines == 0 {
            if self.bytes.starts_with(BOM) {
                self.bytes.drain(..BOM.len());
            }
            if self.bytes.starts_with(b"\xff\xfe") || self.bytes.starts_with(b"\xfe\xff") {
                return Err(ArrowError::CsvError("the text is UTF-16: give --encoding utf-16".into()));
            }
        }
        self.lines += u64::from(read > 0);
        Ok(read > 0)
    }

    /// Reads a record. An empty line is one only where there is one column.
    fn read(&mut self) -> Result<bool, ArrowError> {
        self.bytes = std::mem::take(&mut self.record).into_bytes();
        loop {
            self.bytes.clear();
            if !self.read_line()? || (self.bytes.is_empty() && !self.read_line()?) {
                return Ok(false);
            }
            if self.dialect.comment.is_some_and(|comment| self.bytes.first() == Some(&comment)) {
                continue;
            }
            if self.header.len() == 1 || !matches!(&self.bytes[..], b"\n" | b"\r\n") {
                break;
            }
            self.has_gap = true;
        }
        let first = self.lines;
        self.cells.clear();
        let mut at = 0;
        while let Some(next) = self.read_cell(at)? {
            if self.cells.len() >= self.dialect.limits.columns {
                return Err(error(first, format!("it has more than {} cells", self.dialect.limits.columns)));
            }
            at = next;
        }
        if self.bytes.contains(&0) {
            return Err(error(first, "it has a NUL byte: is it text in UTF-8?"));
        }
        self.record = String::from_utf8(std::mem::take(&mut self.bytes)).map_err(|e| {
            let valid = e.utf8_error().valid_up_to();
            let cell = self.cells.iter().take_while(|cell| cell.start <= valid).count().max(1);
            let line = self.cells.get(cell - 1).map_or(first, |cell| cell.line);
            let column = self.header.get(cell - 1).map_or(format!("column {cell}"), |name| format!("column {name:?}"));
            let text = self.cells.get(cell - 1).and_then(|cell| e.as_bytes().get(cell.start..cell.end));
            error(line, format!("{column}: {}; --encoding names another encoding", not_utf8(text.unwrap_or_default())))
        })?;
        Ok(true)
    }

    /// Reads the cell that begins at `start`; returns where the next one begins, if the record has more.
    fn read_cell(&mut self, start: usize) -> Result<Option<usize>, ArrowError> {
        if let Some(quote) = self.dialect.quote.filter(|quote| self.bytes.get(start) == Some(quote)) {
            return self.read_quoted(start, quote);
        }
        let line = self.lines;
        let mut end = self.bytes.len();
        let rest = &self.bytes[start..];
        let special = rest.iter().position(|b| *b == self.dialect.delimiter || matches!(b, b'\n' | b'\r'));
        let mut next = None;
        if let Some(length) = special {
            end = start + length;
            next = self.after(end, line)?;
        }
        self.cells.push(CellSpan { start, end, quoted: false, line });
        Ok(next)
    }

    /// What follows a cell: the start of the next one, or the end of the record.
    fn after(&self, end: usize, line: u64) -> Result<Option<usize>, ArrowError> {
        match &self.bytes[end..] {
            b"" | b"\n" | b"\r\n" | b"\r" => Ok(None),
            [byte, ..] if *byte == self.dialect.delimiter => Ok(Some(end + 1)),
            [b'\r', ..] => Err(error(
                line,
                "a carriage return without a line feed: lines end with LF or CR LF, and a cell with a CR is quoted",
            )),
            rest => {
                let rest = cut(&String::from_utf8_lossy(&rest[..rest.len().min(200)]));
                Err(error(line, format!("text after a closing quote: {rest:?}; a quote in a quoted cell is doubled")))
            }
        }
    }

    /// Reads a cell that begins with a quote, over as many lines as it has, and replaces `""` by `"` in place.
    fn read_quoted(&mut self, start: usize, quote: u8) -> Result<Option<usize>, ArrowError> {
        let line = self.lines;
        let (mut end, mut at) = (start + 1, start + 1);
        loop {
            match self.bytes[at..].iter().position(|b| *b == quote) {
                Some(length) => {
                    self.bytes.copy_within(at..at + length, end);
                    (end, at) = (end + length, at + length + 1);
                    if self.bytes.get(at) != Some(&quote) {
                        break;
                    }
                    self.bytes[end] = quote;
                    (end, at) = (end + 1, at + 1);
                }
                None => {
                    let length = self.bytes.len() - at;
                    self.bytes.copy_within(at.., end);
                    (end, at) = (end + length, at + length);
                    if !self.read_line()? {
                        // All rows up to the end may be in that cell.
                        self.is_broken = true;
                        let text = cut(&String::from_utf8_lossy(&self.bytes[start..end.min(start + 200)]));
                        return Err(error(line, format!("a quote is not closed: {text:?}")));
                    }
                }
            }
        }
        self.cells.push(CellSpan { start: start + 1, end, quoted: true, line });
        let next = self.after(at, self.lines)?;
        // What lies between the cell and the next one may be half of a character.
        let gap = next.map_or(at, |next| next - 1);
        self.bytes[end..gap].fill(b' ');
        Ok(next)
    }
}

#[cfg(test)]
mod tests;
