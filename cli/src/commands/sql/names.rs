//! Names as SQL writes them, for completion and lists: table `a/b/c` is `"a/b".c`.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use volley_client::Client;
use volley_common::ipc::schema::parse_schema;
use volley_common::{Result, TableName};

use super::super::ls;

/// The schemas that are no folders.
const OWN_SCHEMAS: [&str; 2] = ["default", "information_schema"];
/// Words that are no names without quotes. A name that is quoted without need means the same.
const RESERVED: [&str; 56] = [
    "all",
    "and",
    "as",
    "asc",
    "between",
    "by",
    "case",
    "cast",
    "create",
    "cross",
    "default",
    "desc",
    "distinct",
    "drop",
    "else",
    "end",
    "except",
    "exists",
    "false",
    "fetch",
    "for",
    "from",
    "full",
    "group",
    "having",
    "in",
    "inner",
    "insert",
    "intersect",
    "into",
    "is",
    "join",
    "left",
    "like",
    "limit",
    "natural",
    "not",
    "null",
    "offset",
    "on",
    "or",
    "order",
    "outer",
    "right",
    "select",
    "set",
    "table",
    "then",
    "true",
    "union",
    "using",
    "values",
    "when",
    "where",
    "window",
    "with",
];
/// Most names that completion knows.
const MAX_NAMES: usize = 50_000;
/// Words that completion knows beside the reserved ones.
const WORDS: [&str; 8] = ["analyze", "avg", "count", "describe", "explain", "max", "min", "show"];

/// An identifier as a statement must have it.
pub fn quoted(identifier: &str) -> String {
    let mut chars = identifier.chars();
    let is_plain = chars.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && chars.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
        && !RESERVED.contains(&identifier);
    if is_plain { identifier.into() } else { format!("\"{}\"", identifier.replace('"', "\"\"")) }
}

/// A table's name as a statement must have it.
pub fn sql_name(name: &TableName) -> String {
    match name.components().split_last() {
        Some((table, folders)) if !folders.is_empty() => {
            let schema = folders.join("/");
            match OWN_SCHEMAS.contains(&schema.as_str()) {
                true => quoted(&name.to_string()),
                false => format!("{}.{}", quoted(&schema), quoted(table)),
            }
        }
        _ => quoted(&name.to_string()),
    }
}

/// The names of tables and columns that completion offers. Cheap to clone; all clones have the same.
#[derive(Clone, Default)]
pub struct CompletionNames(Arc<Mutex<NameLists>>);

#[derive(Default)]
struct NameLists {
    tables: Vec<String>,
    columns: Vec<String>,
}

impl CompletionNames {
    /// Reads the tables of the cluster.
    ///
    /// # Errors
    /// The client's. The names stay as they were.
    pub async fn load(&self, client: &Client) -> Result<()> {
        let mut lists = NameLists::default();
        for info in client.list("").await?.iter().take(MAX_NAMES) {
            lists.tables.extend(ls::name(info).parse().ok().map(|name: TableName| sql_name(&name)));
            let schema = parse_schema(&info.schema)?;
            lists.columns.extend(schema.fields().iter().map(|field| quoted(field.name())));
            if lists.columns.len() > MAX_NAMES {
                lists.columns.sort_unstable();
                lists.columns.dedup();
                lists.columns.truncate(MAX_NAMES);
            }
        }
        lists.columns.sort_unstable();
        lists.columns.dedup();
        *self.lists() = lists;
        Ok(())
    }

    fn lists(&self) -> MutexGuard<'_, NameLists> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the last name of a text begins, and what it may become.
    pub fn complete(&self, text: &str) -> (usize, Vec<String>) {
        if text.matches('\'').count() % 2 == 1 {
            return (text.len(), Vec::new());
        }
        let start = name_start(text);
        let word = &text[start..];
        let lists = self.lists();
        let words = RESERVED.iter().chain(&WORDS).filter(|known| begins(known, word));
        let names = lists.tables.iter().chain(&lists.columns).filter(|name| begins(name, word)).cloned();
        let mut found: Vec<String> = names.chain(words.map(|known| cased(known, word))).collect();
        let mut at = start;
        // A column after its table's name or alias.
        if let (true, Some(dot)) = (found.is_empty(), word.rfind('.')) {
            at = start + dot + 1;
            found = lists.columns.iter().filter(|name| begins(name, &text[at..])).cloned().collect();
        }
        found.sort_unstable();
        found.dedup();
        if word.is_empty() { (text.len(), Vec::new()) } else { (at, found) }
    }
}

/// Where the name begins that a text ends with. It may have quotes, and slashes within them.
fn name_start(text: &str) -> usize {
    let is_name = |c: char| c.is_alphanumeric() || matches!(c, '_' | '"' | '.' | '/');
    text.char_indices().rev().take_while(|(_, c)| is_name(*c)).last().map_or(text.len(), |(at, _)| at)
}

/// Whether a name begins with a word, in any case, with or without quotes.
fn begins(name: &str, word: &str) -> bool {
    let plain = |text: &str| text.trim_start_matches('"').to_lowercase();
    plain(name).starts_with(&plain(word))
}

/// A word of SQL in the case of its beginning.
fn cased(known: &str, word: &str) -> String {
    let is_lower = word.chars().any(|c| c.is_ascii_lowercase());
    if is_lower { known.to_string() } else { known.to_ascii_uppercase() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_where_a_statement_needs_it() {
        for (name, shown) in [
            ("c", "c"),
            ("a/c", "a.c"),
            ("a/b/c", "\"a/b\".c"),
            ("Sales/c1", "\"Sales\".c1"),
            ("order", "\"order\""),
            ("default/c", "\"default/c\""),
            ("q\"q", "\"q\"\"q\""),
            ("1c", "\"1c\""),
        ] {
            assert_eq!(sql_name(&name.parse().unwrap()), shown);
        }
    }

    #[test]
    fn completion_finds_tables_columns_and_words() {
        let names = CompletionNames::default();
        *names.lists() = NameLists {
            tables: vec!["\"Sales\".orders".into(), "trips".into()],
            columns: vec!["price".into(), "\"Product\"".into()],
        };
        let complete = |text: &str| names.complete(text);
        assert_eq!(complete("SELECT pr"), (7, vec!["\"Product\"".into(), "price".into()]));
        assert_eq!(complete("SELECT * FROM sal"), (14, vec!["\"Sales\".orders".into()]));
        assert_eq!(complete("SELECT * FROM \"Sal"), (14, vec!["\"Sales\".orders".into()]));
        assert_eq!(complete("SELECT t.pri"), (9, vec!["price".into()]));
        assert_eq!(complete("sel"), (0, vec!["select".into()]));
        assert_eq!(complete("SEL"), (0, vec!["SELECT".into()]));
        assert_eq!(complete("SELECT 'pr").1, Vec::<String>::new(), "within a text");
        assert_eq!(complete("SELECT ").1, Vec::<String>::new());
    }
}
