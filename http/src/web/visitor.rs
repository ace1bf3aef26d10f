//! Who visits: a browser with the session's cookie, or any client that Flight identifies.
//!
//! The cookie has a session token of Flight, and its path is `/ui`: browsers send it to pages, never to `/api`. Each form has a text
//! that is made of the cookie's value, which no other site knows: without it nothing is changed.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::{COOKIE, HOST};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use volley_common::{Error, Result};

use super::figures::items;
use crate::caller::HttpCaller;
use crate::flight_calls::FlightCalls;
use crate::state::HttpState;

/// Where visitors begin.
pub(crate) const START: &str = "/ui/cluster";
/// The page where visitors log in.
pub(crate) const LOGIN: &str = "/ui/login";
/// The cookie with the session token.
const SESSION: &str = "volley_session";
/// The cookie of a browser without a session: a random text, of which its forms are made.
const BROWSER: &str = "volley_browser";
/// The longest value of these cookies.
const MAX_COOKIE: usize = 3800;

/// Who sends a request to a page.
#[derive(Clone)]
pub(crate) struct PageVisitor {
    /// Its Flight calls, with the session's token.
    pub caller: HttpCaller,
    /// The host and port by which it reaches this member.
    pub host: String,
    /// The path and the query of its request.
    pub path: String,
    /// Whether the connection is encrypted, here or at a proxy before.
    pub is_encrypted: bool,
    /// Whether it has the cookie of a session.
    pub has_session: bool,
    /// The value of the cookie of which forms are made.
    key: String,
    /// Whether the browser does not have it yet.
    is_new: bool,
}

/// A visitor whom Flight has identified.
pub(crate) struct PageVisit {
    /// Who it is.
    pub visitor: PageVisitor,
    /// Its Flight calls.
    pub calls: FlightCalls,
    /// The reply to `whoami`.
    pub who: Value,
}

impl PageVisit {
    /// Whether the visitor has one of these roles on the whole cluster. Only for what a page asks for, so that the page of everybody
    /// makes no call that is refused, and in the audit log: the rights are checked by what it calls.
    pub fn has_cluster_role(&self, roles: &[&str]) -> bool {
        has_cluster_role(&self.who, roles)
    }
}

fn has_cluster_role(who: &Value, roles: &[&str]) -> bool {
    let has =
        |grant: &Value| grant["prefix"] == "/" && grant["role"].as_str().is_some_and(|role| roles.contains(&role));
    who["open"] == true || items(&who["grants"]).any(has)
}

impl PageVisitor {
    /// Connects, and asks who the visitor is.
    ///
    /// # Errors
    /// UNAUTHENTICATED: it must log in. UNAVAILABLE: the member is starting or stopping.
    pub async fn enter(self) -> Result<PageVisit> {
        let calls = self.caller.flight().await?;
        let who = calls.action("whoami", &json!({})).await?;
        Ok(PageVisit { visitor: self, calls, who })
    }

    /// The text that each form of this visitor has.
    pub fn csrf(&self) -> String {
        let digest: [u8; 32] = Sha256::new().chain_update(b"volley form\0").chain_update(&self.key).finalize().into();
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Checks the text of a form.
    ///
    /// # Errors
    /// PERMISSION_DENIED: it is another one, or none.
    pub fn check_csrf(&self, sent: Option<&str>) -> Result<()> {
        let (own, sent) = (self.csrf(), sent.unwrap_or_default());
        let differs = own.bytes().zip(sent.bytes()).fold(0, |differs, (a, b)| differs | (a ^ b));
        if own.len() == sent.len() && differs == 0 && !self.is_new {
            return Ok(());
        }
        Err(Error::denied(
            "this form is not of a page that this browser has open: go back, reload the page, and send it again; cookies must be allowed",
        ))
    }

    /// The cookie of a browser that has none yet.
    pub fn new_cookie(&self) -> Option<HeaderValue> {
        if self.is_new { self.cookie(BROWSER, &self.key) } else { None }
    }

    /// The cookie with a session token; none if browsers would not keep it.
    pub fn session_cookie(&self, token: &str) -> Option<HeaderValue> {
        if token.len() <= MAX_COOKIE { self.cookie(SESSION, token) } else { None }
    }

    /// What removes the cookie of the session.
    pub fn end_session(&self) -> Option<HeaderValue> {
        self.cookie(SESSION, "").and_then(|cookie| {
            let text = format!("{}; Max-Age=0", cookie.to_str().ok()?);
            HeaderValue::from_str(&text).ok()
        })
    }

    fn cookie(&self, name: &str, value: &str) -> Option<HeaderValue> {
        let secure = if self.is_encrypted { "; Secure" } else { "" };
        let mut cookie =
            HeaderValue::from_str(&format!("{name}={value}; Path=/ui; HttpOnly; SameSite=Strict{secure}")).ok()?;
        cookie.set_sensitive(true);
        Some(cookie)
    }
}

impl FromRequestParts<HttpState> for PageVisitor {
    type Rejection = Infallible;

    async fn from_request_parts(head: &mut Parts, state: &HttpState) -> Result<Self, Infallible> {
        let caller = HttpCaller::from_request_parts(head, state).await?;
        let session = cookie_of(&head.headers, SESSION);
        // What a client says of itself precedes: it is no browser, or its user has been asked.
        let bearer = session.as_deref().filter(|_| !caller.has_credentials());
        let bearer = bearer.and_then(|token| HeaderValue::from_str(&format!("Bearer {token}")).ok());
        let caller = match bearer {
            Some(bearer) => caller.with_authorization(bearer),
            None => caller,
        };
        let has_session = session.is_some();
        // A visitor who comes by a link of another site is shown the form of the login, because its browser does not send the session:
        // what it sends with the form it does.
        let of_session = session.filter(|_| head.uri.path() != LOGIN);
        let known = of_session.or_else(|| cookie_of(&head.headers, BROWSER));
        let is_new = known.is_none();
        let header = |name: &str| head.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let authority = head.uri.authority().map(|authority| authority.to_string());
        let is_behind_tls = header("x-forwarded-proto").eq_ignore_ascii_case("https");
        Ok(PageVisitor {
            is_encrypted: caller.is_encrypted() || is_behind_tls,
            caller,
            host: match header(HOST.as_str()) {
                "" => authority.unwrap_or_default(),
                host => host.to_string(),
            },
            path: head.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            has_session,
            key: known.unwrap_or_else(|| format!("{:032x}", rand::random::<u128>())),
            is_new,
        })
    }
}

/// The value of a cookie.
fn cookie_of(headers: &HeaderMap, name: &str) -> Option<String> {
    let lines = headers.get_all(COOKIE).into_iter().filter_map(|line| line.to_str().ok());
    let pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let value = pairs.filter(|(key, _)| *key == name).map(|(_, value)| value).next()?;
    let is_good = (1..=MAX_COOKIE).contains(&value.len()) && value.bytes().all(|byte| byte.is_ascii_graphic());
    is_good.then(|| value.to_string())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::http::Request;
    use volley_common::server::ServerConfig;

    use super::*;

    async fn visitor(headers: &[(&str, &str)]) -> PageVisitor {
        let mut request = Request::builder().uri("/ui/tables?q=a");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (mut head, ()) = request.body(()).unwrap().into_parts();
        let state = HttpState::new(&ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data"));
        PageVisitor::from_request_parts(&mut head, &state).await.unwrap()
    }

    #[test]
    fn roles_of_the_cluster_are_those_without_a_prefix() {
        let who = |role: &str, prefix: &str| json!({ "open": false, "grants": [{ "role": role, "prefix": prefix }] });
        let operators = ["operator", "admin"];
        assert!(
            has_cluster_role(&who("operator", "/"), &operators) && has_cluster_role(&who("admin", "/"), &["admin"])
        );
        for (role, prefix) in [("operator", "/"), ("admin", "sales"), ("owner", "/")] {
            assert!(!has_cluster_role(&who(role, prefix), &["admin"]), "{role} {prefix}");
        }
        assert!(has_cluster_role(&json!({ "open": true, "grants": [] }), &["admin"]));
    }

    #[tokio::test]
    async fn form_of_another_browser_is_refused() {
        let one = visitor(&[("cookie", "volley_browser=0123; other=x")]).await;
        let same = visitor(&[("cookie", "other=y; volley_browser=0123")]).await;
        one.check_csrf(Some(&same.csrf())).unwrap();
        let session = visitor(&[("cookie", "volley_browser=0123; volley_session=token")]).await;
        for wrong in [None, Some(""), Some("0123"), Some(&*session.csrf())] {
            assert!(one.check_csrf(wrong).unwrap_err().message.contains("reload the page"));
        }
        assert!(!session.csrf().contains("token") && session.has_session);
    }

    #[tokio::test]
    async fn form_of_the_login_is_of_the_browser_whatever_its_session() {
        let with_cookies = async |cookie: &str| {
            let (mut head, ()) = Request::builder().uri(LOGIN).header("cookie", cookie).body(()).unwrap().into_parts();
            let state = HttpState::new(&ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data"));
            PageVisitor::from_request_parts(&mut head, &state).await.unwrap()
        };
        let shown = with_cookies("volley_browser=0123").await;
        with_cookies("volley_session=token; volley_browser=0123").await.check_csrf(Some(&shown.csrf())).unwrap();
    }

    #[tokio::test]
    async fn browser_without_a_cookie_changes_nothing() {
        let new = visitor(&[]).await;
        assert!(new.check_csrf(Some(&new.csrf())).is_err(), "nobody can know what it would send");
        let cookie = new.new_cookie().unwrap().to_str().unwrap().to_string();
        for part in ["volley_browser=", "; Path=/ui", "; HttpOnly", "; SameSite=Strict"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(!cookie.contains("Secure") && visitor(&[]).await.csrf() != new.csrf());
    }

    #[tokio::test]
    async fn cookie_is_secure_behind_tls_and_ends() {
        let visitor = visitor(&[("x-forwarded-proto", "https"), ("host", "volley.example")]).await;
        assert!(visitor.session_cookie("t").unwrap().to_str().unwrap().ends_with("; Secure"));
        assert!(visitor.end_session().unwrap().to_str().unwrap().ends_with("; Max-Age=0"));
        assert_eq!((visitor.host.as_str(), visitor.path.as_str()), ("volley.example", "/ui/tables?q=a"));
        assert!(visitor.session_cookie("a\nb").is_none());
        assert!(visitor.session_cookie(&"t".repeat(MAX_COOKIE + 1)).is_none(), "it would not be read back");
    }
}
