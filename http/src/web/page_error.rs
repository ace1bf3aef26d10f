//! Why a page is not shown. The layer that knows the visitor makes a page of it.

use axum::response::{IntoResponse, Response};
use volley_common::Error;
use volley_common::server::http::identity::http_status;

use crate::problem::Problem;

/// Why a page is not shown.
#[derive(Clone, Debug)]
pub(crate) struct PageError(Error);

impl PageError {
    /// What failed.
    pub fn error(&self) -> &Error {
        &self.0
    }
}

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        PageError(error)
    }
}

impl From<Problem> for PageError {
    fn from(problem: Problem) -> Self {
        PageError(problem.error().clone())
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        PageError(Error::internal(format!("the page cannot be rendered: {error}")))
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let mut response = http_status(self.0.code).into_response();
        response.extensions_mut().insert(self);
        response
    }
}
