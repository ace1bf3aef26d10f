//! Arrow over HTTP: `/api/v1`.
//!
//! | module | what it serves |
//! |---|---|
//! | [`operations`] | the table of all operations, of which routes and document are made |
//! | [`routes`] | the routes |
//! | [`openapi`] | the OpenAPI document |
//! | [`tables`] | lists of tables, and one table |
//! | [`partitions`] | the parts of a read, which are fetched in parallel |
//! | [`data`] | rows of a table |
//! | [`put`] | rows into a table |
//! | [`sql`] | statements |
//! | [`read_plan`] | what a read of a table is planned as |
//! | [`measured`] | the metrics of operations |

pub(crate) mod data;
pub(crate) mod measured;
pub(crate) mod openapi;
pub(crate) mod operations;
pub(crate) mod partitions;
pub(crate) mod put;
pub(crate) mod read_plan;
pub(crate) mod routes;
pub(crate) mod sql;
pub(crate) mod tables;

use axum::body::Body;
use axum::http::HeaderValue;
use axum::http::header::CONTENT_TYPE;
use axum::response::Response;
use serde_json::Value;

/// The rest of a request's path, of which `prefix` is the beginning.
fn rest_of<'a>(path: &'a str, prefix: &str) -> &'a str {
    path.strip_prefix(prefix).unwrap_or_default()
}

/// A response of one line of JSON.
fn json_response(value: &Value) -> Response {
    let mut response = Response::new(Body::from(format!("{value}\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
