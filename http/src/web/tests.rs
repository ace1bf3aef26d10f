//! Pages of a server that starts: their headers, forms without a secret, and templates without anything that a strict policy forbids.
#![allow(clippy::unwrap_used)]

use std::path::Path;

use askama::Template;
use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::http::{Request, StatusCode};
use axum::response::Response;
use http_body_util::BodyExt;
use tower::ServiceExt;
use volley_common::server::ServerConfig;

use super::error_pages::MessagePage;
use super::shell::PageShell;
use super::visitor::PageVisitor;
use crate::router;
use crate::state::HttpState;

const HOSTILE: &str = "</p><script>alert(1)</script><img src=x onerror=\"alert('2')\">";

fn state() -> HttpState {
    HttpState::new(&ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data"))
}

async fn answer(method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Response {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    router(state()).oneshot(request.body(Body::from(body.to_string())).unwrap()).await.unwrap()
}

async fn text(response: Response) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[tokio::test]
async fn every_page_has_a_strict_policy() {
    for path in ["/ui/cluster", "/ui/tables", "/ui/tables/a/b", "/ui/activity", "/ui/sql", "/ui/who", "/ui/login"] {
        let response = answer("GET", path, &[], "").await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{path}");
        let header = |name: &str| response.headers()[name].to_str().unwrap().to_string();
        let policy = header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; style-src 'self'; script-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
            ("content-type", "text/html; charset=utf-8"),
        ] {
            assert_eq!(header(name), value, "{path}");
        }
        assert!(header("set-cookie").contains("; HttpOnly; SameSite=Strict"), "{path}");
        assert!(text(response).await.contains("this member is starting"), "{path}");
    }
}

#[tokio::test]
async fn change_without_the_secret_of_a_page_is_refused() {
    let form = ("content-type", "application/x-www-form-urlencoded");
    let browser = ("cookie", "volley_browser=0123456789abcdef");
    for path in ["/ui/login", "/ui/logout", "/ui/sql", "/ui/sql/download", "/ui/who/revoke"] {
        for body in ["", "csrf=", "csrf=0123456789abcdef&sql=DROP+TABLE+t"] {
            let response = answer("POST", path, &[form, browser], body).await;
            assert_eq!(response.status(), StatusCode::FORBIDDEN, "{path} {body}");
        }
        let response = answer("POST", path, &[("content-type", "text/plain"), browser], "").await;
        assert_eq!(response.status(), StatusCode::UNSUPPORTED_MEDIA_TYPE, "{path}");
    }
}

#[tokio::test]
async fn form_with_the_secret_of_its_page_is_taken() {
    let cookie = "volley_browser=0123456789abcdef";
    let mut head = Request::builder().uri("/ui/sql").header("cookie", cookie).body(()).unwrap().into_parts().0;
    let visitor = PageVisitor::from_request_parts(&mut head, &state()).await.unwrap();
    let form = ("content-type", "application/x-www-form-urlencoded");
    let body = format!("csrf={}&sql=SELECT+1", visitor.csrf());
    let response = answer("POST", "/ui/sql", &[form, ("cookie", cookie)], &body).await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "it got as far as to the Flight call");
}

#[tokio::test]
async fn form_that_is_too_large_is_refused() {
    let form = ("content-type", "application/x-www-form-urlencoded");
    let response = answer("POST", "/ui/sql", &[form], &"a".repeat((3 << 20) + 1)).await;
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    let page = text(response).await;
    assert!(page.contains("the form is larger than 3 MiB") && page.contains("A limit is reached"), "{page}");
}

#[tokio::test]
async fn start_leads_to_the_cluster_and_unknown_pages_are_not_found() {
    for path in ["/", "/ui", "/ui/"] {
        let response = answer("GET", path, &[], "").await;
        assert_eq!(
            (response.status(), &response.headers()["location"]),
            (StatusCode::SEE_OTHER, &"/ui/cluster".parse().unwrap())
        );
    }
    for path in ["/ui/other", "/ui/assets/other.css"] {
        let response = answer("GET", path, &[], "").await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(text(response).await.starts_with("<!doctype html>"), "{path}");
    }
    let style = answer("GET", "/ui/assets/volley.css", &[], "").await;
    assert_eq!(style.headers()["content-type"], "text/css; charset=utf-8");
}

#[tokio::test]
async fn page_that_is_switched_off_is_not_there() {
    let mut server = ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data");
    server.http.no_web_page = true;
    let request = Request::builder().uri("/ui/cluster").header("host", "localhost").body(Body::empty()).unwrap();
    let response = router(HttpState::new(&server)).oneshot(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn hostile_text_is_escaped() {
    let mut head = Request::builder().uri("/ui/x").body(()).unwrap().into_parts().0;
    let visitor = PageVisitor::from_request_parts(&mut head, &state()).await.unwrap();
    let page = MessagePage {
        shell: PageShell::new(&visitor, None, HOSTILE),
        tone: "bad",
        text: HOSTILE.into(),
        remedy: HOSTILE.into(),
        details: HOSTILE.into(),
    };
    let text = page.render().unwrap();
    assert!(!text.contains("<script>") && !text.contains("<img src=x") && !text.contains("\"alert"), "{text}");
    assert!(text.contains("script&#62;alert(1)"), "{text}");
}

#[test]
fn templates_have_no_inline_script_or_style() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("templates");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        // `safe` would leave a text as it is.
        for word in [
            " style=",
            "<style",
            " onclick",
            " onload",
            " onerror",
            "javascript:",
            "|safe",
            "| safe",
            "http:",
            "https:",
        ] {
            assert!(!text.contains(word), "{} has {word}", path.display());
        }
        let scripts = text.matches("<script").count();
        assert_eq!(
            scripts,
            text.matches("<script src=\"{{ shell.script }}\" defer></script>").count(),
            "{}",
            path.display()
        );
        seen += 1;
    }
    assert!(seen >= 13, "{seen}");
}
