//! The file with the headers that are sent to a collector of traces. What it has is secret: no error shows it.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::{Error, Result};

/// The largest file.
const MAX_BYTES: u64 = 64 << 10;

/// Reads the headers of a file: `name: value`, one a line. Empty lines, and those that begin with `#`, are left out.
///
/// # Errors
/// INVALID_ARGUMENT: the file cannot be read, is too large, or a line is no header. The message names the file and the line.
pub fn read_headers(path: &Path) -> Result<HeaderMap> {
    let bad = |why: String| Error::invalid(format!("--otlp-headers-file {}: {why}", path.display()));
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES + 1).read_to_string(&mut text));
    read.map_err(|e| bad(format!("it cannot be read ({e}): check the path and its permissions")))?;
    if text.len() as u64 > MAX_BYTES {
        return Err(bad(format!("it has more than {MAX_BYTES} bytes")));
    }
    parse(&text).map_err(|line| bad(format!("line {line} is no header: write name: value")))
}

/// # Errors
/// The number of the line that is no header.
fn parse(text: &str) -> Result<HeaderMap, usize> {
    let mut headers = HeaderMap::new();
    for (at, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = line.split_once(':').ok_or(at + 1)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| at + 1)?;
        let mut value = HeaderValue::from_str(value.trim()).map_err(|_| at + 1)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_line_by_line() {
        let headers = parse("# token\n\nAuthorization: Bearer a:b\r\nx-scope :  one \n").unwrap();
        assert_eq!(
            (headers.len(), &headers["authorization"], &headers["x-scope"]),
            (2, &"Bearer a:b".parse().unwrap(), &"one".parse().unwrap())
        );
        assert!(!format!("{headers:?}").contains("Bearer"));
    }

    #[test]
    fn error_names_file_and_line_and_shows_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("headers");
        assert!(read_headers(&path).unwrap_err().message.contains("headers: it cannot be read"));
        std::fs::write(&path, "a: b\nsecret\n").unwrap();
        let text = read_headers(&path).unwrap_err().message;
        assert!(text.contains("line 2") && !text.contains("secret"), "{text}");
        std::fs::write(&path, " ".repeat(MAX_BYTES as usize + 1)).unwrap();
        assert!(read_headers(&path).unwrap_err().message.contains("more than"));
    }
}
