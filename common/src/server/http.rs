//! Health and metrics by plain HTTP: `/livez`, `/readyz` and `/metrics`.

use std::sync::OnceLock;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long requests may continue after the stop began: a client that sends one byte per minute must not delay the
/// stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);

/// What `/readyz` and `/metrics` of one server report.
pub trait HttpStatus: Clone + Send + Sync + 'static {
    /// 200 if the server is ready, otherwise 503; and the body of the response.
    fn readiness(&self) -> impl Future<Output = (StatusCode, String)> + Send;

    /// Sets the gauges that are computed at each scrape.
    fn update_gauges(&self) {}
}

/// Serves until `stop`, and then at most two seconds longer. `/livez` answers immediately, before the server has opened
/// its data folder: opening a large folder takes long, and a probe must not treat that as a failed process.
pub async fn serve(listener: TcpListener, status: impl HttpStatus, stop: CancellationToken) {
    recorder();
    serve_app(listener, app(status), stop).await;
}

fn app<S: HttpStatus>(status: S) -> Router {
    Router::new()
        .route("/livez", get(async || "alive\n"))
        .route("/readyz", get(async |State(status): State<S>| status.readiness().await))
        .route("/metrics", get(async |State(status): State<S>| metrics(&status)))
        .with_state(status)
}

async fn serve_app(listener: TcpListener, app: Router, stop: CancellationToken) {
    let server = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future();
    let timeout = async {
        stop.cancelled().await;
        tokio::time::sleep(STOP_TIMEOUT).await;
    };
    tokio::select! {
        result = server => if let Err(error) = result {
            tracing::error!(%error, "health and metrics are no longer served");
        },
        () = timeout => tracing::debug!("closing HTTP connections with open requests"),
    }
}

fn metrics(status: &impl HttpStatus) -> (StatusCode, String) {
    let Some(recorder) = recorder() else {
        return (StatusCode::NOT_FOUND, "this process keeps no metrics\n".into());
    };
    status.update_gauges();
    recorder.run_upkeep();
    (StatusCode::OK, recorder.render())
}

/// The recorder of the process, installed at the first call. `volley dev` runs several servers in one process: they share
/// it.
fn recorder() -> Option<&'static PrometheusHandle> {
    static RECORDER: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    RECORDER.get_or_init(|| PrometheusBuilder::new().install_recorder().ok()).as_ref()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    #[derive(Clone)]
    struct Starting;

    impl HttpStatus for Starting {
        async fn readiness(&self) -> (StatusCode, String) {
            (StatusCode::SERVICE_UNAVAILABLE, "starting\n".into())
        }
    }

    #[tokio::test]
    async fn stop_does_not_wait_for_an_incomplete_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut stuck = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stuck.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Starting, stop.clone()));
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn starting_server_is_alive_but_not_ready() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Starting, stop.clone()));
        for (path, status) in [("/livez", "200"), ("/readyz", "503"), ("/metrics", "200")] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = format!("GET {path} HTTP/1.1\r\nhost: v\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{path}: {answer}");
        }
        stop.cancel();
        tokio::time::timeout(Duration::from_secs(10), serving).await.unwrap().unwrap();
    }
}
