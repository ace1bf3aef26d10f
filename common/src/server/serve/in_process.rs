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
        let served = ServedCall::new(&mut request, PortKind::Flight, limits.names_calls);
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

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use arrow_flight::Ticket;
    use arrow_flight::flight_service_client::FlightServiceClient;

    use super::super::testing::{endless, soon};
    use super::*;
    use crate::Code;
    use crate::http2::{ReplyBody, grpc_error, grpc_frames};

    /// A service whose replies are produced by a closure, and what stops it.
    fn flight<F, Fut>(respond: F) -> (InProcessFlight, CancellationToken, TaskTracker)
    where
        F: Fn(http::Request<Incoming>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = http::Response<ReplyBody>> + Send + 'static,
    {
        let service = tower::service_fn(move |request| {
            let reply = respond(request);
            async move { Ok::<_, Infallible>(reply.await) }
        });
        let limits = ServerLimits { drain: Duration::from_millis(400), ..ServerLimits::default() };
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        (InProcessFlight::new(service, limits, stop.clone(), tasks.clone()), stop, tasks)
    }

    fn peer() -> PeerAddress {
        PeerAddress("10.1.2.3:5".parse().unwrap())
    }

    async fn client(flight: &InProcessFlight) -> FlightServiceClient<Channel> {
        FlightServiceClient::new(flight.connect(peer(), Caller::Anonymous).await.unwrap())
    }

    #[tokio::test]
    async fn call_comes_from_the_http_client() {
        let (flight, ..) = flight(|request: http::Request<Incoming>| {
            let (peer, caller) = (PeerAddress::of(request.extensions()), Caller::of(request.extensions()).clone());
            async move { grpc_error(Error::denied(format!("{peer:?} {caller:?}"))) }
        });
        let status = client(&flight).await.do_get(Ticket::default()).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "Some(10.1.2.3:5) Anonymous"));
    }

    #[tokio::test]
    async fn stream_that_is_not_read_waits_and_ends_when_it_is_dropped() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = made.clone();
        let (flight, _stop, tasks) = flight(move |_| {
            let frames = endless(counted.clone());
            async { grpc_frames(frames) }
        });
        let mut client = client(&flight).await;
        let mut reply = client.do_get(Ticket::default()).await.unwrap().into_inner();
        for _ in 0..3 {
            assert_eq!(reply.message().await.unwrap().unwrap().data_body.len(), 1 << 20);
        }
        assert!(made.load(Ordering::SeqCst) < 16, "{made:?}");
        drop((reply, client));
        tasks.close();
        soon(tasks.wait()).await;
    }

    #[tokio::test]
    async fn stop_ends_streams_after_the_drain_and_takes_no_calls() {
        let (flight, stop, tasks) = flight(|_| {
            let frames = endless(Arc::default());
            async { grpc_frames(frames) }
        });
        let mut client = client(&flight).await;
        let mut reply = client.do_get(Ticket::default()).await.unwrap().into_inner();
        stop.cancel();
        let status = soon(async {
            loop {
                if let Err(status) = reply.message().await {
                    return status;
                }
            }
        });
        assert_eq!(status.await.code(), Code::Unavailable);
        let refused = flight.connect(peer(), Caller::Anonymous).await.unwrap_err();
        assert_eq!(refused.code, Code::Unavailable);
        drop((reply, client));
        tasks.close();
        soon(tasks.wait()).await;
    }
}
