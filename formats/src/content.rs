//! What the first bytes of a file say that it is, for an error about a file of another format than was expected.

use std::io::Read;

use super::Format;

/// Bytes that are looked at.
const SNIFFED_BYTES: u64 = 512;

/// First bytes, what a file with them is, and what helps.
static KINDS: &[(&[u8], &str, &str)] = &[
    (b"PAR1", "a Parquet file", "give --format parquet"),
    (b"ARROW1", "an Arrow file", "give --format arrow"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "give --format arrows"),
    (b"\x1f\x8b", "compressed by gzip", "decompress it first, with `gunzip`"),
    (b"\x28\xb5\x2f\xfd", "compressed by Zstandard", "decompress it first, with `unzstd`"),
    (b"BZh", "compressed by bzip2", "decompress it first, with `bunzip2`"),
    (b"\xfd7zXZ\0", "compressed by xz", "decompress it first, with `unxz`"),
    (b"\x04\x22\x4d\x18", "compressed by LZ4", "decompress it first, with `unlz4`"),
    (b"\xff\x06\0\0sNaPpY", "compressed by Snappy", "decompress it first"),
    (b"\x1f\x9d", "compressed by compress", "decompress it first, with `uncompress`"),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of Excel or Word", "export it as CSV"),
    (b"Obj\x01", "an Avro file", "convert it to Parquet or CSV"),
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

/// Why a file is hardly delimited text, if only its name says that it is, with what helps. Each JSON or HTML file is also CSV, of
/// one line that names columns, so it would be a table that nobody means.
pub fn other_than_delimited(file: impl Read, format: Format) -> Option<String> {
    let expected = match format {
        Format::Csv => "csv",
        Format::Tsv => "tsv",
        Format::Parquet | Format::Arrow | Format::Arrows | Format::Jsonl => return None,
    };
    let mut start = Vec::new();
    file.take(SNIFFED_BYTES).read_to_end(&mut start).ok()?;
    let (kind, remedy) = markup(&start)?;
    Some(format!("it is {kind}, not {}: {remedy}, or --format {expected} to read it as it is", expected.to_uppercase()))
}

/// What a text is that begins as no delimited text does, and what helps.
fn markup(start: &[u8]) -> Option<(&'static str, &'static str)> {
    let text = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start();
    let (first, rest) = text.split_first()?;
    let next = rest.trim_ascii_start();
    let is_kind = match first {
        // Not the GUID of `{6f9619ff-...},1`.
        b'{' => matches!(next, [b'"' | b'\'' | b'}', ..]),
        // Not the names of `[id],[name]` and `[1],[2]`.
        b'[' => matches!(next, [b'{' | b'[' | b'"' | b'\'' | b']', ..]) || is_number_and_comma(next),
        b'<' => is_tag(rest),
        _ => false,
    };
    is_kind.then_some(match first {
        b'<' => ("HTML or XML", "export it as CSV"),
        _ => ("JSON", "give --format jsonl"),
    })
}

fn is_number_and_comma(text: &[u8]) -> bool {
    let is_of_number = |byte: &u8| byte.is_ascii_digit() || matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E');
    let end = text.iter().position(|byte| !is_of_number(byte)).unwrap_or(text.len());
    let begins = text.first().is_some_and(|byte| byte.is_ascii_digit() || *byte == b'-');
    begins && text[end..].trim_ascii_start().starts_with(b",")
}

/// Whether HTML or XML goes on so after its first `<`. The names of columns are tags too in `<DATE>,<TIME>`, as trading programs
/// export them, also with tabs.
fn is_tag(rest: &[u8]) -> bool {
    let is_html = rest.get(..4).is_some_and(|name| name.eq_ignore_ascii_case(b"html"));
    let ends_name = matches!(rest.get(4), Some(b'>' | b' ' | b'\t' | b'\r' | b'\n'));
    if matches!(rest, [b'?', ..] | [b'!', b'-' | b'D' | b'd', ..]) || (is_html && ends_name) {
        return true;
    }
    let end = rest.iter().position(|byte| *byte == b'>');
    let after = end.and_then(|end| rest.get(end + 1..)).unwrap_or_default();
    let is_before_tag = !after.starts_with(b"\t") && after.trim_ascii_start().starts_with(b"<");
    rest.first().is_some_and(u8::is_ascii_alphabetic) && is_before_tag
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
        assert!(of(b"\xfd7zXZ\0\0\x04", Format::Csv).contains("compressed by xz, not CSV"));
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

    #[test]
    fn markup_named_csv_is_known_and_odd_names_are_not() {
        let of = |text: &str| other_than_delimited(text.as_bytes(), Format::Csv);
        let json = "it is JSON, not CSV: give --format jsonl, or --format csv to read it as it is";
        for text in ["{\"a\":1}\n", "\u{feff} \n{ \"a\": 1 }", "[{\"a\":1}]", "[\n  [1]]", "[]", "[1, 2]", "{}"] {
            assert_eq!(of(text).as_deref(), Some(json), "{text}");
        }
        for text in ["<html>\n", "<!DOCTYPE html>", "<?xml version=\"1.0\"?>", "<rows n=\"1\">\n <row/>", "<!-- a -->"]
        {
            assert!(of(text).is_some_and(|why| why.starts_with("it is HTML or XML, not CSV")), "{text}");
        }
        for text in [
            "",
            "a,b\n1,2\n",
            "[id],[name]\n",
            "[1],[2]\n",
            "{6f96-11},1\n",
            "<DATE>,<TIME>\n",
            "<DATE>\t<TIME>\n",
            "<a>\n1\n",
            "\"{\"\n",
        ] {
            assert_eq!(of(text), None, "{text}");
        }
        assert_eq!(other_than_delimited(&b"{\"a\":1}"[..], Format::Jsonl), None);
        let tsv = other_than_delimited(&b"{\"a\":1}"[..], Format::Tsv).unwrap_or_default();
        assert!(tsv.contains("not TSV") && tsv.contains("--format tsv"), "{tsv}");
    }
}
