//! The first bytes of a connection: what the client speaks, and what is logged about one that is refused.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};

use crate::clock;
use crate::refusal_log::RefusalLog;

/// What every HTTP/2 connection of a gRPC client begins with.
const HTTP2_PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The opening of a connection must be complete within this time, unless configured: the client's first bytes, its TLS
/// handshake, and its first bytes within TLS.
pub const OPENING_TIMEOUT: Duration = Duration::from_secs(10);

/// What a client speaks, by its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientProtocol {
    /// HTTP/2 with prior knowledge.
    Http2,
    /// An HTTP/1 request.
    Http1,
    /// A TLS handshake.
    Tls,
    /// Anything else.
    Unknown,
    /// It closed the connection, or sent too little in time.
    Silent,
}

impl ClientProtocol {
    /// What was recognized, for the log.
    pub fn describe(self) -> &'static str {
        match self {
            ClientProtocol::Http2 => "HTTP/2",
            ClientProtocol::Http1 => "HTTP/1.1 request",
            ClientProtocol::Tls => "TLS ClientHello",
            ClientProtocol::Unknown => "bytes that are neither HTTP nor TLS",
            ClientProtocol::Silent => {
                "no complete request: the client closed the connection, or took too long (handshake_timeout_ms)"
            }
        }
    }
}

/// Reads until the client's protocol is known, at most for `limit`. Returns what was read, too.
pub async fn read_preface(stream: &mut (impl AsyncRead + Unpin), limit: Duration) -> (ClientProtocol, Vec<u8>) {
    let mut received = Vec::with_capacity(HTTP2_PREFACE.len());
    let reading = async {
        loop {
            let mut piece = [0; HTTP2_PREFACE.len()];
            let room = HTTP2_PREFACE.len() - received.len();
            match stream.read(&mut piece[..room]).await {
                Ok(0) | Err(_) => return ClientProtocol::Silent,
                Ok(read) => received.extend_from_slice(&piece[..read]),
            }
            if let Some(protocol) = recognize(&received) {
                return protocol;
            }
        }
    };
    let protocol = tokio::time::timeout(limit, reading).await.unwrap_or(ClientProtocol::Silent);
    (protocol, received)
}

/// The protocol that begins with these bytes; `None` if more are needed.
fn recognize(received: &[u8]) -> Option<ClientProtocol> {
    const METHODS: [&[u8]; 9] =
        [b"GET ", b"POST ", b"PUT ", b"HEAD ", b"DELETE ", b"OPTIONS ", b"PATCH ", b"CONNECT ", b"TRACE "];
    /// The record type of a handshake, and TLS's major version.
    const TLS: &[u8] = &[0x16, 0x03];
    let begins = |with: &[u8]| received.starts_with(with);
    let may_become = |whole: &[u8]| whole.starts_with(received);
    if begins(HTTP2_PREFACE) {
        Some(ClientProtocol::Http2)
    } else if begins(TLS) {
        Some(ClientProtocol::Tls)
    } else if METHODS.iter().any(|method| begins(method)) {
        Some(ClientProtocol::Http1)
    } else if may_become(HTTP2_PREFACE) || may_become(TLS) || METHODS.iter().any(|method| may_become(method)) {
        None
    } else {
        Some(ClientProtocol::Unknown)
    }
}

/// Logs that a connection was refused. Under a flood of them one line a second says how many there were.
pub fn log_refused(peer: SocketAddr, port: &'static str, cause: &str) {
    static LOG: RefusalLog = RefusalLog::new();
    match LOG.count(clock::now_ms()) {
        Some(unlogged) => tracing::info!(%peer, port, cause, unlogged, "connection refused"),
        None => tracing::debug!(%peer, port, cause, "connection refused"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    #[test]
    fn protocol_is_recognized_by_its_first_bytes() {
        for (bytes, protocol) in [
            (&HTTP2_PREFACE[..], Some(ClientProtocol::Http2)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n", None),
            (b"P", None),
            (b"POST / HTTP/1.1\r\n", Some(ClientProtocol::Http1)),
            (b"GET /", Some(ClientProtocol::Http1)),
            (b"GE", None),
            (b"\x16\x03\x01\x02\x00", Some(ClientProtocol::Tls)),
            (b"\x16", None),
            (b"\x00\x01", Some(ClientProtocol::Unknown)),
            (b"PRIVATE", Some(ClientProtocol::Unknown)),
        ] {
            assert_eq!(recognize(bytes), protocol, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[tokio::test]
    async fn half_a_preface_is_not_awaited_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        client.write_all(b"PRI * HT").await.unwrap();
        let (protocol, received) = read_preface(&mut server, Duration::from_millis(50)).await;
        assert_eq!((protocol, &received[..]), (ClientProtocol::Silent, &b"PRI * HT"[..]));
    }
}
