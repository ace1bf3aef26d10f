//! The fields of a form that a visitor sends.

use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, StatusCode};
use volley_common::Error;

use super::page_error::PageError;
use super::visitor::PageVisitor;
use crate::problem::Problem;
use crate::query::QueryParameters;
use crate::transfer::upload::UploadBody;

/// The largest form: a statement of 1 MiB, whose bytes may all be escaped.
const MAX_FORM: u64 = 3 << 20;
/// The media type of forms.
const FORM: &str = "application/x-www-form-urlencoded";

/// Reads a form, and checks that it is of a page which this visitor has open.
///
/// # Errors
/// PERMISSION_DENIED: it is not. INVALID_ARGUMENT: it is no form. Those of [`UploadBody`].
pub(crate) async fn read(visitor: &PageVisitor, headers: &HeaderMap, body: Body) -> Result<QueryParameters, PageError> {
    let media = headers.get(CONTENT_TYPE).and_then(|media| media.to_str().ok()).unwrap_or_default();
    let essence = media.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case(FORM) {
        let error = Error::invalid(format!("a form is sent as {FORM}"));
        return Err(Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, error).into());
    }
    let body = body_of(headers, body).await.map_err(of_form)?;
    let text = String::from_utf8(body).map_err(|_| Error::invalid("the form is not UTF-8"))?;
    let mut fields = QueryParameters::parse(Some(&text))?;
    visitor.check_csrf(fields.take("csrf")?.as_deref())?;
    Ok(fields)
}

async fn body_of(headers: &HeaderMap, body: Body) -> Result<Vec<u8>, Problem> {
    UploadBody::new(body, headers, MAX_FORM)?.collect().await
}

/// The limit of a form is no setting, and nobody sends a form in parts.
fn of_form(problem: Problem) -> Problem {
    if problem.status() != StatusCode::PAYLOAD_TOO_LARGE {
        return problem;
    }
    let error = Error::exhausted("the form is larger than 3 MiB: run a statement that is so long by Flight");
    Problem::with_status(StatusCode::PAYLOAD_TOO_LARGE, error)
}
