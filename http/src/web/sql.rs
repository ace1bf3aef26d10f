//! The page SQL: a statement, its rows page by page, how it ran, and its rows as a file. The rights are those of the visitor; a
//! statement that changes tables must be said to be one, too.

use std::time::Instant;

use askama::Template;
use axum::body::Body;
use axum::http::header::CONTENT_DISPOSITION;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Value, json};
use volley_common::clock::span;
use volley_common::options::fields::cut;
use volley_common::server::http::identity::http_status;
use volley_common::sql_script::{first_word, update_keyword};
use volley_common::{Error, Result};
use volley_formats::Format;

use super::figures::{count, items, plural};
use super::form as forms;
use super::page_error::PageError;
use super::query_plan::{PlanStage, stages};
use super::rows::{PageRows, RowWindow, read, read_text};
use super::shell::{self, PageShell};
use super::visitor::{PageVisit, PageVisitor};
use crate::api::sql::{execute, only_statement, query};
use crate::negotiation::{ContentCoding, Representation};
use crate::query::QueryParameters;
use crate::transfer::waiting_tickets::WaitingTickets;

/// Rows of a page.
const PER_PAGE: usize = 100;

#[derive(Template)]
#[template(path = "sql.html")]
struct SqlPage {
    shell: PageShell,
    sql: String,
    may_write: bool,
    changes: bool,
    error: String,
    done: String,
    stages: Vec<PlanStage>,
    plan_note: String,
    plan_text: String,
    result: PageRows,
    pages: Vec<PageButton>,
}

/// A button that shows another page of the result.
struct PageButton {
    number: u64,
    id: &'static str,
    label: &'static str,
}

/// What a visitor sends.
struct SqlForm {
    sql: String,
    /// The statement is explained, and measured.
    explain: bool,
    /// The statement may change tables.
    changes: bool,
    page: u64,
}

impl SqlForm {
    fn take(fields: &mut QueryParameters) -> Result<Self> {
        Ok(SqlForm {
            sql: fields.take("sql")?.unwrap_or_default(),
            explain: fields.take("do")?.is_some_and(|what| what == "explain"),
            changes: fields.take("changes")?.is_some(),
            page: fields.take_number("page")?.unwrap_or(1).max(1),
        })
    }
}

/// Shows the form; the parameter `sql` is its statement.
pub(crate) async fn page(visitor: PageVisitor, uri: Uri) -> Result<Response, PageError> {
    let sql = QueryParameters::parse(uri.query())?.take("sql")?.unwrap_or_default();
    let visit = visitor.enter().await?;
    let form = SqlForm { sql, explain: false, changes: false, page: 1 };
    visit.show(&empty_page(&visit, &form))
}

/// Runs the statement of the form.
pub(crate) async fn run(visitor: PageVisitor, headers: HeaderMap, body: Body) -> Result<Response, PageError> {
    let mut fields = forms::read(&visitor, &headers, body).await?;
    let form = SqlForm::take(&mut fields)?;
    let visit = visitor.enter().await?;
    let mut page = empty_page(&visit, &form);
    let mut status = StatusCode::OK;
    // A visitor who mistypes a statement gets it back.
    if let Err(error) = fill(&mut page, &visit, &form).await {
        status = http_status(error.code);
        page.error = error.message;
    }
    Ok(shell::html(&visit.visitor, status, page.render()?))
}

/// Sends the rows of the form's statement as a file.
pub(crate) async fn download(visitor: PageVisitor, headers: HeaderMap, body: Body) -> Result<Response, PageError> {
    let mut fields = forms::read(&visitor, &headers, body).await?;
    let format = match fields.take("format")?.as_deref() {
        Some("csv") => Format::Csv,
        Some("parquet") => Format::Parquet,
        Some("arrow") => Format::Arrows,
        other => {
            let other = cut(other.unwrap_or_default());
            return Err(Error::invalid(format!("there is no format {other:?}: it is csv, parquet or arrow")).into());
        }
    };
    let statement = only_statement(&SqlForm::take(&mut fields)?.sql)?;
    if let Some(keyword) = update_keyword(&statement) {
        return Err(Error::invalid(format!("{keyword} has no rows to download: run it")).into());
    }
    let representation = Representation { format, coding: ContentCoding::Identity, as_stored: false };
    let mut response = query(&visitor.caller, &statement, &representation, None).await?;
    let file = format!("attachment; filename=\"result.{}\"", representation.extension());
    if let Ok(file) = HeaderValue::from_str(&file) {
        response.headers_mut().insert(CONTENT_DISPOSITION, file);
    }
    Ok(response)
}

fn empty_page(visit: &PageVisit, form: &SqlForm) -> SqlPage {
    SqlPage {
        shell: visit.shell("SQL"),
        sql: form.sql.clone(),
        may_write: may_write(&visit.who),
        changes: form.changes,
        error: String::new(),
        done: String::new(),
        stages: Vec::new(),
        plan_note: String::new(),
        plan_text: String::new(),
        result: PageRows::default(),
        pages: Vec::new(),
    }
}

/// Whether a visitor may write anywhere. Only for what the page offers: the rights are checked by what it calls.
fn may_write(who: &Value) -> bool {
    let writes = |grant: &Value| matches!(grant["role"].as_str(), Some("writer" | "owner" | "admin"));
    who["open"] == true || items(&who["grants"]).any(writes)
}

async fn fill(page: &mut SqlPage, visit: &PageVisit, form: &SqlForm) -> Result<()> {
    let statement = only_statement(&form.sql)?;
    let started = Instant::now();
    if let Some(keyword) = update_keyword(&statement) {
        return change(page, visit, form, (keyword.as_str(), statement.as_str()), started).await;
    }
    let is_explained = first_word(&statement) == "EXPLAIN";
    if form.explain || is_explained {
        let statement = if is_explained { statement } else { format!("EXPLAIN ANALYZE {statement}") };
        let text = read_text(&visit.visitor.caller, visit.calls.clone(), ticket(&statement)).await?;
        page.stages = stages(&text);
        page.plan_note = format!("It took {}; the rows were not sent. Bars show the time of each step.", took(started));
        page.plan_text = text;
        return Ok(());
    }
    let window = RowWindow { skip: (form.page - 1).saturating_mul(PER_PAGE as u64), rows: PER_PAGE };
    let tickets = WaitingTickets::only(ticket(&statement));
    let mut result = read(&visit.visitor.caller, visit.calls.clone(), tickets, &[], window).await?;
    page.pages = page_buttons(form.page, result.has_more);
    result.note = format!("{} {}", shown(&window, &result, &took(started)), result.note);
    page.result = result;
    Ok(())
}

async fn change(
    page: &mut SqlPage,
    visit: &PageVisit,
    form: &SqlForm,
    (keyword, statement): (&str, &str),
    started: Instant,
) -> Result<()> {
    if form.explain {
        return Err(Error::invalid(format!("{keyword} changes tables: only queries are explained and measured")));
    }
    if !form.changes {
        return Err(Error::invalid(format!(
            "{keyword} changes tables: tick \"This statement may change tables\", and run it again"
        )));
    }
    let rows = execute(&visit.visitor.caller, statement).await?;
    let rows = rows.map(|rows| format!(": {}", plural(rows, "row"))).unwrap_or_default();
    page.done = format!("{keyword}{rows}, in {}.", took(started));
    // The next statement is said to be one anew.
    page.changes = false;
    Ok(())
}

fn ticket(statement: &str) -> Bytes {
    json!({ "sql": statement }).to_string().into()
}

fn took(started: Instant) -> String {
    let ms = started.elapsed().as_millis() as u64;
    if ms < 10_000 { format!("{ms} ms") } else { span(ms) }
}

/// Which rows are shown.
fn shown(window: &RowWindow, result: &PageRows, took: &str) -> String {
    let rows = result.rows.len() as u64;
    match (window.skip, result.has_more) {
        (0, false) => format!("{}, in {took}.", plural(rows, "row")),
        _ if rows == 0 => format!("No rows after the first {}.", count(window.skip)),
        (skip, more) => format!(
            "Rows {} to {}{}, in {took}. Each page runs the query again: only with ORDER BY they fit together.",
            count(skip + 1),
            count(skip + rows),
            if more { ", and there are more" } else { "" }
        ),
    }
}

fn page_buttons(number: u64, has_more: bool) -> Vec<PageButton> {
    let previous = (number > 1).then(|| PageButton { number: number - 1, id: "previous", label: "Previous rows" });
    let next = has_more.then(|| PageButton { number: number + 1, id: "next", label: "Next rows" });
    previous.into_iter().chain(next).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_says_which_rows_it_has() {
        let note = |skip, rows, has_more| {
            let row = || super::super::rows::CellRow { cells: Vec::new() };
            let result = PageRows { rows: (0..rows).map(|_| row()).collect(), has_more, ..PageRows::default() };
            shown(&RowWindow { skip, rows: PER_PAGE }, &result, "1 ms")
        };
        assert_eq!(note(0, 1, false), "1 row, in 1 ms.");
        assert!(note(0, 100, true).starts_with("Rows 1 to 100, and there are more, in 1 ms. Each page"));
        assert!(note(100, 7, false).starts_with("Rows 101 to 107, in 1 ms."));
        assert_eq!(note(200, 0, false), "No rows after the first 200.");
        let labels = |number, more| page_buttons(number, more).iter().map(|one| one.number).collect::<Vec<_>>();
        assert_eq!((labels(1, false), labels(1, true), labels(3, true)), (vec![], vec![2], vec![2, 4]));
    }

    #[test]
    fn writers_are_offered_changes() {
        let who = |role: &str| json!({ "open": false, "grants": [{ "role": role }] });
        assert_eq!(
            ["reader", "operator", "writer", "owner", "admin"].map(|role| may_write(&who(role))),
            [false, false, true, true, true]
        );
        assert!(may_write(&json!({ "open": true, "grants": [] })));
    }
}
