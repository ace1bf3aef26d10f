//! How targets read their bytes, and what they check of every error.

use http::header::{HeaderMap, HeaderName, HeaderValue};
use volley_common::{Code, Error};

/// Header lines that are read.
const MAX_HEADERS: usize = 64;
/// An error may have this many bytes, and this many for each byte of the input: texts are quoted with escapes.
const MAX_ERROR: (usize, usize) = (8 << 10, 16);

/// Reads an input from the front. What is missing is zero.
pub struct FuzzInput<'a> {
    rest: &'a [u8],
}

impl<'a> FuzzInput<'a> {
    /// From the first byte.
    pub fn new(bytes: &'a [u8]) -> Self {
        FuzzInput { rest: bytes }
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    /// The next two bytes, the low one first.
    pub fn number(&mut self) -> u16 {
        u16::from_le_bytes([self.byte(), self.byte()])
    }

    /// The next bytes, after their [`FuzzInput::number`]: see [`chunk`].
    pub fn chunk(&mut self) -> &'a [u8] {
        let length = usize::from(self.number()).min(self.rest.len());
        let (chunk, rest) = self.rest.split_at(length);
        self.rest = rest;
        chunk
    }

    /// Whether all bytes were read.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// All further bytes.
    pub fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// What [`FuzzInput::chunk`] reads as these bytes.
///
/// # Panics
/// There are more than 65,535.
pub fn chunk(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).expect("a short chunk");
    [&length.to_le_bytes(), bytes].concat()
}

/// The bytes before the first empty line, and those after it. Without one all are after it.
pub fn split_head(bytes: &[u8]) -> (&[u8], &[u8]) {
    match bytes.windows(2).position(|pair| pair == b"\n\n") {
        Some(at) => (&bytes[..at], &bytes[at + 2..]),
        None => (&[], bytes),
    }
}

/// The headers of lines `NAME: VALUE`, without those that HTTP does not permit.
pub fn header_map(lines: &[u8]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for line in lines.split(|byte| *byte == b'\n').take(MAX_HEADERS) {
        let Some(colon) = line.iter().position(|byte| *byte == b':') else { continue };
        let (name, value) = (&line[..colon], line[colon + 1..].trim_ascii());
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            headers.append(name, value);
        }
    }
    headers
}

/// Checks the error for an input of so many bytes: it blames the input, not Volley, and is not much longer.
///
/// # Panics
/// Otherwise.
pub fn check_error(error: &Error, input: usize) {
    assert!(!matches!(error.code, Code::Internal | Code::Unknown | Code::Ok), "{:?}: {error}", error.code);
    let most = MAX_ERROR.0 + MAX_ERROR.1 * input;
    assert!(error.message.len() <= most, "an error of {} bytes for {input}", error.message.len());
}
