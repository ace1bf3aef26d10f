//! How CSV and TSV are written: the options of the command line.

use std::str::FromStr;

use super::Format;
use super::encoding::TextEncoding;

/// What is around the cells that need it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CsvQuote {
    /// Nothing: a quote is a character as any other.
    None,
    /// This character.
    Character(u8),
}

impl FromStr for CsvQuote {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(CsvQuote::None),
            _ => ascii_character(text).map(CsvQuote::Character).map_err(|e| format!("{e}; or none")),
        }
    }
}

/// Options of CSV and TSV, for reading and writing.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct CsvOptions {
    /// The character between the cells of CSV: a character of ASCII, tab, or its code as in \x01 [default: a comma; a tab in TSV].
    #[arg(long, value_name = "CHARACTER", value_parser = ascii_character, allow_hyphen_values = true)]
    pub delimiter: Option<u8>,
    /// The character around cells of CSV that have a delimiter or a line end, doubled within them; or none [default: "].
    #[arg(long, value_name = "CHARACTER", allow_hyphen_values = true)]
    pub quote: Option<CsvQuote>,
    /// The first line of CSV is a row: it does not name the columns. Read, they are those of --schema or of the table that is
    /// appended to, in this order, else c0, c1, and so on.
    #[arg(long)]
    pub no_header: bool,
    /// The encoding of CSV [default: utf-8].
    #[arg(long, value_enum)]
    pub encoding: Option<TextEncoding>,
}

/// A character as an argument names it.
pub fn ascii_character(text: &str) -> Result<u8, String> {
    let byte = match text {
        "tab" | "\\t" => Some(b'\t'),
        _ => match (text.as_bytes(), text.strip_prefix("\\x")) {
            ([byte], _) => Some(*byte),
            (_, Some(code)) if code.len() == 2 => u8::from_str_radix(code, 16).ok(),
            _ => None,
        },
    };
    byte.filter(|byte| byte.is_ascii() && !matches!(byte, b'\0' | b'\n' | b'\r')).ok_or_else(|| {
        "must be one character of ASCII that ends no line: as ; or | or tab, or its code as in \\x01".into()
    })
}

impl CsvOptions {
    /// The first option that is given.
    pub fn given(&self) -> Option<&'static str> {
        let given = [
            ("--delimiter", self.delimiter.is_some()),
            ("--quote", self.quote.is_some()),
            ("--no-header", self.no_header),
            ("--encoding", self.encoding.is_some()),
        ];
        given.into_iter().find(|(_, given)| *given).map(|(option, _)| option)
    }

    /// The character between cells.
    pub fn delimiter(&self, format: Format) -> u8 {
        self.delimiter.unwrap_or(if format == Format::Tsv { b'\t' } else { b',' })
    }

    /// The character around cells; `None` if they have none.
    pub fn quote(&self) -> Option<u8> {
        match self.quote {
            None => Some(b'"'),
            Some(CsvQuote::None) => None,
            Some(CsvQuote::Character(byte)) => Some(byte),
        }
    }

    /// Why the characters cannot be told apart, with that which begins a comment.
    ///
    /// # Errors
    /// Two options have the same character.
    pub fn check(&self, format: Format, comment: Option<u8>) -> Result<(), String> {
        let (delimiter, quote) = (self.delimiter(format), self.quote());
        let same = match (quote, comment) {
            (Some(quote), _) if quote == delimiter => "--delimiter and --quote are",
            (_, Some(comment)) if comment == delimiter => "--delimiter and --comment are",
            (Some(quote), Some(comment)) if comment == quote => "--quote and --comment are",
            _ => return Ok(()),
        };
        Err(format!("{same} the same character"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_are_named_or_written() {
        for (text, byte) in [(";", b';'), ("tab", b'\t'), ("\\t", b'\t'), ("\t", b'\t'), ("\\x01", 1), ("\\", b'\\')] {
            assert_eq!(ascii_character(text), Ok(byte), "{text}");
        }
        for text in ["", ",,", "\u{a7}", "\\x", "\\x0", "\\xzz", "\\xff", "\\x00", "\\x0a", "\n", "comma"] {
            assert!(ascii_character(text).is_err_and(|why| why.contains("\\x01")), "{text:?}");
        }
        assert_eq!("none".parse(), Ok(CsvQuote::None));
        assert_eq!("'".parse(), Ok(CsvQuote::Character(b'\'')));
    }

    #[test]
    fn characters_must_differ() {
        let options = |delimiter, quote| CsvOptions { delimiter, quote, ..CsvOptions::default() };
        assert_eq!(options(None, None).check(Format::Csv, Some(b'#')), Ok(()));
        assert_eq!(options(Some(b'"'), Some(CsvQuote::None)).check(Format::Csv, None), Ok(()));
        for (options, comment) in [
            (options(Some(b'"'), None), None),
            (options(None, Some(CsvQuote::Character(b','))), None),
            (options(None, None), Some(b',')),
            (options(None, None), Some(b'"')),
        ] {
            assert!(options.check(Format::Csv, comment).is_err_and(|why| why.ends_with("the same character")));
        }
        assert_eq!(options(None, None).check(Format::Tsv, Some(b',')), Ok(()));
    }
}
