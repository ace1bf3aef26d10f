//! Errors as pages. A visitor who must log in comes to the form that does.

use askama::Template;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{LOCATION, RETRY_AFTER, SET_COOKIE};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use url::form_urlencoded;
use volley_common::error::code_name;
use volley_common::{Code, Error};

use super::page_error::PageError;
use super::shell::{self, PageShell};
use super::visitor::{LOGIN, PageVisitor};
use crate::layers::HttpRequestId;
use crate::state::HttpState;

/// A page with one message.
#[derive(Template)]
#[template(path = "message.html")]
pub(crate) struct MessagePage {
    /// What surrounds it.
    pub shell: PageShell,
    /// `good`, `warn` or `bad`.
    pub tone: &'static str,
    /// What happened.
    pub text: String,
    /// What to do.
    pub remedy: String,
    /// For whoever looks into it.
    pub details: String,
}

/// What any other path below `/ui` is.
pub(crate) async fn no_such_page() -> PageError {
    Error::not_found("there is no such page").into()
}

/// The layer of all pages: shows errors.
pub(crate) async fn present(State(state): State<HttpState>, request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let Ok(visitor) = PageVisitor::from_request_parts(&mut head, &state).await;
    let request_id = head.extensions.get::<HttpRequestId>().map_or_else(String::new, |id| id.text().to_string());
    let is_get = matches!(head.method, Method::GET | Method::HEAD);
    let mut response = next.run(Request::from_parts(head, body)).await;
    let Some(failure) = response.extensions_mut().remove::<PageError>() else { return response };
    let error = failure.error();
    tracing::debug!(path = visitor.path, code = ?error.code, request_id, %error, "a page failed");
    match error.code {
        Code::Unauthenticated if is_get => to_login(&visitor),
        _ => error_page(&visitor, &failure, &request_id),
    }
}

/// Sends the visitor to the form, and from there back to its page.
fn to_login(visitor: &PageVisitor) -> Response {
    let next = form_urlencoded::Serializer::new(String::new()).append_pair("next", &visitor.path).finish();
    let mut response = StatusCode::SEE_OTHER.into_response();
    let headers = response.headers_mut();
    if let Ok(location) = HeaderValue::from_str(&format!("{LOGIN}?{next}")) {
        headers.insert(LOCATION, location);
    }
    if visitor.has_session
        && let Some(ended) = visitor.end_session()
    {
        headers.append(SET_COOKIE, ended);
    }
    response
}

fn error_page(visitor: &PageVisitor, failure: &PageError, request_id: &str) -> Response {
    let error = failure.error();
    let (title, remedy) = explained(error);
    let page = MessagePage {
        shell: PageShell::new(visitor, None, title),
        tone: if error.code == Code::Unavailable { "warn" } else { "bad" },
        text: error.message.clone(),
        remedy: remedy.to_string(),
        details: format!("{} · request {request_id}", code_name(error.code)),
    };
    let mut response = match page.render() {
        Ok(text) => shell::html(visitor, failure.status(), text),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    };
    if let Some(ms) = error.retry_after_ms {
        response.headers_mut().insert(RETRY_AFTER, ms.div_ceil(1000).max(1).into());
    }
    response
}

/// The title of an error's page, and what a visitor can do.
fn explained(error: &Error) -> (&'static str, &'static str) {
    match error.code {
        Code::NotFound => {
            ("Not found", "It may have been dropped, or you may not read it: look at the list of tables.")
        }
        Code::PermissionDenied => {
            ("Not permitted", "An administrator can give you a role: see the page Who for those that you have.")
        }
        Code::Unauthenticated => ("Log in", "Log in, and try again."),
        Code::Unavailable | Code::DeadlineExceeded => {
            ("Not available now", "Reload the page in a moment, or open that of another member.")
        }
        Code::ResourceExhausted if error.retry_after_ms.is_some() => {
            ("Too much at once", "Wait a moment, and reload the page.")
        }
        Code::ResourceExhausted => ("A limit is reached", ""),
        Code::InvalidArgument | Code::OutOfRange => ("Not understood", ""),
        _ => ("It did not work", ""),
    }
}
