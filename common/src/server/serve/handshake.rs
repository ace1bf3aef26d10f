//! The beginning of a connection: what the client speaks, its TLS handshake, and who it is. What the port does not serve is
//! refused here, with the reason in the client's own protocol where it has one.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use http::header::CONTENT_TYPE;
use http::{HeaderValue, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::lingering_stream::{LingeringSocket, LingeringStream, lingering};
use super::opening_connections::OpeningPermit;
use super::preface::{ClientProtocol, log_refused, read_preface};
use crate::Error;
use crate::http2::{PortKind, grpc_error};
use crate::tls::stream::TlsPart;
use crate::tls::{Caller, ListenerTls, MaybeTls};

/// A client that takes the reason of a refusal in longer than this does not get it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// A refused HTTP/2 client is served this long at most.
const REFUSED_CALLS_TIMEOUT: Duration = Duration::from_secs(2);
/// How long after its first answer a refused HTTP/2 client may read it before it is told that the connection ends. hyper's client
/// fails a call whose connection ends while another of its threads still hands that call over, although the answer has come.
const ANSWER_GRACE: Duration = Duration::from_millis(200);
/// Why a connection is closed for a newer one.
const LOST_ITS_PLACE: &str = "too many connections have not completed their handshake, most of them of its address: \
     the oldest is closed for a newer one";

/// A connection that can be served.
pub struct OpenedConnection {
    /// What it speaks: HTTP/2, or HTTP/1 on a port that serves it.
    pub protocol: ClientProtocol,
    /// Yields the client's bytes from the first one.
    pub stream: MaybeTls<LingeringStream>,
    /// Its socket, once the stream is dropped.
    pub socket: LingeringSocket,
    /// Who is at the other end.
    pub caller: Caller,
}

/// Why a connection is not served.
struct ConnectionRefusal {
    reason: &'static str,
    /// The status of the reply to an HTTP/1 client.
    http1_status: &'static str,
}

/// Reads the beginning of a connection; `None` if it was refused, or ended, or if its place was given to a newer connection
/// before. `limit` is for all of it together: the client's first bytes, its TLS handshake, and its first bytes within TLS.
pub async fn open_in_place(
    permit: OpeningPermit,
    stream: TcpStream,
    peer: SocketAddr,
    tls: &ListenerTls,
    port: PortKind,
    limit: Duration,
) -> Option<OpenedConnection> {
    let opened = permit.run(open(stream, peer, tls, port, limit)).await;
    if opened.is_none() {
        log_refused(peer, port.describe(), LOST_ITS_PLACE);
    }
    opened.flatten()
}

/// As [`open_in_place`], without a place.
async fn open(
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: &ListenerTls,
    port: PortKind,
    limit: Duration,
) -> Option<OpenedConnection> {
    let deadline = Instant::now() + limit;
    let (protocol, first) = read_preface(&mut stream, limit).await;
    let mut is_empty = first.is_empty();
    let (stream, socket) = lingering(stream, first);
    let opened = if protocol == ClientProtocol::Tls && tls.has_tls() {
        let (mut stream, caller) = match tls.accept(stream, left_until(deadline)).await {
            Ok(accepted) => accepted,
            Err(error) => {
                log_refused(peer, port.describe(), &format!("the TLS handshake failed: {error}"));
                // The alert that says why must arrive.
                let _ = tokio::time::timeout(REFUSAL_TIMEOUT, socket.close()).await;
                return None;
            }
        };
        let (protocol, first) = read_preface(&mut stream, left_until(deadline)).await;
        is_empty = first.is_empty();
        OpenedConnection { protocol, stream: MaybeTls::Tls(TlsPart::with_first(stream, first)), socket, caller }
    } else {
        OpenedConnection { protocol, stream: MaybeTls::Plain(stream), socket, caller: Caller::Plaintext }
    };
    // A probe that only connects is no fault, nor one that does no more than its TLS handshake.
    if opened.protocol == ClientProtocol::Silent && is_empty {
        tracing::debug!(%peer, "a connection ended without a request");
        return None;
    }
    match refusal(&opened, tls, port) {
        None => Some(opened),
        Some(refusal) => {
            log_refused(peer, port.describe(), refusal.reason);
            send_refusal(opened, &refusal, port).await;
            None
        }
    }
}

fn left_until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

/// Why a connection is not served; `None` if it is.
fn refusal(opened: &OpenedConnection, tls: &ListenerTls, port: PortKind) -> Option<ConnectionRefusal> {
    let lacks_tls = !opened.stream.is_tls() && !tls.accepts_plaintext();
    let (reason, http1_status) = match (opened.protocol, port) {
        (ClientProtocol::Http2 | ClientProtocol::Http1, _) if lacks_tls => (requires_tls(port), "400 Bad Request"),
        (ClientProtocol::Http2, _) | (ClientProtocol::Http1, PortKind::Http) => return None,
        (ClientProtocol::Http1, PortKind::Flight | PortKind::Peer) => {
            ("this port speaks gRPC over HTTP/2, not HTTP/1.1 requests", "505 HTTP Version Not Supported")
        }
        (ClientProtocol::Tls, _) => (has_no_tls(port), "400 Bad Request"),
        (other @ (ClientProtocol::Unknown | ClientProtocol::Silent), _) => (other.describe(), "400 Bad Request"),
    };
    Some(ConnectionRefusal { reason, http1_status })
}

/// What a plaintext client of a port with TLS is to do.
fn requires_tls(port: PortKind) -> &'static str {
    match port {
        PortKind::Flight => "this port requires TLS, connect by grpc+tls://",
        PortKind::Peer => {
            "this port requires the TLS of members, and its caller lacks it: give the caller --peer-ca, --peer-cert and --peer-key"
        }
        PortKind::Http => "this port requires TLS, connect by https://",
    }
}

/// What a TLS client of a port without TLS is to do.
fn has_no_tls(port: PortKind) -> &'static str {
    match port {
        PortKind::Flight => "TLS ClientHello on a port without TLS, connect by grpc+tcp://",
        PortKind::Peer => {
            "TLS ClientHello on a port without TLS, give this member --peer-ca, --peer-cert and --peer-key"
        }
        PortKind::Http => "TLS ClientHello on a port without TLS, connect by http://",
    }
}

/// Sends the client the reason of its refusal, if there is a way to, and closes the connection.
async fn send_refusal(opened: OpenedConnection, refusal: &ConnectionRefusal, port: PortKind) {
    let OpenedConnection { protocol, mut stream, socket, .. } = opened;
    let text = format!("{}: {}", refusal.reason, port.describe());
    match protocol {
        ClientProtocol::Http1 => {
            let reply = http1_reply(refusal.http1_status, &text);
            let sending = send_and_close(&mut stream, &reply);
            if !tokio::time::timeout(REFUSAL_TIMEOUT, sending).await.is_ok_and(|sent| sent.is_ok()) {
                return;
            }
            drop(stream);
        }
        ClientProtocol::Http2 => refuse_calls(stream, Error::unavailable(text)).await,
        // Other clients may not be able to read it.
        ClientProtocol::Tls | ClientProtocol::Unknown | ClientProtocol::Silent => return,
    }
    let _ = tokio::time::timeout(2 * REFUSAL_TIMEOUT, socket.close()).await;
}

/// Answers the first calls of a connection with `error`, then ends it. A GOAWAY in place of an answer says that the call can
/// be repeated, which clients of gRPC do at once and for ever. Other clients get HTTP's 400: a probe must not take it for success.
async fn refuse_calls(stream: MaybeTls<LingeringStream>, error: Error) {
    let answered = CancellationToken::new();
    let service = hyper::service::service_fn(|request: http::Request<Incoming>| {
        answered.cancel();
        let mut reply = grpc_error(error.clone());
        let kind = request.headers().get(CONTENT_TYPE).map(HeaderValue::as_bytes);
        if !kind.is_some_and(|kind| kind.starts_with(b"application/grpc")) {
            *reply.status_mut() = StatusCode::BAD_REQUEST;
        }
        std::future::ready(Ok::<_, Infallible>(reply))
    });
    let http = http2::Builder::new(TokioExecutor::new());
    let mut connection = pin!(http.serve_connection(TokioIo::new(stream), service));
    let ending = async {
        answered.cancelled().await;
        sleep(ANSWER_GRACE).await;
    };
    let serving = async {
        tokio::select! {
            _ = connection.as_mut() => return,
            () = ending => connection.as_mut().graceful_shutdown(),
        }
        // Its errors are the client's.
        let _ = connection.await;
    };
    let _ = tokio::time::timeout(REFUSED_CALLS_TIMEOUT, serving).await;
}

async fn send_and_close(stream: &mut (impl AsyncWrite + Unpin), reply: &[u8]) -> std::io::Result<()> {
    stream.write_all(reply).await?;
    stream.shutdown().await
}

fn http1_reply(status: &str, text: &str) -> Vec<u8> {
    let length = text.len() + 1;
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}

#[cfg(test)]
mod tests;
