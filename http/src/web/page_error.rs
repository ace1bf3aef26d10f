//! Why a page is not shown. The layer that knows the visitor makes a page of it.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use volley_common::Error;

use crate::problem::Problem;

/// Why a page is not shown.
#[derive(Clone, Debug)]
pub(crate) struct PageError(Problem);

impl PageError {
    /// What failed.
    pub fn error(&self) -> &Error {
        self.0.error()
    }

    /// The status of the response.
    pub fn status(&self) -> StatusCode {
        self.0.status()
    }
}

impl From<Error> for PageError {
    fn from(error: Error) -> Self {
        PageError(error.into())
    }
}

impl From<Problem> for PageError {
    fn from(problem: Problem) -> Self {
        PageError(problem)
    }
}

impl From<askama::Error> for PageError {
    fn from(error: askama::Error) -> Self {
        Error::internal(format!("the page cannot be rendered: {error}")).into()
    }
}

impl IntoResponse for PageError {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}
