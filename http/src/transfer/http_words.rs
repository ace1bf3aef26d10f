//! Errors of formats in the words of HTTP: `volley-formats` names the flags and the extensions of the command line.

use volley_common::Error;

/// What the command line says, and what a client of HTTP does instead. What begins as another one follows it.
const WORDS: [(&str, &str); 12] = [
    ("give --format csv or --format jsonl", "send it with the content-type text/csv or application/x-ndjson"),
    ("give --format parquet", "send it with the content-type application/vnd.apache.parquet"),
    ("give --format arrows", "send it with the content-type application/vnd.apache.arrow.stream"),
    ("give --format arrow", "write it with a stream writer, and send it as application/vnd.apache.arrow.stream"),
    ("give --encoding utf-16", "send it as UTF-8"),
    ("; --encoding names another encoding", "; send it as UTF-8"),
    (", or name another with --type", ""),
    ("--type COLUMN=utf8 keeps it as text", "send it as an Arrow stream or Parquet"),
    ("give a text for it with --null, or use .arrow", "give a text for it by the parameter null, or request arrow"),
    ("use .arrow, or .parquet if it has no union", "request arrow, or parquet if it has no union"),
    ("use .parquet or .arrow", "request parquet or arrow"),
    ("use .arrow", "request arrow"),
];

/// The same error, for a client of HTTP.
pub(crate) fn in_http_words(mut error: Error) -> Error {
    for (flag, words) in WORDS {
        if error.message.contains(flag) {
            error.message = error.message.replace(flag, words);
        }
    }
    error
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use volley_formats::text::{self, TextOptions};
    use volley_formats::{Format, InputFile, check_content};

    use super::*;

    fn body(format: Format, bytes: &[u8]) -> InputFile {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        InputFile::of_copy(Path::new("the body"), format, bytes.len() as u64, file).unwrap()
    }

    #[test]
    fn errors_of_bodies_name_no_flags() {
        let deep = format!("{{\"a\":{}1{}}}\n", "[".repeat(40), "]".repeat(40));
        let bodies: [(Format, &[u8], &str); 7] = [
            (Format::Parquet, b"a,b\n1,2\n", "the content-type text/csv or application/x-ndjson"),
            (Format::Csv, b"PAR1\x15\0\x15", "the content-type application/vnd.apache.parquet"),
            (Format::Csv, b"ARROW1\0\0", "write it with a stream writer"),
            (Format::Csv, b"\xff\xff\xff\xff\x10\0\0\0", "the content-type application/vnd.apache.arrow.stream"),
            (Format::Csv, b"\xff\xfea\0\n\0", "send it as UTF-8"),
            (Format::Csv, b"a\n\xe4\n", "send it as UTF-8"),
            (Format::Jsonl, deep.as_bytes(), "send it as an Arrow stream or Parquet"),
        ];
        for (format, bytes, words) in bodies {
            let input = body(format, bytes);
            let inferred = check_content(&input).and_then(|()| text::infer(&input, &TextOptions::default()).map(drop));
            let error = in_http_words(inferred.unwrap_err());
            assert!(error.message.contains(words) && !error.message.contains("--"), "{error}");
        }
    }

    #[test]
    fn remedies_of_formats_are_formats_of_http() {
        for (text, expected) in [
            ("nested: use .parquet or .arrow", "nested: request parquet or arrow"),
            ("a union: use .arrow", "a union: request arrow"),
            ("x: use .arrow, or .parquet if it has no union", "x: request arrow, or parquet if it has no union"),
            ("nothing to change", "nothing to change"),
        ] {
            assert_eq!(in_http_words(Error::invalid(text)).message, expected);
        }
    }
}
