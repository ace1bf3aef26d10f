//! `PUT` and `POST /api/v1/data/TABLE`: rows that replace those of a table, or are added, as one write.

use arrow::datatypes::SchemaRef;
use arrow_flight::FlightDescriptor;
use axum::body::Body;
use axum::http::header::{CONTENT_RANGE, CONTENT_TYPE, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use volley_common::ipc::schema::parse_schema;
use volley_common::options::check_write_id;
use volley_common::options::fields::cut;
use volley_common::{Code, Error, Result, TableName};
use volley_formats::Format;

use super::data::{PREFIX, VERSION_HEADER};
use super::{json_response, rest_of};
use crate::caller::HttpCaller;
use crate::flight_calls::FlightCalls;
use crate::negotiation::format_of_body;
use crate::problem::Problem;
use crate::query::QueryParameters;
use crate::table_path::table_of_path;
use crate::transfer::ingest::{ARROW_MEMORY, STORED_MEMORY, put_arrow, put_parquet, put_stored, with_schema};
use crate::transfer::parquet_decoder::counted_memory;
use crate::transfer::spool::store;
use crate::transfer::upload::UploadBody;

/// The header that names a write: repeated with it, it takes effect once.
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// Its parameters: the options of a put that HTTP has.
pub(crate) const PARAMETERS: [&str; 11] = [
    "mode",
    "shards",
    "shard_by",
    "replicas",
    "compression",
    "retention_s",
    "ttl_s",
    "stats_columns",
    "max_endpoints",
    "preserve_batches",
    "shareable_tickets",
];

/// What a method does with the rows that are there, and the modes that it may be given.
struct WriteMethod {
    name: &'static str,
    modes: [&'static str; 2],
}

const PUT: WriteMethod = WriteMethod { name: "PUT", modes: ["replace", "create"] };
const POST: WriteMethod = WriteMethod { name: "POST", modes: ["append", "create_append"] };

/// Replaces the rows of a table, or creates it.
pub(crate) async fn replace(caller: HttpCaller, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    write(&PUT, caller, &uri, &headers, body).await
}

/// Adds rows to a table.
pub(crate) async fn append(caller: HttpCaller, uri: Uri, headers: HeaderMap, body: Body) -> Result<Response, Problem> {
    write(&POST, caller, &uri, &headers, body).await
}

async fn write(
    method: &WriteMethod,
    caller: HttpCaller,
    uri: &Uri,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    let table = table_of_path(rest_of(uri.path(), PREFIX))?;
    let mut parameters = QueryParameters::parse(uri.query())?;
    let mut options = parameters.take_options(&PARAMETERS)?;
    parameters.finish(&PARAMETERS)?;
    method.set_mode(&mut options)?;
    check_conditions(headers)?;
    if let Some(key) = idempotency_key(headers)? {
        options.insert("write_id".into(), key.into());
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok());
    let format = format_of_body(content_type)?;
    let settings = caller.state().settings();
    if format == Format::Parquet && settings.no_http_parquet {
        let text = "this member takes no Parquet (`no_http_parquet`): send an Arrow stream, CSV or JSON lines";
        return Err(Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, Error::invalid(text)));
    }
    let body = UploadBody::new(body, headers, settings.max_http_body_bytes)?;
    let appends = method.name == POST.name;
    let outcome = put(&caller, &table, options, format, appends, body).await?;
    written(&outcome)
}

/// Puts the body.
async fn put(
    caller: &HttpCaller,
    table: &TableName,
    mut options: Map<String, Value>,
    format: Format,
    appends: bool,
    body: UploadBody,
) -> Result<Bytes, Problem> {
    options.insert("table".into(), table.to_string().into());
    let descriptor = FlightDescriptor::new_cmd(Value::Object(options).to_string());
    let calls = caller.flight().await?;
    if format == Format::Arrows {
        return put_arrow(&calls, descriptor, body, caller.take_memory(ARROW_MEMORY)?).await;
    }
    // Also before anything is taken or stored: whether the caller is somebody.
    let known = schema_of_table(&calls, table).await?.filter(|_| appends);
    if format == Format::Parquet {
        let settings = caller.state().settings();
        let share = caller.take_memory(counted_memory(settings))?;
        let stored = store(caller, body, format).await?;
        return put_parquet(&calls, descriptor, &stored, settings, share).await;
    }
    let _share = caller.take_memory(STORED_MEMORY)?;
    let stored = store(caller, body, format).await?;
    let (stored, schema) = with_schema(stored, known).await?;
    put_stored(&calls, descriptor, stored, schema).await
}

/// The schema of a table, if there is one that the caller may read.
async fn schema_of_table(calls: &FlightCalls, table: &TableName) -> Result<Option<SchemaRef>> {
    match calls.schema(&json!({ "table": table.to_string() })).await {
        Ok(schema) => Ok(Some(parse_schema(&schema)?)),
        Err(error) if error.code == Code::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl WriteMethod {
    /// Sets the mode, unless the request has one that the method can have.
    fn set_mode(&self, options: &mut Map<String, Value>) -> Result<()> {
        let [default, other] = self.modes;
        match options.get("mode") {
            None => {
                options.insert("mode".into(), default.into());
                Ok(())
            }
            Some(mode) if mode == default || mode == other => Ok(()),
            Some(mode) => Err(Error::invalid(format!(
                "the mode of {} is {default} or {other}, not {}",
                self.name,
                cut(&mode.to_string())
            ))),
        }
    }
}

/// Refuses headers that would change what a put does, and are not served: rows that a client did not want to be replaced would be
/// lost.
fn check_conditions(headers: &HeaderMap) -> Result<()> {
    let conditions = [CONTENT_RANGE, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE];
    match conditions.iter().find(|name| headers.contains_key(*name)) {
        None => Ok(()),
        Some(name) => Err(Error::invalid(format!(
            "the header {name} is not supported in a put: leave it out; mode=create writes only if there is no table, and POST adds rows"
        ))),
    }
}

/// The write id, which may be in quotes.
fn idempotency_key(headers: &HeaderMap) -> Result<Option<String>> {
    let mut values = headers.get_all(IDEMPOTENCY_KEY).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::invalid("the header idempotency-key is given twice: leave one out"));
    }
    let text = value.to_str().map_err(|_| Error::invalid("the header idempotency-key is not ASCII"))?;
    let key = text.strip_prefix('"').and_then(|key| key.strip_suffix('"')).unwrap_or(text);
    check_write_id(key).map_err(|e| e.at("the header idempotency-key"))?;
    Ok(Some(key.to_string()))
}

/// The reply to a put with this outcome.
fn written(outcome: &[u8]) -> Result<Response, Problem> {
    let outcome: Value = serde_json::from_slice(outcome)
        .map_err(|e| Error::internal(format!("the outcome of the put cannot be read, so it is unknown: {e}")))?;
    let mut response = json_response(&outcome);
    if let Some(version) = outcome["version"].as_u64() {
        response.headers_mut().insert(HeaderName::from_static(VERSION_HEADER), HeaderValue::from(version));
    }
    Ok(response)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn method_decides_the_mode() {
        let mode = |method: &WriteMethod, given: Option<&str>| {
            let mut options = Map::new();
            if let Some(given) = given {
                options.insert("mode".into(), given.into());
            }
            method.set_mode(&mut options).map(|()| options["mode"].clone())
        };
        assert_eq!(mode(&PUT, None).unwrap(), "replace");
        assert_eq!(mode(&PUT, Some("create")).unwrap(), "create");
        assert_eq!(mode(&POST, None).unwrap(), "append");
        assert_eq!(mode(&POST, Some("create_append")).unwrap(), "create_append");
        assert_eq!(
            mode(&POST, Some("replace")).unwrap_err().message,
            "the mode of POST is append or create_append, not \"replace\""
        );
    }

    #[test]
    fn idempotency_key_is_a_write_id() {
        let key = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IDEMPOTENCY_KEY, value.parse().unwrap());
            idempotency_key(&headers)
        };
        assert_eq!(key("load-1").unwrap().as_deref(), Some("load-1"));
        assert_eq!(key("\"8e03978e-40d5-43dd-bc93-6894a57f9324\"").unwrap().unwrap().len(), 36);
        for bad in ["", "\"", "../x", "a b", "ä"] {
            assert!(key(bad).is_err(), "{bad}");
        }
        assert_eq!(idempotency_key(&HeaderMap::new()).unwrap(), None);
    }

    #[test]
    fn conditions_that_would_be_ignored_are_refused() {
        check_conditions(&HeaderMap::new()).unwrap();
        for (name, value) in [("content-range", "rows 0-9/100"), ("if-match", "\"v1-a\""), ("if-none-match", "*")] {
            let mut headers = HeaderMap::new();
            headers.insert(name, value.parse().unwrap());
            assert!(check_conditions(&headers).unwrap_err().message.contains(name), "{name}");
        }
    }

    #[test]
    fn outcome_becomes_the_reply() {
        let response = written(br#"{"table": "t", "version": 7, "rows": 1}"#).unwrap();
        assert_eq!(response.headers()[VERSION_HEADER], "7");
        assert!(written(b"").unwrap_err().error().message.contains("unknown"));
    }
}
