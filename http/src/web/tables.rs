//! The page Tables: a list that can be searched.

use askama::Template;
use axum::http::Uri;
use axum::response::Response;
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use url::form_urlencoded;
use volley_common::{Code, Result, TableName};

use super::figures::{count_of, items, plural, size_of, text, utc_of};
use super::page_error::PageError;
use super::shell::PageShell;
use super::visitor::{PageVisit, PageVisitor};
use crate::query::QueryParameters;
use crate::table_path::path_of_table;

/// Tables of a page.
const PER_PAGE: usize = 50;
/// Calls of a page at once.
const CONCURRENT: usize = 8;

#[derive(Template)]
#[template(path = "tables.html")]
struct TablesPage {
    shell: PageShell,
    query: String,
    note: String,
    count: String,
    rows: Vec<TableRow>,
    previous: String,
    next: String,
}

struct TableRow {
    name: String,
    href: String,
    rows: String,
    bytes: String,
    parts: String,
    copies: String,
    version: String,
    written: String,
}

/// Shows the page.
pub(crate) async fn page(visitor: PageVisitor, uri: Uri) -> Result<Response, PageError> {
    let mut parameters = QueryParameters::parse(uri.query())?;
    let query = parameters.take("q")?.unwrap_or_default();
    let number = parameters.take_number("page")?.unwrap_or(1).max(1);
    let visit = visitor.enter().await?;
    let (names, note) = match listed(&visit, &query).await {
        Ok(names) => (names, String::new()),
        // Too many to list: a prefix makes them fewer.
        Err(error) if error.code == Code::ResourceExhausted && error.retry_after_ms.is_none() => {
            (Vec::new(), format!("{}. Search for the beginning of a name that ends in a slash: sales/", error.message))
        }
        Err(error) => return Err(error.into()),
    };
    let first = usize::try_from(number - 1).unwrap_or(usize::MAX).saturating_mul(PER_PAGE).min(names.len());
    let shown: Vec<String> = names[first..].iter().take(PER_PAGE).cloned().collect();
    let end = first + shown.len();
    let count = match names.len() {
        _ if !note.is_empty() => String::new(),
        0 if query.is_empty() => "There are no tables that you may read.".to_string(),
        0 => "No table that you may read has such a name.".to_string(),
        all if shown.len() == all => plural(all as u64, "table"),
        all => format!("{} to {end} of {}", first + 1, plural(all as u64, "table")),
    };
    let rows = stream::iter(shown).map(|name| table_row(&visit, name)).buffered(CONCURRENT).collect::<Vec<_>>().await;
    let page = TablesPage {
        shell: visit.shell("Tables"),
        note,
        count,
        rows: rows.into_iter().flatten().collect(),
        previous: if number > 1 { page_href(&query, number - 1) } else { String::new() },
        next: if end < names.len() { page_href(&query, number + 1) } else { String::new() },
        query,
    };
    visit.show(&page)
}

fn page_href(query: &str, number: u64) -> String {
    let mut encoded = form_urlencoded::Serializer::new(String::new());
    encoded.append_pair("q", query).append_pair("page", &number.to_string());
    format!("/ui/tables?{}", encoded.finish())
}

/// The names of the tables whose names contain a text, in any case.
async fn listed(visit: &PageVisit, query: &str) -> Result<Vec<String>> {
    let wanted = query.trim().to_lowercase();
    // The list of a prefix may be short where that of all is too long.
    let body = match query.trim().strip_suffix('/') {
        Some(prefix) if prefix.parse::<TableName>().is_ok() => json!({ "prefix": query.trim() }),
        _ => json!({}),
    };
    let listed = visit.calls.action("list_tables", &body).await?;
    let names = items(&listed["tables"]).filter_map(|table| table["table"].as_str());
    let mut names: Vec<String> =
        names.filter(|name| name.to_lowercase().contains(&wanted)).map(str::to_string).collect();
    names.sort_unstable();
    Ok(names)
}

/// A table as it is now; none if it was dropped meanwhile.
async fn table_row(visit: &PageVisit, name: String) -> Option<TableRow> {
    let table: TableName = name.parse().ok()?;
    let stats = match visit.calls.action("get_stats", &json!({ "table": name })).await {
        Err(error) if error.code == Code::NotFound => return None,
        Err(_) => Value::Null,
        Ok(stats) => stats,
    };
    Some(TableRow {
        href: format!("/ui/tables/{}", path_of_table(&table)),
        name: text(&name.into()),
        rows: count_of(&stats["rows"]),
        bytes: size_of(&stats["bytes"]),
        parts: count_of(&stats["parts"]),
        copies: count_of(&stats["replicas"]),
        version: count_of(&stats["version"]),
        written: utc_of(&stats["changed_ms"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_keeps_the_search() {
        assert_eq!(page_href("a&b <", 3), "/ui/tables?q=a%26b+%3C&page=3");
    }
}
