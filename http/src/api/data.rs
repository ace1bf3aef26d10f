//! `GET /api/v1/data/TABLE`: the rows of a table.

use axum::body::Body;
use axum::http::header::{
    ACCEPT_RANGES, CONTENT_DISPOSITION, CONTENT_RANGE, ETAG, IF_NONE_MATCH, IF_RANGE, RANGE, VARY,
};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, Uri};
use axum::response::Response;
use volley_common::{Error, Result, TableName};
use xxhash_rust::xxh3::xxh3_64;

use super::read_plan::{HttpRead, HttpReadPlan};
use super::rest_of;
use crate::caller::HttpCaller;
use crate::negotiation::Representation;
use crate::problem::Problem;
use crate::query::QueryParameters;
use crate::row_range::{RowRange, UNIT};
use crate::table_path::table_of_path;
use crate::transfer::flight_rows::FlightRows;
use crate::transfer::response::{memory_of, rows_response};
use crate::transfer::waiting_tickets::WaitingTickets;

/// The path before the table's name.
pub(crate) const PREFIX: &str = "/api/v1/data/";
/// The header with the version that is read or was made.
pub(crate) const VERSION_HEADER: &str = "x-volley-version";
/// The header with the number of rows.
const ROWS_HEADER: &str = "x-volley-rows";
/// Its parameters.
pub(crate) const PARAMETERS: [&str; 9] =
    ["columns", "where", "limit", "version", "max_endpoints", "format", "null", "partition", "plan"];

/// Which part of a read is requested: a partition of a plan that was listed.
struct RequestedPartition {
    index: u64,
    shape: String,
}

/// Serves it.
pub(crate) async fn get(caller: HttpCaller, uri: Uri, headers: HeaderMap) -> Result<Response, Problem> {
    let table = table_of_path(rest_of(uri.path(), PREFIX))?;
    let mut parameters = QueryParameters::parse(uri.query())?;
    let read = HttpRead::take(table, &mut parameters)?;
    let (format, null) = (parameters.take("format")?, parameters.take("null")?);
    let partition = requested_partition(&mut parameters)?;
    parameters.finish(&PARAMETERS)?;
    let representation = Representation::of(&headers, format.as_deref())?;

    let calls = caller.flight().await?;
    let plan = read.plan(&calls).await?;
    let etag = etag(&read, &plan, read.created_ms(&calls).await?, (&uri, &representation));
    if is_known(&headers, &etag) {
        return Ok(not_modified(&etag));
    }
    let version = plan.version;
    let mut plan = match partition {
        Some(partition) => partition.of(plan)?,
        None => plan,
    };
    let total = plan.rows;
    let range = requested_range(&headers, &etag, total)?;
    let base = memory_of(&representation);
    let share = caller.take_memory(base)?;
    let skip = range.map_or(0, |range| plan.seek(range.first));
    let endpoints = plan.endpoints.into_iter().map(|planned| planned.endpoint).collect();
    let tickets = WaitingTickets::new(&calls, endpoints);
    let mut source = FlightRows::new(calls, tickets, &plan.schema, share, base);
    if representation.as_stored {
        source = source.with_stored_compression();
    }
    let most = most_rows(read.limit(), range);
    if range.is_some() || most.is_some() {
        source = source.with_rows(skip, most);
    }
    let mut response = rows_response(source, &representation, null).await?;
    let map = response.headers_mut();
    add(map, ETAG, &etag);
    add(map, ACCEPT_RANGES, UNIT);
    add(map, HeaderName::from_static(VERSION_HEADER), &version.to_string());
    if let Some(total) = total {
        add(map, HeaderName::from_static(ROWS_HEADER), &total.to_string());
    }
    add(map, CONTENT_DISPOSITION, &disposition(&read.table, representation.extension()));
    if let Some(range) = range {
        add(map, CONTENT_RANGE, &range.content_range(total));
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
    }
    Ok(response)
}

/// The most rows that are sent. The limit counts here, too: it is for all endpoints of a read together.
fn most_rows(limit: Option<u64>, range: Option<RowRange>) -> Option<u64> {
    let first = range.map_or(0, |range| range.first);
    let limit = limit.map(|limit| limit.saturating_sub(first));
    let of_range = range.and_then(|range| range.rows());
    limit.into_iter().chain(of_range).min()
}

/// Adds a header whose value fits into one.
fn add(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn requested_partition(parameters: &mut QueryParameters) -> Result<Option<RequestedPartition>> {
    match (parameters.take_number("partition")?, parameters.take("plan")?) {
        (None, None) => Ok(None),
        (Some(index), Some(shape)) => Ok(Some(RequestedPartition { index, shape })),
        _ => Err(Error::invalid(
            "the parameters partition and plan belong together: use the addresses that /api/v1/partitions/TABLE lists",
        )),
    }
}

impl RequestedPartition {
    /// # Errors
    /// ABORTED: the read is divided in another way now.
    fn of(self, plan: HttpReadPlan) -> Result<HttpReadPlan> {
        if self.shape != shape_text(&plan) {
            return Err(Error::aborted(
                "the version is divided into other partitions now: list them again, and fetch all of them",
            ));
        }
        plan.only(self.index)
    }
}

/// The value of the parameter `plan`.
pub(crate) fn shape_text(plan: &HttpReadPlan) -> String {
    format!("{:016x}", plan.shape())
}

/// The name of a representation of a version: equal names have equal bytes, or at least equal rows in the same order.
fn etag(
    read: &HttpRead,
    plan: &HttpReadPlan,
    created_ms: u64,
    (uri, representation): (&Uri, &Representation),
) -> String {
    // The rows of a keyed table have no order of their own.
    let shape = if plan.ordered { 0 } else { plan.shape() };
    let (table, query) = (&read.table, uri.query().unwrap_or_default());
    let text = format!("{table} {query} {created_ms} {shape} {representation:?} {:?}", plan.schema);
    format!("\"v{}-{:016x}\"", plan.version, xxh3_64(text.as_bytes()))
}

/// Whether the client has it already.
fn is_known(headers: &HeaderMap, etag: &str) -> bool {
    let lists = headers.get_all(IF_NONE_MATCH).iter().filter_map(|value| value.to_str().ok());
    let mut tags = lists.flat_map(|list| list.split(',')).map(|tag| tag.trim().trim_start_matches("W/"));
    tags.any(|tag| tag == "*" || tag == etag)
}

fn not_modified(etag: &str) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    add(response.headers_mut(), ETAG, etag);
    add(response.headers_mut(), VARY, "accept, accept-encoding, authorization");
    response
}

/// The rows that the header `range` selects, unless `if-range` names another version.
fn requested_range(headers: &HeaderMap, etag: &str, total: Option<u64>) -> Result<Option<RowRange>, Problem> {
    let Some(range) = headers.get(RANGE) else { return Ok(None) };
    if headers.get(IF_RANGE).is_some_and(|known| known.as_bytes() != etag.as_bytes()) {
        return Ok(None);
    }
    RowRange::parse(range.to_str().unwrap_or_default(), total).map_err(|error| {
        let problem = Problem::with_status(StatusCode::RANGE_NOT_SATISFIABLE, error);
        let total = total.map_or("*".to_string(), |total| total.to_string());
        match HeaderValue::from_str(&format!("{UNIT} */{total}")) {
            Ok(value) => problem.with_header(CONTENT_RANGE, value),
            Err(_) => problem,
        }
    })
}

/// The name of a file for the rows: only characters that no system takes for something else.
fn disposition(table: &TableName, extension: &str) -> String {
    let last = table.components().last().map(String::as_str).unwrap_or_default();
    let safe = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '_') { c } else { '_' };
    let name: String = last.chars().take(100).map(safe).collect();
    format!("attachment; filename=\"{name}.{extension}\"")
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn known_version_is_not_sent_again() {
        let with = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(IF_NONE_MATCH, value.parse().unwrap());
            headers
        };
        for value in ["\"v1-a\"", "W/\"v1-a\"", "\"x\", \"v1-a\"", "*"] {
            assert!(is_known(&with(value), "\"v1-a\""), "{value}");
        }
        assert!(!is_known(&with("\"v1-b\""), "\"v1-a\"") && !is_known(&HeaderMap::new(), "\"v1-a\""));
    }

    #[test]
    fn range_of_another_version_is_ignored() {
        let mut headers = HeaderMap::new();
        headers.insert(RANGE, "rows=2-3".parse().unwrap());
        let range = RowRange { first: 2, last: Some(3) };
        assert_eq!(requested_range(&headers, "\"a\"", Some(9)).unwrap(), Some(range));
        let refused = requested_range(&headers, "\"a\"", Some(2)).unwrap_err().into_document("r");
        assert_eq!(refused.status(), StatusCode::RANGE_NOT_SATISFIABLE);
        assert_eq!(refused.headers()[CONTENT_RANGE], "rows */2");
        headers.insert(IF_RANGE, "\"b\"".parse().unwrap());
        assert_eq!(requested_range(&headers, "\"a\"", Some(9)).unwrap(), None);
    }

    #[test]
    fn limit_and_range_count_together() {
        let range = |first, last| Some(RowRange { first, last });
        for (limit, range, most) in [
            (None, None, None),
            (Some(5), None, Some(5)),
            (None, range(3, None), None),
            (None, range(3, Some(4)), Some(2)),
            (Some(5), range(3, None), Some(2)),
            (Some(5), range(3, Some(3)), Some(1)),
            (Some(5), range(9, Some(20)), Some(0)),
        ] {
            assert_eq!(most_rows(limit, range), most, "{limit:?} {range:?}");
        }
    }

    #[test]
    fn file_name_is_harmless() {
        let of = |name: &str| disposition(&name.parse().unwrap(), "csv");
        assert_eq!(of("a/trips-1"), "attachment; filename=\"trips-1.csv\"");
        assert_eq!(of("a/..\\\"ü"), "attachment; filename=\"_____.csv\"");
    }
}
