//! The beginning of a connection: what the client speaks, its TLS handshake, and who it is. What the port does not serve is
//! refused here, with the reason in the client's own protocol where it has one.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::lingering_stream::{LingeringSocket, LingeringStream, lingering};
use super::preface::{ClientProtocol, log_refused, read_preface};
use crate::http2::PortKind;
use crate::tls::stream::TlsPart;
use crate::tls::{Caller, ListenerTls, MaybeTls};

/// A client that takes the reason of a refusal in longer than this does not get it.
const REFUSAL_TIMEOUT: Duration = Duration::from_secs(1);
/// HTTP/2's error code for a connection that lacks TLS, RFC 9113 section 7.
const INADEQUATE_SECURITY: u32 = 0xc;

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

/// Reads the beginning of a connection; `None` if it was refused, or ended. The client's first bytes must be complete within
/// `limit`, and so must those within TLS; its handshake has a deadline of its own.
pub async fn open(
    mut stream: TcpStream,
    peer: SocketAddr,
    tls: &ListenerTls,
    port: PortKind,
    limit: Duration,
) -> Option<OpenedConnection> {
    let (protocol, first) = read_preface(&mut stream, limit).await;
    let is_empty = first.is_empty();
    let (stream, socket) = lingering(stream, first);
    let opened = match protocol {
        ClientProtocol::Tls if tls.has_tls() => open_tls(stream, socket, peer, tls, port, limit).await?,
        _ => OpenedConnection { protocol, stream: MaybeTls::Plain(stream), socket, caller: Caller::Plaintext },
    };
    // A probe that only connects is no fault.
    if opened.protocol == ClientProtocol::Silent && is_empty {
        tracing::debug!(%peer, "a connection ended without a request");
        return None;
    }
    match refusal(&opened, tls, port) {
        None => Some(opened),
        Some(reason) => {
            log_refused(peer, port.describe(), &reason);
            send_refusal(opened, &format!("{reason}: {}", port.describe())).await;
            None
        }
    }
}

/// The TLS handshake, and the first bytes within.
async fn open_tls(
    stream: LingeringStream,
    socket: LingeringSocket,
    peer: SocketAddr,
    tls: &ListenerTls,
    port: PortKind,
    limit: Duration,
) -> Option<OpenedConnection> {
    match tls.accept(stream).await {
        Ok((mut stream, caller)) => {
            let (protocol, first) = read_preface(&mut stream, limit).await;
            let stream = MaybeTls::Tls(TlsPart::with_first(stream, first));
            Some(OpenedConnection { protocol, stream, socket, caller })
        }
        Err(error) => {
            log_refused(peer, port.describe(), &format!("the TLS handshake failed: {error}"));
            // The alert that says why must arrive.
            let _ = tokio::time::timeout(REFUSAL_TIMEOUT, socket.close()).await;
            None
        }
    }
}

/// Why a connection is not served; `None` if it is.
fn refusal(opened: &OpenedConnection, tls: &ListenerTls, port: PortKind) -> Option<String> {
    let serves_http1 = port == PortKind::Http;
    let reason = match opened.protocol {
        ClientProtocol::Http2 | ClientProtocol::Http1 if !opened.stream.is_tls() && !tls.accepts_plaintext() => {
            match port {
                PortKind::Flight => "this port requires TLS, connect by grpc+tls://",
                PortKind::Peer => {
                    "this port requires the TLS of members, give the other member --peer-ca, --peer-cert and --peer-key"
                }
                PortKind::Http => "this port requires TLS, connect by https://",
            }
        }
        ClientProtocol::Http2 => return None,
        ClientProtocol::Http1 if serves_http1 => return None,
        ClientProtocol::Http1 => "this port speaks gRPC over HTTP/2, not HTTP/1.1",
        ClientProtocol::Tls | ClientProtocol::Unknown | ClientProtocol::Silent => opened.protocol.describe(),
    };
    Some(reason.into())
}

/// Tells the client why it is refused, if there is a way to, and closes the connection.
async fn send_refusal(opened: OpenedConnection, text: &str) {
    let OpenedConnection { protocol, mut stream, socket, .. } = opened;
    let reply = match protocol {
        ClientProtocol::Http1 => http1_reply(text),
        ClientProtocol::Http2 => http2_goaway(text),
        // Other clients may not be able to read it.
        ClientProtocol::Tls | ClientProtocol::Unknown | ClientProtocol::Silent => return,
    };
    let sending = send_and_close(&mut stream, &reply);
    if tokio::time::timeout(REFUSAL_TIMEOUT, sending).await.is_ok_and(|sent| sent.is_ok()) {
        drop(stream);
        let _ = tokio::time::timeout(2 * REFUSAL_TIMEOUT, socket.close()).await;
    }
}

async fn send_and_close(stream: &mut (impl AsyncWrite + Unpin), reply: &[u8]) -> std::io::Result<()> {
    stream.write_all(reply).await?;
    stream.shutdown().await
}

fn http1_reply(text: &str) -> Vec<u8> {
    let (length, text) = (text.len() + 1, text);
    format!(
        "HTTP/1.1 505 HTTP Version Not Supported\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}\n"
    )
    .into_bytes()
}

/// The server's SETTINGS, which are empty, and a GOAWAY with a text for people: gRPC libraries show it.
fn http2_goaway(text: &str) -> Vec<u8> {
    const SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    const GOAWAY: u8 = 7;
    let payload = [&0u32.to_be_bytes()[..], &INADEQUATE_SECURITY.to_be_bytes(), text.as_bytes()].concat();
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let header = [length[1], length[2], length[3], GOAWAY, 0, 0, 0, 0, 0];
    [&SETTINGS[..], &header, &payload].concat()
}
