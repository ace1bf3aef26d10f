//! Logging in, by the handshake of Flight, and out. The session is a token in a cookie: no member keeps anything of it.

use askama::Template;
use axum::body::Body;
use axum::http::header::{LOCATION, SET_COOKIE};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use volley_common::server::http::identity::http_status;
use volley_common::{Code, Error, Result};

use super::form as forms;
use super::page_error::PageError;
use super::shell::{self, PageShell};
use super::visitor::{LOGIN, PageVisitor, START};
use crate::query::QueryParameters;

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage {
    shell: PageShell,
    error: String,
    next: String,
    user: String,
}

/// Shows the form, unless the visitor is known already.
pub(crate) async fn form(visitor: PageVisitor, uri: Uri) -> Result<Response, PageError> {
    let next = QueryParameters::parse(uri.query())?.take("next")?.unwrap_or_default();
    match visitor.clone().enter().await {
        Ok(_) => redirect(&safe_next(&next), None),
        Err(error) if error.code == Code::Unauthenticated => {
            let page = LoginPage {
                shell: PageShell::new(&visitor, None, "Log in"),
                error: String::new(),
                next,
                user: String::new(),
            };
            Ok(shell::html(&visitor, StatusCode::OK, page.render()?))
        }
        Err(error) => Err(error.into()),
    }
}

/// Exchanges user and password for a session.
pub(crate) async fn log_in(visitor: PageVisitor, headers: HeaderMap, body: Body) -> Result<Response, PageError> {
    let mut fields = forms::read(&visitor, &headers, body).await?;
    let mut field = |name| Ok::<_, Error>(fields.take(name)?.unwrap_or_default());
    let (user, password, next) = (field("user")?, field("password")?, field("next")?);
    match session(&visitor, &user, &password).await {
        Ok(token) => {
            let cookie = visitor.session_cookie(&token);
            let cookie = cookie.ok_or_else(|| Error::internal("the session token is no valid cookie"))?;
            redirect(&safe_next(&next), Some(cookie))
        }
        Err(error) => {
            let page = LoginPage { shell: PageShell::new(&visitor, None, "Log in"), error: error.message, next, user };
            Ok(shell::html(&visitor, http_status(error.code), page.render()?))
        }
    }
}

/// A session token for a password.
async fn session(visitor: &PageVisitor, user: &str, password: &str) -> Result<String> {
    if user.is_empty() || user.contains(':') {
        return Err(Error::unauthenticated("give the name of a user, which has no colon"));
    }
    let mut basic = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(format!("{user}:{password}"))))
        .map_err(|_| Error::internal("base64 is no header"))?;
    basic.set_sensitive(true);
    visitor.caller.with_authorization(basic).flight().await?.handshake().await
}

/// Ends the session of this browser.
pub(crate) async fn log_out(visitor: PageVisitor, headers: HeaderMap, body: Body) -> Result<Response, PageError> {
    forms::read(&visitor, &headers, body).await?;
    redirect(LOGIN, visitor.end_session())
}

/// Where a visitor goes after the login: a page of this member, whatever a link says.
fn safe_next(next: &str) -> String {
    let is_page = next.starts_with("/ui/")
        && !next.starts_with("/ui/log")
        && next.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_page { next.to_string() } else { START.to_string() }
}

fn redirect(to: &str, cookie: Option<HeaderValue>) -> Result<Response, PageError> {
    let mut response = StatusCode::SEE_OTHER.into_response();
    let location = HeaderValue::from_str(to).map_err(|_| Error::internal("the next page is no valid header"))?;
    response.headers_mut().insert(LOCATION, location);
    if let Some(cookie) = cookie {
        response.headers_mut().append(SET_COOKIE, cookie);
    }
    Ok(response)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn login_leads_to_no_other_site() {
        assert_eq!(safe_next("/ui/tables?q=a%20b"), "/ui/tables?q=a%20b");
        for next in
            ["", "/", "//evil.example", "https://evil.example", "/ui/\\evil", "/ui/a b", "/ui/\n", "/ui/logout", "/uix"]
        {
            assert_eq!(safe_next(next), START, "{next:?}");
        }
    }
}
