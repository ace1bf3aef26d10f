//! The same server loop on a Unix-domain socket. The first byte of a connection says whether it is HTTP/2 or a local read.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use rustix::net::{RecvFlags, recv};
use tokio::io::Interest;
use tokio::net::{UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection_limit::{self, ConnectionCounts};
use super::preface::log_refused;
use super::{
    ACCEPT_BACKOFF, DrainStages, Http2Service, PeerAddress, ServerLimits, drain, is_connection_error, serve_http2,
};
use crate::http2::settings;
use crate::local_read::PREFACE;
use crate::tls::Caller;

/// What a client on this machine has as its address.
const LOCAL_PEER: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Serves the connections that begin as local reads do.
pub trait LocalProtocol: Clone + Send + Sync + 'static {
    /// Serves a connection, of which nothing was read, to its end. It is dropped when the server closes its connections.
    fn serve(self, stream: UnixStream, shutdown: CancellationToken) -> impl Future<Output = ()> + Send;
}

/// Serves HTTP/2 with `service`, and local reads with `local`, until `shutdown`; then drains, as [`super::serve`] does. `caller`:
/// what the callers of HTTP/2 count as: [`Caller::Plaintext`] if other listeners accept calls without TLS, [`Caller::Anonymous`] if
/// not, so that their clients are sent to no address without TLS.
pub async fn serve_unix<S: Http2Service, L: LocalProtocol>(
    listener: UnixListener,
    caller: Caller,
    service: S,
    local: L,
    shutdown: CancellationToken,
    limits: ServerLimits,
) {
    let counts = ConnectionCounts::new(limits.connections, limits.connections);
    let connections = TaskTracker::new();
    let stages = DrainStages { shutdown, end_streams: CancellationToken::new(), close: CancellationToken::new() };
    let _close_on_drop = stages.close.clone().drop_guard();
    while let Some(stream) = stages.shutdown.run_until_cancelled(accept(&listener)).await {
        let others = counts.all();
        let permit = match counts.count_in(LOCAL_PEER.ip()) {
            Ok(permit) => permit,
            Err(excess) => {
                connection_limit::count_refused(limits.port, excess);
                log_refused(LOCAL_PEER, "this is the local socket of a node", &counts.refusal(excess));
                continue;
            }
        };
        let counted = limits.count_connection();
        let http = settings::server(limits.streams, limits.header_bytes, others);
        let (service, local, stages, caller) = (service.clone(), local.clone(), stages.clone(), caller.clone());
        connections.spawn(async move {
            let _permit = (permit, counted);
            let first = tokio::time::timeout(limits.opening, first_byte(&stream)).await;
            match first {
                Ok(Ok(Some(first))) if first == PREFACE[0] => {
                    let serving = local.serve(stream, stages.shutdown.clone());
                    let _ = stages.close.run_until_cancelled(serving).await;
                }
                Ok(Ok(Some(_))) => {
                    let client = (PeerAddress(LOCAL_PEER), caller);
                    if let Some(Err(error)) = serve_http2(stream, http, service, client, limits, &stages).await {
                        tracing::debug!(%error, "a connection of the local socket ended in an error");
                    }
                }
                // A probe that only connects is no fault.
                Ok(Ok(None)) => {}
                Ok(Err(error)) => tracing::debug!(%error, "a connection of the local socket broke"),
                Err(_) => tracing::debug!("a connection of the local socket sent nothing in time"),
            }
        });
    }
    drop(listener);
    drain(&connections, &stages, limits.drain).await;
}

/// The next connection; pauses after an error of the machine, not after one of a connection.
async fn accept(listener: &UnixListener) -> UnixStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(e) if is_connection_error(&e) => continue,
            Err(error) => {
                tracing::warn!(%error, "cannot accept connections of the local socket");
                tokio::time::sleep(ACCEPT_BACKOFF).await;
            }
        }
    }
}

/// The first byte, which stays to be read; `None` if the connection ended before.
async fn first_byte(stream: &UnixStream) -> io::Result<Option<u8>> {
    let mut byte = [0];
    let peek = || recv(stream, &mut byte, RecvFlags::PEEK).map(|(_, length)| length).map_err(io::Error::from);
    let length = stream.async_io(Interest::READABLE, peek).await?;
    Ok((length > 0).then_some(byte[0]))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::convert::Infallible;

    use arrow_flight::Empty;
    use arrow_flight::flight_service_client::FlightServiceClient;
    use hyper::body::Incoming;
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tonic::Code;
    use tonic::transport::Endpoint;
    use tower::service_fn;

    use super::*;
    use crate::Error;
    use crate::http2::{ReplyBody, grpc_error};
    use crate::server::serve::testing::soon;

    /// Sends the first bytes back.
    #[derive(Clone)]
    struct EchoProtocol;

    impl LocalProtocol for EchoProtocol {
        async fn serve(self, mut stream: UnixStream, _: CancellationToken) {
            let mut first = [0; PREFACE.len()];
            stream.read_exact(&mut first).await.unwrap();
            stream.write_all(&first).await.unwrap();
        }
    }

    /// Says who called.
    async fn refuse(request: http::Request<Incoming>) -> Result<http::Response<ReplyBody>, Infallible> {
        let (peer, caller) = (PeerAddress::of(request.extensions()), Caller::of(request.extensions()));
        Ok(grpc_error(Error::aborted(format!("{peer:?} {caller:?}"))))
    }

    #[tokio::test]
    async fn first_byte_chooses_the_protocol() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("s");
        let (listener, stop) = (UnixListener::bind(&path).unwrap(), CancellationToken::new());
        let limits = ServerLimits::default();
        let serving = serve_unix(listener, Caller::Anonymous, service_fn(refuse), EchoProtocol, stop.clone(), limits);
        let task = tokio::spawn(serving);

        let mut local = UnixStream::connect(&path).await.unwrap();
        local.write_all(&PREFACE).await.unwrap();
        let mut back = Vec::new();
        soon(local.read_to_end(&mut back)).await.unwrap();
        assert_eq!(back, PREFACE);

        let connector = service_fn(move |_: http::Uri| {
            let path = path.clone();
            async move { UnixStream::connect(path).await.map(TokioIo::new) }
        });
        let channel = Endpoint::from_static("http://local").connect_with_connector(connector).await.unwrap();
        let status = FlightServiceClient::new(channel).list_actions(Empty {}).await.unwrap_err();
        assert_eq!(status.code(), Code::Aborted);
        assert!(status.message().contains("127.0.0.1:0") && status.message().contains("Anonymous"), "{status}");
        stop.cancel();
        soon(task).await.unwrap();
    }
}
