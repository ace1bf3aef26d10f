//! What surrounds each page: its head, the links to the others, who visits; and the headers of its response.

use askama::Template;
use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, SET_COOKIE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use serde_json::Value;
use volley_common::clock;

use super::page_error::PageError;
use super::visitor::{PageVisit, PageVisitor};
use super::{assets, figures};

/// Style, script and picture are files of this member; nothing is run or styled that is written into a page.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'";
/// A form of a page without any referrer would have no origin either, and be refused.
const REFERRERS: &str = "same-origin";

/// The pages, and their names.
const PAGES: [(&str, &str); 5] = [
    ("/ui/cluster", "Cluster"),
    ("/ui/tables", "Tables"),
    ("/ui/activity", "Activity"),
    ("/ui/sql", "SQL"),
    ("/ui/who", "Who"),
];

/// A link to a page.
pub(crate) struct NavLink {
    pub href: &'static str,
    pub label: &'static str,
    /// Whether it is the page that is shown, or what is shown belongs to it.
    pub current: bool,
}

/// What surrounds a page.
pub(crate) struct PageShell {
    pub title: String,
    pub nav: Vec<NavLink>,
    /// Whether the cluster has no users.
    pub open: bool,
    /// Whether the visitor can log out.
    pub logged_in: bool,
    pub user: String,
    pub csrf: String,
    /// The path of the events that follow the cluster; empty for a page that does not.
    pub live: &'static str,
    pub style: &'static str,
    pub script: &'static str,
    pub icon: &'static str,
    pub version: &'static str,
    pub made_at: String,
}

impl PageShell {
    /// That of a page. `who`: the reply to `whoami`, if the visitor is known.
    pub fn new(visitor: &PageVisitor, who: Option<&Value>, title: impl Into<String>) -> Self {
        let path = visitor.path.split('?').next().unwrap_or_default();
        let is_current =
            |href: &str| path.strip_prefix(href).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let nav = PAGES.map(|(href, label)| NavLink { href, label, current: is_current(href) });
        let [style, script, icon] = assets::addresses();
        PageShell {
            title: title.into(),
            nav: nav.into(),
            open: who.is_some_and(|who| who["open"] == true),
            logged_in: who.is_some() && visitor.has_session,
            user: who.map(|who| figures::text(&who["principal"])).unwrap_or_default(),
            csrf: visitor.csrf(),
            live: "",
            style,
            script,
            icon,
            version: env!("CARGO_PKG_VERSION"),
            made_at: figures::utc(clock::now_ms()),
        }
    }

    /// That of a page which follows the cluster by these events.
    pub fn live(self, live: &'static str) -> Self {
        PageShell { live, ..self }
    }
}

impl PageVisit {
    /// What surrounds a page of this visitor.
    pub fn shell(&self, title: impl Into<String>) -> PageShell {
        PageShell::new(&self.visitor, Some(&self.who), title)
    }

    /// A page as a response.
    ///
    /// # Errors
    /// INTERNAL: it cannot be rendered.
    pub fn show(&self, page: &impl Template) -> Result<Response, PageError> {
        Ok(html(&self.visitor, StatusCode::OK, page.render()?))
    }
}

/// A page with its headers.
pub(crate) fn html(visitor: &PageVisitor, status: StatusCode, text: String) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(POLICY));
    headers.insert(REFERRER_POLICY, HeaderValue::from_static(REFERRERS));
    // After a logout nobody sees it by the button Back.
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(cookie) = visitor.new_cookie() {
        headers.append(SET_COOKIE, cookie);
    }
    response
}
