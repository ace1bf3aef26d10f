//! All routes, and what each request passes.

use axum::Router;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::any;
use volley_common::Error;

use crate::problem::Problem;
use crate::state::HttpState;
use crate::{layers, origin};

/// All pages, to be merged into the HTTP port of a server. Those of another part of this crate are merged here, before the layers:
/// each is a `Router<HttpState>` without a fallback.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/api/{*path}", any(async || no_such_path()))
        .layer(from_fn_with_state(state.clone(), origin::check))
        .layer(from_fn(layers::complete))
        .with_state(state)
}

fn no_such_path() -> Problem {
    Error::not_found("the HTTP API has no such path: /api/v1/openapi.json lists its paths").into()
}
