//! The page Who: what the visitor is and may do; users, tokens, grants and the end of the audit log, as far as it may see them.

use askama::Template;
use axum::body::Body;
use axum::http::header::LOCATION;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use volley_common::{Code, Result};

use super::figures::{items, plain, utc_of};
use super::form as forms;
use super::page_error::PageError;
use super::shell::PageShell;
use super::table::LabelledFact;
use super::visitor::PageVisitor;

/// Rows of a list.
const MAX_ROWS: usize = 500;

#[derive(Template)]
#[template(path = "who.html")]
struct WhoPage {
    shell: PageShell,
    you: Vec<LabelledFact>,
    lists: Vec<WhoList>,
}

/// A list of what an action returns.
struct WhoList {
    id: &'static str,
    title: &'static str,
    note: String,
    columns: Vec<&'static str>,
    rows: Vec<WhoRow>,
    /// Whether its rows are tokens, which the visitor can revoke.
    revocable: bool,
}

struct WhoRow {
    cells: Vec<String>,
    /// The id of a token.
    token: String,
}

/// What is shown of each item.
type Columns = &'static [(&'static str, fn(&Value) -> String)];

const GRANTS: Columns = &[
    ("To", |grant| plain(&grant["to"])),
    ("Role", |grant| plain(&grant["role"])),
    ("On", |grant| plain(&grant["prefix"])),
    ("Columns", |grant| plain(&grant["columns"])),
    ("Granted by", |grant| plain(&grant["granted_by"])),
    ("At (UTC)", |grant| utc_of(&grant["created_ms"])),
];
const TOKENS: Columns = &[
    ("Token", |token| plain(&token["id"])),
    ("User", |token| plain(&token["user"])),
    ("Name", |token| plain(&token["name"])),
    ("Created (UTC)", |token| utc_of(&token["created_ms"])),
    ("Expires (UTC)", |token| utc_of(&token["expires_ms"])),
];
const USERS: Columns = &[
    ("User", |user| plain(&user["user"])),
    ("Groups", |user| plain(&user["groups"])),
    ("Password", |user| if user["has_password"] == true { "yes".into() } else { "no".into() }),
    ("Tokens", |user| plain(&user["tokens"])),
    ("Created (UTC)", |user| utc_of(&user["created_ms"])),
];
const AUDIT: Columns = &[
    ("At", |line| plain(&line["time"])),
    ("Who", |line| plain(if line["principal"].is_null() { &line["claimed"] } else { &line["principal"] })),
    ("From", |line| plain(&line["address"])),
    ("Call", |line| plain(&line["operation"])),
    ("About", |line| plain(if line["table"].is_null() { &line["target"] } else { &line["table"] })),
    ("Result", |line| plain(&line["result"])),
    ("Reason", |line| plain(&line["reason"])),
];

/// Shows the page.
pub(crate) async fn page(visitor: PageVisitor) -> Result<Response, PageError> {
    let visit = visitor.enter().await?;
    let (calls, nothing) = (&visit.calls, json!({}));
    let (grants, tokens) = tokio::join!(calls.action("list_grants", &nothing), calls.action("list_tokens", &nothing));
    let mut lists = Vec::new();
    lists.extend(list("grants", "Grants", GRANTS, grants));
    lists.extend(list("tokens", "Service tokens", TOKENS, tokens).map(|list| WhoList { revocable: true, ..list }));
    if visit.has_cluster_role(&["admin"]) {
        let (users, audit) = tokio::join!(calls.action("list_users", &nothing), calls.action("list_audit", &nothing));
        lists.extend(list("users", "Users", USERS, users));
        lists.extend(audit_list(audit));
    }
    let page = WhoPage { shell: visit.shell("Who"), you: you(&visit.who), lists };
    visit.show(&page)
}

/// Revokes a service token.
pub(crate) async fn revoke(visitor: PageVisitor, headers: HeaderMap, body: Body) -> Result<Response, PageError> {
    let id = forms::read(&visitor, &headers, body).await?.take("id")?.unwrap_or_default();
    visitor.caller.flight().await?.action("revoke_token", &json!({ "id": id })).await?;
    let mut response = StatusCode::SEE_OTHER.into_response();
    response.headers_mut().insert(LOCATION, HeaderValue::from_static("/ui/who"));
    Ok(response)
}

fn you(who: &Value) -> Vec<LabelledFact> {
    let name = match who["open"] == true {
        true => "everybody: the cluster has no users, so whoever reaches it may do everything".to_string(),
        false => plain(&who["principal"]),
    };
    let facts = [
        ("You are", name),
        ("Known by", plain(&who["method"])),
        ("Groups", plain(&who["groups"])),
        ("Credential", plain(&who["credential"])),
    ];
    let has_value = |fact: &LabelledFact| !fact.value.is_empty();
    facts.map(|(label, value)| LabelledFact { label, value }).into_iter().filter(has_value).collect()
}

/// A list; none if it is for others. Another failure is its note.
fn list(id: &'static str, title: &'static str, columns: Columns, found: Result<Value>) -> Option<WhoList> {
    let mut list = WhoList {
        id,
        title,
        note: String::new(),
        columns: columns.iter().map(|(label, _)| *label).collect(),
        rows: Vec::new(),
        revocable: false,
    };
    match found {
        // An earlier version does not have the action.
        Err(error) if matches!(error.code, Code::PermissionDenied | Code::Unimplemented) => return None,
        Err(error) => list.note = error.message,
        Ok(found) => {
            let row = |item: &Value| WhoRow {
                cells: columns.iter().map(|(_, text)| text(item)).collect(),
                token: plain(&item["id"]),
            };
            list.rows = items(&found).take(MAX_ROWS).map(row).collect();
            let all = items(&found).count();
            list.note = match all {
                0 => "None.".into(),
                all if all > MAX_ROWS => format!("The first {MAX_ROWS} of {all}."),
                _ => String::new(),
            };
        }
    }
    Some(list)
}

fn audit_list(found: Result<Value>) -> Option<WhoList> {
    let (lines, note) = match found {
        Err(error) => (Err(error), None),
        Ok(found) if found["lines"].is_null() => (
            Ok(json!([])),
            Some(
                "The audit log is off at the coordinator that was asked: start the coordinators with --audit-log."
                    .to_string(),
            ),
        ),
        Ok(found) => {
            let of =
                format!("The newest lines of coordinator {}; each member has a log of its own.", found["coordinator"]);
            (Ok(found["lines"].clone()), Some(of))
        }
    };
    let mut list = list("audit", "Audit log", AUDIT, lines)?;
    if let Some(note) = note {
        list.note = note;
    }
    Some(list)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use volley_common::Error;

    use super::*;

    #[test]
    fn list_for_others_is_not_shown() {
        assert!(list("users", "Users", USERS, Err(Error::denied("no"))).is_none());
        assert_eq!(list("users", "Users", USERS, Err(Error::unavailable("down"))).unwrap().note, "down");
        let users = list(
            "users",
            "Users",
            USERS,
            Ok(json!([{ "user": "ana", "groups": ["a", "b"], "has_password": true, "tokens": 2 }])),
        );
        assert_eq!(users.unwrap().rows[0].cells, ["ana", "a, b", "yes", "2", "–"]);
    }

    #[test]
    fn audit_log_says_whose_it_is() {
        let off = audit_list(Ok(json!({ "coordinator": 1, "lines": null }))).unwrap();
        assert!(off.note.contains("is off") && off.rows.is_empty());
        let line = json!({ "audit": "login", "claimed": "eve\u{202e}", "operation": "Handshake", "result": "UNAUTHENTICATED" });
        let one = audit_list(Ok(json!({ "coordinator": 2, "lines": [line] }))).unwrap();
        assert!(one.note.contains("coordinator 2"));
        assert_eq!((one.rows[0].cells[1].as_str(), one.rows[0].cells[5].as_str()), ("eve\\u{202e}", "UNAUTHENTICATED"));
    }
}
