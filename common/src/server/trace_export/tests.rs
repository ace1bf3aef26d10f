use std::path::Path;
use std::sync::Arc;

use axum::Router;
use axum::routing::post;
use opentelemetry::Context;
use opentelemetry::trace::SpanBuilder;
use parking_lot::Mutex;

use super::*;
use crate::server::serve::testing::closed_address;

/// What a collector got: the headers and the length of the body of each request.
type Posted = Arc<Mutex<Vec<(HeaderMap, usize)>>>;

/// The base URL of a collector of this test.
async fn serve(posted: Posted) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let keep = move |headers: HeaderMap, body: Bytes| async move {
        posted.lock().push((headers, body.len()));
        // An empty message: all spans were accepted.
        ""
    };
    let app = Router::new().route("/v1/traces", post(keep));
    tokio::spawn(async move { axum::serve(listener, app).await });
    format!("http://{address}")
}

fn config(endpoint: String, headers: Option<&Path>) -> OtlpConfig {
    OtlpConfig {
        otlp_endpoint: Some(endpoint),
        otlp_protocol: OtlpProtocol::Http,
        otlp_headers_file: headers.map(Path::to_path_buf),
        ..OtlpConfig::default()
    }
}

/// The export of a queue in which so many spans wait.
fn export_of(config: &OtlpConfig, waiting: usize) -> SpanExport {
    let collector = config.collector().unwrap().unwrap();
    let exporter = exporter(config, &collector).unwrap();
    let (queue, spans) = SpanQueue::channel();
    let tracer = SdkTracerProvider::builder().with_span_processor(queue).build().tracer("test");
    for _ in 0..waiting {
        drop(SpanBuilder::from_name("span").start_with_context(&tracer, &Context::new()));
    }
    SpanExport { exporter, spans, stop: CancellationToken::new(), collector: collector.addr, is_failing: false }
}

#[tokio::test]
async fn waiting_spans_are_posted_at_the_stop_in_several_requests() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("headers");
    std::fs::write(&secret, "x-scope: volley\n").unwrap();
    let posted = Posted::default();
    let export = export_of(&config(serve(posted.clone()).await, Some(&secret)), MAX_BATCH + 10);
    export.stop.cancel();
    timeout(EXPORT_TIMEOUT, export.run()).await.unwrap();
    let posted = posted.lock();
    assert_eq!(posted.len(), 2);
    for (headers, length) in &*posted {
        assert_eq!(
            (&headers["x-scope"], &headers["content-type"]),
            (&"volley".parse().unwrap(), &"application/x-protobuf".parse().unwrap())
        );
        assert!(*length > 100);
    }
}

#[tokio::test]
async fn spans_are_posted_soon_without_a_stop() {
    let posted = Posted::default();
    let export = export_of(&config(serve(posted.clone()).await, None), 1);
    let stop = export.stop.clone();
    let running = tokio::spawn(export.run());
    let is_posted = async {
        while posted.lock().is_empty() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), is_posted).await.unwrap();
    stop.cancel();
    timeout(Duration::from_secs(20), running).await.unwrap().unwrap();
}

#[tokio::test]
async fn collector_that_is_away_costs_the_spans_only() {
    let (_reserved, closed) = closed_address();
    let mut export = export_of(&config(format!("http://{closed}"), None), 3);
    let mut batch = Vec::new();
    export.spans.recv_many(&mut batch, MAX_BATCH).await;
    assert_eq!(batch.len(), 3);
    export.export(batch).await;
    assert!(export.is_failing);
    export.stop.cancel();
    timeout(EXPORT_TIMEOUT, export.run()).await.unwrap();
}

#[tokio::test]
async fn grpc_exporter_needs_no_collector_to_start() {
    let grpc = OtlpConfig { otlp_protocol: OtlpProtocol::Grpc, ..config("http://127.0.0.1:4317".into(), None) };
    drop(export_of(&grpc, 1));
    check_files(&grpc).unwrap();
    let absent = OtlpConfig { otlp_headers_file: Some("/absent".into()), ..grpc };
    assert!(check_files(&absent).unwrap_err().message.contains("/absent: it cannot be read"));
}
