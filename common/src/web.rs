//! Plain HTTP for health and metrics.

use std::time::Duration;

use axum::Router;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// How long requests that are under way have at a stop; whoever sends one byte a minute gets no answer.
const GRACE: Duration = Duration::from_secs(2);

/// Serves `app` until `stop`, and not much longer.
pub async fn serve(listener: TcpListener, app: Router, stop: CancellationToken) {
    let served = axum::serve(listener, app).with_graceful_shutdown(stop.clone().cancelled_owned()).into_future();
    let enough = async {
        stop.cancelled().await;
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::error!(%error, "health and metrics are no longer served");
        },
        () = enough => tracing::debug!("HTTP requests are cut off"),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpStream;

    use super::*;

    #[tokio::test]
    async fn half_a_request_does_not_hold_up_the_stop() {
        let listener = crate::server::serve::bind("127.0.0.1:0").await.unwrap();
        let mut stuck = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        stuck.write_all(b"GET /livez HTTP/1.1\r\n").await.unwrap();
        let stop = CancellationToken::new();
        let serving = tokio::spawn(serve(listener, Router::new(), stop.clone()));
        stop.cancel();
        crate::server::serve::testing::soon(serving).await.unwrap();
    }
}
