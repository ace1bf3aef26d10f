//! What the first bytes of a file say that it is, for an error about a file of another format than was expected.

use std::io::Read;

use super::Format;

/// Bytes that are looked at.
const SNIFFED_BYTES: u64 = 512;

/// First bytes, what a file with them is, and what helps.
static KINDS: [(&[u8], &str, &str); 7] = [
    (b"PAR1", "a Parquet file", "give --format parquet"),
    (b"ARROW1", "an Arrow file", "give --format arrow"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "give --format arrows"),
    (b"\x1f\x8b", "compressed by gzip", "decompress it first, with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "decompress it first, with `unzstd`"),
    (b"BZh", "compressed by bzip2", "decompress it first, with `bunzip2`"),
    (b"PK\x03\x04", "a ZIP archive, as spreadsheets are", "unpack it, or export it as CSV"),
];

/// Why the file cannot be of the format, with what it is instead and what helps. `None` if its first bytes do not say so.
pub fn mismatch(file: impl Read, format: Format) -> Option<String> {
    let mut start = Vec::new();
    file.take(SNIFFED_BYTES).read_to_end(&mut start).ok()?;
    mismatch_of(&start, format)
}

fn mismatch_of(start: &[u8], format: Format) -> Option<String> {
    let (expected, magics): (&str, &[&[u8]]) = match format {
        Format::Parquet => ("a Parquet file", &[b"PAR1"]),
        Format::Arrow | Format::Arrows => ("an Arrow file", &[b"ARROW1", b"\xff\xff\xff\xff", b"FEA1"]),
        Format::Csv | Format::Tsv => ("CSV", &[]),
        Format::Jsonl => ("JSON", &[]),
    };
    if magics.iter().any(|magic| start.starts_with(magic)) {
        return None;
    }
    if start.is_empty() {
        return (!format.is_text()).then(|| "the file is empty".to_string());
    }
    let (kind, remedy) = match KINDS.iter().find(|(magic, _, _)| start.starts_with(magic)) {
        _ if is_text(start) && format.is_text() => return None,
        _ if is_text(start) => ("text", "give --format csv or --format jsonl"),
        Some((_, kind, remedy)) => (*kind, *remedy),
        None => return None,
    };
    Some(format!("it is {kind}, not {expected}: {remedy}"))
}

/// Whether the bytes are text in UTF-8, perhaps cut within a character.
fn is_text(start: &[u8]) -> bool {
    let control = start.iter().any(|byte| *byte < b' ' && !matches!(byte, b'\t' | b'\n' | b'\r'));
    let valid = std::str::from_utf8(start).map_or_else(|e| e.error_len().is_none(), |_| true);
    valid && !control
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_of_another_format_is_named_with_a_remedy() {
        let of = |start: &[u8], format| mismatch_of(start, format).unwrap_or_default();
        assert_eq!(
            of(b"a,b\n1,2\n", Format::Parquet),
            "it is text, not a Parquet file: give --format csv or --format jsonl"
        );
        assert!(of(b"{\"a\":1}\n", Format::Arrow).contains("not an Arrow file"));
        assert!(of(b"\x1f\x8b\x08\0", Format::Csv).contains("gunzip"));
        assert!(of(b"PAR1\x15\0", Format::Jsonl).contains("--format parquet"));
        assert!(of(b"ARROW1\0\0", Format::Parquet).contains("--format arrow"));
        assert_eq!(of(b"", Format::Parquet), "the file is empty");
        let right: [(&[u8], Format); 7] = [
            (b"PAR1\x15\0", Format::Parquet),
            (b"ARROW1\0\0", Format::Arrows),
            (b"\xff\xff\xff\xff\0", Format::Arrow),
            (b"PAR1,b\n", Format::Csv),
            ("\u{feff}gr\u{fc}\u{df}".as_bytes(), Format::Csv),
            (b"", Format::Jsonl),
            (b"\0\0\x01", Format::Parquet),
        ];
        for (start, format) in right {
            assert_eq!(mismatch_of(start, format), None, "{start:?}");
        }
    }
}
