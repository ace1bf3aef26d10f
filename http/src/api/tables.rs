//! `GET /api/v1/tables` and `GET /api/v1/tables/TABLE`: what tables there are, and what one is.

use arrow_flight::FlightInfo;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderValue, Uri};
use axum::response::Response;
use bytes::Bytes;
use futures::stream;
use serde_json::{Value, json};
use tonic::Streaming;
use volley_common::ipc::schema::parse_schema;
use volley_common::{Error, Result};

use super::{json_response, rest_of};
use crate::budget::RequestShare;
use crate::caller::HttpCaller;
use crate::problem::Problem;
use crate::query::QueryParameters;
use crate::table_path::{path_of_table, table_of_path};

/// The path before a table's name.
pub(crate) const PREFIX: &str = "/api/v1/tables/";
/// The parameters of the list.
pub(crate) const PARAMETERS: [&str; 1] = ["prefix"];
/// Memory of a list, which is sent as it comes, bytes.
const LIST_MEMORY: u64 = 2 << 20;

/// Lists the tables that the caller may see.
pub(crate) async fn list(caller: HttpCaller, uri: Uri) -> Result<Response, Problem> {
    let mut parameters = QueryParameters::parse(uri.query())?;
    let prefix = parameters.take("prefix")?.unwrap_or_default();
    parameters.finish(&PARAMETERS)?;
    let mut tables = caller.flight().await?.list(&prefix).await?;
    // An error before the first table is the whole reply.
    let first = tables.message().await?;
    let list = TableList { tables, next: first, begun: false, _share: caller.take_memory(LIST_MEMORY)? };
    let mut response = Response::new(Body::from_stream(stream::try_unfold(Some(list), |list| async move {
        match list {
            None => Ok::<_, Error>(None),
            Some(list) => list.chunk().await.map(Some),
        }
    })));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A list that is being sent.
struct TableList {
    tables: Streaming<FlightInfo>,
    next: Option<FlightInfo>,
    begun: bool,
    _share: RequestShare,
}

impl TableList {
    /// The next piece of the text, and what is left.
    async fn chunk(mut self) -> Result<(Bytes, Option<TableList>)> {
        let begin = match std::mem::replace(&mut self.begun, true) {
            false => "{\"tables\":[",
            true => "",
        };
        let Some(table) = self.next.take() else { return Ok((format!("{begin}]}}\n").into(), None)) };
        self.next = self.tables.message().await?;
        let separator = if self.next.is_some() { "," } else { "" };
        Ok((format!("{begin}{}{separator}", listed(&table)).into(), Some(self)))
    }
}

fn listed(info: &FlightInfo) -> Value {
    let mut table: Value = serde_json::from_slice(&info.app_metadata).unwrap_or_else(|_| json!({}));
    let known = |number: i64| u64::try_from(number).ok();
    table["rows"] = known(info.total_records).into();
    table["bytes"] = known(info.total_bytes).into();
    table["ordered"] = info.ordered.into();
    table
}

/// Describes a table.
pub(crate) async fn describe(caller: HttpCaller, uri: Uri) -> Result<Response, Problem> {
    let table = table_of_path(rest_of(uri.path(), PREFIX))?;
    QueryParameters::parse(uri.query())?.finish(&[])?;
    let calls = caller.flight().await?;
    let command = json!({ "table": table.to_string() });
    let mut description = calls.action("get_stats", &command).await?;
    let schema = parse_schema(&calls.schema(&command).await?)?;
    let columns = schema.fields().iter().map(
        |field| json!({ "name": field.name(), "type": field.data_type().to_string(), "nullable": field.is_nullable() }),
    );
    description["columns"] = columns.collect::<Vec<_>>().into();
    let path = path_of_table(&table);
    description["links"] =
        json!({ "data": format!("/api/v1/data/{path}"), "partitions": format!("/api/v1/partitions/{path}") });
    Ok(json_response(&description))
}
