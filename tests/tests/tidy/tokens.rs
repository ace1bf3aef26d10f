//! Splits Rust source into tokens.

use SourceToken::{Literal, Mark, PathSeparator, Word};

/// A piece of Rust source. Comments are not tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceToken<'a> {
    /// An identifier or a keyword.
    Word(&'a str),
    /// `::`.
    PathSeparator,
    /// Any other character.
    Mark(char),
    /// A string, a character, a number or a lifetime.
    Literal,
}

/// Splits Rust source into tokens.
pub fn tokens(text: &str) -> Vec<SourceToken<'_>> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &text[at..];
        let first = rest.chars().next().unwrap();
        let length = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = string(rest) {
            tokens.push(Literal);
            length
        } else if first.is_alphabetic() || first == '_' {
            let length = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            tokens.push(Word(&rest[..length]));
            length
        } else if first.is_ascii_digit() {
            tokens.push(Literal);
            rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            tokens.push(PathSeparator);
            2
        } else {
            if !first.is_whitespace() {
                tokens.push(Mark(first));
            }
            first.len_utf8()
        };
        at += length;
    }
    tokens
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < text.len() {
        match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    text.len()
}

/// The length of the string, byte string, raw string, character or lifetime that the text begins with.
fn string(text: &str) -> Option<usize> {
    let prefix = ["br", "cr", "b", "c", "r", ""].into_iter().find(|prefix| {
        let rest = text.strip_prefix(prefix);
        rest.is_some_and(|rest| rest.starts_with(['"', '#', '\'']))
    })?;
    let body = &text[prefix.len()..];
    if prefix.ends_with('r') {
        let hashes = body.bytes().take_while(|byte| *byte == b'#').count();
        let end = format!("\"{}", "#".repeat(hashes));
        // `r#type` is an identifier.
        let inner = body[hashes..].strip_prefix('"')?;
        return Some(prefix.len() + hashes + 1 + inner.find(&end)? + end.len());
    }
    let quote = body.chars().next().filter(|c| *c == '"' || *c == '\'')?;
    let mut characters = body.char_indices().skip(1);
    if quote == '\'' {
        let (_, first) = characters.next()?;
        let second = body[1 + first.len_utf8()..].chars().next();
        if first != '\\' && second != Some('\'') {
            let name = body[1..].find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(body.len() - 1);
            return Some(1 + name);
        }
        characters = body.char_indices().skip(1);
    }
    while let Some((at, character)) = characters.next() {
        if character == '\\' {
            characters.next();
        } else if character == quote {
            return Some(prefix.len() + at + 1);
        }
    }
    None
}
