//! The objects of JSON lines, of objects one after another, or of one array, each as its text.

use std::io::{BufRead, Read};

use arrow::error::ArrowError;
use serde_json::value::RawValue;

use super::blocks::read_block;
use super::json::JsonFault;
use super::{MAX_ROW_BYTES, cut, not_utf8};

const BOM: &[u8] = b"\xef\xbb\xbf";

/// What comes between the objects.
#[derive(Clone, Copy, PartialEq)]
enum RowLayout {
    /// White space.
    Lines,
    /// They are elements of an array: white space and commas.
    Array,
    /// Each is one line.
    SingleLines,
}

/// A place in the file, from 1.
#[derive(Clone, Copy, Debug)]
struct Place {
    line: u64,
    byte: u64,
}

/// Reads objects one at a time, into one buffer.
pub struct JsonRows<R> {
    input: R,
    layout: RowLayout,
    rows: u64,
    /// The object's text.
    text: String,
    start: Place,
    at: Place,
    /// Whether nothing can be read after an error.
    is_broken: bool,
    /// The longest object.
    max_bytes: usize,
}

/// Where a scan is within an object.
#[derive(Default)]
struct ScanState {
    depth: u64,
    in_string: bool,
    escaped: bool,
}

impl ScanState {
    /// Whether the byte ends the object.
    fn ends(&mut self, byte: u8) -> bool {
        if self.in_string {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' => self.escaped = true,
                b'"' => self.in_string = false,
                _ => {}
            }
            return false;
        }
        match byte {
            b'"' => self.in_string = true,
            b'{' | b'[' => self.depth += 1,
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        self.depth == 0
    }
}

fn error(place: Place, text: impl std::fmt::Display) -> ArrowError {
    ArrowError::JsonError(format!("line {}, byte {}: {text}", place.line, place.byte))
}

impl<R: BufRead> JsonRows<R> {
    /// Reads up to the first object.
    pub fn new(mut input: R) -> Result<Self, ArrowError> {
        let begin = input.fill_buf()?;
        if begin.starts_with(b"\xff\xfe") || begin.starts_with(b"\xfe\xff") {
            return Err(ArrowError::JsonError("the text is UTF-16: convert it to UTF-8".into()));
        }
        if begin.starts_with(BOM) {
            input.consume(BOM.len());
        }
        let place = Place { line: 1, byte: 1 };
        let (layout, text) = (RowLayout::Lines, String::new());
        let (is_broken, max_bytes) = (false, MAX_ROW_BYTES);
        let mut rows = JsonRows { input, layout, rows: 0, text, start: place, at: place, is_broken, max_bytes };
        if rows.peek()? == Some(b'[') {
            rows.take(1);
            rows.layout = RowLayout::Array;
        }
        Ok(rows)
    }

    /// Refuses objects of more bytes.
    pub fn with_max_bytes(self, max_bytes: usize) -> Self {
        JsonRows { max_bytes, ..self }
    }

    /// Takes each line for one object, so that the next line can be read after a bad one.
    ///
    /// # Errors
    /// The file has an array of objects.
    pub fn one_a_line(self) -> Result<Self, ArrowError> {
        match self.layout {
            RowLayout::Array => Err(error(self.at, "--on-bad-row skip is for one object a line, and this is an array")),
            RowLayout::Lines | RowLayout::SingleLines => Ok(JsonRows { layout: RowLayout::SingleLines, ..self }),
        }
    }

    /// The rows of a block that [`JsonRows::next_block`] read.
    pub fn of_block<'a>(&self, block: &'a [u8]) -> JsonRows<&'a [u8]> {
        let place = Place { line: 1, byte: 1 };
        let (layout, max_bytes, is_broken) = (self.layout, self.max_bytes, false);
        JsonRows { input: block, layout, rows: 0, text: String::new(), start: place, at: place, is_broken, max_bytes }
    }

    /// Reads the lines of a block, in place of rows; `false` at the end. It may end within an object of several lines, which
    /// is an error of the block's last row.
    ///
    /// Returns `None` as [`read_block`], or if the rows are elements of an array.
    pub fn next_block(&mut self, bytes: usize, block: &mut Vec<u8>) -> Option<bool> {
        match self.layout {
            RowLayout::Array => None,
            RowLayout::Lines | RowLayout::SingleLines => read_block(&mut self.input, bytes, block, |_| true),
        }
    }

    /// Whether the last error was that of one line.
    pub fn can_continue(&self) -> bool {
        self.layout == RowLayout::SingleLines && !self.is_broken
    }

    /// The line in which the last object begins.
    pub fn line(&self) -> u64 {
        self.start.line
    }

    /// The text of the next object; `None` at the end.
    pub fn next_row(&mut self) -> Result<Option<&str>, ArrowError> {
        if self.layout == RowLayout::SingleLines {
            return self.next_line();
        }
        let next = match (self.layout, self.peek()?) {
            (RowLayout::Lines | RowLayout::SingleLines, None) => return Ok(None),
            (RowLayout::Lines | RowLayout::SingleLines, next) => next,
            (RowLayout::Array, Some(b']')) => return self.end_array(),
            (RowLayout::Array, Some(b',')) if self.rows > 0 => {
                self.take(1);
                self.peek()?
            }
            (RowLayout::Array, next) if self.rows == 0 => next,
            (RowLayout::Array, _) => return Err(error(self.at, "a comma or the end of the array is missing")),
        };
        self.start = self.at;
        if next != Some(b'{') {
            return Err(self.not_an_object()?);
        }
        self.rows += 1;
        self.read_object()?;
        Ok(Some(&self.text))
    }

    /// The next line that is not blank, which must be one object.
    fn next_line(&mut self) -> Result<Option<&str>, ArrowError> {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        let is_space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
        loop {
            bytes.clear();
            self.start = self.at;
            self.is_broken = true;
            let read = (&mut self.input).take(self.max_bytes as u64).read_until(b'\n', &mut bytes)?;
            if read == 0 {
                return Ok(None);
            }
            if read == self.max_bytes && bytes.last() != Some(&b'\n') {
                return Err(error(self.start, format!("a line of more than {} MiB", self.max_bytes >> 20)));
            }
            self.is_broken = false;
            self.at = advance(self.at, &bytes);
            if !bytes.iter().all(is_space) {
                break;
            }
        }
        let indent = bytes.iter().take_while(|byte| is_space(byte)).count();
        self.start.byte += indent as u64;
        bytes.drain(..indent);
        bytes.truncate(bytes.len() - bytes.iter().rev().take_while(|byte| is_space(byte)).count());
        self.text = String::from_utf8(bytes).map_err(|e| {
            let (bytes, at) = (e.as_bytes(), e.utf8_error().valid_up_to());
            error(self.place_of(bytes, at), not_utf8(bytes.get(at..).unwrap_or_default()))
        })?;
        if !self.text.starts_with('{') {
            return Err(error(self.start, format!("each row must be a JSON object, not {:?}", cut(&self.text))));
        }
        match serde_json::from_str::<&RawValue>(&self.text) {
            Ok(_) => Ok(Some(&self.text)),
            Err(_) => Err(self.invalid(self.text.as_bytes())),
        }
    }

    /// The text of the current object.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// A fault of a value within the current object, with its place in the file.
    pub fn fault(&self, fault: &JsonFault) -> ArrowError {
        let offset = fault.address.saturating_sub(self.text.as_ptr() as usize);
        error(self.place_of(self.text.as_bytes(), offset), fault)
    }

    fn place_of(&self, text: &[u8], offset: usize) -> Place {
        let before = &text[..offset.min(text.len())];
        match before.iter().rposition(|b| *b == b'\n') {
            None => Place { line: self.start.line, byte: self.start.byte + before.len() as u64 },
            Some(last) => Place {
                line: self.start.line + before.iter().filter(|b| **b == b'\n').count() as u64,
                byte: (before.len() - last) as u64,
            },
        }
    }

    /// The next byte that is not white space, which stays unread.
    fn peek(&mut self) -> Result<Option<u8>, ArrowError> {
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Ok(None);
            }
            let space = buffer.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n')).count();
            let next = buffer.get(space).copied();
            self.at = advance(self.at, &buffer[..space]);
            self.input.consume(space);
            if next.is_some() {
                return Ok(next);
            }
        }
    }

    fn take(&mut self, bytes: usize) {
        self.input.consume(bytes);
        self.at.byte += bytes as u64;
    }

    fn end_array(&mut self) -> Result<Option<&str>, ArrowError> {
        self.take(1);
        self.layout = RowLayout::Lines;
        match self.peek()? {
            None => Ok(None),
            Some(_) => Err(error(self.at, "text after the end of the array")),
        }
    }

    fn not_an_object(&mut self) -> Result<ArrowError, ArrowError> {
        let buffer = self.input.fill_buf()?;
        let line = buffer.split(|b| *b == b'\n').next().unwrap_or_default();
        let text = cut(&String::from_utf8_lossy(&line[..line.len().min(200)]));
        Ok(error(self.start, format!("each row must be a JSON object, not {text:?}")))
    }

    /// Reads an object and checks that it is JSON.
    fn read_object(&mut self) -> Result<(), ArrowError> {
        let mut bytes = std::mem::take(&mut self.text).into_bytes();
        bytes.clear();
        let mut state = ScanState::default();
        loop {
            let buffer = self.input.fill_buf()?;
            if buffer.is_empty() {
                return Err(self.invalid(&bytes));
            }
            let mut broken = false;
            let end = buffer.iter().position(|byte| {
                broken = state.in_string && *byte == b'\n';
                broken || state.ends(*byte)
            });
            let length = end.map_or(buffer.len(), |end| end + usize::from(!broken));
            bytes.extend_from_slice(&buffer[..length]);
            self.at = advance(self.at, &buffer[..length]);
            self.input.consume(length);
            if broken || bytes.len() > self.max_bytes {
                return Err(self.invalid(&bytes));
            }
            if end.is_some() {
                break;
            }
        }
        self.text = String::from_utf8(bytes).map_err(|e| {
            let (bytes, at) = (e.as_bytes(), e.utf8_error().valid_up_to());
            error(self.place_of(bytes, at), not_utf8(bytes.get(at..).unwrap_or_default()))
        })?;
        match serde_json::from_str::<&RawValue>(&self.text) {
            Ok(_) => Ok(()),
            Err(_) => Err(self.invalid(self.text.as_bytes())),
        }
    }

    /// Why the text is not an object. If another object begins a later line, the first line is the one that is not whole.
    fn invalid(&self, bytes: &[u8]) -> ArrowError {
        let text = String::from_utf8_lossy(bytes);
        let text = match text.find("\n{") {
            Some(end) => &text[..end],
            None => &text,
        };
        if text.len() > self.max_bytes {
            return error(self.start, format!("an object of more than {} MiB: is it closed?", self.max_bytes >> 20));
        }
        // An end that comes too early is shown with the text before it.
        let text = text.trim_end();
        let Err(reason) = serde_json::from_str::<&RawValue>(text) else {
            return error(self.start, "the object is not JSON");
        };
        let offset: usize = text.split('\n').take(reason.line().saturating_sub(1)).map(|line| line.len() + 1).sum();
        let place = self.place_of(text.as_bytes(), (offset + reason.column()).saturating_sub(1));
        let line = text.split('\n').nth(reason.line().saturating_sub(1)).unwrap_or_default();
        let reason = reason.to_string();
        let reason = reason.split(" at line ").next().unwrap_or_default();
        error(place, format!("{reason}: {:?}", cut(line)))
    }
}

/// The place after the bytes.
fn advance(place: Place, bytes: &[u8]) -> Place {
    match bytes.iter().rposition(|b| *b == b'\n') {
        None => Place { line: place.line, byte: place.byte + bytes.len() as u64 },
        Some(last) => Place {
            line: place.line + bytes.iter().filter(|b| **b == b'\n').count() as u64,
            byte: (bytes.len() - last) as u64,
        },
    }
}

#[cfg(test)]
mod tests;
