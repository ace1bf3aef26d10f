//! `GET /api/v1/partitions/TABLE`: the parts of a read, which a client fetches in parallel.

use axum::http::Uri;
use axum::response::Response;
use serde_json::json;

use super::data::shape_text;
use super::read_plan::{HttpRead, READ_OPTIONS};
use super::{json_response, rest_of};
use crate::caller::HttpCaller;
use crate::problem::Problem;
use crate::query::{QueryParameters, encode_options};
use crate::table_path::{path_of_table, table_of_path};

/// The path before the table's name.
pub(crate) const PREFIX: &str = "/api/v1/partitions/";

/// Lists the partitions of one version, each with its address.
pub(crate) async fn list(caller: HttpCaller, uri: Uri) -> Result<Response, Problem> {
    let table = table_of_path(rest_of(uri.path(), PREFIX))?;
    let mut parameters = QueryParameters::parse(uri.query())?;
    let read = HttpRead::take(table, &mut parameters)?;
    parameters.finish(&READ_OPTIONS)?;
    let plan = read.plan(&caller.flight().await?).await?;
    let mut options = read.options.clone();
    // All partitions are of this version.
    options.insert("version".into(), plan.version.into());
    let (path, query, shape) = (path_of_table(&read.table), encode_options(&options), shape_text(&plan));
    let partition = |(index, endpoint): (usize, &super::read_plan::PlannedEndpoint)| {
        let url = format!("/api/v1/data/{path}?{query}&partition={index}&plan={shape}");
        json!({ "index": index, "rows": endpoint.rows, "url": url })
    };
    let partitions: Vec<_> = plan.endpoints.iter().enumerate().map(partition).collect();
    Ok(json_response(&json!({
        "table": read.table.to_string(),
        "version": plan.version,
        "rows": plan.rows,
        "ordered": plan.ordered,
        "partitions": partitions,
    })))
}
