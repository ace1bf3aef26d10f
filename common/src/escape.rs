//! Characters that show nothing, move a terminal's cursor or reverse the order of its text: a log or table in which they are
//! escaped looks like what it says, whatever names clients choose.

use std::borrow::Cow;
use std::fmt;

/// Controls (C0, DEL, C1), line and paragraph separators, zero-width characters, and the marks, embeddings, overrides and
/// isolates of bidirectional text. All are below U+10000.
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}' | '\u{61c}')
}

/// The text with its invisible characters as in a literal of Rust: `\n`, `\u{202e}`.
pub fn escape_invisible(text: &str) -> Cow<'_, str> {
    if !text.contains(is_invisible) {
        return text.into();
    }
    let mut escaped = String::with_capacity(2 * text.len());
    // A String takes everything.
    let _ = fmt::Write::write_str(&mut EscapingWriter(&mut escaped), text);
    escaped.into()
}

/// The same for a text of several lines, which stay lines.
pub fn escape_lines(text: &str) -> String {
    text.split('\n').map(escape_invisible).collect::<Vec<_>>().join("\n")
}

/// Escapes what is written as [`escape_invisible`] does.
pub(crate) struct EscapingWriter<W>(pub W);

impl<W: fmt::Write> fmt::Write for EscapingWriter<W> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let mut rest = text;
        while let Some((at, c)) = rest.char_indices().find(|(_, c)| is_invisible(*c)) {
            self.0.write_str(&rest[..at])?;
            write!(self.0, "{}", c.escape_default())?;
            rest = &rest[at + c.len_utf8()..];
        }
        self.0.write_str(rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invisible_characters_are_escaped_and_others_stay() {
        for (text, escaped) in [
            ("sales/Käse 漢字 🧀 'a\\b' \"c\"", "sales/Käse 漢字 🧀 'a\\b' \"c\""),
            ("\u{202e}gnp.exe", "\\u{202e}gnp.exe"),
            ("a\u{2066}b\u{2069}", "a\\u{2066}b\\u{2069}"),
            ("a\u{200b}\u{200e}\u{200f}b\u{feff}", "a\\u{200b}\\u{200e}\\u{200f}b\\u{feff}"),
            ("\u{1b}[2J\r\n\t\0\u{7f}\u{9b}", "\\u{1b}[2J\\r\\n\\t\\u{0}\\u{7f}\\u{9b}"),
            ("\u{61c}\u{2028}\u{2060}", "\\u{61c}\\u{2028}\\u{2060}"),
            ("", ""),
        ] {
            assert_eq!(escape_invisible(text), escaped);
        }
        for c in ('\u{202a}'..='\u{202e}').chain('\u{2066}'..='\u{2069}').chain('\0'..='\u{1f}') {
            assert!(!escape_invisible(&format!("a{c}b")).contains(c), "{c:?}");
        }
    }

    #[test]
    fn lines_stay_lines() {
        assert_eq!(escape_lines("a\n\u{202e}b\r\n"), "a\n\\u{202e}b\\r\n");
        assert_eq!(escape_lines("one"), "one");
    }
}
