//! The metrics of operations: how many, with which status, and for how long.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use metrics::{counter, histogram};

use super::operations::HttpOperation;

/// Measures a request until the body of its response has ended.
pub(crate) async fn measure(State(operation): State<&'static HttpOperation>, request: Request, next: Next) -> Response {
    let timer = OperationTimer { name: operation.name, started: Instant::now() };
    let response = next.run(request).await;
    let status = response.status().as_str().to_string();
    counter!("volley_http_requests_total", "operation" => operation.name, "status" => status).increment(1);
    response.map(|body| Body::new(MeasuredBody { body, _timer: timer }))
}

/// Records how long an operation took when it is dropped.
struct OperationTimer {
    name: &'static str,
    started: Instant,
}

impl Drop for OperationTimer {
    fn drop(&mut self) {
        histogram!("volley_http_request_duration_seconds", "operation" => self.name).record(self.started.elapsed());
    }
}

struct MeasuredBody {
    body: Body,
    _timer: OperationTimer,
}

impl http_body::Body for MeasuredBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
