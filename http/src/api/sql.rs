//! `POST /api/v1/sql`: a statement. The rows of a query are sent as those of a table; any other statement says what it has done.

use std::time::Instant;

use arrow_flight::{FlightData, FlightDescriptor};
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use prost::Message;
use serde_json::{Value, json};
use volley_common::options::UnambiguousMap;
use volley_common::options::fields::cut;
use volley_common::sql_script::{SqlScript, update_keyword};
use volley_common::{Error, Result};

use super::json_response;
use super::put::IDEMPOTENCY_KEY;
use crate::caller::HttpCaller;
use crate::negotiation::Representation;
use crate::problem::Problem;
use crate::query::QueryParameters;
use crate::transfer::flight_rows::FlightRows;
use crate::transfer::response::{OPENING_MEMORY, memory_of, rows_response};
use crate::transfer::upload::UploadBody;
use crate::transfer::waiting_tickets::WaitingTickets;

/// Its parameters.
pub(crate) const PARAMETERS: [&str; 2] = ["format", "null"];
/// The media types of statements.
pub(crate) const MEDIA_TYPES: [&str; 2] = ["application/json", "application/sql"];
/// The largest body.
const MAX_STATEMENT: u64 = 1 << 20;

/// The outcome of a statement that changes tables: the protobuf message DoPutUpdateResult of Flight SQL.
#[derive(Clone, PartialEq, Message)]
struct StatementOutcome {
    /// Rows written; -1 if they are not known.
    #[prost(int64, tag = "1")]
    record_count: i64,
}

/// Runs a statement.
pub(crate) async fn run(caller: HttpCaller, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    let mut parameters = QueryParameters::parse(uri.query())?;
    let (format, null) = (parameters.take("format")?, parameters.take("null")?);
    parameters.finish(&PARAMETERS)?;
    let media = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let is_json = is_json(media)?;
    let body = UploadBody::new(body, &headers, MAX_STATEMENT)?.collect().await?;
    let statement = statement(body, is_json)?;
    match update_keyword(&statement) {
        Some(_) if headers.contains_key(IDEMPOTENCY_KEY) => Err(Error::invalid(
            "the header idempotency-key is for rows that are put, and a statement that is repeated takes effect again: leave it out",
        )
        .into()),
        Some(keyword) => change(&caller, &keyword, &statement).await,
        None => {
            let representation = Representation::of(&headers, format.as_deref())?;
            query(&caller, &statement, &representation, null).await
        }
    }
}

/// # Errors
/// 415: neither of the types of statements.
fn is_json(media: &str) -> Result<bool, Problem> {
    let essence = media.split(';').next().unwrap_or_default().trim();
    let [json, sql] = MEDIA_TYPES;
    match essence {
        _ if essence.eq_ignore_ascii_case(json) => Ok(true),
        _ if essence.eq_ignore_ascii_case(sql) => Ok(false),
        _ => {
            let text = format!("the content-type is {:?}, and must be {json} or {sql}", cut(media));
            Err(Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Error::invalid(text)))
        }
    }
}

/// The one statement of a body, without a semicolon.
fn statement(body: Vec<u8>, is_json: bool) -> Result<String> {
    let text = match is_json {
        false => String::from_utf8(body).map_err(|_| Error::invalid("the statement is not UTF-8"))?,
        true => {
            let UnambiguousMap(map) = serde_json::from_slice(&body)
                .map_err(|e| Error::invalid(format!("the body is not a JSON object: {}", cut(&e.to_string()))))?;
            let other = map.keys().find(|key| *key != "sql");
            match (map.get("sql"), other) {
                (Some(Value::String(sql)), None) => sql.clone(),
                (_, Some(other)) => {
                    return Err(Error::invalid(format!(
                        "the body has the key {:?}, and must have sql alone",
                        cut(other)
                    )));
                }
                (_, None) => return Err(Error::invalid("the body has no statement: give {\"sql\": \"SELECT ...\"}")),
            }
        }
    };
    only_statement(&text)
}

/// The one statement of a text, without a semicolon.
///
/// # Errors
/// INVALID_ARGUMENT: there is none, or there are several.
pub(crate) fn only_statement(text: &str) -> Result<String> {
    match SqlScript::new(text).statements[..] {
        [statement] => Ok(statement.to_string()),
        [] => Err(Error::invalid("the body has no statement")),
        _ => Err(Error::invalid("the body has several statements: send one at a time")),
    }
}

/// Sends the rows of a query, as they are computed.
///
/// # Errors
/// Those of the query that are known before its first rows.
pub(crate) async fn query(
    caller: &HttpCaller,
    statement: &str,
    representation: &Representation,
    null: Option<String>,
) -> Result<Response, Problem> {
    let base = memory_of(representation);
    let share = caller.take_memory(OPENING_MEMORY)?;
    let ticket = Bytes::from(json!({ "sql": statement }).to_string());
    let source = FlightRows::new(caller.flight().await?, WaitingTickets::only(ticket), &[], share, base);
    let mut response = rows_response(source, representation, null).await?;
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Runs a statement that changes tables.
async fn change(caller: &HttpCaller, keyword: &str, statement: &str) -> Result<Response, Problem> {
    let started = Instant::now();
    let rows = execute(caller, statement).await?;
    Ok(json_response(&json!({ "statement": keyword, "rows": rows, "seconds": started.elapsed().as_secs_f64() })))
}

/// The same; returns how many rows were written, if that is known.
///
/// # Errors
/// Those of the statement.
pub(crate) async fn execute(caller: &HttpCaller, statement: &str) -> Result<Option<u64>> {
    let descriptor = FlightDescriptor::new_cmd(json!({ "sql": statement }).to_string());
    let first = FlightData { flight_descriptor: Some(descriptor), ..FlightData::default() };
    let outcome = caller.flight().await?.put(stream::iter([Ok(first)])).await?;
    let outcome = StatementOutcome::decode(outcome)
        .map_err(|e| Error::internal(format!("the outcome of the statement cannot be read, so it is unknown: {e}")))?;
    Ok(u64::try_from(outcome.record_count).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn body_has_one_statement() {
        let of = |body: &str, is_json| statement(body.as_bytes().to_vec(), is_json).map_err(|e| e.message);
        assert_eq!(of("SELECT 1;", false).unwrap(), "SELECT 1");
        assert_eq!(of(r#"{"sql": " SELECT ';' "}"#, true).unwrap(), "SELECT ';'");
        for (body, is_json, why) in [
            ("", false, "no statement"),
            ("-- nothing", false, "no statement"),
            ("SELECT 1; SELECT 2", false, "several"),
            ("{}", true, "no statement"),
            (r#"{"sql": 7}"#, true, "no statement"),
            (r#"{"sql": "SELECT 1", "limit": 3}"#, true, "\"limit\""),
            ("SELECT 1", true, "not a JSON object"),
        ] {
            assert!(of(body, is_json).unwrap_err().contains(why), "{body}");
        }
        assert!(statement(vec![0xff], false).unwrap_err().message.contains("UTF-8"));
    }

    #[test]
    fn statement_has_a_type_that_forms_cannot_send() {
        assert!(is_json("application/json; charset=utf-8").unwrap() && !is_json("Application/SQL").unwrap());
        for media in ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"] {
            assert!(is_json(media).is_err(), "{media}");
        }
    }
}
