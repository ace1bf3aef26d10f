//! Flight calls from within this process: the HTTP port calls the service of a Flight listener through a pipe.
//!
//! What a Flight call passes, a call through a pipe passes too: identity, rights, the limits of calls, the audit log, metrics, the
//! drain. The other end of the connection is the HTTP client: its address, and what its TLS handshake proved.

use std::io;
use std::pin::pin;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::io::DuplexStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::{Channel, Endpoint};

use super::{END_STREAMS_BEFORE, Http2Service, PeerAddress, ServerLimits, respond};
use crate::http2::PortKind;
use crate::http2::drain_body::respond_until;
use crate::http2::served_call::ServedCall;
use crate::http2::settings;
use crate::tls::Caller;
use crate::{Error, Result};

/// Bytes that wait in a pipe, in each direction.
const PIPE_BYTES: usize = 256 << 10;
/// The window of each reply, bytes: what waits for its reader, besides the pipe.
const REPLY_WINDOW: u32 = 1 << 20;
/// The window of a request's body is that of a listener with so many other connections: 512 KiB.
const OTHER_CONNECTIONS: usize = 64;

type OpenPipe = dyn Fn(PeerAddress, Caller) -> Result<DuplexStream> + Send + Sync;

/// The service of a Flight listener, for callers in this process. Cheap to clone.
#[derive(Clone)]
pub struct InProcessFlight(Arc<OpenPipe>);

impl InProcessFlight {
    /// Serves `service` as a listener with these limits does, until `shutdown`, and then for as long as the limits' drain. Its
    /// connections are tasks of `tasks`.
    pub fn new<S: Http2Service>(
        service: S,
        limits: ServerLimits,
        shutdown: CancellationToken,
        tasks: TaskTracker,
    ) -> Self {
        InProcessFlight(Arc::new(move |peer, caller| {
            if shutdown.is_cancelled() {
                return Err(Error::unavailable("this member is stopping: call another member"));
            }
            let (client, server) = tokio::io::duplex(PIPE_BYTES);
            tasks.spawn(serve_pipe(server, (peer, caller), service.clone(), limits, shutdown.clone()));
            Ok(client)
        }))
    }

    /// A connection for the calls of one HTTP request. They end when all clones of the channel, and what they returned, are
    /// dropped.
    ///
    /// # Errors
    /// UNAVAILABLE: the member is stopping.
    pub async fn connect(&self, peer: PeerAddress, caller: Caller) -> Result<Channel> {
        let pipe = Mutex::new(Some((self.0)(peer, caller)?));
        let connector = tower::service_fn(move |_: http::Uri| {
            let pipe =
                pipe.lock().take().ok_or_else(|| io::Error::other("the pipe to this member's service is closed"));
            std::future::ready(pipe.map(TokioIo::new))
        });
        let endpoint = Endpoint::from_static("http://in-process")
            .initial_stream_window_size(REPLY_WINDOW)
            .initial_connection_window_size(2 * REPLY_WINDOW)
            .max_frame_size(settings::FRAME_SIZE);
        Ok(endpoint.connect_with_connector(connector).await?)
    }
}

/// Serves one pipe to its end.
async fn serve_pipe<S: Http2Service>(
    pipe: DuplexStream,
    (peer, caller): (PeerAddress, Caller),
    service: S,
    limits: ServerLimits,
    shutdown: CancellationToken,
) {
    let end_streams = CancellationToken::new();
    let end = end_streams.clone();
    let service = hyper::service::service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        request.extensions_mut().insert(caller.clone());
        let served = ServedCall::new(&request, PortKind::Flight);
        respond_until(served, respond(service.clone(), request, PortKind::Flight), end.clone())
    });
    let http = settings::server(limits.streams, limits.header_bytes, OTHER_CONNECTIONS);
    let mut connection = pin!(http.serve_connection(TokioIo::new(pipe), service));
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            let margin = END_STREAMS_BEFORE.min(limits.drain / 4);
            match tokio::time::timeout(limits.drain - margin, connection.as_mut()).await {
                Ok(result) => result,
                Err(_) => {
                    end_streams.cancel();
                    match tokio::time::timeout(margin, connection.as_mut()).await {
                        Ok(result) => result,
                        Err(_) => return,
                    }
                }
            }
        }
    };
    if let Err(error) = result {
        tracing::debug!(%error, "a call of the HTTP port ended in an error");
    }
}
