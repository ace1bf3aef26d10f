//! Limits of SQL text: its length, and how deep a tree it can become.
//!
//! A chain such as `a OR b OR c` is a tree as deep as it is long, which the parser builds without recursion but everything
//! after it, even dropping it, walks with recursion. So the depth is bounded from above before anything is parsed.

use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan};
use volley_common::{Error, Result};

use crate::parsing::tokens_of;

/// Most operators, keywords and open brackets between the root and a leaf.
const MAX_NESTING: usize = 1000;
/// Most set operators of a statement. They nest across the commas of their queries.
const MAX_SET_OPERATORS: usize = 200;

/// Most brackets that are open at a time, and most levels of a type. The parser itself recurses for types.
const MAX_BRACKETS: usize = 64;

/// The tokens of a text, which is safe to parse. `what` begins the errors' sentences, for example "the filter".
///
/// # Errors
/// INVALID_ARGUMENT: longer than `most_bytes`, not SQL, or nested too deeply.
pub(crate) fn tokenize(text: &str, most_bytes: usize, what: &str) -> Result<Vec<TokenWithSpan>> {
    if text.len() > most_bytes {
        return Err(Error::invalid(format!(
            "{what} has {} bytes, more than the limit of {most_bytes}: put large data as a table and refer to it",
            text.len()
        )));
    }
    let tokens = tokens_of(text, what)?;
    check_nesting(&tokens, what)?;
    check_types(&tokens, what)?;
    Ok(tokens)
}

/// Whether there is nothing but white space and comments.
pub(crate) fn is_blank(tokens: &[TokenWithSpan]) -> bool {
    tokens.iter().all(|t| matches!(t.token, Token::Whitespace(_) | Token::SemiColon | Token::EOF))
}

fn check_nesting(tokens: &[TokenWithSpan], what: &str) -> Result<()> {
    // For each open bracket the tokens since the last comma that can add a level.
    let mut open = vec![0usize];
    let mut depth = 0usize;
    let mut set_operators = 0usize;
    for token in tokens {
        let innermost = open.len() - 1;
        match &token.token {
            Token::Comma => depth -= std::mem::take(&mut open[innermost]),
            Token::RParen | Token::RBracket | Token::RBrace if innermost > 0 => depth -= open.pop().unwrap_or(0),
            token if adds_no_level(token) => {}
            token => {
                open[innermost] += 1;
                depth += 1;
                match token {
                    Token::LParen | Token::LBracket | Token::LBrace => open.push(0),
                    Token::Word(word) => set_operators += usize::from(is_set_operator(word.keyword)),
                    _ => {}
                }
            }
        }
        if depth > MAX_NESTING || set_operators > MAX_SET_OPERATORS || open.len() > MAX_BRACKETS {
            return Err(too_deep(what));
        }
    }
    Ok(())
}

/// Bounds the levels of types such as `ARRAY<ARRAY<INT>>`, `INT[][]`, and those in texts for `arrow_cast`.
fn check_types(tokens: &[TokenWithSpan], what: &str) -> Result<()> {
    let tokens = || tokens.iter().map(|token| &token.token).filter(|token| !matches!(token, Token::Whitespace(_)));
    let word = |token: &Token| matches!(token, Token::Word(_));
    let (mut generic, mut subscripts) = (0usize, 0usize);
    for (before, token) in tokens().zip(tokens().skip(1)) {
        generic += usize::from(word(before) && matches!(token, Token::Lt) && is_generic(before));
        subscripts = match (before, token) {
            (Token::RBracket, Token::LBracket) => subscripts + 1,
            (_, Token::LBracket) => 0,
            _ => subscripts,
        };
        if generic > MAX_BRACKETS || subscripts > MAX_BRACKETS {
            return Err(too_deep(what));
        }
    }
    let names_types =
        |token: &Token| matches!(token, Token::Word(word) if word.value.to_ascii_lowercase().starts_with("arrow_"));
    let is_deep = |token: &Token| !word(token) && token.to_string().matches('(').count() > MAX_BRACKETS;
    match tokens().any(names_types) && tokens().any(is_deep) {
        true => Err(too_deep(what)),
        false => Ok(()),
    }
}

fn is_generic(token: &Token) -> bool {
    matches!(token, Token::Word(word) if matches!(word.keyword, Keyword::ARRAY | Keyword::MAP | Keyword::STRUCT))
}

fn too_deep(what: &str) -> Error {
    Error::invalid(format!(
        "{what} is nested too deeply, with more than {MAX_NESTING} operators in one expression, {MAX_BRACKETS} brackets or {MAX_SET_OPERATORS} set operators: use x IN (...) instead of many comparisons, or several statements"
    ))
}

fn adds_no_level(token: &Token) -> bool {
    match token {
        Token::EOF | Token::Whitespace(_) | Token::SemiColon => true,
        Token::Number(..) | Token::SingleQuotedString(_) | Token::Placeholder(_) => true,
        Token::Word(word) => word.keyword == Keyword::NoKeyword,
        _ => false,
    }
}

fn is_set_operator(keyword: Keyword) -> bool {
    matches!(keyword, Keyword::UNION | Keyword::EXCEPT | Keyword::INTERSECT | Keyword::MINUS)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        tokenize(text, 1 << 20, "the text").unwrap_err().message
    }

    #[test]
    fn long_chain_is_refused_and_a_long_list_is_not() {
        let chain = vec!["a = 1"; 2000].join(" OR ");
        assert!(error(&chain).contains("nested too deeply"));
        let list = format!("a IN ({})", vec!["-1"; 20_000].join(", "));
        tokenize(&list, 1 << 20, "the text").unwrap();
        tokenize(&vec!["a = 1"; 400].join(" OR "), 1 << 20, "the text").unwrap();
    }

    #[test]
    fn depth_counts_through_brackets() {
        let brackets = format!("{}1{}", "(".repeat(1001), ")".repeat(1001));
        assert!(error(&brackets).contains("nested too deeply"));
        let inner = vec!["1"; 400].join(" + ");
        let nested = format!("{inner} + (2 + ({inner} + (3 + {inner})))");
        assert!(error(&nested).contains("nested too deeply"));
        let siblings = vec![format!("f({inner})"); 50].join(", ");
        tokenize(&siblings, 1 << 20, "the text").unwrap();
    }

    #[test]
    fn types_are_bounded() {
        for deep in [
            format!("CAST(a AS {}INT{})", "ARRAY<".repeat(65), ">".repeat(65)),
            format!("CAST(a AS INT{})", "[]".repeat(70)),
            format!("a{}", "[1]".repeat(70)),
            format!("arrow_cast(a, '{}Int8{}')", "List(".repeat(65), ")".repeat(65)),
            format!("\"ARROW_cast\"(a, '{}')", "(".repeat(65)),
        ] {
            assert!(error(&deep).contains("nested too deeply"), "{deep}");
        }
        for text in [format!("a = '{}'", "(".repeat(500)), format!("{}1", "a[1] < a[2] AND ".repeat(100))] {
            tokenize(&text, 1 << 20, "the text").unwrap();
        }
        assert!(error(&format!("{}1{}", "(".repeat(65), ")".repeat(65))).contains("nested too deeply"));
    }

    #[test]
    fn set_operators_count_across_commas() {
        let unions = vec!["SELECT 1, 2"; 300].join(" UNION ALL ");
        assert!(error(&unions).contains("set operators"));
    }

    #[test]
    fn too_long_and_unfinished_texts_are_refused() {
        let long = tokenize("a = 1", 4, "the filter").unwrap_err();
        assert_eq!(long.code, volley_common::Code::InvalidArgument);
        assert!(long.message.starts_with("the filter has 5 bytes, more than the limit of 4"), "{long}");
        assert!(error("a = 'x").starts_with("the text is not SQL: "));
        // A closing bracket too many is left to the parser.
        tokenize(")))", 10, "the text").unwrap();
    }

    #[test]
    fn comments_are_blank() {
        assert!(is_blank(&tokenize(" -- nothing\n ; /* here */", 100, "the text").unwrap()));
        assert!(!is_blank(&tokenize("a", 100, "the text").unwrap()));
    }
}
