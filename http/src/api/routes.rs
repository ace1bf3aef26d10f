//! The routes of all operations.

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::{MethodRouter, get, post, put};

use super::measured::measure;
use super::operations::{OPERATIONS, OperationKind};
use super::{data, openapi, partitions, put as puts, sql, tables};
use crate::state::HttpState;

/// The routes of all operations.
pub(crate) fn routes() -> Router<HttpState> {
    OPERATIONS.iter().fold(Router::new(), |router, operation| {
        let handler = handler(operation.kind).layer(from_fn_with_state(operation, measure));
        router.route(&operation.path.replace("{table}", "{*table}"), handler)
    })
}

fn handler(kind: OperationKind) -> MethodRouter<HttpState> {
    match kind {
        OperationKind::ListTables => get(tables::list),
        OperationKind::DescribeTable => get(tables::describe),
        OperationKind::ListPartitions => get(partitions::list),
        OperationKind::ReadData => get(data::get),
        OperationKind::ReplaceData => put(puts::replace),
        OperationKind::AppendData => post(puts::append),
        OperationKind::RunStatement => post(sql::run),
        OperationKind::ShowDocument => get(openapi::show),
    }
}
