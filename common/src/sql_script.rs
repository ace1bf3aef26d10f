//! The statements of a text, as far as the client must know them: where one ends, and its first word. Nodes parse them.

/// A text of statements.
#[derive(Debug, PartialEq)]
pub struct SqlScript<'a> {
    /// The statements without their semicolons, those that are only blanks and comments left out.
    pub statements: Vec<&'a str>,
    /// Whether every statement ends with a semicolon.
    pub is_complete: bool,
}

impl<'a> SqlScript<'a> {
    /// Splits a text at its semicolons, except those in quotes and comments.
    pub fn new(text: &'a str) -> Self {
        let mut script = SqlScript { statements: Vec::new(), is_complete: true };
        let (mut start, mut at, mut is_blank) = (0, 0, true);
        while let Some(token) = Lexeme::at(text, at) {
            if token.kind == LexemeKind::Semicolon {
                if !is_blank {
                    script.statements.push(text[start..at].trim());
                }
                (start, is_blank) = (token.end, true);
            }
            is_blank &= matches!(token.kind, LexemeKind::Blank | LexemeKind::Semicolon);
            at = token.end;
        }
        if !is_blank {
            script.statements.push(text[start..].trim());
            script.is_complete = false;
        }
        script
    }
}

/// The first word of a statement in upper case; empty if it does not begin with one.
pub fn first_word(statement: &str) -> String {
    let mut at = 0;
    while let Some(token) = Lexeme::at(statement, at) {
        if token.kind != LexemeKind::Blank && !statement[at..].starts_with('(') {
            break;
        }
        at = token.end;
    }
    let word = statement[at..].chars().take_while(char::is_ascii_alphabetic);
    word.map(|c| c.to_ascii_uppercase()).collect()
}

/// The first word of a statement that changes tables; none for all others. Nodes take no others by do_put.
pub fn update_keyword(statement: &str) -> Option<String> {
    Some(first_word(statement)).filter(|word| matches!(word.as_str(), "CREATE" | "INSERT" | "DROP"))
}

#[derive(Clone, Copy, PartialEq)]
enum LexemeKind {
    /// White space or a comment.
    Blank,
    Semicolon,
    Other,
}

struct Lexeme {
    kind: LexemeKind,
    /// Where the next one begins.
    end: usize,
}

impl Lexeme {
    /// The token at this place; none at the end. What lacks its end goes to the end of the text, and is no blank, so that a text
    /// in an open comment is not complete.
    fn at(text: &str, at: usize) -> Option<Lexeme> {
        let rest = &text[at..];
        let first = rest.chars().next()?;
        let whole = |length: Option<usize>, kind| match length {
            Some(length) => Lexeme { kind, end: at + length },
            None => Lexeme { kind: LexemeKind::Other, end: text.len() },
        };
        Some(match first {
            ';' => Lexeme { kind: LexemeKind::Semicolon, end: at + 1 },
            '-' if rest.starts_with("--") => {
                whole(Some(rest.find('\n').map_or(rest.len(), |end| end + 1)), LexemeKind::Blank)
            }
            '/' if rest.starts_with("/*") => whole(comment_length(rest), LexemeKind::Blank),
            '"' | '`' => whole(quoted_length(rest, first, false), LexemeKind::Other),
            '\'' => whole(quoted_length(rest, first, is_escape_prefix(&text[..at])), LexemeKind::Other),
            '$' => whole(dollar_length(rest), LexemeKind::Other),
            c if c.is_whitespace() => Lexeme { kind: LexemeKind::Blank, end: at + c.len_utf8() },
            c => Lexeme { kind: LexemeKind::Other, end: at + c.len_utf8() },
        })
    }
}

/// The length of a comment, in which others may be nested.
fn comment_length(rest: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    loop {
        let next = at + rest[at..].find(['/', '*'])?;
        let step = match &rest.as_bytes()[next..] {
            [b'/', b'*', ..] => {
                depth += 1;
                2
            }
            [b'*', b'/', ..] => {
                depth -= 1;
                2
            }
            _ => 1,
        };
        at = next + step;
        if depth == 0 {
            return Some(at);
        }
    }
}

/// The length of a text in quotes. A doubled quote is two texts, one after the other.
fn quoted_length(rest: &str, quote: char, has_escapes: bool) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        if c == quote {
            return Some(at + 1);
        }
        if has_escapes && c == '\\' {
            chars.next();
        }
    }
    None
}

/// Whether the text before a quote makes it one with backslashes: `E'it\'s'`.
fn is_escape_prefix(before: &str) -> bool {
    let mut last = before.chars().rev();
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    last.next().is_some_and(|c| matches!(c, 'e' | 'E')) && !last.next().is_some_and(is_word)
}

/// The length of a text in dollars, as `$$it's$$`; 1 for a dollar that begins none, as that of a parameter.
fn dollar_length(rest: &str) -> Option<usize> {
    let tag = rest[1..].find(|c: char| !(c.is_alphanumeric() || c == '_')).map(|length| &rest[..length + 1]);
    let begins =
        tag.filter(|tag| rest[tag.len()..].starts_with('$') && !tag[1..].starts_with(|c: char| c.is_ascii_digit()));
    let Some(tag) = begins else { return Some(1) };
    let delimiter = &rest[..tag.len() + 1];
    let end = rest[delimiter.len()..].find(delimiter)?;
    Some(delimiter.len() + end + delimiter.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_at_semicolons_outside_of_quotes() {
        let cases: [(&str, &[&str], bool); 12] = [
            ("", &[], true),
            (" -- nothing;\n /* ; /* ; */ ; */ ;", &[], true),
            ("SELECT 1", &["SELECT 1"], false),
            ("SELECT 1; -- the end", &["SELECT 1"], true),
            ("SELECT ';', \";\" FROM t;SELECT 2 ;", &["SELECT ';', \";\" FROM t", "SELECT 2"], true),
            ("SELECT 'it''s;';", &["SELECT 'it''s;'"], true),
            (r"SELECT E'\';', e'x;';", &[r"SELECT E'\';', e'x;'"], true),
            (r"SELECT '\'; SELECT 2;", &[r"SELECT '\'", "SELECT 2"], true),
            ("SELECT $$;$$, $a$;$$;$a$, $1; SELECT $1$", &["SELECT $$;$$, $a$;$$;$a$, $1", "SELECT $1$"], false),
            ("SELECT 'ä;", &["SELECT 'ä;"], false),
            ("SELECT 1; /* open ;", &["SELECT 1", "/* open ;"], false),
            ("/*/ ; */ SELECT 1;", &["/*/ ; */ SELECT 1"], true),
        ];
        for (text, statements, is_complete) in cases {
            let expected = SqlScript { statements: statements.to_vec(), is_complete };
            assert_eq!(SqlScript::new(text), expected, "{text}");
        }
    }

    #[test]
    fn first_word_follows_comments_and_brackets() {
        for (text, word) in [
            ("select 1", "SELECT"),
            (" -- x\n/* y */ ((Insert into", "INSERT"),
            ("drop\ntable t", "DROP"),
            ("'text'", ""),
            ("", ""),
        ] {
            assert_eq!(first_word(text), word, "{text}");
        }
        assert_eq!(update_keyword("create table t (a int)").as_deref(), Some("CREATE"));
        assert_eq!(update_keyword("EXPLAIN SELECT 1"), None);
        assert_eq!(update_keyword("delete from t"), None);
    }
}
