//! All routes, and what each request passes.

use axum::Router;
use axum::http::Uri;
use axum::middleware::{from_fn, from_fn_with_state};
use axum::routing::any;
use volley_common::Error;

use crate::api::operations::methods_of;
use crate::api::routes::routes;
use crate::problem::Problem;
use crate::state::HttpState;
use crate::{layers, origin, web};

/// All pages, to be merged into the HTTP port of a server. Those of another part of this crate are merged here, before the layers:
/// each is a `Router<HttpState>` without a fallback.
pub fn router(state: HttpState) -> Router {
    let api = if state.settings().no_http_api { Router::new() } else { api() };
    let page = if state.settings().no_web_page { Router::new() } else { web::routes(&state) };
    Router::new()
        .merge(api)
        .merge(page)
        .layer(from_fn_with_state(state.clone(), origin::check))
        .layer(from_fn(layers::complete))
        .with_state(state)
}

fn api() -> Router<HttpState> {
    Router::new()
        .merge(routes())
        .method_not_allowed_fallback(async |uri: Uri| no_such_method(&uri))
        .route("/api/{*path}", any(async || no_such_path()))
}

fn no_such_path() -> Problem {
    Error::not_found("the HTTP API has no such path: /api/v1/openapi.json lists its paths").into()
}

fn no_such_method(uri: &Uri) -> Problem {
    Problem::method_not_allowed(&methods_of(uri.path()).unwrap_or_default())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use axum::body::Body;
    use axum::http::{Method, Request, StatusCode};
    use axum::response::Response;
    use http_body_util::BodyExt;
    use serde_json::Value;
    use tower::ServiceExt;
    use volley_common::server::ServerConfig;

    use super::*;
    use crate::api::operations::OPERATIONS;

    fn state(origins: &[&str]) -> HttpState {
        let mut server = ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data");
        server.http.http_cors_origins = origins.iter().map(|origin| origin.to_string()).collect();
        HttpState::new(&server)
    }

    /// The response of a server that starts.
    async fn answer(method: &str, path: &str, headers: &[(&str, &str)], origins: &[&str]) -> Response {
        let mut request = Request::builder().method(method).uri(path).header("host", "localhost");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        router(state(origins)).oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
    }

    async fn problem(response: Response) -> (StatusCode, Value) {
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    #[tokio::test]
    async fn every_operation_has_its_route() {
        for operation in &OPERATIONS {
            let path = operation.path.replace("{table}", "a/b");
            let status = answer(&operation.method.to_uppercase(), &path, &[], &[]).await.status();
            // There is no Flight service yet, and no body.
            let expected = match operation.name {
                "showDocument" => StatusCode::OK,
                "replaceData" | "appendData" | "runStatement" => StatusCode::UNSUPPORTED_MEDIA_TYPE,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            assert_eq!(status, expected, "{}", operation.name);
            assert!(methods_of(&path).unwrap().contains(&operation.method.to_uppercase()));
        }
    }

    #[tokio::test]
    async fn unknown_path_or_method_is_a_problem() {
        let (status, document) = problem(answer("GET", "/api/v2", &[], &[]).await).await;
        assert_eq!((status, &document["code"]), (StatusCode::NOT_FOUND, &"NOT_FOUND".into()));
        let response = answer("DELETE", "/api/v1/data/a", &[], &[]).await;
        assert_eq!(response.headers()["allow"], "GET, HEAD, PUT, POST");
        assert_eq!(problem(response).await.0, StatusCode::METHOD_NOT_ALLOWED);
    }

    #[tokio::test]
    async fn api_that_is_switched_off_is_not_there() {
        let mut server = ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data");
        server.http.no_http_api = true;
        for path in ["/api/v1/openapi.json", "/api/v1/tables", "/api/x"] {
            let request = Request::builder().uri(path).header("host", "localhost").body(Body::empty()).unwrap();
            let response = router(HttpState::new(&server)).oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        }
    }

    #[tokio::test]
    async fn parquet_in_bodies_can_be_refused() {
        let mut server = ServerConfig::new("127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0", "data");
        server.http.no_http_parquet = true;
        for (media, expected) in [
            ("application/vnd.apache.parquet", StatusCode::UNSUPPORTED_MEDIA_TYPE),
            ("text/csv", StatusCode::SERVICE_UNAVAILABLE),
        ] {
            let request = Request::builder().method("PUT").uri("/api/v1/data/a").header("host", "localhost");
            let request = request.header("content-type", media).body(Body::empty()).unwrap();
            let response = router(HttpState::new(&server)).oneshot(request).await.unwrap();
            assert_eq!(response.status(), expected, "{media}");
        }
    }

    #[tokio::test]
    async fn response_has_an_id_and_headers_of_security() {
        let response = answer("GET", "/api/v1/tables", &[("x-request-id", "job-7")], &[]).await;
        let headers = response.headers().clone();
        assert_eq!(headers["x-request-id"], "job-7");
        assert_eq!(headers["content-type"], "application/problem+json");
        for name in ["content-security-policy", "x-content-type-options", "x-frame-options", "cache-control"] {
            assert!(headers.contains_key(name), "{name}");
        }
        assert_eq!(problem(response).await.1["request_id"], "job-7");
        for bad in ["", "a b", &"x".repeat(129)] {
            let response = answer("GET", "/api/v1/tables", &[("x-request-id", bad)], &[]).await;
            assert_eq!(response.headers()["x-request-id"].len(), 16, "{bad}");
        }
    }

    #[tokio::test]
    async fn listed_origin_may_call_and_others_may_not() {
        let good = "https://good.example";
        let asks = [("origin", good), ("access-control-request-method", "PUT")];
        let response = answer("OPTIONS", "/api/v1/data/a", &asks, &[good]).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert_eq!(response.headers()["access-control-allow-origin"], good);
        let response = answer("OPTIONS", "/api/v1/data/a", &asks, &[]).await;
        assert!(!response.headers().contains_key("access-control-allow-origin"));
        let response = answer(Method::PUT.as_str(), "/api/v1/data/a", &[("origin", good)], &[]).await;
        assert_eq!(response.status(), StatusCode::FORBIDDEN);
        let response = answer("GET", "/api/v1/openapi.json", &[("origin", good)], &[good]).await;
        assert_eq!(
            (response.status(), &response.headers()["access-control-allow-origin"]),
            (StatusCode::OK, &good.parse().unwrap())
        );
    }
}
